"""Compute and memory time of one operation, combined."""

from __future__ import annotations

import math

from llm_perf.counts.arrays import Number, is_array, maximum, minimum, power, root, where

_PLAIN_EXPONENTS = (2, 4, 8)
"""Exponents whose powers of a time (1e-38 to 1e38 s) neither vanish nor overflow, and that square roots undo."""


def p_norm(left: Number, right: Number, exponent: Number) -> Number:
    """(left^p + right^p)^(1/p): the larger one for p = infinity, the sum for p = 1.

    Two resources that work at once take at least the larger time; measured GEMMs follow about p = 4 (at the
    knee, where both are equal, 1.19 times either). An array of exponents is one of finite ones.
    """
    if not is_array(exponent):
        if exponent in _PLAIN_EXPONENTS:
            return root(power(left, exponent) + power(right, exponent), exponent)
        if exponent == math.inf:
            return maximum(left, right)
        if exponent == 1:
            return left + right
    larger = maximum(left, right)
    share = minimum(left, right) / where(larger > 0, larger, 1.0)
    return larger * (1.0 + share**exponent) ** (1.0 / exponent)


def roofline_time(
    flops: Number,
    moved_bytes: Number,
    flops_per_s: float,
    bytes_per_s: float,
    knee_exponent: float = math.inf,
    floor_s: float = 0.0,
) -> Number:
    """Seconds of an operation that computes ``flops`` and moves ``moved_bytes`` (Williams et al., CACM 52(4), 2009).

    ``knee_exponent`` rounds the corner between the two roofs; ``floor_s`` is the least time of a kernel.
    """
    return floor_s + p_norm(flops / flops_per_s, moved_bytes / bytes_per_s, knee_exponent)
