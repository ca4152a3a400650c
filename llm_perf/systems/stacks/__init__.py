"""Families of stacks that keep a model on the GPUs: a folder each, most of them data on the resident model alone."""
