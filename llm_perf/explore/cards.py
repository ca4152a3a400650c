"""The parts that a page is made of, as plain JSON: a card has a title and parts; the page draws each kind of part.

Kinds: ``text``, ``lines``, ``table``, ``tiles``, ``figure``, ``code``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llm_perf.report.answer import Answer


def card(name: str, title: str, found: Sequence[dict[str, Any]], wide: bool = False) -> dict[str, Any]:
    """A titled group; ``wide`` ones take the whole width of a large screen."""
    return {"name": name, "title": title, "wide": wide, "parts": list(found)}


def parts(sections: Mapping[str, dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The sections of a report with these names, or that begin with one and a number ("note 1"), where there are any."""
    return [
        {"kind": "table" if "rows" in section else "text", "name": found} | section
        for name in names
        for found, section in sections.items()
        if found == name or found.startswith(f"{name} ")
    ]


def text(words: str, alarm: bool = False) -> dict[str, Any]:
    """Words, line by line."""
    return {"kind": "text", "name": "text", "text": words, "alarm": alarm}


def lines(answer: Answer) -> dict[str, Any]:
    """The five lines that a report begins with, each under its name; a page has room for all of their pieces."""
    said = (answer.fits, answer.speed, answer.sure, answer.bound, answer.change)
    rows = [
        {"name": label.rstrip(":"), "text": "; ".join(pieces), "alarm": number == 0 and not answer.good}
        for number, (label, pieces) in enumerate(zip(answer.labels, said, strict=True))
    ]
    return {"kind": "lines", "name": "lines", "lines": rows}


def code(words: str) -> dict[str, Any]:
    """A command to copy."""
    return {"kind": "code", "name": "command", "text": words}


def tiles(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Large numbers with a name each."""
    return {"kind": "tiles", "name": "tiles", "tiles": list(entries)}


def figure(name: str, drawn: dict[str, Any]) -> dict[str, Any]:
    """A Plotly figure; ``alt`` in it says in words what it shows, ``table`` holds its numbers."""
    return {"kind": "figure", "name": name, "figure": drawn}


def table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> dict[str, Any]:
    """A table of plain cells; all columns but the first are numbers."""
    return {
        "kind": "table",
        "name": "table",
        "columns": [{"name": name, "right": number > 0} for number, name in enumerate(columns)],
        "rows": [
            {"cells": [{"text": cell, "alarm": False} for cell in row], "strong": False} for row in rows
        ],
    }
