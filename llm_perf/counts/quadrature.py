"""Sums over the steps of a growing context, without visiting every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from llm_perf.counts.arrays import Number, maximum, minimum, sqrt


def context_nodes(
    first: Number, steps: Number, kinks: Sequence[Number] = (), *, affine: bool = False
) -> Iterator[tuple[Number, Number]]:
    """(context, weight) pairs so that sum of weight x f(context) is the sum of f over the steps.

    The steps have contexts first, first + 1, …, first + steps - 1. They are cut into panels after the last context
    that is not above a kink, and each panel is summed by three nodes: exact up to three steps, and where f is a
    polynomial of degree five on each panel, so for every f that is affine between kinks. A kink may be an array and
    may lie outside the steps. ``affine`` says that f is nothing else: then the middle of a panel is enough.
    """
    done: Number = 0.0
    for kink in [*_ascending(kinks), None]:
        until = steps if kink is None else _steps_up_to(kink, first, done, steps)
        count = until - done
        if kink is None or not _never(count):
            if affine:
                yield first + done + (count - 1) / 2, count
            else:
                yield from _panel(first + done, count)
        done = until


def _steps_up_to(kink: Number, first: Number, done: Number, steps: Number) -> Number:
    """Steps whose context is not above ``kink``, at least ``done`` and at most all."""
    reached = minimum(maximum(kink - first, -1.0), steps) // 1 + 1
    return minimum(maximum(reached, done), steps)


def _panel(first: Number, count: Number) -> Iterator[tuple[Number, Number]]:
    """Nodes of the sum over ``count`` contexts from ``first`` on: the three-point Gauss rule for equally spaced points.

    Its nodes are the roots of the third Gram polynomial, t^3 - t (3 n^2 - 7) / 20 (Abramowitz & Stegun, 22.17); for
    many points they tend to those of Gauss-Legendre. With one point or none all weight is in the middle.
    """
    middle = first + (count - 1) / 2
    square = maximum((3 * count * count - 7) / 20, 0.25)
    outer = count * (count * count - 1) / (24 * square)
    spread = sqrt(square)
    yield middle, count - 2 * outer
    yield middle - spread, outer
    yield middle + spread, outer


def _ascending(kinks: Sequence[Number]) -> list[Number]:
    """The kinks in order, elementwise where they are arrays."""
    ordered: list[Number] = []
    for kink in kinks:
        largest = kink
        for index, other in enumerate(ordered):
            ordered[index], largest = minimum(other, largest), maximum(other, largest)
        ordered.append(largest)
    return ordered


def _never(count: Number) -> bool:
    """Whether a panel is empty for every point."""
    return bool((count <= 0).all()) if hasattr(count, "all") else count <= 0


def sum_over_context(
    f: Callable[[Number], Number], first: Number, steps: Number, kinks: Sequence[Number] = ()
) -> Number:
    """Sum of f over ``steps`` contexts from ``first`` on; see :func:`context_nodes`."""
    total: Number = 0.0
    for context, weight in context_nodes(first, steps, kinks):
        total = total + weight * f(context)
    return total
