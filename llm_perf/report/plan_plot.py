"""The front of a plan as a picture: time per token against the objective. matplotlib is loaded only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llm_perf.report.plan_text import deployment
from llm_perf.report.plots.style import legend_below, log_scale, looks, new_figure, tidy, write_figure
from llm_perf.search.plan import OBJECTIVES, Candidate, PlanAnswer

LABELS: Final = {
    "cost": "US dollars per million tokens",
    "energy": "joules per token",
    "gpus": "GPUs",
    "throughput": "throughput (generated tokens/s)",
}
_WIDE: Final = 5.0
"""Ratio of the largest value to the least from which on an axis is logarithmic."""


def write_plan_plot(answer: PlanAnswer, file: str) -> Path:
    """Draw the front and the best of each GPU into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_figure(_figure(answer), file)


def _figure(answer: PlanAnswer) -> Any:
    figure = new_figure(7.2, 5.2)
    axes = figure.add_subplot()
    measure, question = OBJECTIVES[answer.question.objective], answer.question
    style = looks(candidate.inputs.gpu for candidate in (*answer.best, *answer.front))
    _front(axes, answer.front, measure, style)
    _best(axes, answer.best, measure, style)
    for target in question.targets:
        if target.name == "tpot":
            axes.axvline(
                target.limit * 1e3,
                color="#D55E00",
                linestyle="--",
                label=f"TPOT of {target.limit * 1e3:g} ms",
            )
    axes.set_xlabel("time per output token (ms)" if question.gen_len > 1 else "latency (ms)")
    axes.set_ylabel(LABELS[question.objective])
    wanted = f"\ntarget: {question.target}" if question.targets else ""
    axes.set_title(
        f"{question.model}, prompt {question.prompt_len}, generate {question.gen_len} (predicted){wanted}",
        fontsize=11,
    )
    tidy(axes)
    shown = [*answer.front, *answer.best]
    _scale(axes.xaxis, [_milliseconds(candidate) for candidate in shown])
    _scale(axes.yaxis, [candidate.measures[measure] for candidate in shown])
    legend_below(figure, 3 if len(style) > 1 else 2)
    return figure


def _front(axes: Any, front: Sequence[Candidate], measure: str, style: Mapping[str, tuple[str, str]]) -> None:
    """Filled where every target is met, open where one is missed."""
    times = [_milliseconds(candidate) for candidate in front]
    axes.step(
        times, [candidate.measures[measure] for candidate in front], where="post", color="0.7", zorder=1
    )
    for gpu, (colour, marker) in style.items():
        for meets in (True, False):
            points = [point for point in front if point.inputs.gpu == gpu and point.meets is meets]
            axes.plot(
                [_milliseconds(point) for point in points], [point.measures[measure] for point in points], marker,
                color=colour, markerfacecolor=colour if meets else "white", markersize=6, linestyle="none",
            )  # fmt: skip
        axes.plot([], [], marker, color=colour, linestyle="none", label=gpu)
    if not all(point.meets for point in front):
        axes.plot(
            [], [], "o", color="0.4", markerfacecolor="white", linestyle="none", label="open: misses a target"
        )


def _best(axes: Any, best: Sequence[Candidate], measure: str, style: Mapping[str, tuple[str, str]]) -> None:
    """The best of each GPU that meets the targets, the best of all with a ring and in words."""
    for candidate in best:
        colour, marker = style[candidate.inputs.gpu]
        axes.plot(
            [_milliseconds(candidate)], [candidate.measures[measure]], marker, color=colour, markersize=9,
            markeredgecolor="black", markeredgewidth=1.2, linestyle="none", zorder=4,
        )  # fmt: skip
    if not best:
        return
    first = best[0]
    how = f"{first.num_gpus} x {first.inputs.gpu} {deployment(first)}".strip()
    ring = {"fillstyle": "none", "color": "black", "linestyle": "none"}
    axes.plot([_milliseconds(first)], [first.measures[measure]], "o", markersize=17, zorder=4, **ring)
    axes.plot([], [], "o", markersize=7, label="black edge: best of each GPU", **ring)
    # Smaller than the ring itself, which would cover the lines above and below.
    axes.plot([], [], "o", markersize=11, label=f"best: {how}, batch {first.inputs.batch_size}", **ring)


def _scale(axis: Any, values: Sequence[float]) -> None:
    finite = [value for value in values if value > 0]
    if finite and max(finite) > _WIDE * min(finite):
        log_scale(axis, max(finite) / min(finite))
    elif axis.axis_name == "y":
        axis.axes.set_ylim(bottom=0)


def _milliseconds(candidate: Candidate) -> float:
    per_token = candidate.measures["tpot_s"]
    return (candidate.measures["total_latency_s"] if per_token != per_token else per_token) * 1e3
