"""A stored plan as a view: the tables of ``llm-perf plan`` and its front."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from llm_perf.analysis.request import InferenceInputs
from llm_perf.errors import SpecError
from llm_perf.explore import cards
from llm_perf.explore.blocks import block
from llm_perf.explore.drawn import view_of
from llm_perf.explore.view import SCHEMA_VERSION
from llm_perf.report.inference_json import finite
from llm_perf.report.plan_plot import front_panel
from llm_perf.report.plan_text import plan_answer, plan_sections
from llm_perf.search.plan_question import Candidate, PlanAnswer, PlanQuestion

_NOT_MEASURES: Final = (
    "inputs", "meets_targets", "share_of_targets", "stops", "bottlenecks", "interval", "no_interval",
)  # fmt: skip


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
            left_out=dict(found.get("left_out", {})),
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
    drawn = [cards.figure("plan-front", view_of(front_panel(answer)))] if answer.front else []
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
