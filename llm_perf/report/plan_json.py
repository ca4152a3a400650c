"""The JSON object of a plan. Keys are only ever added; a number that does not exist is null."""

from __future__ import annotations

from typing import Any

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import build_scenario
from llm_perf.report.inference_json import SCHEMA_VERSION, finite, interval_object
from llm_perf.search.plan_question import Candidate, PlanAnswer


def plan_object(answer: PlanAnswer) -> dict[str, Any]:
    """Everything about a plan as plain JSON types. The ``inputs`` of a candidate can be fed to ``llm-perf infer``."""
    found = {
        "schema_version": SCHEMA_VERSION,
        "question": answer.question.model_dump(),
        "best": [candidate_object(answer, candidate) | prediction_of(candidate) for candidate in answer.best],
        "front": [candidate_object(answer, candidate) for candidate in answer.front],
        "nearest": None if answer.nearest is None else candidate_object(answer, answer.nearest),
        "evaluated": answer.evaluated,
        "too_large": answer.too_large,
        "unpriced": list(answer.unpriced),
        "unrated": list(answer.unrated),
        "refused": answer.refused,
        "left_out": answer.left_out,
        "seconds": answer.seconds,
    }
    return finite(found)  # type: ignore[no-any-return]


def candidate_object(answer: PlanAnswer, candidate: Candidate) -> dict[str, Any]:
    """One deployment: its inputs, what it reaches, and the share of each limit that it uses."""
    used = {t.name: t.used(candidate.measures[t.measure]) for t in answer.question.targets}
    return {
        "inputs": candidate.inputs.model_dump(),
        **candidate.measures,
        "num_gpus": candidate.num_gpus,
        "meets_targets": candidate.meets,
        "share_of_targets": used,
        "stops": candidate.stops or None,
    }


def prediction_of(candidate: Candidate) -> dict[str, Any]:
    """What each phase waits for, and the interval around its latencies."""
    result = predict_inference(build_scenario(candidate.inputs))
    decode = None if result.decode is None else result.decode.bottleneck
    return {
        "bottlenecks": {"prefill": result.prefill.bottleneck, "decode": decode},
        "interval": interval_object(result),
        "no_interval": result.no_interval,
    }
