"""Predictions of inference and of training say the same things by the same names."""

from __future__ import annotations

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.result import Result
from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.report.answer import quickest_of

INFERENCE = predict_inference(build_scenario(InferenceInputs(model="opt-1.3b", gpu="t4", batch_size=2)))
TRAINING = predict_training(build_training_scenario(TrainingInputs(model="opt-1.3b", gpu="a100-sxm-80gb")))
TOKENS = {
    "inference": (INFERENCE, 2 * 32),
    "training": (TRAINING, TRAINING.batch.global_batch_size * TRAINING.scenario.plan.seq_len),
}


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens_per_second_are_tokens_over_the_latency(kind: str) -> None:
    result, tokens = TOKENS[kind]
    assert result.latency_s * result.tokens_per_s == pytest.approx(tokens)


@pytest.mark.parametrize("result", [INFERENCE, TRAINING], ids=TOKENS)
def test_uses_of_memory_are_all_of_it_and_the_allocator_has_all_but_the_reserve(result: Result) -> None:
    for _, tier in result.memory.named:
        assert sum(float(getattr(tier, use)) for use in tier.uses) == pytest.approx(float(tier.total_bytes))
    gpu = result.memory.gpu
    assert 0 < float(gpu.reserved_bytes) < float(gpu.total_bytes)
    outside = float(gpu.total_bytes) - result.peak_gpu_memory_bytes
    assert outside == pytest.approx(float(gpu.reserved_bytes))


@pytest.mark.parametrize("result", [INFERENCE, TRAINING], ids=TOKENS)
def test_an_interval_is_there_or_a_reason(result: Result) -> None:
    assert (result.interval is None) == (result.no_interval is not None)


def test_a_profile_is_no_version_of_the_software() -> None:
    asked = TrainingInputs(model="opt-1.3b", gpu="a100-sxm-80gb", framework="megatron_2022")
    scenario = build_training_scenario(asked)
    assert predict_training(scenario).version == predict_training(scenario).software.stands_for
    name = next(iter(predict_training(scenario).software.constants))
    value = predict_training(scenario).software.value(name)
    assert predict_training(scenario.replace(constants=((name, value),))).version is None


def test_the_quickest_is_one_that_fits_where_any_does() -> None:
    asked = InferenceInputs(model="opt-13b", gpu="t4")
    small, large, larger = (
        predict_inference(build_scenario(asked.replace(gpu=gpu)))
        for gpu in ("rtx-4090", "a100-sxm-40gb", "h100-sxm-80gb")
    )
    assert not small.feasible
    assert quickest_of([small, large]) is large
    assert quickest_of([large, small, larger]) is larger
    assert quickest_of([small]) is small
