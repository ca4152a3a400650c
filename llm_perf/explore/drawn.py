"""Panels of `report.figure` as Plotly figures: plain dictionaries, drawn in the browser.

A colour may be ``@ink``, ``@muted`` or ``@paper``: the page puts in what its light or dark style has.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any, Final

from llm_perf.report.figure import INK, PAPER, Area, Axis, Bars, Limit, Mark, Note, Panel, Series

__all__ = ["axis_of", "position", "series_of", "view_of"]

_PIXELS: Final = 1.6
"""Of a point's diameter, in printer's points: a screen is looked at from further away."""
_SAID: Final = {"hovertemplate": "%{customdata}<extra></extra>"}
_BAND: Final = "rgba(86, 180, 233, 0.35)"


def view_of(panel: Panel) -> dict[str, Any]:
    """The figure: ``data`` and ``layout`` of Plotly, ``alt`` in words, ``table`` where there is one."""
    xaxis = axis_of(panel.x)
    layout: dict[str, Any] = {
        "height": panel.height,
        "xaxis": xaxis,
        "yaxis": _rows(panel) if panel.y is None else axis_of(panel.y),
    }
    data: list[dict[str, Any]] = []
    for mark in panel.marks:
        _mark(mark, data, layout)
    if panel.title:
        layout["title"] = {"text": panel.title, "font": {"size": 13}}
    if any(trace["type"] == "bar" for trace in data):
        layout["barmode"] = "overlay"
    drawn = {"data": data, "layout": layout, "alt": panel.alt}
    return drawn if panel.table is None else drawn | {"table": panel.table}


def axis_of(axis: Axis) -> dict[str, Any]:
    """An axis of Plotly."""
    ends = [axis.low, axis.high]
    return {
        "type": "log" if axis.log else "linear",
        "title": {"text": axis.title},
        "range": [math.log10(end) for end in ends] if axis.log else ends,
        "tickvals": list(axis.ticks),
        "ticktext": list(axis.texts),
    }


def _rows(panel: Panel) -> dict[str, Any]:
    return {
        "automargin": True, "ticksuffix": " ", "range": [-0.4, len(panel.rows) - 0.35],
        "tickvals": list(range(len(panel.rows))), "ticktext": list(panel.rows),
    }  # fmt: skip


def position(axis: dict[str, Any], value: float) -> float:
    """Where an annotation stands for a value: Plotly counts decades on a logarithmic axis."""
    return math.log10(value) if axis["type"] == "log" else value


def series_of(mark: Series) -> dict[str, Any]:
    """A trace of points, a line through them, or both."""
    modes = [name for name, there in (("lines", mark.line), ("markers", mark.symbol)) if there]
    trace: dict[str, Any] = {
        "type": "scatter", "mode": "+".join(modes), "name": mark.name, "x": list(mark.x) or [None],
        "y": list(mark.y) or [None],
    }  # fmt: skip
    if not mark.name:
        trace["showlegend"] = False
    trace |= {"customdata": list(mark.words), **_SAID} if mark.words else {"hoverinfo": "skip"}
    if mark.line:
        trace["line"] = {"color": mark.colour, "width": 1.4 * mark.width, "dash": mark.line}
        trace["line"] |= {"shape": "hv"} if mark.steps else {}
    if mark.symbol:
        trace["marker"] = _marker(mark)
    if mark.ends:
        both = [
            (0.0, 0.0) if ends is None else (ends[1] - y, y - ends[0])
            for y, ends in zip(mark.y, mark.ends, strict=True)
        ]
        trace["error_y"] = {
            "type": "data", "symmetric": False, "thickness": 1, "array": [max(up, 0.0) for up, _ in both],
            "arrayminus": [max(down, 0.0) for _, down in both],
        }  # fmt: skip
    return trace


def _marker(mark: Series) -> dict[str, Any]:
    plain = "circle-open-dot" if mark.symbol == "ring" else mark.symbol
    symbols = [f"{plain}-open" if is_open else plain for is_open in mark.opens or [mark.is_open is True]]
    size = mark.size if isinstance(mark.size, (int, float)) else list(mark.size)
    return {
        "size": _PIXELS * size if isinstance(size, (int, float)) else [_PIXELS * each for each in size],
        "color": mark.colour,
        "symbol": symbols[0] if isinstance(mark.is_open, bool) or not mark.x else symbols,
        "opacity": 0.75 if mark.faint else 1.0,
        "line": {"width": 0.4 if mark.edge == PAPER else 1.5, "color": mark.edge or mark.colour},
    }


@singledispatch
def _mark(mark: Mark, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:  # noqa: ARG001 - of each kind
    """Add one mark."""
    raise TypeError(type(mark).__name__)


@_mark.register
def _(mark: Series, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:  # noqa: ARG001 - one of several
    data.append(series_of(mark))


@_mark.register
def _(mark: Bars, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:  # noqa: ARG001 - one of several
    look: dict[str, Any] = {"color": mark.colour, "line": {"width": 0.5 * mark.edged, "color": PAPER}}
    if mark.pattern:
        # In Plotly's other mode a pattern is drawn on nothing, in the colour of the page: it would not be seen.
        look["pattern"] = {"shape": mark.pattern, "fillmode": "overlay", "fgcolor": PAPER, "size": 6}
    data.append(
        {"type": "bar", "orientation": "h", "name": mark.name, "y": list(mark.rows), "base": list(mark.starts),
         "x": list(mark.lengths), "customdata": list(mark.words), **_SAID, "marker": look, "width": mark.height}
    )  # fmt: skip


@_mark.register
def _(mark: Area, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:  # noqa: ARG001 - one of several
    around = [*zip(mark.x, mark.low, strict=True), *reversed(list(zip(mark.x, mark.high, strict=True)))]
    data.append(
        {"type": "scatter", "mode": "lines", "name": mark.name, "x": [x for x, _ in around], "y": [y for _, y in around],
         "fill": "toself", "fillcolor": _BAND, "line": {"width": 0}, "hoverinfo": "skip"}
    )  # fmt: skip


@_mark.register
def _(mark: Limit, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:  # noqa: ARG001 - one of several
    along, other = ("x", "y") if mark.across == "x" else ("y", "x")
    layout.setdefault("shapes", []).append(
        {"type": "line", f"{along}0": mark.value, f"{along}1": mark.value, f"{other}0": 0, f"{other}1": 1,
         f"{other}ref": "paper", "line": {"color": mark.colour, "width": 1.5, "dash": mark.line}}
    )  # fmt: skip
    if mark.text:
        layout.setdefault("annotations", []).append(
            {along: position(layout[f"{along}axis"], mark.value), other: 1, f"{other}ref": "paper", "xanchor": "right",
             "yanchor": "top", "xshift": -4, "text": mark.text, "showarrow": False, "font": {"color": INK}}
        )  # fmt: skip


@_mark.register
def _(mark: Note, data: list[dict[str, Any]], layout: dict[str, Any]) -> None:  # noqa: ARG001 - one of several
    x = position(layout["xaxis"], mark.x)
    y = mark.y if "type" not in layout["yaxis"] else position(layout["yaxis"], mark.y)
    layout.setdefault("annotations", []).append(
        {"x": x, "y": y, "xanchor": "right" if mark.ends_here else "left", "yanchor": "middle" if mark.centred else "bottom",
         "text": mark.text, "showarrow": False, "font": {"color": INK}}
    )  # fmt: skip
