"""Where the time goes: the predicted breakdown beside the measured phases, and decode steps over the context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_perf.report.plots.accuracy import configuration, distinct, shared_title
from llm_perf.report.plots.style import (
    GREY,
    PARTS,
    first_of,
    legend_below,
    looks,
    new_figure,
    seconds_text,
    tidy,
)

_MOST_BARS = 18
_MOST_PANELS = 9
_PHASES = ("prefill", "decode")


def breakdown_figure(runs: Sequence[Mapping[str, Any]]) -> Any | None:
    """Prefill and decode of each run: predicted parts stacked beside the measured time, both over the measured time.

    One run per configuration. None where no run states a phase.
    """
    known = distinct([run for run in runs if any(run["measured"][f"{phase}_latency_s"] for phase in _PHASES)])
    if not known:
        return None
    shown = known[:_MOST_BARS]
    figure = new_figure(7.6, 1.6 + 0.4 * len(shown))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, phase in zip(panels, _PHASES, strict=True):
        _phase_panel(axes, shown, phase)
    panels[0].set_yticks(range(len(shown)), [configuration(run, shown) for run in shown], fontsize=9)
    panels[0].set_ylim(len(shown) - 0.45, -0.55)
    left = f" ({len(shown)} of {len(runs)} runs)" if len(shown) < len(runs) else ""
    common = shared_title(shown)
    figure.suptitle(
        f"Predicted parts (colours) and measured phases (grey){left}"
        + (f"\n{common}" if common else "")
        + first_of(len(shown), len(known), "configurations"),
        fontsize=11,
    )
    legend_below(figure, 4)
    return figure


def _phase_panel(axes: Any, shown: Sequence[Mapping[str, Any]], phase: str) -> None:
    furthest = 1.0
    for place, run in enumerate(shown):
        measured = run["measured"][f"{phase}_latency_s"]
        if not measured:
            axes.text(0.02, place, "not measured", va="center", color=GREY, fontsize=8)
            continue
        axes.barh(place + 0.2, 1.0, 0.36, color="0.85", edgecolor="0.4", linewidth=0.8, label="measured")
        axes.text(0.02, place + 0.2, seconds_text(measured), va="center_baseline", fontsize=8)
        furthest = max(furthest, _stack(axes, place - 0.2, run["breakdown_s"][phase], measured))
    axes.axvline(1.0, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1.08 * furthest)
    axes.set_title(phase, fontsize=10)
    axes.set_xlabel("time / measured time")
    tidy(axes)
    axes.grid(visible=False, axis="y")


def _stack(axes: Any, place: float, parts: Mapping[str, float], measured: float) -> float:
    """One predicted bar; returns where it ends."""
    left = 0.0
    for name, (label, colour) in PARTS.items():
        if parts.get(name):
            width = parts[name] / measured
            axes.barh(
                place,
                width,
                0.36,
                left,
                color=colour,
                edgecolor="white",
                linewidth=0.4,
                label=label,
            )
            left += width
    rest = sum(seconds for name, seconds in parts.items() if name not in PARTS) / measured
    if rest:
        axes.barh(place, rest, 0.36, left, color=GREY, edgecolor="white", linewidth=0.4, label="other parts")
    return left + rest


def context_figure(runs: Sequence[Mapping[str, Any]]) -> Any | None:
    """Time of each decode step over the context: measured points, predicted lines; a panel per model and system.

    None where no run recorded its steps.
    """
    with_steps = [run for run in runs if run["decode_steps"]]
    if not with_steps:
        return None
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for run in with_steps:
        panels.setdefault(f"{run['model'].rpartition('/')[2]}, {run['system']}", []).append(run)
    names = list(panels)[:_MOST_PANELS]
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = new_figure(max(5.2, 3.7 * columns), 1.2 + 2.7 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    style = looks(_case(run) for name in names for run in panels[name])
    for axes, name in zip(grid.flat, names, strict=False):
        _context_panel(axes, panels[name], style)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("context of the step (tokens)")
    for axes in grid[:, 0]:
        axes.set_ylabel("one decode step (ms)")
    for axes in list(grid.flat)[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(
        "Decode steps: measured (points, median of repeats) and predicted (lines)"
        + first_of(len(names), len(panels), "models and systems"),
        fontsize=10,
    )
    legend_below(figure, 3)
    return figure


def _case(run: Mapping[str, Any]) -> str:
    words = [f"batch {run['batch_size']}, {run['prompt_len']} + {run['gen_len']}"]
    words += [f"{run['weight_bits']} bit"] if run["weight_bits"] not in (16, 32) else []
    words += ["KV on CPU"] if run["kv_cache_on"] == "cpu" else []
    return ", ".join(words)


def _context_panel(
    axes: Any, runs: Sequence[Mapping[str, Any]], style: Mapping[str, tuple[str, str]]
) -> None:
    for run in runs:
        steps = run["decode_steps"]
        colour, marker = style[_case(run)]
        axes.plot(
            steps["context"], [1e3 * s for s in steps["measured_s"]], marker, color=colour, markersize=4, alpha=0.8,
            linestyle="none", label=_case(run), markeredgecolor="white", markeredgewidth=0.3,
        )  # fmt: skip
        axes.plot(steps["context"], [1e3 * s for s in steps["predicted_s"]], color=colour, linewidth=1.6)
    axes.set_ylim(bottom=0)
    tidy(axes)
