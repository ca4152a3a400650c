"""Experts in 4 bits by Marlin's kernel: rows of each expert fill blocks up, whose height follows from how many there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.systems.costs import Costs
from llm_perf.systems.forward import Forward
from llm_perf.systems.padded_experts import marlin_block
from llm_perf.systems.registry import system_of


def module_ms(model: str, tokens: float, gpu: str = "h20-sxm-96gb", **more: float) -> float:
    """Both products of one layer's experts for so many tokens, in AWQ by vLLM 0.10."""
    asked = InferenceInputs(
        model=model, gpu=gpu, system="vllm@0.10", weight_format="awq", allow_long_context=True
    )
    scenario = build_scenario(asked).replace(constants=tuple(sorted(more.items())))
    one, costs = Forward(scenario, system_of(scenario).constants(scenario)), Costs()
    one.experts(costs, tokens)
    layers = sum(group.count for group, products in one.groups if any(each.is_expert for each in products))
    return float(costs.total_s) * 1e3 / layers


MARLIN_ON_H20 = {
    "mixtral-8x7b": {
        4: 0.339, 16: 0.444, 32: 0.646, 64: 1.189, 128: 1.705, 256: 3.362, 512: 5.039, 1024: 10.31, 4096: 36.74, 16384: 143.2
    },
    "deepseek-v3": {1: 0.143, 16: 1.395, 64: 2.973},
    "qwen3.5-397b-a17b": {16: 0.599, 64: 1.498, 256: 2.227, 1024: 5.646, 2048: 8.665, 4096: 20.824},
}  # fmt: skip
"""Milliseconds of vLLM 0.20's fused_marlin_moe, W4A16 in bf16, by tokens (flagos-ai/FlagGems pull requests 3609 and 4350)."""

BY_SHARE = {"marlin_expert_blocks": 0.0, "expert_weight_only_flops": 0.54}
"""Without blocks, at the share of the peak that H20's many rows compute at."""


@pytest.mark.parametrize(
    ("model", "tokens"), [(model, tokens) for model, times in MARLIN_ON_H20.items() for tokens in times]
)
def test_experts_in_4_bits_take_what_their_kernel_was_measured_to_take(model: str, tokens: int) -> None:
    assert module_ms(model, float(tokens)) == pytest.approx(MARLIN_ON_H20[model][tokens], rel=0.3)


def test_without_blocks_of_their_own_experts_of_few_rows_would_be_too_quick() -> None:
    """16 rows of each of 8 experts are two blocks' worth of arithmetic, 20 of each of 512 as well."""
    for model, tokens in (("mixtral-8x7b", 64), ("qwen3.5-397b-a17b", 1024)):
        plain = module_ms(model, float(tokens), **BY_SHARE)
        assert plain < 0.7 * MARLIN_ON_H20[model][tokens]
        assert module_ms(model, float(tokens)) > 1.49 * plain


@given(rows=st.floats(0.0, 1e4))
def test_a_block_is_the_least_that_is_filled_to_less_than_nine_tenths(rows: float) -> None:
    heights = [block for block in (8, 16, 32, 48, 64) if rows < 0.9 * block] or [64]
    assert marlin_block(rows) == heights[0]
