"""The JSON object of a prediction. Keys are only ever added; a number that does not exist is null."""

from __future__ import annotations

import math
from typing import Any

from llm_perf.analysis.advice import Change
from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.report.prediction_log import prediction_log
from llm_perf.systems.base import MemoryParts, TierShares

SCHEMA_VERSION = 1


def result_object(
    result: InferenceResult,
    inputs: dict[str, Any],
    changes: tuple[Change, ...] = (),
    nearest: dict[str, Any] | None = None,
    cost_per_gpu_hour: float | None = None,
) -> dict[str, Any]:
    """Everything about a prediction as plain JSON types. ``inputs`` can be fed back through ``--config``."""
    placement, memory = result.placement, result.memory
    decode = None if result.decode is None else _phase(result.decode)
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "inputs": inputs,
        "feasible": result.feasible,
        "reason": result.reason,
        "suggestions": [{"change": change.text, "inputs": change.inputs} for change in changes],
        "placement": {
            "weights": _shares(placement.weights),
            "kv_cache": _shares(placement.kv_cache),
            "activations": _shares(placement.activations),
            "reason": placement.reason,
        },
        "memory": {"gpu": memory_object(memory.gpu), "cpu": memory_object(memory.cpu), "nvme": memory_object(memory.nvme)},
        "max_batch_size": result.max_batch_size,
        "max_context_len": result.max_context_len,
        "nearest_measurement": nearest,
        "prefill": _phase(result.prefill),
        "decode": decode or {"latency_s": None, "latency_per_token_s": None, "throughput_tokens_per_s": None,
                             "bottleneck": None, "breakdown_s": {}, "busy_s": {}},
        "total": {
            "latency_s": result.total_latency_s,
            "throughput_tokens_per_s": result.total_throughput_tokens_per_s,
        },
        "cost": None if cost_per_gpu_hour is None else cost(result, cost_per_gpu_hour),
        "interval": None,
        "warnings": list(result.warnings),
        "benchmark_log": prediction_log(result),
    }  # fmt: skip
    return finite(found)  # type: ignore[no-any-return]


def cost(result: InferenceResult, cost_per_gpu_hour: float) -> dict[str, float | None]:
    """US dollars of one batch and per 1000 tokens of each phase, all GPUs of the deployment paid."""
    per_second = cost_per_gpu_hour * result.scenario.parallelism.num_gpus / 3600

    def per_1k(throughput: float | None) -> float | None:
        return None if throughput is None else per_second / throughput * 1000

    return {
        "per_gpu_hour": cost_per_gpu_hour,
        "total": per_second * result.total_latency_s,
        "prefill_per_1k_tokens": per_1k(result.prefill.throughput_tokens_per_s),
        "decode_per_1k_tokens": per_1k(result.decode.throughput_tokens_per_s if result.decode else None),
        "total_per_1k_tokens": per_1k(result.total_throughput_tokens_per_s),
    }


def _shares(shares: TierShares) -> dict[str, float]:
    return {"gpu": float(shares.gpu), "cpu": float(shares.cpu), "nvme": float(shares.nvme)}


def memory_object(parts: MemoryParts) -> dict[str, float]:
    """Bytes by use, their sum and what can be allocated."""
    return {
        "weights_bytes": round(parts.weights_bytes),
        "kv_cache_bytes": round(parts.kv_cache_bytes),
        "activations_bytes": round(parts.activations_bytes),
        "buffers_bytes": round(parts.buffers_bytes),
        "reserved_bytes": round(parts.reserved_bytes),
        "total_bytes": sum(
            round(part)
            for part in (
                parts.weights_bytes,
                parts.kv_cache_bytes,
                parts.activations_bytes,
                parts.buffers_bytes,
                parts.reserved_bytes,
            )
        ),
        "capacity_bytes": round(parts.capacity_bytes),
    }


def _phase(phase: Phase) -> dict[str, Any]:
    found: dict[str, Any] = {"latency_s": phase.latency_s}
    if phase.latency_per_token_s is not None:
        found["latency_per_token_s"] = phase.latency_per_token_s
    return found | {
        "throughput_tokens_per_s": phase.throughput_tokens_per_s,
        "bottleneck": phase.bottleneck,
        "breakdown_s": phase.breakdown_s,
        "busy_s": phase.busy_s,
    }


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: such a number does not exist."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
