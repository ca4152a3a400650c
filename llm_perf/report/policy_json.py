"""The JSON object of a policy search. Keys are only ever added; a number that does not exist is null."""

from __future__ import annotations

from typing import Any

from llm_perf.analysis.economics import cost_of
from llm_perf.report.inference_json import (
    SCHEMA_VERSION,
    cost_object,
    finite,
    interval_object,
    memory_objects,
)
from llm_perf.report.start_command import divided_start_command
from llm_perf.search.policy import FrontPoint, PolicyAnswer


def policy_object(answer: PolicyAnswer) -> dict[str, Any]:
    """Everything about a search as plain JSON types. ``inputs`` can be fed to ``llm-perf infer --config``."""
    best, result, question = answer.best, answer.result, answer.question
    price = question.price
    found = {
        "schema_version": SCHEMA_VERSION,
        "question": question.model_dump() | {"objective": question.searched_for},
        "policy": None if best is None else best.flags,
        "throughput_tokens_per_s": None if best is None else best.throughput_tokens_per_s,
        "latency_s": None if best is None else best.latency_s,
        "memory": None if result is None else memory_objects(result),
        "interval": None if result is None else interval_object(result),
        "no_interval": None if result is None else result.no_interval,
        "bottlenecks": None if result is None else bottlenecks(answer),
        "cost": None if result is None or price is None else cost_object(cost_of(result, price)),
        "front": [_point(point) for point in answer.front],
        "searched": answer.searched,
        "systems": list(answer.question.running),
        "left_out": answer.question.left_out,
        "seconds": answer.seconds,
        "reason": answer.reason,
        "nearest": None if answer.nearest is None else _point(answer.nearest),
        "inputs": None if answer.inputs is None else answer.inputs.model_dump(),
        "start_command": None
        if result is None
        else divided_start_command(result, question.model, question.context),
        "warnings": [] if result is None else list(result.warnings),
        "one_chat": None if answer.one_chat is None else policy_object(answer.one_chat),
        "batches_refused": answer.refused,
    }
    return finite(found)  # type: ignore[no-any-return]


def bottlenecks(answer: PolicyAnswer) -> dict[str, str | None]:
    """The busiest resource of each phase and the fullest tier of memory."""
    result = answer.result
    if result is None:
        return {}
    tiers = {"gpu": result.memory.gpu, "cpu": result.memory.cpu, "nvme": result.memory.nvme}
    filled = {
        name: float(parts.total_bytes) / parts.capacity_bytes
        for name, parts in tiers.items()
        if parts.capacity_bytes
    }
    return {
        "prefill": result.prefill.bottleneck,
        "decode": None if result.decode is None else result.decode.bottleneck,
        "memory": max(filled, key=lambda name: filled[name]),
    }


def _point(point: FrontPoint) -> dict[str, Any]:
    return {
        "latency_s": point.latency_s,
        "throughput_tokens_per_s": point.throughput_tokens_per_s,
        "policy": point.flags,
        "ttft_s": point.ttft_s,
        "tpot_s": point.tpot_s,
    }
