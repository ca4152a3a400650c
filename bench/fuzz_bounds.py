"""Cases of `make fuzz` that hold answers against the hardware: none beats the data sheets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from fuzz_cases import Failure

from llm_perf.config.loading import known_names
from llm_perf.systems.registry import system_names


def fuzz_roof(draw: random.Random, folder: Path) -> None:  # noqa: ARG001
    """No answer beats the data sheets: 2 FLOPs per weight that a token meets, at the fastest format."""
    from llm_perf.errors import LLMPerfError

    kind = draw.choice((_roof_of_inference, _roof_of_inference, _roof_of_training, _roof_of_requests))
    try:
        kind(draw)
    except LLMPerfError:
        return  # what cannot be, or does not fit


def _weights_met(model: Any) -> float:
    """Matrices' weights that each token of a prompt meets: neither tables nor the head, which the last one meets."""
    from llm_perf.counts.parameters import active_params, embedding_params, lm_head_params, norm_params

    tables = embedding_params(model) - model.ngram_params
    return float(active_params(model) - tables - lm_head_params(model) - norm_params(model))


def _flops_per_s(gpu: Any, gpus: int) -> float:
    return float(max(gpu.peak_tflops.values())) * 1e12 * gpus


def _not_below(seconds: float, least: float, question: dict[str, Any]) -> None:
    if not seconds >= least * (1 - 1e-6):
        raise Failure(f"{seconds:.4g} s is below the data sheets' {least:.4g} s\n  {question}")


def _roof_of_inference(draw: random.Random) -> None:
    from llm_perf import predict

    question: dict[str, Any] = {
        "model": draw.choice(known_names("model")),
        "gpu": draw.choice(known_names("GPU")),
        "system": draw.choice(system_names()),
        "weight_format": draw.choice(
            ("auto", "auto", "fp8", "awq", "gptq", "q4_k_m", "q8_0", "nf4", "mxfp4", "int8")
        ),
        "flops_efficiency": draw.choice((None, None, 1.0)),
        "hbm_memory_efficiency": draw.choice((None, None, 1.0)),
    }
    for name, most in (
        ("batch_size", 11),
        ("prompt_len", 14),
        ("gen_len", 11),
        ("tp_size", 3),
        ("pp_size", 2),
    ):
        question[name] = (
            draw.randrange(1, 2 ** draw.randrange(1, most)) if "len" in name else 2 ** draw.randrange(most)
        )
    question = {name: value for name, value in question.items() if value is not None}
    result = predict(**question).result
    if any("defect of llm-perf" in said for said in result.warnings):
        raise Failure(f"{result.warnings}\n  {question}")
    scenario = result.scenario
    phases = (result.prefill, *(() if result.decode is None else (result.decode,)))
    if scenario.gpu.absent or any("cpu" in phase.busy_s for phase in phases):
        return  # a processor computes a part
    weights, rate = _weights_met(scenario.model), _flops_per_s(scenario.gpu, scenario.parallelism.num_gpus)
    a_token = 2 * weights * question["batch_size"] / rate
    _not_below(result.prefill.latency_s, a_token * question["prompt_len"], question)
    if result.decode is not None:
        _not_below(result.decode.latency_s, a_token * (question["gen_len"] - 1), question)
    for phase in phases:
        shares = [phase.busy_s[name] / phase.latency_s for name in phase.busy_s]
        if max(shares, default=0.0) > 1.0 + 1e-9:
            raise Failure(f"busy {max(shares)} of the time\n  {question}")


def _roof_of_training(draw: random.Random) -> None:
    from llm_perf.analysis.training import predict_training
    from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
    from llm_perf.systems.training.framework import FRAMEWORKS

    question: dict[str, Any] = {
        "model": draw.choice(known_names("model")),
        "gpu": draw.choice(known_names("GPU")),
        "framework": draw.choice(FRAMEWORKS),
        "micro_batch_size": 2 ** draw.randrange(6),
        "seq_len": draw.randrange(1, 2 ** draw.randrange(1, 14)),
        "lora_rank": draw.choice((0, 0, 16)),
        "flops_efficiency": draw.choice((None, None, 1.0)),
        "precision": draw.choice((None, None, "bf16", "fp8")),
    }
    question |= {name: 2 ** draw.randrange(3) for name in ("tp_size", "pp_size", "dp_size")}
    question = {name: value for name, value in question.items() if value is not None}
    result = predict_training(build_training_scenario(TrainingInputs(**question)))
    scenario = result.scenario
    # Nothing flows back through the first layer of frozen weights; all others turn a gradient of activations each.
    passes = 3.0 if not question["lora_rank"] else 2.0 - 1.0 / scenario.model.num_layers
    tokens = result.batch.global_batch_size * question["seq_len"]
    least = passes * 2 * _weights_met(scenario.model) * tokens / _flops_per_s(scenario.gpu, scenario.num_gpus)
    _not_below(result.step_time_s, least, question)
    if any("defect of llm-perf" in said for said in result.warnings):
        raise Failure(f"{result.warnings}\n  {question}")


def _roof_of_requests(draw: random.Random) -> None:
    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.analysis.simulation import ServiceInputs, simulation_of
    from llm_perf.requests.outcome import COMPLETED

    deployment = {"model": draw.choice(known_names("model")), "gpu": draw.choice(known_names("GPU")),
                  "system": draw.choice(system_names()), "tp_size": 2 ** draw.randrange(4)}  # fmt: skip
    traffic: dict[str, Any] = {"num_requests": draw.randrange(1, 60), "prompt_len": draw.randrange(1, 3000),
                               "gen_len": draw.randrange(1, 300), "replicas": draw.choice((1, 1, 2, 3))}  # fmt: skip
    traffic |= draw.choice(({"rate": 10.0 ** draw.randrange(-1, 4)}, {"concurrency": draw.randrange(1, 40)}))
    question = deployment | traffic
    found = simulation_of(InferenceInputs(**deployment), ServiceInputs(**traffic))
    scenario, outcome = found.scenario, found.outcome
    if scenario.gpu.absent or "cpu" in found.idle.prefill.busy_s:
        return
    done = outcome.status == COMPLETED
    if not done.any():
        return
    a_token = 2 * _weights_met(scenario.model) / _flops_per_s(scenario.gpu, scenario.parallelism.num_gpus)
    asked = outcome.requests
    computed = (asked.prompt_tokens - outcome.cached_tokens + asked.output_tokens - 1)[done]
    first = float(outcome.finished_s[done].max() - outcome.arrival_s.min())
    _not_below(first, a_token * float(computed.sum()) / traffic["replicas"], question)
    alone = (outcome.finished_s - outcome.arrival_s)[done] - a_token * computed
    _not_below(float(alone.min()), 0.0, question)
    if any("defect of llm-perf" in said for said in found.warnings):
        raise Failure(f"{found.warnings}\n  {question}")
