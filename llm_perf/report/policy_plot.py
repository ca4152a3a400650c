"""The front of throughput against latency as a picture. matplotlib is loaded only here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_perf.report.plots.style import COLOURS, legend_below, log_scale, new_figure, tidy, write_figure
from llm_perf.search.policy import FrontPoint, PolicyAnswer
from llm_perf.systems.registry import family_of, searched_systems

_MARKERS = "osD^v"


def write_plot(answer: PolicyAnswer, file: str) -> Path:
    """Draw the front into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_figure(_figure(answer), file)


def _figure(answer: PolicyAnswer) -> Any:
    figure = new_figure(7.2, 5.2)
    axes = figure.add_subplot()
    _draw_front(axes, answer)
    question = answer.question
    axes.set_xlabel("latency of one batch, prefill and all decode steps (s)")
    axes.set_ylabel("throughput (generated tokens/s)")
    axes.set_title(
        f"{question.model} on {question.gpu}, prompt {question.prompt_len}, generate {question.gen_len} (predicted)",
        fontsize=11,
    )
    tidy(axes)
    legend_below(figure, 3)
    return figure


def _draw_front(axes: Any, answer: PolicyAnswer) -> None:
    """Filled markers keep 16 bits, open ones store weights or cache in fewer: what the model answers may change."""
    front = answer.front
    if front:
        axes.step(_latencies(front), _rates(front), where="post", color="0.6", linewidth=1, zorder=1)
    for number, system in enumerate(searched_systems()):
        colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
        label = family_of(system).title
        for narrow in (False, True):
            points = [p for p in front if p.flags["system"] == system and _is_narrow(p) is narrow]
            if points:
                axes.plot(
                    _latencies(points),
                    _rates(points),
                    marker,
                    color=colour,
                    markerfacecolor="white" if narrow else colour,
                    markersize=6,
                    label=f"{label}, {'4 or 8 bits' if narrow else '16 bits'}",
                )
    if answer.best is not None:
        axes.plot(
            [answer.best.latency_s],
            [answer.best.throughput_tokens_per_s],
            "*",
            color="#000000",
            markersize=13,
            linestyle="none",
            label=f"best {answer.question.objective}",
        )
    if answer.question.max_latency is not None:
        limit = answer.question.max_latency
        axes.axvline(limit, color="#D55E00", linestyle="--", label=f"limit {limit:,g} s")
    if front and front[-1].latency_s > 20 * front[0].latency_s:
        log_scale(axes.xaxis, front[-1].latency_s / front[0].latency_s)
    axes.set_ylim(bottom=0)


def _is_narrow(point: FrontPoint) -> bool:
    flags = point.flags
    return bool(
        flags.get("compress_weight") or flags.get("compress_cache") or (flags.get("quant_bits") or 16) < 16
    )


def _latencies(points: Sequence[FrontPoint]) -> list[float]:
    return [point.latency_s for point in points]


def _rates(points: Sequence[FrontPoint]) -> list[float]:
    return [point.throughput_tokens_per_s for point in points]
