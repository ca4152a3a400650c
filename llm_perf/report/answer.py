"""The first five lines of every report: whether it fits, how fast, how sure, what binds, what to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.advice import Change
from llm_perf.analysis.calibrated import PredictionInterval
from llm_perf.analysis.result import Result
from llm_perf.analysis.speedups import Gain
from llm_perf.report.units import GIB, brief, count, rate
from llm_perf.systems.tiers import Tiers

__all__ = [
    "ROOM",
    "Answer",
    "change_line",
    "cheapest",
    "gain_pieces",
    "in_width",
    "interval_pieces",
    "quickest_of",
    "several_answer",
    "shortened",
    "side_by_side",
    "unknown_pieces",
    "used_of",
    "which_fit",
]

WIDTH: Final = 80
LABELS: Final = ("Fits:", "Speed:", "How sure:", "Bound by:", "Change:")
_INDENT: Final = 11
ROOM: Final = WIDTH - _INDENT
"""Characters of a line behind its label."""


@dataclass(frozen=True)
class Answer:
    """Five lines, each in pieces with what matters first: pieces that 80 columns have no room for are left to the details.

    Attributes:
        fits: Whether it can be had, and how tight.
        speed: How fast.
        sure: How far off that may be, or why nobody knows.
        bound: What it waits for.
        change: What would make it fit, or faster.
        good: Whether the question is answered with yes.
        labels: What the lines are called, where they are of something else than a prediction.
    """

    fits: Sequence[str]
    speed: Sequence[str]
    sure: Sequence[str]
    bound: Sequence[str]
    change: Sequence[str]
    good: bool
    labels: tuple[str, str, str, str, str] = LABELS

    @property
    def text(self) -> Text:
        """The five lines."""
        text = Text()
        lines = (self.fits, self.speed, self.sure, self.bound, self.change)
        for number, (label, pieces) in enumerate(zip(self.labels, lines, strict=True)):
            style = "bold" if number else "bold green" if self.good else "bold red"
            text.append(f"{label:<{_INDENT}}", style)
            text.append(in_width(pieces) + "\n")
        text.rstrip()
        return text


def in_width(pieces: Iterable[str], width: int = ROOM) -> str:
    """As many pieces, in their order, as a line has room for; of a first one that is too long, what it begins with."""
    line = ""
    for piece in pieces:
        longer = f"{line}; {piece}" if line else shortened(piece, width)
        if len(longer) > width and line:
            break
        line = longer
    return line or "-"


def shortened(text: str, width: int = ROOM) -> str:
    """A sentence without what its end adds, in brackets or behind a semicolon, comma or colon; whole where nothing can go.

    What goes stands in the details below; what stays is true without it.
    """
    for mark in (" (", "; ", ", ", ": "):
        head = text
        while len(head) > width and mark in head:
            head = head.rpartition(mark)[0]
        if len(head) <= width:
            return head
    return text


def unknown_pieces(reason: str) -> list[str]:
    """That nothing is known of how sure it is, and why where a line has room for that."""
    ways = [shortened(f"not known: {said}") for said in (reason, reason.replace("published ", ""))]
    fitting = [short for short in ways if len(short) <= ROOM and short != "not known"]
    return [max(fitting, key=len)] if fitting else ["not known", "the details say why"]


def interval_pieces(
    interval: PredictionInterval | None, missing: str | None, total: str = "total"
) -> Sequence[str]:
    """How far to trust the total, and on what that rests; or why nothing is known of it."""
    if interval is None or interval.total_s is None or interval.total_factor is None:
        return unknown_pieces(missing or "no interval of the total")
    low, high = (brief(end) for end in interval.total_s)
    from_where = (
        f"profile {interval.profile}"
        if interval.profile is not None
        else new_text(interval.novel)
        if interval.novel
        else "from " + interval.method.split(",")[0]
    )
    return [
        f"{interval.level:.0%} interval: {total} {low} to {high} (x/{interval.total_factor:.2f})",
        from_where,
    ]


def new_text(novel: Sequence[str]) -> str:
    """The first thing that no run of a version has, in a few words: the details name all."""
    return f"new: {novel[0].partition(' on ')[0].rpartition(' and ')[2]}"


def change_line(changes: Sequence[Change]) -> Sequence[str]:
    """The smallest change that fits, and what else does."""
    if not changes:
        return ["nothing of one step was found: not batch, lengths, format, offload or GPUs"]
    first = changes[0]
    speed = "" if first.tokens_per_s is None else f" ({rate(first.tokens_per_s)} in decode)"
    return [
        f"{_flags_in_width(first.text, ROOM - len(' fits'))} fits{speed}",
        *(f"or {change.text}" for change in changes[1:]),
    ]


def _flags_in_width(text: str, width: int) -> str:
    """Flags as they are given, or the first of them and how many more stand in the details."""
    kept = text.split(" --")
    total = len(kept)
    while len(shown := " --".join(kept) + _more_flags(total - len(kept))) > width and len(kept) > 1:
        kept.pop()
    return shown


def _more_flags(number: int) -> str:
    return f" with {number} more flag{'s' if number > 1 else ''}, below," if number else ""


def gain_pieces(gains: Sequence[Gain], tried: str) -> Sequence[str]:
    """What would be faster, by how much."""
    found = [f"{gain.text}: {gain.factor:.2g}x {gain.of}" for gain in gains]
    return found or [f"nothing tried is 5% faster ({tried})"]


def used_of(memory: Tiers, fits: str = "yes") -> str:
    """What is taken of each memory that is used, behind a word that says whether it fits."""
    used = [
        f"{name} {_gib(float(parts.total_bytes))} of {_gib(float(parts.capacity_bytes))}"
        for name, parts in (("GPU", memory.gpu), ("host", memory.cpu), ("NVMe", memory.nvme))
        if float(parts.total_bytes) > 0
    ]
    return f"{fits}. {', '.join(used)} GiB"


def which_fit(found: Sequence[tuple[str, bool]], tight: Sequence[str] = ()) -> list[str]:
    """On how many of several machines it fits, and on which not.

    Args:
        found: The name of each, and whether it fits.
        tight: Those on which it fits, and the end of whose interval does not.
    """
    without = [name for name, fits in found if not fits]
    if len(without) == len(found):
        return [f"no. On none of the {len(found)}"]
    number = f"{len(found) - len(without)} of {len(found)}" if without else f"all {len(found)}"
    return [
        f"{'likely' if tight else 'yes'}. On {number}",
        *([f"not on {', '.join(without)}"] if without else []),
        *([f"tight on {', '.join(tight)}"] if 0 < len(tight) < len(found) - len(without) else []),
    ]


def cheapest(per_million: Mapping[str, float], quickest: str, otherwise: Sequence[str]) -> Sequence[str]:
    """What a million tokens cost at least, beside the quickest; ``otherwise`` where fewer than two prices are known."""
    if len(per_million) < 2 or quickest not in per_million:
        return otherwise
    name = min(per_million, key=lambda each: per_million[each])
    least, here = (f"${value:,.4g}" for value in (per_million[name], per_million[quickest]))
    if name == quickest:
        return [f"it is the cheapest too, {least} per million tokens", *otherwise]
    return [f"{name} for least cost: {least} per million tokens", f"{here} on the quickest"]


R = TypeVar("R", bound=Result)


def quickest_of(results: Sequence[R]) -> R:
    """The one with the most tokens per second, of those that fit where any does."""
    return min(results, key=lambda one: (not one.feasible, -one.tokens_per_s))


def several_answer(
    results: Sequence[Result], one: Answer, per_million: Sequence[float | None], tight: Sequence[str] = ()
) -> Answer:
    """On which of several machines it fits, and what the quickest does, in five lines.

    Args:
        results: One prediction of each.
        one: What that of the quickest says.
        per_million: US dollars of a million tokens on each; None where no price is known.
        tight: Those on which it fits, and the end of whose interval does not.
    """
    quickest = quickest_of(results)
    name = quickest.scenario.gpu.name
    costs = {
        result.scenario.gpu.name: cost
        for result, cost in zip(results, per_million, strict=False)
        if cost is not None and result.feasible
    }
    return Answer(
        fits=which_fit([(each.scenario.gpu.name, each.feasible) for each in results], tight),
        speed=[f"quickest {name}{':' if quickest.feasible else ','} {one.speed[0]}", *one.speed[1:]],
        sure=one.sure,
        bound=one.bound,
        change=cheapest(costs, name, one.change),
        good=quickest.feasible,
    )


def side_by_side(
    answer: Answer, results: Sequence[Result], rows: Sequence[Mapping[str, str]]
) -> RenderableType:
    """Several machines: the answer, a row each under the headings of its cells, and what is missing where it does not fit."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("GPU", overflow="fold")
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for result, cells in zip(results, rows, strict=True):
        table.add_row(result.scenario.gpu.name, *cells.values())
    missing = [Text(f"{result.scenario.gpu.name}: {result.reason}") for result in results if result.reason]
    return Group(answer.text, Text(), table, *missing)


def _gib(value_bytes: float) -> str:
    """GiB with one decimal below a thousand."""
    value = value_bytes / GIB
    return f"{value:,.1f}" if value < 1000 else count(value)
