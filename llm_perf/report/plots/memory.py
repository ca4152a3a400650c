"""Memory: predicted parts beside what the allocator and the device report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_perf.report.plots.accuracy import configuration, distinct, shared_title
from llm_perf.report.plots.style import GREY, first_of, legend_below, new_figure, tidy

_GIB = 2**30
_MOST_BARS = 18
_PARTS = {
    "process": ("process before the run", GREY),
    "weights": ("weights", "#0072B2"),
    "kv_cache": ("KV cache", "#E69F00"),
    "activations": ("activations", "#009E73"),
    "buffers": ("buffers", "#CC79A7"),
}


def memory_figure(runs: Sequence[Mapping[str, Any]]) -> Any | None:
    """Predicted parts stacked, allocated and reserved beside them; one run per configuration.

    None where no run states its memory.
    """
    known = distinct([run for run in runs if run["memory_bytes"]["allocated"]])
    if not known:
        return None
    shown = known[:_MOST_BARS]
    figure = new_figure(8.0, 1.6 + 0.42 * len(shown))
    axes = figure.add_subplot()
    for place, run in enumerate(shown):
        _bars(axes, place, run["memory_bytes"])
    axes.set_yticks(range(len(shown)), [configuration(run, shown) for run in shown], fontsize=9)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(right=1.12 * axes.get_xlim()[1])
    cpu = all(run["memory_bytes"]["device"] == "cpu" for run in shown)
    axes.set_xlabel("peak memory of the process (GiB)" if cpu else "peak memory of one GPU (GiB)")
    common = shared_title(shown)
    figure.suptitle(
        f"Peak memory, predicted (colours) and measured (grey){': ' if common else ''}{common}"
        + first_of(len(shown), len(known), "configurations"),
        fontsize=11,
    )
    tidy(axes)
    axes.grid(visible=False, axis="y")
    legend_below(figure, 4)
    return figure


def _bars(axes: Any, place: float, memory: Mapping[str, Any]) -> None:
    left = 0.0
    for name, (label, colour) in _PARTS.items():
        size = memory["predicted_parts"][name] / _GIB
        if size:
            axes.barh(
                place - 0.25,
                size,
                0.24,
                left,
                color=colour,
                edgecolor="white",
                linewidth=0.4,
                label=label,
            )
            left += size
    error = memory["predicted"] / memory["allocated"] - 1
    axes.text(
        max(left, memory["allocated"] / _GIB),
        place - 0.25,
        f"  {100 * error:+.1f} %",
        va="center",
        fontsize=8,
    )
    axes.barh(
        place,
        memory["allocated"] / _GIB,
        0.24,
        color="0.85",
        edgecolor="0.4",
        linewidth=0.8,
        label="measured, allocated",
    )
    if memory["reserved"]:
        axes.barh(
            place + 0.25, memory["reserved"] / _GIB, 0.24, color="white", edgecolor="0.4", linewidth=0.8, hatch="////",
            label="measured, reserved",
        )  # fmt: skip
