"""What the command line prints as a view: the same words and tables, for answers without cards of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.explore import cards
from llm_perf.explore.blocks import block
from llm_perf.explore.view import SCHEMA_VERSION


def report_view(
    kind: str, title: str, report: RenderableType, command: str = "", notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The view of a printed ``report``, with the ``command`` that asks for its answer again, and ``notes`` above it."""
    found = [cards.text(note, alarm=True) for note in notes] + list(_parts(report))
    shown = [cards.card("answer", title, found, wide=True)]
    if command:
        shown.append(cards.card("command", "On the command line", [cards.code(command)]))
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "label": title,
        "cards": shown,
        "near": [],
        "result": None,
    }


def _parts(report: RenderableType) -> Iterator[dict[str, Any]]:
    """Texts and tables of a report in their order, out of the groups and margins that a terminal needs."""
    if isinstance(report, Group):
        for one in report.renderables:
            yield from _parts(one)
    elif isinstance(report, Padding):
        yield from _parts(report.renderable)
    elif isinstance(report, Table):
        if report.title:
            yield cards.text(str(report.title))
        yield {"kind": "table", "name": "table"} | block(report)
    else:
        words = report.plain if isinstance(report, Text) else str(report)
        if words.strip():
            yield cards.text(words)
