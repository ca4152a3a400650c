"""Colours, symbols and patterns, the same in every figure of the project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from llm_perf.report.figure import INK, MUTED, PATTERNS, SYMBOLS

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", INK, "#B8A000")
"""Of Okabe and Ito (jfly.uni-koeln.de/color), the yellow darkened so that it shows on white, the black as the page has it."""
LIMIT: Final = COLOURS[3]
"""Of the line that a target or the best draws."""

PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "attention_projections": ("attention projections", "#0072B2"),
    "attention": ("attention", "#56B4E9"),
    "mlp": ("feed-forward", "#009E73"),
    "lm_head": ("LM head", "#B8A000"),
    "elementwise": ("norms and elementwise", "#CC79A7"),
    "dequantisation": ("dequantisation", "#7B4B94"),
    "framework": ("framework", "#E69F00"),
    "weight_streaming": ("weight streaming", "#D55E00"),
    "all_reduce": ("all-reduce", INK),
}
"""Parts of a breakdown that have a colour of their own; others are grey."""


def colour_of(number: int) -> str:
    """The colour of one of several in their order."""
    return COLOURS[number % len(COLOURS)]


def series_look(number: int) -> tuple[str, str]:
    """Colour and symbol of a series of points, both of which differ between neighbours; 64 before one comes again."""
    turns = number // len(COLOURS)
    return colour_of(number), SYMBOLS[(number + turns) % len(SYMBOLS)]


def looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(colour, symbol) by name, in the order given."""
    return {name: series_look(number) for number, name in enumerate(dict.fromkeys(names))}


def part_colour(part: str) -> str:
    """The colour of a part in every picture of the project; parts without one are grey."""
    return PARTS[part][1] if part in PARTS else MUTED


def bar_looks(parts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(colour, pattern) of each part; patterns tell apart those that share the grey."""
    found, plain = {}, 0
    for part in parts:
        found[part] = (part_colour(part), "" if part in PARTS else PATTERNS[plain % len(PATTERNS)])
        plain += part not in PARTS
    return found
