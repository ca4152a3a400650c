"""The roofs of a device and each operation of the runs below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_perf.report.plots.style import GREY, MARKERS, PARTS, first_of, legend_below, new_figure, tidy
from llm_perf.systems.costs import part_of

_MOST_PANELS = 4


def roofline_figure(runs: Sequence[Mapping[str, Any]]) -> Any | None:
    """One panel per GPU and number format; filled markers are prefill, open ones decode. None where nothing is known."""
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run["roofline"]:
            panels.setdefault(f"{run['roofline']['gpu']}, {run['roofline']['dtype']}", []).append(run)
    if not panels:
        return None
    names = list(panels)[:_MOST_PANELS]
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(7.2 if columns == 1 else 10.5, 0.9 + 4.3 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    operations = _names(runs)
    for axes, name in zip(grid.flat, names, strict=False):
        _panel(axes, panels[name], operations)
        axes.set_title(name, fontsize=10)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(
        "Roofline: each operation at its predicted time"
        + first_of(len(names), len(panels), "GPUs and number formats"),
        fontsize=11,
    )
    _legend(figure, operations)
    return figure


def _names(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(
        dict.fromkeys(op["op"] for run in runs if run["roofline"] for op in run["roofline"]["operations"])
    )


def _colour(op: str) -> str:
    return PARTS["attention" if op == "attention" else part_of(op)][1]


def _panel(axes: Any, runs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    roof = runs[0]["roofline"]
    peak, bandwidth = roof["peak_flops_per_s"], roof["bandwidth_bytes_per_s"]
    points = [op for run in runs for op in run["roofline"]["operations"] if op["flops"] > 0]
    intensities = [op["flops"] / op["bytes"] for op in points]
    knee = peak / bandwidth
    low, high = min([*intensities, knee / 4]) / 2, max([*intensities, knee * 4]) * 2
    x = np.geomspace(low, high, 200)
    axes.plot(x, np.minimum(peak, bandwidth * x) / 1e12, color="black", linewidth=1.5)
    axes.text(
        high / 1.1, 1.12 * peak / 1e12, f"{peak / 1e12:.3g} TFLOP/s", ha="right", va="bottom", fontsize=9
    )
    at = (low * knee) ** 0.5
    axes.annotate(
        f"{bandwidth / 1e9:,.0f} GB/s", (at, bandwidth * at / 1e12), xytext=(-6, 6), textcoords="offset points",
        ha="right", fontsize=9,
    )  # fmt: skip
    for op in points:
        prefill = op["phase"] == "prefill"
        colour = _colour(op["op"])
        axes.plot(
            op["flops"] / op["bytes"], op["flops"] / op["seconds"] / 1e12, MARKERS[names.index(op["op"]) % len(MARKERS)],
            color=colour, markerfacecolor=colour if prefill else "white", markersize=6, markeredgewidth=1, linestyle="none",
        )  # fmt: skip
    reached = [op["flops"] / op["seconds"] / 1e12 for op in points]
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(min(reached) / 2, 2.2 * peak / 1e12))
    axes.set_xlabel("arithmetic intensity (FLOP/byte)")
    axes.set_ylabel("reached (TFLOP/s)")
    tidy(axes)


def _legend(figure: Any, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=_colour(name),
            marker=MARKERS[index % len(MARKERS)],
            linestyle="none",
            label=name.replace("_", " "),
        )
        for index, name in enumerate(names)
    ]
    handles.append(Line2D([], [], color=GREY, marker="o", linestyle="none", label="filled: prefill"))
    handles.append(
        Line2D(
            [], [], color=GREY, marker="o", markerfacecolor="white", linestyle="none", label="open: decode"
        )
    )
    handles.append(Line2D([], [], color="black", linewidth=1.5, label="roof"))
    legend_below(figure, 4, handles)
