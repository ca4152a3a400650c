"""The JSON object of a plan over requests. Keys are only ever added; a number that does not exist is null."""

from __future__ import annotations

from typing import Any

from llm_perf.report.inference_json import SCHEMA_VERSION, finite
from llm_perf.report.simulate_json import interval_object, summary_object
from llm_perf.report.start_command import start_command
from llm_perf.search.service import ServiceCandidate, ServicePlan


def service_object(answer: ServicePlan) -> dict[str, Any]:
    """Everything about a plan as plain JSON types. ``inputs`` of a candidate can be fed to ``llm-perf simulate``."""
    best = [_candidate(answer, one) | _interval(one) for one in answer.best]
    whole = {
        "schema_version": SCHEMA_VERSION,
        "question": answer.question.model_dump(),
        "best": best,
        "front": [],
        "nearest": None if answer.nearest is None else _candidate(answer, answer.nearest),
        "evaluated": answer.evaluated,
        "simulated": answer.simulated,
        "too_large": answer.too_large,
        "unpriced": list(answer.unpriced),
        "unrated": list(answer.unrated),
        "refused": answer.refused,
        "left_out": answer.left_out,
        "seconds": answer.seconds,
    }
    return finite(whole)  # type: ignore[no-any-return]


def _interval(one: ServiceCandidate) -> dict[str, Any]:
    """Between which values measured times are to be expected, or why that is not known."""
    found = one.simulation.interval
    return {
        "interval": None if found is None else interval_object(found),
        "no_interval": one.simulation.no_interval,
    }


def _candidate(answer: ServicePlan, one: ServiceCandidate) -> dict[str, Any]:
    """One deployment: its inputs, what its requests meet, and the share of each limit that it uses."""
    return {
        "inputs": one.simulation.inputs,
        "engines": one.engines,
        "reading_engines": one.reading,
        "gpu": one.simulation.scenario.gpu.name,
        **one.values,
        "num_gpus": one.num_gpus,
        "load": one.load,
        "running_per_engine": one.running,
        "ttft_s": one.simulation.summary.ttft_s.mean,
        "tpot_s": one.simulation.summary.tpot_s.mean,
        "simulated": summary_object(one.simulation.summary),
        "meets_targets": one.meets,
        "share_of_targets": {t.written: t.used(one.figure(t)) for t in answer.question.targets},
        "start_command": start_command(one.inputs, 1 if one.reading else None),
        "start_command_of_readers": start_command(one.inputs, 0) if one.reading else None,
    }
