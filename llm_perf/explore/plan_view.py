"""A stored plan as a view: the tables of ``llm-perf plan`` and its front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from llm_perf.analysis.request import InferenceInputs
from llm_perf.errors import SpecError
from llm_perf.explore import cards
from llm_perf.explore.axes import amount_axis, position, time_axis
from llm_perf.explore.blocks import block
from llm_perf.explore.looks import series_look
from llm_perf.explore.view import SCHEMA_VERSION
from llm_perf.report.inference_json import finite
from llm_perf.report.plan_plot import LABELS
from llm_perf.report.plan_text import amount, deployment, plan_answer, plan_sections
from llm_perf.report.units import count, rate
from llm_perf.search.plan import OBJECTIVES, Candidate, PlanAnswer, PlanQuestion

_NOT_MEASURES: Final = (
    "inputs", "meets_targets", "share_of_targets", "stops", "bottlenecks", "interval", "no_interval",
)  # fmt: skip
_MISSES: Final[dict[str, Any]] = {
    "type": "scatter", "mode": "markers", "name": "open: misses a target", "x": [None], "y": [None],
    "marker": {"size": 9, "symbol": "circle-open", "color": "@muted", "line": {"width": 1.5, "color": "@muted"}},
}  # fmt: skip
"""An entry of the legend without points."""


def stored_answer(found: Mapping[str, Any], source: str) -> PlanAnswer:
    """The answer that ``llm-perf plan --json`` printed.

    Raises:
        SpecError: it is none, or holds what no plan has.
    """
    try:
        nearest = found["nearest"]
        return PlanAnswer(
            question=PlanQuestion(**found["question"]),
            best=tuple(_candidate(one) for one in found["best"]),
            front=tuple(_candidate(one) for one in found["front"]),
            nearest=None if nearest is None else _candidate(nearest),
            evaluated=int(found["evaluated"]),
            too_large=int(found["too_large"]),
            unpriced=tuple(found["unpriced"]),
            unrated=tuple(found.get("unrated", ())),
            refused=dict(found["refused"]),
            seconds=float(found["seconds"]),
        )
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"{source}: is no complete plan ({type(error).__name__}: {error})") from None


def _candidate(found: Mapping[str, Any]) -> Candidate:
    measures = {
        name: math.nan if value is None else float(value)
        for name, value in found.items()
        if name not in _NOT_MEASURES
    }
    # Plans that were stored before the measures had these names.
    measures.setdefault("ttft_s", measures["prefill_latency_s"])
    measures.setdefault("tpot_s", measures["latency_per_token_s"])
    return Candidate(
        InferenceInputs(**found["inputs"]), measures, bool(found["meets_targets"]), found["stops"] or ""
    )


def plan_view(answer: PlanAnswer) -> dict[str, Any]:
    """The view of a plan: what was asked, the best of each GPU and why, the front."""
    sections = {name: block(part) for name, part in plan_sections(answer).items()}
    question = answer.question
    title = f"Plan for {question.model.rpartition('/')[2]}, {question.prompt_len} + {question.gen_len}"
    drawn = [cards.figure("plan-front", front_figure(answer))] if answer.front else []
    found = [
        cards.card(
            "answer",
            title,
            [cards.lines(plan_answer(answer)), *cards.parts(sections, "title", "nothing", "counts")],
            wide=True,
        ),
        cards.card("best", "Best of each GPU", cards.parts(sections, "best", "reasons"), wide=True),
        cards.card(
            "front",
            "Front: time per token against the objective",
            [*drawn, *cards.parts(sections, "front")],
            wide=True,
        ),
        cards.card(
            "command",
            "The best one on the command line",
            [cards.code(part["text"]) for part in cards.parts(sections, "command")],
        ),
    ]
    view = {
        "schema_version": SCHEMA_VERSION,
        "kind": "plan",
        "label": title,
        "cards": [card for card in found if card["parts"]],
        "near": [],
        "result": None,
    }
    return finite(view)  # type: ignore[no-any-return]


def front_figure(answer: PlanAnswer) -> dict[str, Any]:
    """The front, a look per GPU, what misses a target open, and the best deployment in a ring."""
    measure, question = OBJECTIVES[answer.question.objective], answer.question
    gpus = list(dict.fromkeys(candidate.inputs.gpu for candidate in answer.front))
    data = [_points(gpu, number, measure, answer) for number, gpu in enumerate(gpus)]
    if not all(candidate.meets for candidate in answer.front):
        data.append(_MISSES)
    if answer.best:
        best = answer.best[0]
        data.append(
            {"type": "scatter", "mode": "markers", "name": "best that meets the targets", "x": [_time(best)],
             "y": [best.measures[measure]], "customdata": [_words(best)], "hovertemplate": "%{customdata}<extra></extra>",
             "marker": {"size": 20, "symbol": "circle-open-dot", "color": "@ink", "line": {"width": 2}}}
        )  # fmt: skip
    limits = [target.limit for target in question.targets if target.name == "tpot"]
    shown = [*answer.front, *answer.best[:1]]
    xaxis = time_axis("time per output token", [*map(_time, shown), *limits])
    return {
        "data": data,
        "layout": {
            "height": 400,
            "xaxis": xaxis,
            "yaxis": amount_axis(LABELS[question.objective], [one.measures[measure] for one in shown]),
            "shapes": [
                {"type": "line", "x0": limit, "x1": limit, "y0": 0, "y1": 1, "yref": "paper",
                 "line": {"color": "@ink", "width": 1.5, "dash": "dash"}}
                for limit in limits
            ],
            "annotations": [
                {"x": position(xaxis, limit), "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "top", "xshift": -4,
                 "text": f"limit {amount('tpot', limit)}", "showarrow": False, "font": {"color": "@ink"}}
                for limit in limits
            ],
        },
        "alt": f"{len(answer.front)} deployments that nothing beats in both time per token and {LABELS[question.objective]}",
    }  # fmt: skip


def _points(gpu: str, number: int, measure: str, answer: PlanAnswer) -> dict[str, Any]:
    own = [candidate for candidate in answer.front if candidate.inputs.gpu == gpu]
    colour, symbol = series_look(number)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": gpu,
        "x": [_time(candidate) for candidate in own],
        "y": [candidate.measures[measure] for candidate in own],
        "customdata": [
            _words(candidate) + ("" if candidate.meets else "<br>misses a target") for candidate in own
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {
            "size": 9,
            "symbol": [symbol if candidate.meets else f"{symbol}-open" for candidate in own],
            "color": colour,
            "line": {"width": 1.5, "color": colour},
        },
    }


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
