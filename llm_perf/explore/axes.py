"""Axes whose ticks are written as the reports write numbers: times with their unit, amounts with thousands separators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

from llm_perf.report.units import seconds

_WIDE: Final = 20
"""A range of more than so many times its lower end is logarithmic."""
_NARROW: Final = 1.25
"""A range of less than that is shown around the values; any other begins at zero."""
_MOST_DECADES: Final = 7
_STEPS: Final = (1.0, 2.0, 5.0)


def time_axis(title: str, values_s: Iterable[float], log: bool | None = None) -> dict[str, Any]:
    """An axis for times in seconds; ``log`` None chooses by their range."""
    return _axis(title, values_s, log, _time)


def amount_axis(title: str, values: Iterable[float], log: bool | None = None) -> dict[str, Any]:
    """An axis for plain numbers, whose unit the title says."""
    return _axis(title, values, log, lambda value: f"{value:,.6g}")


def share_axis(title: str, end: float) -> dict[str, Any]:
    """An axis from zero to ``end`` per cent, a little more shown."""
    ticks = _ticks(0.0, end)
    text = [f"{tick:,.6g} %" for tick in ticks]
    return {"title": {"text": title}, "range": [0.0, 1.04 * end], "tickvals": ticks, "ticktext": text}


def position(axis: dict[str, Any], value: float) -> float:
    """Where an annotation stands for a value: Plotly counts decades on a logarithmic axis."""
    return math.log10(value) if axis["type"] == "log" else value


def _time(value_s: float) -> str:
    return seconds(value_s).split(" (")[0] if value_s else "0"


def _axis(
    title: str, values: Iterable[float], log: bool | None, text: Callable[[float], str]
) -> dict[str, Any]:
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    if log or (log is None and low > 0 and high > _WIDE * low):
        low, high = low / 1.4, high * 1.4
        ticks, kind, ends = _log_ticks(low, high), "log", [math.log10(low), math.log10(high)]
    else:
        low, high = (0.7 * low, 1.15 * high) if 0 < high < _NARROW * low else (min(low, 0.0), 1.07 * high)
        ticks, kind, ends = _ticks(low, high or 1.0), "linear", [low, high or 1.0]
    return {
        "type": kind,
        "title": {"text": title},
        "range": ends,
        "tickvals": ticks,
        "ticktext": [text(tick) for tick in ticks],
    }


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, every so many; with 2 and 5 between them where they would be fewer than three."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [decade for decade in decades if low <= 10.0**decade <= high]
    if len(inside) >= 3:
        return [10.0**decade for decade in inside[:: math.ceil(len(inside) / _MOST_DECADES)]]
    found = [float(f"{step}e{decade}") for decade in decades for step in _STEPS]
    return [tick for tick in found if low <= tick <= high]


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight, in steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 3.2
    size = 10.0 ** math.floor(math.log10(rough))
    step = max(size * times for times in _STEPS if size * times <= rough)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, math.floor(high / step + 1e-9) + 1)]
