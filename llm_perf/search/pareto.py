"""Pareto fronts of throughput (more is better) against latency (less is better)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.intp]


def pareto_front(latency_s: Floats, throughput: Floats) -> Indices:
    """Indices of the points that no other point beats, by rising latency; throughput rises strictly along them.

    A point is beaten where another one is at least as good in both and better in one; of equal points the first stays.
    """
    order = np.lexsort((-throughput, latency_s))
    ordered = throughput[order]
    best_before = np.concatenate(([-np.inf], np.maximum.accumulate(ordered)[:-1]))
    return order[ordered > best_before]
