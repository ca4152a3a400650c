"""What reports of inference and of training say of memory, and of how their numbers come about."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_perf.config.base import GIB
from llm_perf.report.explain import Explanation
from llm_perf.report.units import gib
from llm_perf.systems.tiers import Tier, Tiers

_COLUMNS = ("one GPU", "one host", "its NVMe")
_ENDS = {"total_bytes": "total", "capacity_bytes": "usable"}


def memory_table(memory: Tiers, empty: bool) -> Table:
    """Bytes by use on each tier that the machine has (``empty`` ones too) or uses, beside what is usable."""
    tiers = zip(_COLUMNS, (memory.gpu, memory.cpu, memory.nvme), strict=True)
    shown = [(name, tier) for name, tier in tiers if (tier.capacity_bytes if empty else tier.total_bytes) > 0]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("memory")
    for name, _ in shown:
        table.add_column(name, justify="right")
    for field, title in {**memory.gpu.uses, **_ENDS}.items():
        if field in _ENDS or any(getattr(tier, field) for _, tier in shown):
            cells = [_cell(tier, field) for _, tier in shown]
            table.add_row(title, *cells, style="bold" if field == "total_bytes" else None)
    return table


def _cell(tier: Tier, field: str) -> Text:
    value = float(getattr(tier, field))
    over = field == "total_bytes" and not tier.fits
    return Text(gib(value) if value else "-", style="red" if over else "")


def fits_text(memory: Tiers, beside: str = "") -> Text:
    """What is taken of each memory, of what fits; then what else is to be said of it."""
    used = [
        f"{float(tier.total_bytes) / GIB:,.1f} of {float(tier.capacity_bytes) / GIB:,.1f} GiB of {where}"
        for where, tier in memory.named
        if float(tier.total_bytes) > 0
    ]
    return Text.assemble(("Fits: ", "bold green"), "; ".join(used), f"{beside}.")


def explanation(gpu: str, entries: Iterable[Explanation]) -> RenderableType:
    """Each number with its formula, the values in it, and where they come from."""
    blocks = [Text(f"How each number comes about: {gpu}", "bold")]
    for entry in entries:
        text = Text.assemble((entry.name, "bold"), f" = {entry.value:,.6g} {entry.unit}\n  {entry.formula}\n")
        text.append(f"  {entry.expression}", "cyan")
        if entry.source:
            text.append(f"\n  {entry.source}", "dim")
        blocks.append(text)
    return Group(*blocks)
