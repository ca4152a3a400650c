"""Colours and patterns of the parts of a latency, the same in every figure of a page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from llm_perf.report.plots.style import COLOURS, PARTS

_SYMBOLS: Final = ("circle", "square", "triangle-up", "diamond", "cross", "x", "star", "hexagon")
_PATTERNS: Final = ("/", "x", ".", "-", "\\", "+", "|")


def series_look(number: int) -> tuple[str, str]:
    """Colour and symbol of a series of points, both of which differ between neighbours; 64 before one comes again."""
    turns = number // len(COLOURS)
    colour = COLOURS[number % len(COLOURS)].replace("#000000", "@ink")
    return colour, _SYMBOLS[(number + turns) % len(_SYMBOLS)]


def part_colour(part: str) -> str:
    """The colour of a part in every picture of the project; black is the page's ink, parts without one are grey."""
    colour = PARTS[part][1] if part in PARTS else "@muted"
    return "@ink" if colour == "#000000" else colour


def bar_looks(parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Plotly's marker of each part; patterns tell apart those that share the grey."""
    found: dict[str, dict[str, Any]] = {}
    plain = 0
    for part in parts:
        found[part] = {"color": part_colour(part)}
        if part not in PARTS:
            found[part]["pattern"] = {
                "shape": _PATTERNS[plain % len(_PATTERNS)],
                "fillmode": "overlay",
                "fgcolor": "@paper",
                "size": 6,
            }
            plain += 1
    return found


def step_looks(parts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Plotly's marker of each part of a training step, the largest first: the project's colours in turn."""
    return {
        part: {"color": COLOURS[number % len(COLOURS)].replace("#000000", "@ink")}
        for number, part in enumerate(parts)
    }
