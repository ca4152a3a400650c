"""A real llama.cpp on this machine: built once, fed with GGUF files of random weights, timed by its own llama-bench."""

SYSTEM = "llama_cpp"
"""The name of the system that predicts it."""
