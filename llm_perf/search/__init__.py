"""Searches over many configurations: offload policies under a memory and a latency limit, Pareto fronts."""
