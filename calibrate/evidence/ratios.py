"""How far predictions are off, in one figure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean


def gm(log_ratios: Iterable[float]) -> float:
    """Geometric mean of max(predicted / measured, measured / predicted), from their logarithms; NaN of none."""
    sizes = [abs(float(one)) for one in log_ratios]
    return math.exp(fmean(sizes)) if sizes else math.nan
