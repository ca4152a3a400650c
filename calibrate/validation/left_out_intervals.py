"""Prediction intervals of published rows whose group was left out of the fit that predicts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from calibrate.fit.intervals import LEVEL, group_width
from calibrate.validation.row import Compared, Interval

__all__ = ["with_intervals"]


def with_intervals(rows: Sequence[Compared], groups: Sequence[str]) -> tuple[Compared, ...]:
    """The rows with intervals as wide as the left-out residuals of the other groups of their accuracy class say.

    Neither the fit nor the width of a row knows any row of its group, so that the share of rows inside is honest. A class
    of one group has none.

    Args:
        rows: Each predicted by a fit that knew no row of its group.
        groups: What was left out for each row.
    """
    sizes: dict[str | None, dict[str, list[float]]] = {}
    for row, group in zip(rows, groups, strict=True):
        if row.ratio is not None:
            of_class = sizes.setdefault(row.accuracy_class, {})
            of_class.setdefault(group, []).append(abs(math.log(row.ratio)))

    def around(row: Compared, group: str) -> Interval | None:
        others = [found for name, found in sizes.get(row.accuracy_class, {}).items() if name != group]
        width = group_width(others)
        if width is None or row.predicted is None:
            return None
        return Interval(row.predicted * math.exp(-width), row.predicted * math.exp(width), LEVEL)

    return tuple(replace(row, interval=around(row, group)) for row, group in zip(rows, groups, strict=True))
