"""The front of throughput against latency as a picture. matplotlib is loaded only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_perf.report.plots.style import COLOURS, write_figure
from llm_perf.search.policy import PolicyAnswer

_STYLES = {"flexgen": (COLOURS[0], "o", "FlexGen"), "zero_inference": (COLOURS[1], "s", "ZeRO-Inference")}


def write_plot(answer: PolicyAnswer, file: str) -> Path:
    """Draw the front into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_figure(_figure(answer), file)


def _figure(answer: PolicyAnswer) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    _draw_front(axes, answer)
    question = answer.question
    axes.set_xlabel("latency of one batch, prefill and all decode steps (s)")
    axes.set_ylabel("throughput (generated tokens/s)")
    axes.set_title(
        f"{question.model} on {question.gpu}, prompt {question.prompt_len}, generate {question.gen_len}"
    )
    axes.grid(visible=True, which="major", color="0.9")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_front(axes: Any, answer: PolicyAnswer) -> None:
    front = answer.front
    if front:
        axes.step(_latencies(front), _rates(front), where="post", color="0.6", linewidth=1, zorder=1)
    for system, (colour, marker, label) in _STYLES.items():
        points = [point for point in front if point.flags["system"] == system]
        if points:
            axes.plot(
                _latencies(points),
                _rates(points),
                marker,
                color=colour,
                markersize=5,
                label=f"{label} (predicted)",
            )
    if answer.best is not None:
        axes.plot(
            [answer.best.latency_s],
            [answer.best.throughput_tokens_per_s],
            "*",
            color="#000000",
            markersize=13,
            label=f"best {answer.question.objective}",
        )
    if answer.question.max_latency is not None:
        limit = answer.question.max_latency
        axes.axvline(limit, color="#D55E00", linestyle="--", label=f"limit {limit:g} s")
    if front and front[-1].latency_s > 20 * front[0].latency_s:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)


def _latencies(points: Any) -> list[float]:
    return [point.latency_s for point in points]


def _rates(points: Any) -> list[float]:
    return [point.throughput_tokens_per_s for point in points]
