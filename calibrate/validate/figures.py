"""What a group of compared runs says as a whole.

``gm`` is the geometric mean of max(predicted / measured, measured / predicted); it treats both sides alike, where a
percentage rewards low guesses.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from calibrate.validate.row import Compared

UNPREDICTED_RATIO: Final = 10.0
"""What a row without a prediction counts in ``gm_all``."""

WORST: Final = 5
"""How many of the worst rows are listed."""


def statistics_of(rows: Sequence[Compared]) -> dict[str, Any]:
    """Coverage, errors, bias, shares within 10 and 20 %, gm, rank correlation, coverage of intervals, worst rows.

    ``gm`` is over the rows that are predicted, ``gm_all`` over all with `UNPREDICTED_RATIO` for those that are not.
    ``bias`` is the median signed error. ``memory_median_abs_error`` is that of peak GPU memory over the rows that
    state one. ``interval_coverage`` is the share of rows with a prediction interval whose measured value lies in it: a
    profile's, else that around the prediction which never saw the row's model.
    What does not exist is None.
    """
    covered = [row for row in rows if row.predicted is not None]
    inside = [row.inside for row in covered if row.inside is not None]
    return {
        **errors_of(rows),
        "memory_median_abs_error": _median(_memory_errors(covered)),
        "interval_coverage": sum(inside) / len(inside) if inside else None,
        "worst": [row.run.row_id for row in _worst(covered)],
        "baselines": {name: errors_of([row.by(name) for row in rows]) for name in _baseline_names(rows)},
    }


def errors_of(rows: Sequence[Compared]) -> dict[str, Any]:
    """The part of `statistics_of` that any predictor has."""
    covered = [row for row in rows if row.predicted is not None]
    errors = [row.error for row in covered if row.error is not None]
    ratios = [row.ratio for row in covered if row.ratio is not None]
    missing = len(rows) - len(covered)
    return {
        "rows": len(rows),
        "covered": len(covered),
        "median_abs_error": _median([abs(error) for error in errors]),
        "mean_abs_error": statistics.fmean(map(abs, errors)) if errors else None,
        "bias": _median(errors),
        "within_10": _share(errors, 0.1),
        "within_20": _share(errors, 0.2),
        "gm": _geometric_mean(ratios),
        "gm_all": _geometric_mean([*ratios, *[UNPREDICTED_RATIO] * missing]),
        "rank_correlation": rank_correlation(
            [row.measured for row in covered],
            [row.predicted for row in covered if row.predicted is not None],
        ),
    }


def _worst(covered: Iterable[Compared]) -> list[Compared]:
    return sorted(covered, key=lambda row: -(row.ratio or 1.0))[:WORST]


def _baseline_names(rows: Iterable[Compared]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.baselines))


def _memory_errors(rows: Iterable[Compared]) -> list[float]:
    pairs = [row.others[name] for row in rows if (name := "peak_gpu_memory_bytes") in row.others]
    return [abs(predicted - measured) / measured for measured, predicted in pairs]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _share(errors: Sequence[float], limit: float) -> float | None:
    return sum(abs(error) <= limit for error in errors) / len(errors) if errors else None


def _geometric_mean(ratios: Sequence[float]) -> float | None:
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's coefficient, equal values sharing their mean rank; None for fewer than three or constant values."""
    if len(left) < 3:
        return None
    try:
        return statistics.correlation(_ranks(left), _ranks(right))
    except statistics.StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    first: dict[float, int] = {}
    for index, value in enumerate(ordered):
        first.setdefault(value, index)
    counts = Counter(values)
    return [first[value] + (counts[value] - 1) / 2 for value in values]
