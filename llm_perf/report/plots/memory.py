"""Memory: predicted parts beside what the allocator and the device report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_perf.report.figure import FAINT, MUTED, PAPER, Bars, Figure, Mark, Note, Panel, amount_axis, stacked
from llm_perf.report.looks import COLOURS
from llm_perf.report.plots.accuracy import configuration, distinct, shared_title
from llm_perf.report.plots.style import first_of
from llm_perf.report.units import GIB

_MOST_BARS = 18
_PARTS = {
    "process": ("process before the run", MUTED),
    "weights": ("weights", COLOURS[0]),
    "kv_cache": ("KV cache", COLOURS[1]),
    "activations": ("activations", COLOURS[2]),
    "buffers": ("buffers", COLOURS[4]),
}


def memory_figure(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Predicted parts stacked, allocated and reserved below them; one run per configuration.

    None where no run states its memory.
    """
    known = distinct([run for run in runs if run["memory_bytes"]["allocated"]])
    if not known:
        return None
    shown = known[:_MOST_BARS][::-1]
    memory = [run["memory_bytes"] for run in shown]
    parts = (
        (title, colour, "", [one["predicted_parts"][name] / GIB for one in memory], ())
        for name, (title, colour) in _PARTS.items()
    )
    marks: list[Mark] = [*stacked(parts, [row + 0.25 for row in range(len(shown))], height=0.24)]
    for name, pattern, colour, below in (("allocated", "", FAINT, 0.0), ("reserved", "/", PAPER, 0.25)):
        sizes = [(one[name] or 0.0) / GIB for one in memory]
        rows, starts = [row - below for row in range(len(shown))], [0.0] * len(shown)
        if any(sizes):
            marks.append(Bars(f"measured, {name}", rows, sizes, starts, colour, pattern, 0.24))
    longest = [
        max(sum(one["predicted_parts"][name] for name in _PARTS), one["allocated"]) / GIB for one in memory
    ]
    marks += [
        Note(end, row + 0.25, f"{100 * (one['predicted'] / one['allocated'] - 1):+.1f} %", centred=True)
        for row, (end, one) in enumerate(zip(longest, memory, strict=True))
    ]
    cpu = all(one["device"] == "cpu" for one in memory)
    ends = [*longest, *((one["reserved"] or 0.0) / GIB for one in memory)]
    common = shared_title(shown)
    return Figure(
        [
            Panel(
                amount_axis(
                    "peak memory of the process (GiB)" if cpu else "peak memory of one GPU (GiB)",
                    [0.0, 1.06 * max(ends)], log=False,
                ),
                None, marks, rows=[configuration(run, shown) for run in shown],
            )
        ],
        f"Peak memory, predicted (colours) and measured (grey){': ' if common else ''}{common}"
        + first_of(len(shown), len(known), "configurations"),
        size=(8.0, 1.6 + 0.42 * len(shown)), legend_columns=4,
    )  # fmt: skip
