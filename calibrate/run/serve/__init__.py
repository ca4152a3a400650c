"""Engines that serve random weights on this machine: llama.cpp's llama-server, and transformers serve."""
