"""Kernels of mixtures: shares of the peak by format, and what rows move on their way to experts."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.systems.costs import Costs
from llm_perf.systems.forward import Forward
from llm_perf.systems.registry import system_of

TOKENS = 8192.0


def forward(model: str = "Qwen3-30B-A3B", more: dict[str, float] | None = None, **inputs: Any) -> Forward:
    asked = build_scenario(InferenceInputs(model=model, gpu="h100-sxm", system="vllm@0.10", **inputs))
    changed = asked.replace(constants=tuple(sorted((more or {}).items())))
    return Forward(changed, system_of(changed).constants(changed))


def experts_s(one: Forward, tokens: float = TOKENS) -> float:
    costs = Costs()
    one.experts(costs, tokens)
    return float(costs.total_s)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("expert_16bit_flops", {}),
        ("expert_8bit_flops", {"weight_format": "fp8"}),
        ("expert_weight_only_flops", {"weight_format": "awq"}),
    ],
)
def test_experts_compute_at_the_share_of_the_peak_that_their_format_has(
    name: str, inputs: dict[str, str]
) -> None:
    fast, slow = (forward(more={name: share}, **inputs) for share in (0.4, 0.1))
    peak = fast.scenario.gpu.peak_flops_per_s("fp8" if name == "expert_8bit_flops" else "bf16")
    flops = sum(
        2.0 * group.count * product.weights * product.rows(TOKENS)
        for group, products in fast.groups
        for product in products
        if product.is_expert
    )
    # Prompts of this length compute; rows lost to tiles and the kernels' floors come on top.
    assert experts_s(slow) == pytest.approx(flops / (0.1 * peak), rel=0.2)
    assert experts_s(slow) / experts_s(fast) == pytest.approx(4, rel=0.1)


def test_other_formats_and_other_products_do_not_ask() -> None:
    plain = forward()
    other = forward(
        more={"expert_8bit_flops": 0.05, "expert_4bit_flops": 0.05, "expert_weight_only_flops": 0.05}
    )
    assert experts_s(plain) == experts_s(other)
    dense = forward("llama-3.1-8b", more={"expert_16bit_flops": 0.05})
    assert dense.prefill(1, TOKENS).parts_s == forward("llama-3.1-8b").prefill(1, TOKENS).parts_s


def test_a_given_efficiency_is_that_of_experts_as_well() -> None:
    one, other = (forward(more={"expert_16bit_flops": share}, flops_efficiency=0.5) for share in (0.1, 0.9))
    assert experts_s(one) == experts_s(other)


def test_rows_of_experts_move_hidden_vectors() -> None:
    some, more = (
        forward(more={"expert_hidden_vectors": count, "expert_8bit_vectors": 9.0}) for count in (1.0, 3.0)
    )
    model, rate = some.model, some.rates.elementwise_bytes_per_s
    expected = (
        model.num_layers * TOKENS * 8 * 2.0 * model.hidden_size * 2 / rate
    )  # 8 experts per token, 2 bytes
    added = more.prefill(1, TOKENS).parts_s["elementwise"] - some.prefill(1, TOKENS).parts_s["elementwise"]
    assert float(added) == pytest.approx(expected)


def test_rows_that_are_quantised_on_their_way_move_more() -> None:
    wide, narrow = (
        [
            float(
                forward(more={"expert_8bit_vectors": count}, **inputs)
                .prefill(1, TOKENS)
                .parts_s["elementwise"]
            )
            for count in (0.0, 4.0)
        ]
        for inputs in ({}, {"weight_format": "fp8"})
    )
    assert wide[0] == wide[1]
    assert narrow[1] > narrow[0]


def on(gpu: str, **more: float) -> Forward:
    asked = build_scenario(
        InferenceInputs(model="gpt-oss-120b", gpu=gpu, system="vllm@0.15", weight_format="mxfp4")
    )
    changed = asked.replace(constants=tuple(sorted(more.items())))
    return Forward(changed, system_of(changed).constants(changed))


def test_experts_in_mxfp4_compute_at_the_rate_of_8_bit_operands_on_blackwell() -> None:
    """Engines multiply them by mxfp8 activations, whose rate is half that of two 4-bit operands."""
    fast, slow = (on("b200-180gb", expert_mxfp4_flops=share) for share in (0.4, 0.1))
    flops = sum(
        2.0 * group.count * product.weights * product.rows(TOKENS)
        for group, products in slow.groups
        for product in products
        if product.is_expert
    )
    at_peak = flops / slow.scenario.gpu.peak_flops_per_s("fp8")
    assert at_peak / 0.1 < experts_s(slow) < 2 * at_peak / 0.1
    assert experts_s(slow) / experts_s(fast) == pytest.approx(4, rel=0.1)
    assert experts_s(on("b200-180gb", expert_4bit_flops=0.01)) == experts_s(on("b200-180gb"))


def test_without_units_for_4_bits_experts_in_mxfp4_are_unpacked() -> None:
    one, other = (on("h200-sxm-141gb", expert_mxfp4_flops=share) for share in (0.1, 0.4))
    assert experts_s(one) == experts_s(other)
    narrow, wide = (on("mi355x", expert_4bit_flops=share) for share in (0.1, 0.4))
    assert experts_s(narrow) > 2 * experts_s(wide)
