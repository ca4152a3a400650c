"""Figures of `report.figure` drawn with matplotlib, which is loaded only here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any, Final

from llm_perf.report.figure import (
    FAINT,
    INK,
    MUTED,
    PAPER,
    Area,
    Axis,
    Bars,
    Figure,
    Limit,
    Mark,
    Note,
    Panel,
    Series,
)
from llm_perf.report.plots.style import BAND, legend_below, new_figure, tidy, write_figure

__all__ = ["draw", "write_drawn"]

_COLOURS: Final = {INK: "#000000", MUTED: "0.55", PAPER: "white", FAINT: "0.85"}
_SYMBOLS: Final = {
    "circle": "o", "square": "s", "triangle-up": "^", "diamond": "D", "cross": "P", "x": "X", "star": "*",
    "hexagon": "h", "ring": "o",
}  # fmt: skip
_SMALL, _USUAL = 7.5, 9.0
"""Sizes of text at the ticks: of panels side by side in narrow columns, and of others."""
_LINES: Final = {"": "none", "solid": "-", "dash": "--", "dot": ":"}
_HATCHES: Final = {"": None, ".": "..", "x": "xx", "/": "////", "-": "--", "\\": "\\\\", "+": "++", "|": "||"}


def write_drawn(figure: Figure, file: str) -> Path:
    """Draw a figure into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_figure(draw(figure), file)


def draw(figure: Figure) -> Any:
    """A figure of matplotlib."""
    drawn = new_figure(*figure.size)
    rows = -(-len(figure.panels) // figure.columns)
    share: Any = {"sharex": "col", "sharey": "row"} if figure.shared else {}
    grid = drawn.subplots(rows, figure.columns, squeeze=False, **share)
    for axes, panel in zip(grid.flat, figure.panels, strict=False):
        _panel(axes, panel, text_size=_SMALL if figure.columns > 2 else _USUAL)
    for axes in list(grid.flat)[len(figure.panels) :]:
        axes.set_visible(False)
    if figure.shared:
        for axes in grid.flat:
            axes.label_outer()
    if figure.title:
        drawn.suptitle(figure.title, fontsize=11)
    legend_below(drawn, figure.legend_columns)
    return drawn


def _panel(axes: Any, panel: Panel, text_size: float) -> None:
    _axis(axes, axes.xaxis, panel.x, text_size)
    if panel.y is not None:
        _axis(axes, axes.yaxis, panel.y, text_size)
    else:
        axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=9)
        axes.set_ylim(-0.6, len(panel.rows) - 0.4)
    for mark in panel.marks:
        _mark(mark, axes)
    if panel.title:
        axes.set_title(panel.title, fontsize=text_size + 1)
    if panel.square:
        axes.set_aspect("equal")
    tidy(axes)
    if panel.y is None:
        axes.grid(visible=False, axis="y")


def _axis(axes: Any, drawn: Any, axis: Axis, text_size: float) -> None:
    """Ends, ticks and their texts; the title."""
    is_x = drawn.axis_name == "x"
    if axis.log:
        (axes.set_xscale if is_x else axes.set_yscale)("log")
    (axes.set_xlim if is_x else axes.set_ylim)(axis.low, axis.high)
    (axes.set_xlabel if is_x else axes.set_ylabel)(axis.title)
    drawn.set_ticks(axis.ticks, axis.texts, fontsize=text_size)
    drawn.set_ticks([], minor=True)


def _colour(name: str) -> str:
    return _COLOURS.get(name, name)


def _each(value: Any, count: int) -> list[Any]:
    return [value] * count if isinstance(value, (int, float)) else list(value)


@singledispatch
def _mark(mark: Mark, axes: Any) -> None:  # noqa: ARG001 - that of each kind
    """Draw one mark."""
    raise TypeError(type(mark).__name__)


@_mark.register
def _(mark: Series, axes: Any) -> None:
    colour = _colour(mark.colour)
    if (mark.line and len(mark.x)) or not mark.symbol:
        axes.plot(
            mark.x, mark.y, _LINES[mark.line or "solid"], color=colour, linewidth=mark.width, zorder=1.8,
            drawstyle="steps-post" if mark.steps else "default", label=None if mark.symbol else mark.name or None,
        )  # fmt: skip
    if not mark.symbol:
        return
    edge = _colour(mark.edge or mark.colour)
    look: dict[str, Any] = {
        "marker": _SYMBOLS[mark.symbol], "color": colour, "linestyle": "none", "zorder": 3,
        "markeredgecolor": edge, "markeredgewidth": 0.4 if mark.edge == PAPER else 1.2,
        "alpha": 0.75 if mark.faint else None,
    }  # fmt: skip
    bars = [(x, y, ends) for x, y, ends in zip(mark.x, mark.y, mark.ends, strict=False) if ends is not None]
    if bars:
        spread = [[max(y - low, 0.0), max(high - y, 0.0)] for _, y, (low, high) in bars]
        axes.errorbar(
            [x for x, _, _ in bars], [y for _, y, _ in bars], yerr=list(zip(*spread, strict=True)), fmt="none",
            ecolor=colour, elinewidth=1, capsize=2.5, alpha=0.8, zorder=2,
        )  # fmt: skip
    # One call for all points of a look, as a file of thousands of points wants it.
    places = list(zip(mark.x, mark.y, mark.opens, _each(mark.size, len(mark.x)), strict=True))
    for is_open, size in dict.fromkeys((is_open, size) for *_, is_open, size in places):
        own = [(x, y) for x, y, *rest in places if (is_open, size) == tuple(rest)]
        face = "none" if is_open or mark.symbol == "ring" else colour
        axes.plot(*zip(*own, strict=True), markerfacecolor=face, markersize=size, **look)
    if mark.name:
        is_open = mark.is_open if isinstance(mark.is_open, bool) else all(mark.is_open or [False])
        look["linestyle"] = _LINES[mark.line]
        size = min([6.5, *_each(mark.size, 1)[:1]]) if mark.x else 6.0
        is_open = is_open or mark.symbol == "ring"
        axes.plot(
            [], [], markerfacecolor="none" if is_open else colour, markersize=size, label=mark.name, **look
        )


@_mark.register
def _(mark: Bars, axes: Any) -> None:
    edge = (
        {"edgecolor": "0.4", "linewidth": 0.8}
        if mark.colour in (FAINT, PAPER)
        else {"edgecolor": "white", "linewidth": 0.4}
    )
    axes.barh(
        mark.rows, mark.lengths, mark.height, mark.starts, color=_colour(mark.colour), label=mark.name or None,
        hatch=_HATCHES[mark.pattern], **edge if mark.edged else {},
    )  # fmt: skip


@_mark.register
def _(mark: Area, axes: Any) -> None:
    look = {"color": BAND, "alpha": 0.35, "linewidth": 0, "label": mark.name or None}
    if mark.low:
        axes.fill_between(mark.x, mark.low, mark.high, **look)
    else:
        axes.axvspan(*mark.x, **look)


@_mark.register
def _(mark: Limit, axes: Any) -> None:
    line = axes.axvline if mark.across == "x" else axes.axhline
    line(
        mark.value, color=_colour(mark.colour), linestyle=_LINES[mark.line], linewidth=1,
        label=mark.name or None,
    )  # fmt: skip
    if not mark.text:
        return
    where: Sequence[Any] = (mark.value, 1.0) if mark.across == "x" else (1.0, mark.value)
    frame = axes.get_xaxis_transform() if mark.across == "x" else axes.get_yaxis_transform()
    axes.annotate(
        mark.text, where, xycoords=frame, xytext=(-4, -4), textcoords="offset points", ha="right", va="top",
        fontsize=8,
    )  # fmt: skip


@_mark.register
def _(mark: Note, axes: Any) -> None:
    axes.annotate(
        mark.text, (mark.x, mark.y), xytext=(-3 if mark.ends_here else 3, 0 if mark.centred else 5), fontsize=8,
        textcoords="offset points", ha="right" if mark.ends_here else "left", va="center" if mark.centred else "bottom",
    )  # fmt: skip
