"""Sums over the steps of a growing context, without visiting every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llm_perf.counts.arrays import Number, maximum, minimum

_NODES = (0.0, -0.7745966692414834, 0.7745966692414834)
_WEIGHTS = (8 / 9, 5 / 9, 5 / 9)
"""Gauss-Legendre nodes and weights on [-1, 1] for three points (Abramowitz & Stegun, table 25.4)."""


def context_nodes(
    first: Number, steps: Number, kinks: Sequence[float] = ()
) -> Iterator[tuple[Number, Number]]:
    """(context, weight) pairs so that sum of weight x f(context) is the sum of f over the steps.

    The steps have contexts first, first + 1, …, first + steps - 1. The sum is taken as the integral from
    first - 1/2 to first + steps - 1/2, by Gauss-Legendre on each panel between ``kinks``. That is exact where f is
    affine between kinks (up to the half step at a kink), and correct to the third order elsewhere.
    """
    low, high = first - 0.5, first + steps - 0.5
    left = low
    for kink in [*sorted(kinks), None]:
        right = high if kink is None else minimum(maximum(kink, left), high)
        half = (right - left) / 2
        if kink is None or not _never(half):
            middle = (left + right) / 2
            for node, weight in zip(_NODES, _WEIGHTS, strict=True):
                yield middle + half * node, half * weight
        left = right


def _never(half: Number) -> bool:
    """Whether a panel is empty for every point."""
    return bool((half <= 0).all()) if hasattr(half, "all") else half <= 0


def sum_over_context(
    f: Callable[[Number], Number], first: Number, steps: Number, kinks: Sequence[float] = ()
) -> Number:
    """Sum of f over ``steps`` contexts from ``first`` on; see :func:`context_nodes`."""
    total: Number = 0.0
    for context, weight in context_nodes(first, steps, kinks):
        total = total + weight * f(context)
    return total
