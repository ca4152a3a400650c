"""No answer is quicker than the data sheet allows, and one that were would say that it is a defect."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from llm_perf import predict
from llm_perf.analysis import floor
from llm_perf.analysis.floor import (
    below_the_roof,
    least_decode_step_s,
    least_prefill_s,
    least_training_step_s,
)
from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import ServiceInputs, simulation_of
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.counts.flops import prefill_flops
from llm_perf.errors import LLMPerfError
from llm_perf.systems import Load, system_of
from llm_perf.systems.registry import system_names
from llm_perf.systems.training.framework import FRAMEWORKS

MODELS = ("llama-3.1-8b", "mixtral-8x7b", "opt-13b", "qwen3-30b-a3b", "deepseek-v3", "opt-125m")
GPUS = ("h100-sxm-80gb", "t4", "a100-sxm-80gb", "mi300x", "rtx-4090", "b200", "l4")
CHOICES: dict[str, tuple[Any, ...]] = {
    "batch_size": (1, 1, 2, 8, 64, 256), "prompt_len": (1, 16, 512, 4096), "gen_len": (1, 2, 32, 300),
    "tp_size": (1, 1, 2, 4, 8), "pp_size": (1, 1, 1, 2), "hbm_memory_efficiency": (None, None, 1.0),
    "flops_efficiency": (None, None, 1.0), "weight_format": ("auto", "auto", "fp8", "awq", "q4_k_m", "nf4"),
}  # fmt: skip


def of(question: dict[str, Any]) -> Any:
    return predict(**{name: value for name, value in question.items() if value is not None}).result


def test_no_answer_is_below_the_roof() -> None:
    answered = set()
    for system in system_names():
        draw = random.Random(f"roof of {system}")
        for _ in range(40):
            question = {name: draw.choice(values) for name, values in CHOICES.items()}
            try:
                result = of(
                    question | {"model": draw.choice(MODELS), "gpu": draw.choice(GPUS), "system": system}
                )
            except LLMPerfError:
                continue  # what the system cannot do
            answered.add(system)
            assert not [said for said in result.warnings if "defect of llm-perf" in said], (system, question)
    assert len(answered) >= len(system_names()) - 3  # some run on a few machines alone


@pytest.mark.parametrize(
    ("model", "gpu"), [("gemma-3n-e4b", "t4"), ("gemma-4-e2b", "l4"), ("gemma-4-e4b", "h200")]
)
def test_tables_of_layers_are_no_weights_that_a_token_reads(model: str, gpu: str) -> None:
    """A row of each, of 2.3 to 2.8 billion elements: the roof of a step took them for read."""
    result = of(
        {"model": model, "gpu": gpu, "system": "resident", "hbm_memory_efficiency": 1.0, "gen_len": 125}
    )
    assert not [said for said in result.warnings if "defect of llm-perf" in said]


def test_the_last_block_of_tokens_that_nobody_asks_for_is_not_needed() -> None:
    """By hand: of 48 blocks of 8 x 12,288^2 elements one meets 1 of 55 tokens; llama.cpp leaves the others out."""
    question = {
        "model": "nvidia_fastertransformer-GPT-89B", "gpu": "apple-m1-ultra-48c", "system": "llama_cpp",
        "weight_format": "mxfp4", "flops_efficiency": 1.0, "hbm_memory_efficiency": 1.0, "batch_size": 32,
        "prompt_len": 55, "gen_len": 30,
    }  # fmt: skip
    result = of(question)
    whole = float(prefill_flops(result.scenario.model, 32, 55))
    left_out = 2 * 8 * 12288**2 * 32 * 54
    peak = 15.7e12  # no 16-bit matrix format: its fp32
    assert least_prefill_s(result.scenario) == pytest.approx((whole - left_out) / peak, rel=1e-9)
    assert result.prefill.busy_s["compute"] >= (whole - left_out) / peak
    assert not [said for said in result.warnings if "defect of llm-perf" in said]


@pytest.mark.parametrize("pp_size", [1, 2])
def test_nothing_is_busy_for_longer_than_a_phase_takes(pp_size: int) -> None:
    """Of stages too: times are of one way through them."""
    answered = set()
    for system in system_names():
        draw = random.Random(f"busy {system}")
        for _ in range(20):
            question = {name: draw.choice(values) for name, values in CHOICES.items()} | {"pp_size": pp_size}
            try:
                result = of(
                    question | {"model": draw.choice(MODELS), "gpu": draw.choice(GPUS), "system": system}
                )
            except LLMPerfError:
                continue
            answered.add(system)
            for phase in (result.prefill, *(() if result.decode is None else (result.decode,))):
                for name, seconds in phase.busy_s.items():
                    assert seconds <= phase.latency_s * (1 + 1e-9), (system, name, question)
    assert len(answered) > 5


@pytest.mark.parametrize("system", ["vllm", "resident", "zero_inference", "llama_cpp"])
def test_no_interval_reaches_below_the_roof(system: str) -> None:
    """Wide intervals of large steps would: the lower end stops at the floor, the upper end and the factor stay."""
    stopped, draw = 0, random.Random(f"interval of {system}")
    for _ in range(60):
        question = {name: draw.choice(values) for name, values in CHOICES.items()}
        try:
            result = of(question | {"model": draw.choice(MODELS), "gpu": draw.choice(GPUS), "system": system})
        except LLMPerfError:
            continue
        interval = result.interval
        resources = (*result.prefill.busy_s, *(result.decode.busy_s if result.decode else ()))
        least = floor.floor_s(result.scenario, result.placement, resources)
        if interval is None or interval.total_s is None or least is None:
            continue
        steps = result.decode.latency_s / result.tpot_s if result.decode else 0.0
        low, high = interval.total_s
        assert low >= (least[0] + steps * least[1]) * (1 - 1e-6)
        assert low <= result.total_latency_s * (1 + 1e-6) <= high * (1 + 1e-6)
        assert interval.total_factor == pytest.approx((high / low * interval.lowered) ** 0.5)
        stopped += interval.lowered > 1
    assert stopped or system != "resident"


def test_one_that_is_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    question = {"model": "llama-3.1-8b", "gpu": "h100-sxm-80gb"}
    result = of(question)
    monkeypatch.setattr(floor, "least_decode_step_s", lambda *_: 1.01 * result.tpot_s)
    (said,) = [said for said in of(question).warnings if "defect of llm-perf" in said]
    assert "decode step" in said
    assert "report" in said


def test_the_floors_are_the_data_sheets() -> None:
    """One token of a dense model: every weight but the token table once at the bandwidth; 2 FLOPs per weight at the peak."""
    result = of({"model": "llama-3.1-8b", "gpu": "h100-sxm-80gb", "prompt_len": 1, "flops_efficiency": 1.0})
    scenario = result.scenario
    model, gpu = scenario.model, scenario.gpu
    weights = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336) + 4096 * 128256
    norms = 65 * 4096
    assert least_decode_step_s(scenario, result.placement) == pytest.approx(
        2 * (weights + norms) / gpu.hbm_bandwidth_bytes_per_s, rel=1e-9
    )
    scores = 4 * 32 * 4096
    assert least_prefill_s(scenario) == pytest.approx(
        (2 * weights + scores) / max(gpu.peak_tflops.values()) / 1e12
    )
    assert model.num_layers == 32


def test_half_the_latency_of_a_roofline_is_found_out() -> None:
    """At full efficiency the prefill of many tokens is nearly its floor: half of it is below."""
    question = {
        "model": "llama-3.1-8b",
        "gpu": "h100-sxm-80gb",
        "prompt_len": 8192,
        "flops_efficiency": 1.0,
        "weight_format": "fp8",
    }
    scenario = of(question).scenario
    evaluation = system_of(scenario).evaluate(scenario, Load.of(scenario.workload))
    assert below_the_roof(scenario, evaluation, None) is None
    quick = replace(
        evaluation, prefill=replace(evaluation.prefill, latency_s=0.5 * least_prefill_s(scenario))
    )
    assert "prefill" in (below_the_roof(scenario, quick, None) or "")


TRAINED: dict[str, tuple[Any, ...]] = {
    "micro_batch_size": (1, 2, 16), "seq_len": (1, 64, 2048), "tp_size": (1, 2), "pp_size": (1, 2), "dp_size": (1, 4),
    "lora_rank": (0, 0, 16), "flops_efficiency": (None, 1.0), "precision": (None, "fp8"),
}  # fmt: skip


def test_no_step_of_training_is_below_the_roof() -> None:
    draw, answered = random.Random("roof of training"), 0
    for _ in range(300):
        question = {name: draw.choice(values) for name, values in TRAINED.items()}
        question |= {
            "model": draw.choice(MODELS),
            "gpu": draw.choice(GPUS),
            "framework": draw.choice(FRAMEWORKS),
        }
        try:
            result = trained(question)
        except LLMPerfError:
            continue
        answered += 1
        assert not [said for said in result.warnings if "defect of llm-perf" in said], question
        assert result.step_time_s >= least_training_step_s(result.scenario, result.batch.global_batch_size)
    assert answered > 50


def trained(question: dict[str, Any]) -> Any:
    given = {name: value for name, value in question.items() if value is not None}
    return predict_training(build_training_scenario(TrainingInputs(**given)))


def test_a_step_of_training_that_is_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    question = {"model": "llama-3.1-8b", "gpu": "h100-sxm-80gb", "tp_size": 8, "micro_batch_size": 2}
    result = trained(question)
    # 2 FLOPs per weight and token forward, 4 backward, at the fastest format
    weights = 32 * (4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336) + 4096 * 128256
    least = least_training_step_s(result.scenario, result.batch.global_batch_size)
    products = 6 * weights * result.batch.global_batch_size * result.scenario.plan.seq_len
    assert least >= products / max(result.scenario.gpu.peak_tflops.values()) / 1e12 / 8
    assert least < result.step_time_s
    monkeypatch.setattr(floor, "least_training_step_s", lambda *_: 1.01 * result.step_time_s)
    (said,) = [said for said in trained(question).warnings if "defect of llm-perf" in said]
    assert "the step of" in said


def simulated(**question: Any) -> Any:
    deployment = {
        name: question.pop(name) for name in ("model", "gpu", "system", "tp_size") if name in question
    }
    return simulation_of(InferenceInputs(**deployment), ServiceInputs(**question))


def test_no_simulation_is_below_the_roof() -> None:
    draw, answered = random.Random("roof of requests"), 0
    for _ in range(120):
        question = {"model": draw.choice(MODELS), "gpu": draw.choice(GPUS), "tp_size": draw.choice((1, 2, 8)),
                    "system": draw.choice(("vllm", "sglang", "tensorrt_llm", "transformers_serve")),
                    "num_requests": draw.choice((1, 8, 40)), "prompt_len": draw.choice((1, 64, 2000)),
                    "gen_len": draw.choice((1, 2, 60)), "rate": draw.choice((0.5, 20.0, 1e4)),
                    "replicas": draw.choice((1, 1, 3))}  # fmt: skip
        try:
            found = simulated(**question)
        except LLMPerfError:
            continue
        answered += 1
        assert not [said for said in found.warnings if "defect of llm-perf" in said], question
    assert answered > 30


@pytest.mark.parametrize("field", ["steps", "finished_s"])
def test_a_simulation_that_is_says_so(field: str) -> None:
    """Every step at a tenth of its time, or all requests done before their products could be."""
    found = simulated(
        model="llama-3.1-8b", gpu="h100-sxm-80gb", num_requests=64, prompt_len=4000, gen_len=20, rate=1e6
    )
    idle, outcome = found.idle, found.outcome
    resources = (*idle.prefill.busy_s, *idle.decode.busy_s)
    assert floor.requests_below_the_roof(idle.scenario, idle.placement, resources, outcome, 1) is None
    if field == "steps":
        quick = replace(outcome, steps=replace(outcome.steps, duration_s=outcome.steps.duration_s / 10))
    else:
        quick = replace(outcome, finished_s=outcome.finished_s / 10)
    said = floor.requests_below_the_roof(idle.scenario, idle.placement, resources, quick, 1)
    assert said is not None
    assert ("quickest step" if field == "steps" else "whole") in said


@pytest.mark.parametrize("framework", ["hf_trainer", "megatron", "fsdp"])
def test_no_end_of_an_interval_of_a_step_is_quicker_than_the_format_allows(framework: str) -> None:
    inputs = TrainingInputs(
        model="llama-3.1-8b", gpu="rtx-4090", framework=framework, micro_batch_size=4, seq_len=2048
    )
    result = predict_training(build_training_scenario(inputs))
    assert result.interval is not None
    assert result.interval.total_s is not None
    low, high = result.interval.total_s
    least = least_training_step_s(result.scenario, result.batch.global_batch_size, result.peak_flops_per_s)
    assert least <= low <= result.step_time_s <= high
