"""Prediction intervals from residuals of runs whose whole group was left out of the fit.

Residuals of one model resemble each other: pooled over models they promise too much (80 % intervals that covered 36 %). So
each group gives its own conformal quantile of |log(measured / predicted)| (Lei et al., JASA 113(523), 2018, split
conformal), and the width is the largest of them. With few groups that is the largest error seen on a left-out
model rather than a guarantee: exact 90 % over new models would need nine of them or more, whose own 90 % quantile it is then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, median
from typing import TYPE_CHECKING, Final, TypeVar

from llm_perf.config.calibration import ENOUGH, INTERVAL_LEVEL, IntervalWidths

if TYPE_CHECKING:
    from calibrate.fit.calibrator import Compared


def conformal_quantile(values: Sequence[float], level: float = INTERVAL_LEVEL) -> float:
    """The ceil((n + 1) level)-th smallest value, the largest one where there are too few."""
    ordered = sorted(values)
    rank = min(len(ordered), math.ceil((len(ordered) + 1) * level))
    return ordered[rank - 1]


_USUAL: Final = 0.05
"""Standard deviation of a repeat's log time where no load was repeated."""

_KNOWN_AS: Final = 3
"""How many repeats the usual scatter counts against a load's own."""

_MEASURED: Final = 9
"""Bursts that a measurement is taken to average: three repeats of a loop of three rounds."""


def median_variance(count: int) -> float:
    """Variance of a median of ``count`` normal values of variance 1: pi / 2 over many, and exact for one."""
    return math.pi / 2 / (count + math.pi / 2 - 1)


@dataclass(frozen=True)
class Scattered:
    """A left-out residual, log(predicted / measured), of a median of ``repeats`` whose logarithms scatter by ``spread``."""

    residual: float
    spread: float | None
    repeats: int


def width_beyond_scatter(values: Sequence[Scattered], level: float = INTERVAL_LEVEL) -> float | None:
    """Half-width from residuals whose measurements scatter themselves; None without any.

    Of the residuals' mean square what the repeats' scatter explains is taken off: what is left is how far the model is off.
    To that comes the scatter of what an interval is to hold, which averages nine bursts. Both are taken as normal.
    """
    if not values:
        return None
    spreads = [one.spread for one in values if one.spread is not None]
    usual = median(spreads) if spreads else _USUAL

    def variance(one: Scattered) -> float:
        own = usual if one.spread is None else one.spread
        free = one.repeats - 1
        shrunk = (free * own**2 + _KNOWN_AS * usual**2) / (free + _KNOWN_AS)
        return shrunk * median_variance(one.repeats)

    model = max(fmean(one.residual**2 - variance(one) for one in values), 0.0)
    deviations = NormalDist().inv_cdf((1 + level) / 2)
    return deviations * math.sqrt(model + usual**2 * median_variance(_MEASURED))


def widths(left_out: Sequence[Compared]) -> IntervalWidths | None:
    """Half-widths by phase as log ratios; None without groups that were left out."""
    groups = sorted({one.observation.group for one in left_out})
    if not groups:
        return None
    many = len(groups) >= ENOUGH
    method = (
        "conformal quantile over models of each left-out model's own"
        if many
        else f"largest quantile among {len(groups)} models, each left out in turn"
    )
    found = {phase: _width(left_out, groups, phase) for phase in ("prefill", "decode", "total")}
    return IntervalWidths(level=INTERVAL_LEVEL, method=method, groups=len(groups), **found)


def _width(left_out: Sequence[Compared], groups: Sequence[str], phase: str) -> float | None:
    return group_width(
        [
            [
                abs(math.log1p(error))
                for one in left_out
                if one.observation.group == group and (error := one.error(phase)) is not None
            ]
            for group in groups
        ]
    )


def group_width(residuals: Sequence[Sequence[float]]) -> float | None:
    """Half-width from |log residuals| of groups that were each left out; None without any.

    Each group gives its own conformal quantile; the width is the largest, from nine groups on their conformal quantile.
    """
    by_group = [conformal_quantile(sizes) for sizes in residuals if sizes]
    if not by_group:
        return None
    return conformal_quantile(by_group) if len(by_group) >= ENOUGH else max(by_group)


_LEVELS: Final = (0.9, 0.925, 0.95, 0.975, 1.0)
"""Quantiles that are tried: what holds nine tenths of one's own rows may hold fewer of another group's."""

G = TypeVar("G", bound=Hashable)


@dataclass(frozen=True)
class HeldWidth:
    """A half-width as a log ratio; of ``tested`` rows, those of the other groups held ``held``.

    ``of_a_group`` is the share that was held of a group's rows, in the mean of the groups, however many rows each has.
    """

    width: float
    held: int
    tested: int
    of_a_group: float = field(default=math.nan, compare=False)


def held_width(
    groups: Mapping[G, Sequence[float]],
    quantile: Callable[[Mapping[G, Sequence[float]], float], float],
    apart: Callable[[G], Hashable] = lambda name: name,
) -> HeldWidth:
    """The least quantile of groups' errors that holds nine tenths of the rows, each group held against the others.

    Args:
        groups: |log residuals| by group.
        quantile: What a share of all rows of some groups stays within.
        apart: What of a group's name no other group must share to be held against it.
    """
    found = HeldWidth(0.0, 0, 0)
    for level in _LEVELS:
        held = tested = 0
        shares = []
        for kind in dict.fromkeys(map(apart, groups)):
            others = {name: rows for name, rows in groups.items() if apart(name) != kind}
            width = quantile(others, level)
            own = [row for name, rows in groups.items() if apart(name) == kind for row in rows]
            within = sum(row <= width for row in own)
            held, tested = held + within, tested + len(own)
            shares.append(within / len(own) if own else 1.0)
        found = HeldWidth(quantile(groups, level), held, tested, fmean(shares or [math.nan]))
        if held >= INTERVAL_LEVEL * tested:
            break
    return found


def of_equal_groups(groups: Mapping[G, Sequence[float]], level: float) -> float:
    """What a share of the rows stays within where each group has the same weight, however many rows it has."""
    weighted = sorted((row, 1 / len(rows)) for rows in groups.values() for row in rows)
    reached = 0.0
    for row, weight in weighted:
        reached += weight
        if reached >= level * len(groups) - 1e-9:
            return row
    return weighted[-1][0]


def of_rows(groups: Mapping[G, Sequence[float]], level: float) -> float:
    """The conformal quantile of all rows together."""
    return conformal_quantile([row for rows in groups.values() for row in rows], level)
