"""How far figures of requests over time are off, by load and quantity: lines of ``llm_perf/analysis/stack_widths.yaml``.

Rows of tables as `llm-perf simulate` predicts them with what ships (``requests/predicted.csv.gz``). No constant was fitted to
times to first token, but for those of some closed loops, nor to anything under a rate or of queues that drain, but for those
of TensorRT-LLM 0.14. TPOT of closed loops is what constants were fitted to: how far it is off elsewhere is told by refits,
and the wider of both counts (`llm_perf.analysis.request_intervals`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from calibrate.fit.intervals import HeldWidth, held_width, of_equal_groups

Line = Mapping[str, str]

_FEWEST: Final = 9
"""Groups below which nothing says of nine tenths of them."""


def request_widths(lines: Sequence[Line]) -> dict[tuple[str, str], tuple[HeldWidth, int]]:
    """By load and quantity: half-width, each version's model and GPU held against the others, and how many these are."""
    groups: dict[tuple[str, str], dict[tuple[str, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if not line["reason"]:
            off = abs(math.log(float(line["predicted"]) / float(line["measured"])))
            groups[line["load"], line["quantity"]][line["release"], line["model"], line["gpu"]].append(off)
    return {
        key: (held_width(found, of_equal_groups), len(found))
        for key, found in sorted(groups.items())
        if len(found) >= _FEWEST
    }


def widths_text(lines: Sequence[Line]) -> str:
    """The lines of the file."""
    return "\n".join(["requests:", *_entries(lines)]) + "\n"


def _entries(lines: Sequence[Line]) -> Iterator[str]:
    before = ""
    for (load, quantity), (found, groups) in request_widths(lines).items():
        if load != before:
            yield f"  {load}:"
        before = load
        yield f"    {quantity}: {{width: {found.width:.4f}, groups: {groups}, held: {found.held}, tested: {found.tested}}}"
