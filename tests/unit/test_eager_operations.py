"""What the host launches one by one in a prefill: counted from the layers, and what it costs a short prompt."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.systems.eager_operations import composed_mixtures, eager_operations
from llm_perf.systems.forward import Forward
from llm_perf.systems.host_time import host_s_per_pass
from llm_perf.systems.hybrid import has_experts
from llm_perf.systems.registry import system_of


def forward(model: str = "llama-3.1-8b", us: float = 50.0, **inputs: Any) -> Forward:
    asked = build_scenario(InferenceInputs(model=model, gpu="h100-sxm", system="vllm@0.10", **inputs))
    changed = asked.replace(constants=(("prefill_operation_us", us), ("prefill_python_us_per_layer", 0.0)))
    return Forward(changed, system_of(changed).constants(changed))


def test_operations_of_a_dense_layer() -> None:
    # 2 norms, 4 products, rotary embedding, cache and attention, the activation function.
    assert eager_operations(forward()) == 32 * 10
    # Each of the four products narrows its activations first.
    assert eager_operations(forward(weight_format="fp8")) == 32 * 14
    # Two sums over the ranks.
    assert eager_operations(forward(num_gpus=2, tp_size=2)) == 32 * 12


def test_operations_of_a_mixture_are_more() -> None:
    # 2 norms, 2 products of attention, router, 2 grouped ones, attention's 3, routing's 5.
    assert eager_operations(forward("Qwen3-30B-A3B")) == 48 * 15
    latent = forward("deepseek-v3", num_gpus=8, tp_size=8, weight_format="fp8")
    assert eager_operations(latent) / 61 > 30


@pytest.mark.parametrize("model", ["llama-3.1-8b", "Qwen3-30B-A3B"])
def test_a_pass_over_prompts_takes_so_many_times_one_operation(model: str) -> None:
    none, some = forward(model, 0.0), forward(model, 70.0)
    more = host_s_per_pass(some, prefill=True) - host_s_per_pass(none, prefill=True)
    assert float(more) == pytest.approx(some.host_time_scale * eager_operations(some) * 70e-6)


def test_steps_that_are_replayed_do_not_ask() -> None:
    assert host_s_per_pass(forward(us=0.0)) == host_s_per_pass(forward(us=900.0))


def test_layers_with_experts_take_the_host_more() -> None:
    none, some = (
        host_s_per_pass(_with_moe(model, us), prefill=True)
        for model, us in (("Qwen3-30B-A3B", 0.0), ("Qwen3-30B-A3B", 800.0))
    )
    assert float(some - none) == pytest.approx(_with_moe("Qwen3-30B-A3B", 0.0).host_time_scale * 48 * 800e-6)
    dense = [host_s_per_pass(_with_moe("llama-3.1-8b", us), prefill=True) for us in (0.0, 800.0)]
    assert dense[0] == dense[1]


@pytest.mark.parametrize(
    ("model", "gpu", "weights", "layers"),
    [
        ("gpt-oss-120b", "b200", None, 0),  # 4 bits by activations in 8, in one call
        ("gpt-oss-120b", "h200", None, 36),  # unpacked to 16 bits by Triton's kernels
        ("gpt-oss-120b", "rtx-pro-6000", None, 36),  # Blackwell without tensor memory
        ("deepseek-r1", "b200", "nvfp4", 0),
        ("deepseek-r1", "b200", None, 58),  # 8 bits with scales of blocks
        ("llama-3.1-70b", "b200", "nvfp4", 0),
    ],
)
def test_experts_in_one_call_take_the_host_no_more(
    model: str, gpu: str, weights: str | None, layers: int
) -> None:
    asked = build_scenario(
        InferenceInputs(model=model, gpu=gpu, weight_format=weights, system="tensorrt_llm@1.1")
    )
    constants = system_of(asked).constants(asked)
    assert (constants["one_call_moe"], constants["prefill_moe_us"]) == (1, 2000)
    assert composed_mixtures(Forward(asked, constants)) == layers
    composed = composed_mixtures(Forward(asked, constants | {"one_call_moe": 0.0}))
    assert composed == sum(group.count for group in asked.model.layer_groups if has_experts(group))


def test_experts_in_one_call_are_one_operation() -> None:
    asked = build_scenario(InferenceInputs(model="gpt-oss-120b", gpu="b200", system="sglang@0.5"))
    constants = system_of(asked).constants(asked)
    assert constants["one_call_moe"] == 1
    one = eager_operations(Forward(asked, constants))
    composed = eager_operations(Forward(asked, constants | {"one_call_moe": 0.0}))
    # Two grouped products, each with what narrows its activations, and routing's 5.
    assert composed - one == 36 * (4 + 5 - 1)


@pytest.mark.parametrize(
    ("model", "layers"),
    [("Qwen3-Next-80B-A3B-Instruct", 36), ("nemotron-nano-9b-v2", 0), ("llama-3.1-8b", 0)],
)
def test_scans_in_chunks_take_the_host_more(model: str, layers: int) -> None:
    asked = build_scenario(
        InferenceInputs(model=model, gpu="h100-sxm", num_gpus=4, tp_size=4, system="vllm@0.10")
    )
    changed = [asked.replace(constants=(("prefill_scan_us", us),)) for us in (0.0, 700.0)]
    none, some = (Forward(one, system_of(one).constants(one)) for one in changed)
    more = host_s_per_pass(some, prefill=True) - host_s_per_pass(none, prefill=True)
    assert float(more) == pytest.approx(some.host_time_scale * layers * 700e-6)


def _with_moe(model: str, us: float) -> Forward:
    asked = build_scenario(InferenceInputs(model=model, gpu="h100-sxm", system="vllm@0.10"))
    changed = asked.replace(constants=(("prefill_moe_us", us),))
    return Forward(changed, system_of(changed).constants(changed))
