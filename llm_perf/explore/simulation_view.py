"""Simulations as views: the tables of ``llm-perf simulate``, shares of requests within a time, the engine over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_perf.analysis.simulation import Simulation
from llm_perf.explore import cards
from llm_perf.explore.blocks import block
from llm_perf.explore.drawn import view_of
from llm_perf.explore.view import SCHEMA_VERSION
from llm_perf.report.inference_json import finite
from llm_perf.report.looks import COLOURS
from llm_perf.report.service_text import service_answer, service_sections
from llm_perf.report.simulate_plot import TIMES, over_time_panels, rates_panel, shares_panel, times_of
from llm_perf.report.simulate_text import rates_answer, rates_sections, simulation_answer, simulation_sections
from llm_perf.search.service import ServicePlan

__all__ = ["rates_view", "service_plan_view", "simulation_view"]


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
                [
                    cards.figure("over-time", view_of(over_time_panels(found)[0])),
                    *cards.parts(sections, "engines", "money", "note"),
                ],
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
            [
                cards.figure("knee", view_of(rates_panel(found))),
                *cards.parts(sections, "rates", "interval", "note"),
            ],
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


def _shares(found: Simulation) -> dict[str, Any]:
    """The share of requests within a time to first token, per output token and to the end."""
    times = times_of(found.outcome)
    lines = [(name, times[name][found.traffic.warm_up :], COLOURS[number]) for name, _, number in TIMES]
    return cards.figure("shares", view_of(shares_panel(lines, "time", log=True)))
