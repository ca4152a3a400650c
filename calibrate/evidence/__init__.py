"""Measured runs that ship with the project or are read: published tables, traces, and what each row states of its run."""
