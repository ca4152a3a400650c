"""Figures of simulations: latencies of requests, the engine over time, latency over rates; of the page and of ``--plot``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from llm_perf.analysis.simulation import Simulation
from llm_perf.report.figure import (
    MUTED,
    Figure,
    Limit,
    Line,
    Mark,
    Panel,
    Series,
    amount_axis,
    share_axis,
    time_axis,
)
from llm_perf.report.looks import COLOURS
from llm_perf.report.plots.draw import write_drawn
from llm_perf.report.plots.style import short_model
from llm_perf.report.units import rate, seconds
from llm_perf.requests.outcome import Outcome, Steps
from llm_perf.requests.summary import tpot_of
from llm_perf.requests.workload import Floats

_PARTS = 400
"""Intervals of time over which batch and cache are averaged, and points of a line: more are finer than a picture."""
TIMES = (
    ("TTFT", "time to first token", 0),
    ("TPOT", "time per output token", 3),
    ("E2E", "time to the end", 2),
)
"""Times of a request: short name, title, number of its colour."""


def write_simulation_plot(found: Simulation, file: str) -> Path:
    """Shares of requests within a TTFT and a TPOT, above batch, queue and cache over time.

    Raises:
        OutputError: the file cannot be written.
    """
    times = times_of(found.outcome)
    shares = [
        shares_panel([("", times[name], COLOURS[number])], title, marked=True)
        for name, title, number in TIMES[:2]
    ]
    title = f"{_where(found)}, {len(found.outcome.requests):,} requests"
    return write_drawn(Figure([*shares, *over_time_panels(found)], title, (9.0, 6.2), columns=2), file)


def times_of(outcome: Outcome) -> dict[str, Floats]:
    """Seconds of each request, by the short names of `TIMES`."""
    return {
        "TTFT": outcome.first_token_s - outcome.arrival_s,
        "TPOT": tpot_of(outcome),
        "E2E": outcome.finished_s - outcome.arrival_s,
    }


def cumulative(values: Floats) -> tuple[Floats, Floats]:
    """Values in rising order, and the share of them that is no larger."""
    there = np.sort(values[np.isfinite(values)])
    return there, np.arange(1, len(there) + 1) / max(len(there), 1)


def shares_panel(
    lines: Iterable[tuple[str, Floats, str]], title: str, marked: bool = False, log: bool | None = False
) -> Panel:
    """The share of requests within a time.

    Args:
        lines: Name, seconds of each request and colour.
        title: Of the times.
        marked: Whether the 95th percentile of the first is marked.
        log: Whether times are logarithmic.
    """
    marks: list[Mark] = []
    shown: list[float] = []
    for number, (name, values, colour) in enumerate(lines):
        there, share = cumulative(values)
        if not len(there):
            continue
        at = np.unique(np.linspace(0, len(there) - 1, min(len(there), _PARTS)).astype(int))
        words = [f"{name or title}: {100 * share[i]:.3g} % within {seconds(float(there[i]))}" for i in at]
        line: Line = "dash" if number and not log else "solid"
        marks.append(
            Series(
                name,
                there[at].tolist(),
                (100 * share[at]).tolist(),
                colour,
                line=line,
                steps=True,
                words=words,
            )
        )
        shown += [float(there[0]), float(there[-1])]
        if marked and not number:
            late = float(np.percentile(there, 95))
            marks += [Limit(95.0, "y", colour=MUTED, line="dot")]
            marks += [Limit(late, text=f"p95 {seconds(late)}", colour=MUTED, line="dot")]
    positive = [value for value in shown if value > 0]
    return Panel(
        time_axis(title, positive if log else shown, log=log), share_axis("share of requests", 100.0), marks,
        height=360, alt="Shares of requests within a time",
    )  # fmt: skip


def over_time_panels(found: Simulation) -> list[Panel]:
    """Sequences that decode and requests that wait, and the share of the cache that is in use, over time."""
    steps = found.outcome.steps
    end = float((steps.start_s + steps.duration_s).max())
    edges = np.linspace(0, end, _PARTS + 1)
    middle = ((edges[1:] + edges[:-1]) / 2).tolist()
    lines = max(found.outcome.engines, int(steps.replica.max(initial=0)) + 1)
    stages = found.scenario.parallelism.pp_size if lines % found.scenario.parallelism.pp_size == 0 else 1
    engines = lines // stages
    inside = [mean_over_time(steps, values, edges).tolist() for values in in_engines(found)]
    tokens = mean_over_time(steps, steps.kv_tokens.astype(np.float64), edges) / lines
    used = (tokens / max(found.outcome.kv_capacity_tokens, 1) * 100).tolist()
    batch = [
        Series(name, middle, values, colour, line="solid")
        for name, values, colour in zip(
            ("decoding", "waiting"), inside, (COLOURS[0], COLOURS[3]), strict=True
        )
    ]
    along = time_axis("time", [0.0, end], log=False)
    requests = "requests" if engines == 1 else f"requests, sum of {engines} engines"
    cache = [Series("", middle, used, COLOURS[2], line="solid")]
    return [
        Panel(along, amount_axis(axis, [0.0, most], log=False), marks, height=300, alt=alt)
        for axis, most, marks, alt in (
            (requests, max(map(max, inside)), batch, "Requests in the engine over time"),
            ("KV cache in use, %", max(used), cache, "Cache in use over time"),
        )
    ]


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
    """TTFT and TPOT over the rate, and over the throughput at each; what the engine serves at most is a line.

    Raises:
        OutputError: the file cannot be written.
    """
    title = f"{_where(found[0])}: latency over the rate of requests"
    panels = [rates_panel(found), rates_panel(found, over_tokens=True)]
    return write_drawn(Figure(panels, title, (9.0, 4.0), columns=2, legend_columns=5), file)


def rates_panel(found: Sequence[Simulation], over_tokens: bool = False) -> Panel:
    """Percentiles of TTFT and TPOT over the requests per second that are sent, or over the tokens that are generated."""
    sent = [float(one.traffic.rate or 0.0) for one in found]
    served = [float(one.summary.output_tokens_per_s) for one in found]
    known = found[0].capacity
    most = float(known.output_tokens_per_s) if over_tokens and known is not None else math.inf
    along = served if over_tokens else sent
    marks: list[Mark] = []
    shown: list[float] = []
    for field, title, number in (("ttft_s", "TTFT", 0), ("tpot_s", "TPOT", 3)):
        for figure in ("p50", "p95"):
            values = [float(getattr(one.summary, field).percentile(figure)) for one in found]
            if not all(map(math.isfinite, values)):
                continue
            words = [
                f"{one:g} requests/s: {title} {figure} {seconds(value)}, {rate(tokens)}"
                for one, tokens, value in zip(sent, served, values, strict=True)
            ]
            look: tuple[str, Line] = ("square", "dash") if figure == "p95" else ("circle", "solid")
            symbol, line = look
            name = f"{title} {figure}"
            marks.append(
                Series(name, along, values, COLOURS[number], symbol, line=line, size=4.0, words=words)
            )
            shown += values
    if math.isfinite(most):
        marks.append(Limit(most, name="most that is served", colour=MUTED))
    title = "generated tokens per second" if over_tokens else "requests per second"
    xaxis = amount_axis(title, [0.0, *along, most], log=False)
    return Panel(xaxis, time_axis("time", shown, log=True), marks, alt="TTFT and TPOT over the rate")


def _where(found: Simulation) -> str:
    """Model, machine and engine."""
    gpu = found.scenario.gpu.name
    machine = gpu if found.num_gpus == 1 else f"{found.num_gpus} x {gpu}"
    return f"{short_model(found.scenario.model.name)} on {machine}, {found.idle.system_name}"
