"""The JSON object of a training prediction. Keys are only ever added; a number that does not exist is null."""

from __future__ import annotations

from typing import Any

from llm_perf.analysis.advice import Change
from llm_perf.analysis.training import TrainingResult
from llm_perf.analysis.training_economics import training_cost, training_energy
from llm_perf.analysis.tuning_intervals import LEVEL
from llm_perf.config.economics import Price
from llm_perf.report.inference_json import SCHEMA_VERSION, finite, memory_object
from llm_perf.systems.training.base import PHASES


def training_object(
    result: TrainingResult,
    inputs: dict[str, Any],
    changes: tuple[Change, ...] = (),
    price: Price | float | None = None,
) -> dict[str, Any]:
    """Everything about a prediction as plain JSON types. ``inputs`` can be fed back through ``--config``."""
    batch, memory = result.batch, result.memory
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "inputs": inputs,
        "feasible": result.feasible,
        "may_not_fit": result.may_not_fit,
        "reason": result.reason,
        "suggestions": [{"change": change.text, "inputs": change.inputs} for change in changes],
        "framework": result.scenario.framework,
        "framework_version": result.version,
        "constants_inherited": 0 if result.inherits is None else result.inherits[0],
        "num_gpus": result.scenario.num_gpus,
        "batch": {
            "micro_batch_size": batch.micro_batch_size,
            "gradient_accumulation_steps": batch.gradient_accumulation_steps,
            "global_batch_size": batch.global_batch_size,
            "seq_len": result.scenario.plan.seq_len,
            "tokens_per_step": batch.global_batch_size * result.scenario.plan.seq_len,
        },
        "max_micro_batch_size": result.max_micro_batch_size,
        "memory": {tier: memory_object(getattr(memory, tier)) for tier in ("gpu", "cpu", "nvme")}
        | {"peak": _peak(result), "phases": _phases(result)},
        "step": {
            "latency_s": result.step_time_s,
            "throughput_tokens_per_s": result.throughput_tokens_per_s,
            "throughput_tokens_per_s_per_gpu": result.throughput_tokens_per_s_per_gpu,
            "bottleneck": result.bottleneck,
            "breakdown_s": result.breakdown_s,
            "busy_s": result.busy_s,
        },
        "flops": {
            "model_flops_per_step": result.model_flops_per_step,
            "hardware_flops_per_step": result.hardware_flops_per_step,
            "model_flops_per_s_per_gpu": result.model_flops_per_s_per_gpu,
            "hardware_flops_per_s_per_gpu": result.hardware_flops_per_s_per_gpu,
            "peak_dtype": result.peak_dtype,
            "peak_flops_per_s": result.peak_flops_per_s,
            "mfu": result.mfu,
            "hfu": result.hfu,
        },
        "run": _run(result),
        "cost": None if price is None else _cost(result, price),
        "energy": _energy(result),
        "interval": _interval(result),
        "no_interval": result.no_interval,
        "warnings": list(result.warnings),
    }
    return finite(found)  # type: ignore[no-any-return]


def _peak(result: TrainingResult) -> dict[str, Any]:
    """When and on which pipeline stage a GPU holds most, and where a measured peak is to be expected."""
    binding = result.memory.binding
    low, high = result.memory_interval_bytes
    return {
        "phase": binding.phase,
        "pipeline_stage": binding.stage,
        "interval_bytes": [round(low), round(high)],
        "level": LEVEL,
    }


def _phases(result: TrainingResult) -> dict[str, Any]:
    """By phase the fullest stage's bytes, term by term: they sum to the phase's total."""
    found = {}
    for phase in PHASES:
        moment = result.memory.at(phase)
        terms: list[dict[str, Any]] = [
            {"name": term.name, "use": term.part, "bytes": round(float(term.size_bytes))}
            for term in moment.terms
        ]
        found[phase] = {
            "pipeline_stage": moment.stage,
            "total_bytes": sum(term["bytes"] for term in terms),
            "terms": terms,
        }
    return found


def _run(result: TrainingResult) -> dict[str, float] | None:
    run = result.run
    if run is None:
        return None
    return {
        "num_tokens": run.num_tokens,
        "num_steps": run.num_steps,
        "time_s": run.time_s,
        "days": run.days,
        "gpu_hours": run.gpu_hours,
    }


def _interval(result: TrainingResult) -> dict[str, Any] | None:
    """Where a measured step is to be expected, as seconds and as tokens per second."""
    found = result.interval
    if found is None or found.total_s is None:
        return None
    tokens = result.throughput_tokens_per_s * result.step_time_s
    return found.basis() | {
        "step_latency_s": list(found.total_s),
        "throughput_tokens_per_s": found.throughput(tokens),
    }


def _cost(result: TrainingResult, price: Price | float) -> dict[str, Any]:
    cost = training_cost(result, price)
    return {
        "per_gpu_hour": cost.per_gpu_hour,
        "per_million_tokens": cost.per_million_tokens,
        "run": cost.run,
        "price_date": None if cost.price is None else cost.price.date.isoformat(),
        "price_source": None if cost.price is None else cost.price.source,
    }


def _energy(result: TrainingResult) -> dict[str, float | None] | None:
    energy = training_energy(result)
    if energy is None:
        return None
    return {"power_w_per_gpu": energy.power_w, "j_per_token": energy.j_per_token, "run_j": energy.run_j}
