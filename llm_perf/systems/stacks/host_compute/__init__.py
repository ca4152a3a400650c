"""What to expect of a program that computes on the CPU and is not known: the base of those that are."""

from llm_perf.systems.stacks.llama_cpp import LlamaCpp

__all__ = ["LlamaCpp"]
