"""Pictures of simulations: latencies of requests with the engine over time, and throughput against latency over rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_perf.analysis.simulation import Simulation
from llm_perf.report.plots import style
from llm_perf.requests.outcome import Steps
from llm_perf.requests.summary import tpot_of
from llm_perf.requests.workload import Floats

_PARTS = 400
"""Intervals of time over which batch and cache are averaged: more are finer than a picture."""


def write_simulation_plot(found: Simulation, file: str) -> Path:
    """Shares of requests within a TTFT and a TPOT, above batch, queue and cache over time.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = style.new_figure(9.0, 6.2)
    (first, token), (batch, cache) = figure.subplots(2, 2)
    outcome = found.outcome
    for axes, values, name, colour in (
        (first, outcome.first_token_s - outcome.arrival_s, "time to first token", style.COLOURS[0]),
        (token, tpot_of(outcome), "time per output token", style.COLOURS[3]),
    ):
        draw_cumulative(axes, values, colour, "")
        _mark_p95(axes, values)
        axes.set_xlabel(f"{name} in {unit_of(values)[1]}")
        axes.set_ylabel("share of requests")
    _over_time(batch, cache, found)
    figure.suptitle(f"{_where(found)}, {len(outcome.requests):,} requests", fontsize=11)
    return style.write_figure(figure, file)


def cumulative(values: Floats) -> tuple[Floats, Floats]:
    """Values in rising order, and the share of them that is no larger."""
    there = np.sort(values[np.isfinite(values)])
    return there, np.arange(1, len(there) + 1) / max(len(there), 1)


def draw_cumulative(
    axes: Any, values: Floats, colour: str, label: str, line: str = "-", scale: float | None = None
) -> None:
    """The share of requests within a time, in units of which ``scale`` make a second; what suits the values if None."""
    found, share = cumulative(values)
    scale = unit_of(values)[0] if scale is None else scale
    axes.plot(
        found * scale, share, line, color=colour, label=label or None, drawstyle="steps-post", linewidth=1.6
    )
    axes.set_ylim(0, 1.02)
    drawn = float(found[-1]) * scale if len(found) else 0.0
    axes.set_xlim(0, max(axes.get_xlim()[1] if len(axes.lines) > 1 else 0.0, 1.04 * drawn) or 1.0)
    style.tidy(axes)


def unit_of(values: Floats) -> tuple[float, str]:
    """How many of a unit make a second, and its name."""
    there = values[np.isfinite(values)]
    return (1.0, "s") if len(there) and float(there.max()) >= 2 else (1e3, "ms")


def _mark_p95(axes: Any, values: Floats) -> None:
    there = values[np.isfinite(values)]
    if not len(there):
        return
    scale, unit = unit_of(values)
    at = float(np.percentile(there, 95)) * scale
    axes.axhline(0.95, color=style.GREY, linewidth=0.8, linestyle=":")
    axes.axvline(at, color=style.GREY, linewidth=0.8, linestyle=":")
    late = at > 0.6 * axes.get_xlim()[1]
    axes.annotate(
        f"p95 {at:.3g} {unit}", (at, 0.04), xytext=(-4 if late else 4, 0), textcoords="offset points",
        ha="right" if late else "left", fontsize=8,
    )  # fmt: skip


def _over_time(batch: Any, cache: Any, found: Simulation) -> None:
    steps = found.outcome.steps
    end = float((steps.start_s + steps.duration_s).max())
    edges = np.linspace(0, end, _PARTS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    lines = max(found.outcome.engines, int(steps.replica.max(initial=0)) + 1)
    stages = found.scenario.parallelism.pp_size if lines % found.scenario.parallelism.pp_size == 0 else 1
    engines = lines // stages
    for name, colour, values in zip(
        ("decoding", "waiting"), (style.COLOURS[0], style.COLOURS[3]), in_engines(found), strict=True
    ):
        batch.plot(middle, mean_over_time(steps, values, edges), color=colour, label=name, linewidth=1.3)
    batch.set_ylabel("requests" if engines == 1 else f"requests, sum of {engines} engines")
    batch.legend(frameon=False, fontsize=8)
    used = mean_over_time(steps, steps.kv_tokens.astype(np.float64), edges) / lines
    cache.plot(
        middle, used / max(found.outcome.kv_capacity_tokens, 1) * 100, color=style.COLOURS[2], linewidth=1.3
    )
    cache.set_ylabel("KV cache in use, %")
    for axes in (batch, cache):
        axes.set_xlabel("time in s")
        axes.set_xlim(0, end)
        axes.set_ylim(bottom=0)
        style.tidy(axes)


def in_engines(found: Simulation) -> tuple[Floats, Floats]:
    """Of each row of the timeline: sequences that decode, and requests that wait; a queue that stages share counts once."""
    steps, stages = found.outcome.steps, found.scenario.parallelism.pp_size
    shared = (
        stages if found.outcome.engines > found.traffic.replicas * found.scenario.parallelism.dp_size else 1
    )
    return steps.decode_sequences.astype(np.float64), steps.waiting.astype(np.float64) / shared


def mean_over_time(steps: Steps, values: Floats, edges: Floats) -> Floats:
    """A quantity of the steps, summed over engines and averaged over each interval between ``edges``; 0 between steps."""
    total = np.zeros(len(edges) - 1)
    for replica in np.unique(steps.replica):
        mine = np.flatnonzero(steps.replica == replica)
        mine = mine[np.argsort(steps.start_s[mine], kind="stable")]
        start, duration = steps.start_s[mine], steps.duration_s[mine]
        # The integral up to any time: piecewise linear, level between steps.
        ends = np.stack([start, start + duration], axis=1).ravel()
        area = np.stack([np.zeros(len(mine)), values[mine] * duration], axis=1).ravel().cumsum()
        total += np.diff(np.interp(edges, ends, area)) / np.diff(edges)
    return total


def write_rates_plot(found: Sequence[Simulation], file: str) -> Path:
    """TTFT and TPOT against the throughput at each rate; what the engine serves at most is a line.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = style.new_figure(9.0, 4.0)
    left, right = figure.subplots(1, 2)
    rates = np.array([one.traffic.rate for one in found], dtype=np.float64)
    served = np.array([one.summary.output_tokens_per_s for one in found])
    known = found[0].capacity
    for axes, name, title in ((left, "ttft_s", "TTFT in ms"), (right, "tpot_s", "TPOT in ms")):
        ends: list[float] = []
        for figure_name, colour, marker in (("p50", style.COLOURS[0], "o"), ("p95", style.COLOURS[3], "s")):
            values = np.array([getattr(one.summary, name).percentile(figure_name) for one in found]) * 1e3
            axes.plot(
                served, values, marker=marker, color=colour, label=figure_name, markersize=4, linewidth=1.3
            )
            ends += [float(values.min()), float(values.max())]
        style.log_scale(axes.yaxis, max(ends) / min(ends))
        if known is not None and math.isfinite(known.output_tokens_per_s):
            axes.axvline(
                known.output_tokens_per_s,
                color=style.GREY,
                linestyle="--",
                linewidth=1,
                label="most that is served",
            )
        axes.set_xlabel("generated tokens per second")
        axes.set_ylabel(title)
        axes.set_xlim(left=0)
        style.tidy(axes)
    for index in sorted({0, len(found) // 2, len(found) - 1}):
        top = found[index].summary.ttft_s.p95 * 1e3
        left.annotate(
            f"{rates[index]:g}/s",
            (served[index], top),
            xytext=(-2, 6),
            textcoords="offset points",
            fontsize=8,
            ha="right",
        )
    style.legend_below(figure, 3)
    figure.suptitle(f"{_where(found[0])}: latency over the rate of requests", fontsize=11)
    return style.write_figure(figure, file)


def _where(found: Simulation) -> str:
    """Model, machine and engine."""
    gpu = found.scenario.gpu.name
    machine = gpu if found.num_gpus == 1 else f"{found.num_gpus} x {gpu}"
    return f"{style.short_model(found.scenario.model.name)} on {machine}, {found.idle.system_name}"
