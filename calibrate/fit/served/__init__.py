"""Runs of served engines: what is predicted of each, and constants of an engine's version fitted to them."""
