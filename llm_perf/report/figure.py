"""What a figure shows, said once and for both places where it is drawn: `report.plots.draw` and `explore.drawn`.

A panel has two axes and marks between them: series of points or lines, bars, areas, limits and notes. Axes carry their ticks,
written as the reports write numbers. A colour may be `INK`, `MUTED`, `PAPER` or `FAINT`: a page has another black at night.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from llm_perf.report.units import brief

INK: Final = "@ink"
MUTED: Final = "@muted"
PAPER: Final = "@paper"
FAINT: Final = "@line"
SYMBOLS: Final = ("circle", "square", "triangle-up", "diamond", "cross", "x", "star", "hexagon")
"""What tells series apart; ``ring`` is around one of their points."""
PATTERNS: Final = ("/", "x", ".", "-", "\\", "+", "|")
"""What tells bars of one colour apart."""
BAR: Final = 0.42
"""Height of a bar, as a share of the distance between two."""

_WIDE: Final = 20
"""A range of more than so many times its lower end is logarithmic."""
_NARROW: Final = 1.25
"""A range of less than that is shown around the values; any other begins at zero."""
_STEPS: Final = (1.0, 2.0, 5.0)

Numbers: TypeAlias = Sequence[float]
Line: TypeAlias = Literal["", "solid", "dash", "dot"]


# -- axes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Axis:
    """From where to where, and the ticks between with their texts."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    texts: tuple[str, ...]
    log: bool = False


def time_axis(title: str, values_s: Iterable[float], log: bool | None = None, most: int = 7) -> Axis:
    """An axis for times in seconds.

    Args:
        title: What is shown along it.
        values_s: What it has to hold; what is not finite is left out.
        log: Whether it is logarithmic; chosen by the range of the values if None.
        most: Ticks of a logarithmic axis over many decades.
    """
    return _axis(title, values_s, log, most, _time)


def amount_axis(title: str, values: Iterable[float], log: bool | None = None, most: int = 7) -> Axis:
    """An axis for plain numbers, whose unit the title says; else as `time_axis`."""
    return _axis(title, values, log, most, lambda value: f"{value:,.6g}")


def share_axis(title: str, end: float) -> Axis:
    """An axis from zero to ``end`` per cent, a little more shown."""
    ticks = _ticks(0.0, end)
    return Axis(title, 0.0, 1.04 * end, tuple(ticks), tuple(f"{tick:,.6g} %" for tick in ticks))


def _time(value_s: float) -> str:
    return brief(value_s) if value_s else "0"


def _axis(
    title: str, values: Iterable[float], log: bool | None, most: int, text: Callable[[float], str]
) -> Axis:
    known = [float(value) for value in values if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    is_log = low > 0 and (log or (log is None and high > _WIDE * low))
    if is_log:
        low, high = low / 1.4, high * 1.4
        ticks = _log_ticks(low, high, most)
    else:
        low, high = (
            (0.7 * low, 1.15 * high) if 0 < high < _NARROW * low else (min(1.07 * low, 0.0), 1.07 * high)
        )
        high = high or 1.0
        ticks = _ticks(low, high)
    return Axis(title, low, high, tuple(ticks), tuple(map(text, ticks)), bool(is_log))


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten, every so many; with 2 and 5 between them where they would be fewer than three."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [decade for decade in decades if low <= 10.0**decade <= high]
    if len(inside) >= 3:
        return [10.0**decade for decade in inside[:: math.ceil(len(inside) / most)]]
    found = [float(f"{step}e{decade}") for decade in decades for step in _STEPS]
    return [tick for tick in found if low <= tick <= high]


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 3.2
    size = 10.0 ** math.floor(math.log10(rough))
    step = max(size * times for times in _STEPS if size * times <= rough)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, math.floor(high / step + 1e-9) + 1)]


# -- marks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Series:
    """Points, a line through them, or both; without any it is an entry of the legend.

    Attributes:
        name: In the legend; empty is in none.
        x: Of each point.
        y: Of each point.
        colour: Of line and points.
        symbol: One of `SYMBOLS` or ``ring``; empty draws no points.
        is_open: Which points are drawn as a ring or outline; one for all, or one each.
        line: Empty draws none.
        size: Diameter of the points in printer's points; one for all, or one each.
        width: Of the line, in printer's points.
        steps: Whether the line stays level up to the next point.
        edge: Colour of the points' edge; their own if empty.
        ends: (low, high) of a bar through each point, None for a point without.
        words: What the pointer shows of each point.
        faint: Whether points that lie on one another shine through.
    """

    name: str
    x: Numbers
    y: Numbers
    colour: str = INK
    symbol: str = ""
    is_open: bool | Sequence[bool] = False
    line: Line = ""
    size: float | Numbers = 6.0
    width: float = 1.5
    steps: bool = False
    edge: str = ""
    ends: Sequence[tuple[float, float] | None] = ()
    words: Sequence[str] = ()
    faint: bool = False

    @property
    def opens(self) -> list[bool]:
        """`is_open` of each point."""
        return [self.is_open] * len(self.x) if isinstance(self.is_open, bool) else list(self.is_open)


@dataclass(frozen=True, slots=True)
class Bars:
    """Horizontal bars of one kind.

    Attributes:
        name: In the legend.
        rows: Where each stands: 0 is the lowest row of the panel.
        lengths: Of each.
        starts: Where each begins.
        colour: Of all.
        pattern: One of `PATTERNS` over the colour, or none.
        height: As a share of the distance between two rows.
        words: What the pointer shows of each.
        edged: Whether bars are told apart by an edge.
    """

    name: str
    rows: Numbers
    lengths: Numbers
    starts: Numbers
    colour: str
    pattern: str = ""
    height: float = BAR
    words: Sequence[str] = ()
    edged: bool = True


@dataclass(frozen=True, slots=True)
class Area:
    """What lies between two lines, or at ``x`` = two values over the whole height where no lines are given."""

    name: str
    x: Numbers
    low: Numbers = ()
    high: Numbers = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """A straight line across the panel; its text stands at its upper or right end, its name in the legend."""

    value: float
    across: Literal["x", "y"] = "x"
    text: str = ""
    name: str = ""
    colour: str = INK
    line: Line = "dash"


@dataclass(frozen=True, slots=True)
class Note:
    """Words above a place, from there to the right or ending there."""

    x: float
    y: float
    text: str
    ends_here: bool = False
    centred: bool = False


Mark: TypeAlias = Series | Bars | Area | Limit | Note


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes and what is between.

    Attributes:
        x: The axis below.
        y: The axis on the left; None where ``rows`` name it.
        marks: In the order of drawing.
        title: Above it.
        rows: Names of the rows of bars, from below.
        height: On a page, in pixels.
        alt: What it shows, in a sentence.
        table: Its numbers, as ``explore.cards.table`` makes it.
        square: Whether both axes have one scale.
    """

    x: Axis
    y: Axis | None
    marks: Sequence[Mark]
    title: str = ""
    rows: Sequence[str] = ()
    height: int = 400
    alt: str = ""
    table: dict[str, Any] | None = None
    square: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Panels in columns under one title, with one legend; a page shows each of them by itself.

    Attributes:
        panels: Row by row.
        title: Above all of them.
        size: (width, height) in inches.
        columns: Panels of a row.
        legend_columns: Entries of a row of the legend.
        shared: Whether the panels of a row have one axis on the left, and those of a column one below.
    """

    panels: Sequence[Panel]
    title: str = ""
    size: tuple[float, float] = (7.2, 5.2)
    columns: int = 1
    legend_columns: int = 3
    shared: bool = False


def stacked(
    parts: Iterable[tuple[str, str, str, Numbers, Sequence[str]]],
    rows: Numbers,
    height: float = BAR,
    skip: float = 0.0,
) -> list[Bars]:
    """Bars of which each begins where the one before ends.

    Args:
        parts: Name, colour, pattern, lengths and words of each.
        rows: Where they stand.
        height: Of a bar.
        skip: A length that is not drawn.
    """
    ends, found = [0.0] * len(rows), []
    for name, colour, pattern, lengths, words in parts:
        found.append(Bars(name, rows, lengths, tuple(ends), colour, pattern, height, words))
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    return [bars for bars in found if any(length > skip for length in bars.lengths)]
