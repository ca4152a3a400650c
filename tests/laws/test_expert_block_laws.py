"""Laws of grouped kernels whose weights have scales of blocks: what they take for experts that they only look at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.systems.forward import Forward
from llm_perf.systems.registry import system_of

MIXTURES = {"Qwen3-30B-A3B": (48, 128), "Qwen3-235B-A22B": (94, 128), "deepseek-r1": (58, 256)}
"""Layers with experts, and experts of each."""


def step_s(model: str, us: float, tokens: int, weights: str = "fp8_block", **division: int) -> float:
    """Seconds of a decode step in which each expert of a rank takes its kernels so many microseconds."""
    asked = build_scenario(
        InferenceInputs(
            model=model, gpu="h200-sxm-141gb", system="tensorrt_llm@1.1", weight_format=weights, **division
        )
    )
    changed = asked.replace(constants=(("expert_block_each_us", us),))
    return float(Forward(changed, system_of(changed).constants(changed)).decode_step(tokens)[0].total_s)


@given(
    model=st.sampled_from(sorted(MIXTURES)),
    ranks=st.sampled_from([1, 2, 4, 8]),
    us=st.floats(0.01, 2.0),
    tokens=st.integers(1, 256),
)
def test_kernels_with_scales_of_blocks_take_as_long_for_each_expert_that_a_rank_holds(
    model: str, ranks: int, us: float, tokens: int
) -> None:
    layers, experts = MIXTURES[model]
    division = {"tp_size": 8, "ep_size": ranks}
    more = step_s(model, us, tokens, **division) - step_s(model, 0.0, tokens, **division)
    assert more == pytest.approx(layers * experts / ranks * us * 1e-6, rel=1e-6)
    plain = {**division, "weights": "fp8"} if model != "deepseek-r1" else {**division, "weights": "bf16"}
    assert step_s(model, us, tokens, **plain) == step_s(model, 0.0, tokens, **plain)
