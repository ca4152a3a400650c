"""Simulations as views: the tables of ``llm-perf simulate``, shares of requests within a time, the engine over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from llm_perf.analysis.simulation import Simulation
from llm_perf.explore import cards
from llm_perf.explore.axes import amount_axis, share_axis, time_axis
from llm_perf.explore.blocks import block
from llm_perf.explore.view import SCHEMA_VERSION
from llm_perf.report.inference_json import finite
from llm_perf.report.plots.style import COLOURS
from llm_perf.report.service_text import service_answer, service_sections
from llm_perf.report.simulate_plot import cumulative, in_engines, mean_over_time
from llm_perf.report.simulate_text import rates_answer, rates_sections, simulation_answer, simulation_sections
from llm_perf.report.units import rate, seconds
from llm_perf.requests.summary import tpot_of
from llm_perf.requests.workload import Floats
from llm_perf.search.service import ServicePlan

__all__ = ["rates_view", "service_plan_view", "simulation_view"]

_POINTS: Final = 200
"""Points of a line: more are finer than a screen."""


def simulation_view(found: Simulation, notes: Sequence[str] = ()) -> dict[str, Any]:
    """One simulation: the answer, times of requests, the engine over time."""
    sections = {name: block(part) for name, part in simulation_sections(found).items()}
    parts = [
        cards.card(
            "answer",
            label(found),
            [
                *_notes(notes),
                cards.lines(simulation_answer(found)),
                *cards.parts(sections, "title", "verdict"),
            ],
            wide=True,
        )
    ]
    if found.summary.completed:
        parts += [
            cards.card(
                "times",
                "How long requests take",
                [_shares(found), *cards.parts(sections, "times", "interval")],
            ),
            cards.card(
                "engine",
                "The engine",
                [_over_time(found), *cards.parts(sections, "engines", "money", "note")],
            ),
        ]
    return _view("simulation", label(found), parts)


def rates_view(
    found: Sequence[Simulation], knee: Simulation | None, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """A sweep over rates: the knee."""
    sections = {name: block(part) for name, part in rates_sections(found, knee).items()}
    title = f"{label(found[0])}, up to {found[-1].traffic.rate:g} requests/s"
    answer = [*_notes(notes), cards.lines(rates_answer(found, knee)), *cards.parts(sections, "title")]
    parts = [
        cards.card("answer", title, answer, wide=True),
        cards.card(
            "knee",
            "Latency over the rate",
            [_knee(found), *cards.parts(sections, "rates", "interval", "note")],
            wide=True,
        ),
    ]
    return _view("simulation", title, parts)


def service_plan_view(answer: ServicePlan, notes: Sequence[str] = ()) -> dict[str, Any]:
    """A plan over requests: the best of each GPU, its intervals and its commands."""
    sections = {name: block(part) for name, part in service_sections(answer).items()}
    title = f"Plan for {answer.question.model.rpartition('/')[2]} under requests"
    commands = [cards.code(part["text"]) for part in cards.parts(sections, "start", "command")]
    parts = [
        cards.card(
            "answer",
            title,
            [
                *_notes(notes),
                cards.lines(service_answer(answer)),
                *cards.parts(sections, "title", "answer", "nothing", "counts"),
            ],
            wide=True,
        ),
        cards.card("best", "Best of each GPU", cards.parts(sections, "best", "interval"), wide=True),
        cards.card("command", "The best one on the command line", commands),
    ]
    return _view("plan", title, parts)


def label(found: Simulation) -> str:
    """Model, GPUs and requests in one line."""
    gpus = found.scenario.gpu.name if found.num_gpus == 1 else f"{found.num_gpus} x {found.scenario.gpu.name}"
    return (
        f"{found.scenario.model.name.rpartition('/')[2]} on {gpus}: {len(found.outcome.requests):,} requests"
    )


def _notes(notes: Sequence[str]) -> list[dict[str, Any]]:
    return [cards.text(f"note: {note}", alarm=True) for note in notes]


def _view(kind: str, title: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    view = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "label": title,
        "cards": [card for card in parts if card["parts"]],
        "near": [],
        "result": None,
    }
    return finite(view)  # type: ignore[no-any-return]


# -- figures ------------------------------------------------------------------------------------------------------


def _line(name: str, x: Floats, y: Floats, colour: str, hover: Sequence[str] | None = None) -> dict[str, Any]:
    drawn: dict[str, Any] = {
        "type": "scatter", "mode": "lines", "name": name, "x": x.tolist(), "y": y.tolist(),
        "line": {"color": colour, "width": 2.2},
    }  # fmt: skip
    if hover is not None:
        drawn |= {"customdata": list(hover), "hovertemplate": "%{customdata}<extra></extra>"}
    return drawn


def _shares(found: Simulation) -> dict[str, Any]:
    """The share of requests within a time to first token, per output token and to the end."""
    outcome = found.outcome
    times = {
        "TTFT": outcome.first_token_s - outcome.arrival_s,
        "TPOT": tpot_of(outcome),
        "E2E": outcome.finished_s - outcome.arrival_s,
    }
    data, shown = [], []
    for (name, values), colour in zip(times.items(), (COLOURS[0], COLOURS[3], COLOURS[2]), strict=True):
        there, share = cumulative(values[found.traffic.warm_up :])
        if not len(there):
            continue
        at = np.unique(np.linspace(0, len(there) - 1, min(len(there), _POINTS)).astype(int))
        hover = [f"{name}: {100 * share[i]:.3g} % within {seconds(float(there[i]))}" for i in at]
        data.append(_line(name, there[at], 100 * share[at], colour, hover))
        shown += [float(there[0]), float(there[-1])]
    positive = [value for value in shown if value > 0]
    layout = {
        "height": 360,
        "xaxis": time_axis("time", positive, log=True),
        "yaxis": share_axis("share of requests", 100.0),
    }
    return cards.figure("shares", {"data": data, "layout": layout, "alt": "Shares of requests within a time"})


def _over_time(found: Simulation) -> dict[str, Any]:
    """Sequences that decode and requests that wait, over time."""
    steps = found.outcome.steps
    end = float((steps.start_s + steps.duration_s).max())
    edges = np.linspace(0, end, _POINTS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    data = [
        _line(name, middle, mean_over_time(steps, values, edges), colour)
        for name, colour, values in zip(
            ("decoding", "waiting"), (COLOURS[0], COLOURS[3]), in_engines(found), strict=True
        )
    ]
    most = max(max(line["y"]) for line in data)
    layout = {
        "height": 300,
        "xaxis": amount_axis("time in s", [0.0, end], log=False),
        "yaxis": amount_axis("requests", [0.0, most or 1.0], log=False),
    }
    return cards.figure(
        "over-time", {"data": data, "layout": layout, "alt": "Requests in the engine over time"}
    )


def _knee(found: Sequence[Simulation]) -> dict[str, Any]:
    """Percentiles of TTFT and TPOT over the rate."""
    rates = np.array([one.traffic.rate for one in found], dtype=np.float64)
    data, shown = [], []
    for name, title, colour in (("ttft_s", "TTFT", COLOURS[0]), ("tpot_s", "TPOT", COLOURS[3])):
        for figure, dash in (("p50", "solid"), ("p95", "dash")):
            values = np.array([getattr(one.summary, name).percentile(figure) for one in found])
            if not np.isfinite(values).all():
                continue
            hover = [
                f"{one.traffic.rate:g} requests/s: {title} {figure} {seconds(float(value))}, "
                f"{rate(one.summary.output_tokens_per_s)}"
                for one, value in zip(found, values, strict=True)
            ]
            line = _line(f"{title} {figure}", rates, values, colour, hover)
            line["line"]["dash"] = dash
            data.append(line)
            shown += values.tolist()
    layout = {
        "height": 400,
        "xaxis": amount_axis("requests per second", rates, log=False),
        "yaxis": time_axis("time", shown, log=True),
    }
    return cards.figure("knee", {"data": data, "layout": layout, "alt": "TTFT and TPOT over the rate"})
