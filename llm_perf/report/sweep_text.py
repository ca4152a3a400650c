"""A sweep as text for people: how many points, why some cannot be, and the best."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llm_perf.report.units import count, gib, rate, seconds
from llm_perf.search.checks import NUMERIC
from llm_perf.search.summary import Summary
from llm_perf.search.sweep import Sweep

_REASONS: Final = 8
_COLUMNS: Final = {
    "throughput_tokens_per_s": ("token/s", lambda value: rate(value).removesuffix(" token/s")),
    "prefill_latency_s": ("prefill", seconds),
    "latency_per_token_s": ("per\ntoken", seconds),
    "gpu_memory_bytes": ("GPU\nmemory", gib),
}
_SHORT: Final = {"batch_size": "batch", "prompt_len": "prompt", "gen_len": "gen"}


def sweep_report(summary: Summary, out: str | None) -> RenderableType:
    """The whole report, readable at 80 columns."""
    blocks: list[RenderableType] = [_counts(summary, out)]
    if summary.reasons:
        blocks.append(_reasons(summary))
    if summary.best:
        blocks.append(_best(summary))
    return Group(*[Padding(block, (0, 0, 1, 0)) for block in blocks])


def _counts(summary: Summary, out: str | None) -> Text:
    speed = summary.computed / summary.seconds if summary.seconds else 0.0
    text = Text.assemble(
        (f"{count(summary.evaluated)} points", "bold"),
        f", {count(summary.feasible)} fit; {seconds(summary.seconds)}, {count(speed)} points/s",
    )
    return text if out is None else text.append(f"\nwritten to {out}")


def _reasons(summary: Summary) -> Table:
    table = Table(
        box=None, pad_edge=False, title="What does not fit", title_justify="left", title_style="bold"
    )
    table.add_column("points", justify="right")
    table.add_column("reason")
    shown = summary.reasons.most_common(_REASONS)
    for reason, number in shown:
        table.add_row(count(number), reason)
    if len(summary.reasons) > _REASONS:
        rest = sum(summary.reasons.values()) - sum(number for _, number in shown)
        table.add_row(count(rest), f"{len(summary.reasons) - _REASONS} other reasons")
    return table


def varying(sweep: Sweep) -> list[str]:
    """Inputs that have several values; the table needs no others."""
    listed = list(sweep.listed[0]) if sweep.listed else []
    return [*(name for name, values in sweep.axes.items() if len(values) > 1), *listed]


def _best(summary: Summary) -> Table:
    names = varying(summary.sweep)
    title = f"Best {summary.by} among what fits"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for name in names:
        numeric = name in NUMERIC or all(isinstance(row[name], (int, float)) for row in summary.best)
        header = _SHORT.get(name, name.replace("_", "\n"))
        table.add_column(header, justify="right" if numeric else "left", no_wrap=True)
    for header, _ in _COLUMNS.values():
        table.add_column(header, justify="right")
    for row in summary.best:
        measured = [_shown(row[name], show) for name, (_, show) in _COLUMNS.items()]
        table.add_row(*["" if row[name] is None else str(row[name]) for name in names], *measured)
    return table


def _shown(value: float | None, show: Any) -> str:
    return "-" if value is None else str(show(value))
