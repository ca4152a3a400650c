"""The pictures of ``llm-perf compare`` and ``llm-perf validate``, by file name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_perf.report.plots.accuracy import Point, error_figure, scatter_figure, scatter_grid, shared_title
from llm_perf.report.plots.draw import draw
from llm_perf.report.plots.memory import memory_figure
from llm_perf.report.plots.phases import breakdown_figure, context_figure
from llm_perf.report.plots.roofline import roofline_figure


def comparison_figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of ``llm-perf compare --json``; one that the runs have nothing for is left out."""
    runs = found["runs"]
    profile = "" if found["profile"] == "none" else f" with profile {found['profile']}"
    groups: dict[str, list[Point]] = {}
    for run in runs:
        measured = run["measured"]["total_latency_s"]
        if measured is not None:
            ends = run["interval"] and run["interval"]["total_latency_s"]
            groups.setdefault(run["system"], []).append(
                Point(measured, run["predicted"]["total_latency_s"], ends and (ends[0], ends[1]))
            )
    common = shared_title(runs)
    heading = f"{common}{profile}" if common else f"{len(runs)} runs{profile}"
    figures = {
        "predicted_measured": scatter_figure(groups, "total latency (s)", heading) if groups else None,
        "errors": error_figure(runs, heading),
        "breakdown": breakdown_figure(runs),
        "roofline": roofline_figure(runs),
        "decode_context": context_figure(runs),
        "memory": memory_figure(runs),
    }
    return {name: draw(figure) for name, figure in figures.items() if figure is not None}


def validation_figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of ``llm-perf validate --json``: predicted against measured, a panel per class, a marker per system."""
    panels: dict[str, dict[str, list[Point]]] = {name: {} for name in found["classes"]}
    for row in found["rows"]:
        if row["predicted"] is None or row["class"] not in panels:
            continue
        ends = row["interval"] and (row["interval"]["low"], row["interval"]["high"])
        system = row["system"] if row["table"] == "inference" else row["system"].partition(" ")[0]
        panels[row["class"]].setdefault(system, []).append(_as_time(row, ends))
    filled = {name: groups for name, groups in panels.items() if groups}
    count = sum(len(points) for groups in filled.values() for points in groups.values())
    title = f"{count:,} published runs, predicted as shipped"
    under = {name: _accuracy(found["classes"][name]) for name in filled}
    return {"predicted_measured": draw(scatter_grid(filled, "time (s)", title, under))} if filled else {}


def _accuracy(figures: Mapping[str, Any]) -> str:
    """A class' runs and error, as the table has them."""
    return f"{figures['covered']} runs, median error {figures['median_abs_error']:.0%}"


def _as_time(row: Mapping[str, Any], ends: tuple[float, float] | None) -> Point:
    """Measured, predicted, interval in seconds: a throughput as the time of all its tokens."""

    def change(value: float) -> float:
        if row["quantity"] != "throughput_tokens_per_s":
            return value
        return float(row["batch_size"] * row["gen_len"] / value)

    times = None if ends is None else (min(map(change, ends)), max(map(change, ends)))
    return Point(change(row["measured"]), change(row["predicted"]), times)
