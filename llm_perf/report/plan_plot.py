"""The front of a plan as a figure: time per token against the objective, of the page and of ``--plot``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from llm_perf.report.figure import INK, MUTED, Figure, Limit, Mark, Panel, Series, amount_axis, time_axis
from llm_perf.report.looks import LIMIT, looks
from llm_perf.report.plan_text import amount, deployment
from llm_perf.report.plots.draw import write_drawn
from llm_perf.report.units import count, rate
from llm_perf.search.plan_question import OBJECTIVES, Candidate, PlanAnswer

LABELS: Final = {
    "cost": "US dollars per million tokens",
    "energy": "joules per token",
    "gpus": "GPUs",
    "throughput": "throughput (generated tokens/s)",
}


def write_plan_plot(answer: PlanAnswer, file: str) -> Path:
    """Draw the front and the best of each GPU into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    question = answer.question
    wanted = f"\ntarget: {question.target}" if question.targets else ""
    title = f"{question.model}, prompt {question.prompt_len}, generate {question.gen_len} (predicted){wanted}"
    panel = front_panel(answer)
    return write_drawn(Figure([panel], title, legend_columns=3 if len(panel.marks) > 5 else 2), file)


def front_panel(answer: PlanAnswer) -> Panel:
    """The front, a look per GPU, what misses a target open; the best of each GPU has an edge, the best of all a ring."""
    measure, question = OBJECTIVES[answer.question.objective], answer.question
    look = looks(candidate.inputs.gpu for candidate in (*answer.front, *answer.best))
    front, shown = answer.front, [*answer.front, *answer.best]
    values = [one.measures[measure] for one in shown]
    limits = [target.limit for target in question.targets if target.name == "tpot"]
    times = [_time(one) for one in front]
    marks: list[Mark] = [
        Series(
            "", times, [one.measures[measure] for one in front], MUTED, line="solid", width=1.0, steps=True
        )
    ]
    for gpu, (colour, symbol) in look.items():
        own = [one for one in front if one.inputs.gpu == gpu]
        marks.append(_series(gpu, own, measure, colour, symbol))
    if not all(one.meets for one in front):
        marks.append(Series("open: misses a target", (), (), MUTED, "circle", is_open=True))
    marks += _best(answer.best, measure, look)
    marks += [
        Limit(limit, text=f"limit {amount('tpot', limit)}", name=f"TPOT of {limit * 1e3:g} ms", colour=LIMIT)
        for limit in limits
    ]
    return Panel(
        time_axis(
            "time per output token" if question.gen_len > 1 else "latency", [*map(_time, shown), *limits]
        ),
        amount_axis(LABELS[question.objective], values),
        marks,
        alt=f"{len(front)} deployments that nothing beats in both time per token and {LABELS[question.objective]}",
    )


def _series(
    name: str,
    own: Sequence[Candidate],
    measure: str,
    colour: str,
    symbol: str,
    size: float = 6.0,
    edge: str = "",
) -> Series:
    return Series(
        name, [_time(one) for one in own], [one.measures[measure] for one in own], colour, symbol,
        [not one.meets for one in own], size=size, edge=edge,
        words=[_words(one) + ("" if one.meets else "<br>misses a target") for one in own],
    )  # fmt: skip


def _best(best: Sequence[Candidate], measure: str, look: Mapping[str, tuple[str, str]]) -> Iterator[Series]:
    for gpu, (colour, symbol) in look.items():
        own = [one for one in best if one.inputs.gpu == gpu]
        if own:
            yield _series("", own, measure, colour, symbol, size=8.5, edge=INK)
    for first in best[:1]:
        how = f"{first.num_gpus} x {first.inputs.gpu} {deployment(first)}".strip()
        name = f"best: {how}, batch {first.inputs.batch_size}"
        yield Series("black edge: best of each GPU", (), (), MUTED, "circle", edge=INK)
        yield Series(
            name, [_time(first)], [first.measures[measure]], INK, "ring", size=13.0, words=[_words(first)]
        )


def _words(candidate: Candidate) -> str:
    m = candidate.measures
    batch = count(candidate.inputs.batch_size)
    return (
        f"{candidate.num_gpus} x {candidate.inputs.gpu} {deployment(candidate)}, batch {batch}<br>"
        f"TTFT {amount('ttft', m['prefill_latency_s'])}, TPOT {amount('tpot', m['latency_per_token_s'])}, "
        f"{rate(m['throughput_tokens_per_s'])}"
    )


def _time(candidate: Candidate) -> float:
    per_token = candidate.measures["tpot_s"]
    return candidate.measures["total_latency_s"] if math.isnan(per_token) else per_token
