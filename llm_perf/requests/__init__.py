"""Requests: arrivals, an engine's scheduler and its cache, and an event loop over the same systems' step times."""
