"""The JSON object of a prediction. Keys are only ever added; a number that does not exist is null."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from llm_perf.analysis.advice import Change
from llm_perf.analysis.economics import Cost, Energy, cost_of, energy_of
from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.analysis.thresholds import thresholds_by_gpus, thresholds_of
from llm_perf.config.economics import Price
from llm_perf.report.prediction_log import prediction_log
from llm_perf.systems.base import TierShares
from llm_perf.systems.pipeline import stage_layers
from llm_perf.systems.tiers import Tier

SCHEMA_VERSION = 1


def result_object(
    result: InferenceResult,
    inputs: dict[str, Any],
    changes: tuple[Change, ...] = (),
    nearest: dict[str, Any] | None = None,
    price: Price | float | None = None,
) -> dict[str, Any]:
    """Everything about a prediction as plain JSON types. ``inputs`` can be fed back through ``--config``."""
    placement, energy = result.placement, energy_of(result)
    decode = None if result.decode is None else _phase(result.decode)
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "inputs": inputs,
        "system": result.system_name,
        "system_version": result.version,
        "constants_inherited": 0 if result.inherits is None else result.inherits[0],
        "weight_format": _weight_format(result),
        "feasible": result.feasible,
        "may_not_fit": result.may_not_fit,
        "reason": result.reason,
        "suggestions": [
            {"change": change.text, "inputs": change.inputs, "tokens_per_s": change.tokens_per_s}
            for change in changes
        ],
        "placement": {
            "weights": _shares(placement.weights),
            "kv_cache": _shares(placement.kv_cache),
            "activations": _shares(placement.activations),
            "reason": placement.reason,
        },
        "memory": memory_objects(result),
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
        "ttft_s": result.ttft_s,
        "tpot_s": result.tpot_s,
        "cost": None if price is None else cost_object(cost_of(result, price)),
        "pivot": pivot_object(result),
        "pipeline": pipeline_object(result),
        "energy": None if energy is None else energy_object(energy),
        "interval": interval_object(result),
        "no_interval": result.no_interval,
        "warnings": list(result.warnings),
        "benchmark_log": prediction_log(result),
    }  # fmt: skip
    return finite(found)  # type: ignore[no-any-return]


def _kv_cache(result: InferenceResult) -> dict[str, Any]:
    """What the cache of one engine holds, and what bounds batch and context."""
    found, engine = result.kv_capacity, result.engine_capacity
    return {
        "kv_cache_capacity_tokens": None if found is None else found.tokens,
        "max_concurrency": None if found is None else found.max_concurrency,
        "state_bytes_per_sequence": None if found is None else round(found.state_bytes_per_sequence),
        "gpu_memory_utilization": None if found is None else found.utilization,
        "serving_engine": None if engine is None else {
            "rule_of": engine.rule_of, "kv_cache_capacity_tokens": engine.tokens,
            "max_concurrency": engine.max_concurrency, "gpu_memory_utilization": engine.utilization,
        },
        "batch_limited_by": result.batch_limited_by,
        "context_limited_by": result.context_limited_by,
    }  # fmt: skip


def _weight_format(result: InferenceResult) -> dict[str, Any]:
    """In which number format the weights were counted, and why."""
    dtype = result.scenario.dtype
    name = f"{dtype.weight_bits} bit" if dtype.formats is None else dtype.formats.name
    return {"name": name, "why": dtype.origin or None, "kv_cache_bits": dtype.stored_kv_bits}


def interval_object(result: InferenceResult) -> dict[str, Any] | None:
    """Where measurements are to be expected; None where nothing is known of that."""
    return None if result.interval is None else result.interval.as_json(tokens_of(result))


def tokens_of(result: InferenceResult) -> float:
    """Tokens that the total throughput counts."""
    return float(result.measures.tokens)


def cost_object(cost: Cost) -> dict[str, Any]:
    """US dollars of one batch and per token, with where the price comes from (None: it was given)."""
    price = cost.price
    return {
        "per_gpu_hour": cost.per_gpu_hour,
        "total": cost.total,
        "prefill_per_1k_tokens": cost.prefill_per_1k_tokens,
        "decode_per_1k_tokens": cost.decode_per_1k_tokens,
        "total_per_1k_tokens": cost.total_per_1k_tokens,
        "per_million_tokens": cost.per_million_tokens,
        "source": None if price is None else price.source,
        "date": None if price is None else price.date.isoformat(),
    }


def pivot_object(result: InferenceResult) -> dict[str, Any] | None:
    """Where each phase turns from bandwidth to compute, here and per number of GPUs; None for systems that stream."""
    here = thresholds_of(result.scenario)
    if here is None:
        return None
    by_gpus = [asdict(entry) for entry in thresholds_by_gpus(result.scenario)]
    return asdict(here) | {"by_gpus": by_gpus}


def pipeline_object(result: InferenceResult) -> dict[str, Any] | None:
    """Stages, their layers, how long they idle, and the throughput of a full pipeline; None without stages."""
    steady = result.steady_throughput_tokens_per_s
    if steady is None:
        return None
    stages, decode = result.scenario.parallelism.pp_size, result.decode
    return {
        "stage_layers": list(stage_layers(result.scenario.model.num_layers, stages)),
        "micro_batches": int(result.prefill.cost.micro_batches),
        "decode_micro_batches": None if decode is None else int(decode.cost.micro_batches),
        "prefill_bubble": 1 - result.prefill.stages_busy / stages,
        "decode_bubble": None if decode is None else 1 - decode.stages_busy / stages,
        "steady_throughput_tokens_per_s": steady,
    }


def energy_object(energy: Energy) -> dict[str, Any]:
    """Joules of the GPUs and the power of one of them in each phase."""
    return {
        "total_j": energy.total_j,
        "j_per_token": energy.j_per_token,
        "prefill_power_w": energy.prefill_power_w,
        "decode_power_w": energy.decode_power_w,
    }


def _shares(shares: TierShares) -> dict[str, float]:
    return {"gpu": float(shares.gpu), "cpu": float(shares.cpu), "nvme": float(shares.nvme)}


def memory_objects(result: InferenceResult) -> dict[str, Any]:
    """Memory by tier; of the GPU with what its cache holds."""
    memory = result.memory
    return {
        "gpu": memory_object(memory.gpu) | _kv_cache(result),
        "cpu": memory_object(memory.cpu),
        "nvme": memory_object(memory.nvme),
    }


def memory_object(tier: Tier) -> dict[str, int]:
    """Bytes by use, their sum and what can be allocated."""
    sizes = {name: round(float(getattr(tier, name))) for name in tier.uses}
    return sizes | {"total_bytes": sum(sizes.values()), "capacity_bytes": round(tier.capacity_bytes)}


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
