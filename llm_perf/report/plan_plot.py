"""The front of a plan as a picture: time per token against the objective. matplotlib is loaded only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llm_perf.report.plots.style import COLOURS, MARKERS, write_figure
from llm_perf.search.plan import OBJECTIVES, Candidate, PlanAnswer

LABELS: Final = {
    "cost": "US dollars per million tokens",
    "energy": "joules per token",
    "gpus": "GPUs",
    "throughput": "throughput (generated tokens/s)",
}


def write_plan_plot(answer: PlanAnswer, file: str) -> Path:
    """Draw the front and the best into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_figure(_figure(answer), file)


def _figure(answer: PlanAnswer) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    measure, question = OBJECTIVES[answer.question.objective], answer.question
    times = [_milliseconds(candidate) for candidate in answer.front]
    values = [candidate.measures[measure] for candidate in answer.front]
    axes.step(times, values, where="post", color="0.7", linewidth=1, zorder=1)
    gpus = list(dict.fromkeys(candidate.inputs.gpu for candidate in answer.front))
    for number, gpu in enumerate(gpus):
        points = [candidate for candidate in answer.front if candidate.inputs.gpu == gpu]
        axes.plot(
            [_milliseconds(point) for point in points],
            [point.measures[measure] for point in points],
            MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            markersize=6,
            label=gpu,
        )
    if answer.best:
        best = answer.best[0]
        axes.plot(
            [_milliseconds(best)],
            [best.measures[measure]],
            "o",
            markersize=14,
            fillstyle="none",
            color="#000000",
            label="best that meets the targets",
        )
    for target in question.targets:
        if target.name == "tpot":
            axes.axvline(
                target.limit * 1e3, color="#D55E00", linestyle="--", label=f"limit {target.limit * 1e3:g} ms"
            )
    axes.set_xlabel("time per output token (ms)" if question.gen_len > 1 else "latency (ms)")
    axes.set_ylabel(LABELS[question.objective])
    axes.set_title(f"{question.model}, prompt {question.prompt_len}, generate {question.gen_len} (predicted)")
    axes.grid(visible=True, which="major", color="0.9")
    axes.set_axisbelow(True)
    if times and max(times) > 20 * min(times):
        axes.set_xscale("log")
    if values and max(values) > 20 * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _milliseconds(candidate: Candidate) -> float:
    per_token = candidate.measures["latency_per_token_s"]
    return (candidate.measures["total_latency_s"] if per_token != per_token else per_token) * 1e3
