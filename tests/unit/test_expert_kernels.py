"""Kernels of mixtures: shares of the peak by format, and what rows move on their way to experts."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.systems.costs import Costs
from llm_perf.systems.eager_operations import more_kernels
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
    by_share = {"marlin_gflops_per_sm_per_ghz": 0.0}
    fast, slow = (forward(more=by_share | {name: share}, **inputs) for share in (0.4, 0.1))
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


@pytest.mark.parametrize(
    ("gpu", "model", "inputs", "own"),
    [
        ("b200-180gb", "gpt-oss-120b", {"weight_format": "mxfp4"}, True),
        ("b300-sxm", "gpt-oss-120b", {"weight_format": "mxfp4"}, True),
        ("h200-sxm-141gb", "gpt-oss-120b", {"weight_format": "mxfp4"}, False),
        ("rtx-pro-6000-blackwell-server", "gpt-oss-120b", {"weight_format": "mxfp4"}, False),
        ("b200-180gb", "Qwen3-30B-A3B", {"weight_format": "nvfp4"}, True),
        ("b200-180gb", "Qwen3-30B-A3B", {"weight_format": "fp8"}, False),
        ("b200-180gb", "Qwen3-30B-A3B", {}, False),
        ("b200-180gb", "deepseek-r1", {}, False),
    ],
)
def test_experts_of_4_bits_are_one_module_on_blackwell_with_hbm(
    gpu: str, model: str, inputs: dict[str, str], own: bool
) -> None:
    """Its microseconds stand in place of those of routing, sorting and unpacking kernels, and for no other experts."""

    def step_s(**more: float) -> float:
        asked = build_scenario(InferenceInputs(model=model, gpu=gpu, system="vllm@0.15", **inputs))
        changed = asked.replace(constants=tuple(sorted(more.items())))
        return float(Forward(changed, system_of(changed).constants(changed)).decode_step(4)[0].total_s)

    apart, fused = {"fused_experts_us": 0.0}, {"fused_experts_us": 7.0}
    slow = {"moe_us": 50.0, "expert_weight_only_us": 40.0, "expert_block_us": 30.0, "expert_4bit_us": 20.0}
    layers = build_scenario(InferenceInputs(model=model, gpu=gpu)).model
    mixtures = sum(group.count for group in layers.layer_groups if group.mlp.routed_experts)
    if own:
        assert step_s(**slow, **fused) == pytest.approx(step_s(**fused))
        assert step_s(**slow, **fused) - step_s(moe_us=7.0, **apart) == pytest.approx(0, abs=1e-12)
        assert step_s(moe_us=57.0, **apart) - step_s(**fused) == pytest.approx(mixtures * 50e-6)
    else:
        assert step_s(**slow, **fused) == step_s(**slow, **apart)


def test_4_bit_operands_take_kernels_of_their_own_where_no_module_does_all() -> None:
    """CUTLASS's: on workstation cards, and on B200 where an author chose them."""

    def step_s(gpu: str, weights: str, **more: float) -> float:
        asked = build_scenario(
            InferenceInputs(model="Qwen3-30B-A3B", gpu=gpu, system="vllm@0.15", weight_format=weights)
        )
        changed = asked.replace(constants=tuple(sorted(more.items())))
        return float(Forward(changed, system_of(changed).constants(changed)).decode_step(4)[0].total_s)

    cases = {
        ("rtx-pro-6000-blackwell-server", "nvfp4"): 48,  # layers, each with experts
        ("b200-180gb", "nvfp4"): 48,
        ("b200-180gb", "fp8"): 0,
        ("h200-sxm-141gb", "nvfp4"): 0,  # no units for them: experts are unpacked
    }
    for (gpu, weights), layers in cases.items():
        more, none = (step_s(gpu, weights, fused_experts_us=0.0, expert_4bit_us=us) for us in (50.0, 0.0))
        assert more - none == pytest.approx(layers * 50e-6, abs=1e-12)


def test_experts_with_scales_of_blocks_are_one_module_where_a_stack_says_so() -> None:
    asked = build_scenario(
        InferenceInputs(model="deepseek-r1", gpu="b200-180gb", system="tensorrt_llm@1.2", tp_size=8)
    )

    def step_s(**more: float) -> float:
        changed = asked.replace(constants=tuple(sorted(more.items())))
        return float(Forward(changed, system_of(changed).constants(changed)).decode_step(4)[0].total_s)

    own = {"fused_experts_us": 10.0, "moe_us": 20.0, "expert_block_us": 35.0, "expert_block_each_us": 0.0}
    saved = step_s(**own, fused_block_experts=0.0) - step_s(**own, fused_block_experts=1.0)
    assert saved == pytest.approx(58 * 45e-6)  # 61 layers, the first three of which are dense


def test_grouped_kernels_read_at_a_share_of_their_own() -> None:
    """What plain products of a format reach says nothing of experts'."""
    plain, slower = (
        forward(more={"native_8bit_bandwidth": share, "expert_8bit_flops": 1.0}, weight_format="fp8")
        for share in (1.0, 0.5)
    )
    assert experts_s(plain, 1.0) == experts_s(slower, 1.0)
    assert experts_s(forward(more={"expert_bandwidth": 0.5}, weight_format="fp8"), 64.0) > 1.5 * experts_s(
        forward(more={"expert_bandwidth": 1.0}, weight_format="fp8"), 64.0
    )


def test_latents_and_shared_experts_have_kernels_of_their_own() -> None:
    """Nine kernels take latents apart, three join experts that every token goes through; a plain mixture has neither."""

    def counted(model: str) -> set[int]:
        one = forward(model)
        return {more_kernels(group, products) for group, products in one.groups}

    assert counted("deepseek-r1") == {9, 12}  # three layers without experts
    assert counted("Qwen3-30B-A3B") == counted("llama-3.1-8b") == {0}
    assert counted("Qwen3.5-397B-A17B") == {3}


def test_more_kernels_cost_their_floors() -> None:
    one = forward("deepseek-r1", tp_size=8)
    c, floor_s = one.constants, one.rates.elementwise_floor_s
    expected = [c["layer_us"] * 1e-6 + 9 * floor_s * c["graph_floor_scale"]]
    expected.append(
        expected[0] + 3 * floor_s * c["graph_floor_scale"] + (c["moe_us"] + c["expert_block_us"]) * 1e-6
    )
    assert list(one._extra_s) == pytest.approx(expected)
