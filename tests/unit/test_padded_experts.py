"""Grouped kernels that give each expert a block of rows, and products whose kernels walk along their inputs."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.systems.constants import stands_on
from llm_perf.systems.families import release_of
from llm_perf.systems.format_kernels import BLOCK_SCALED, walk_s
from llm_perf.systems.forward import Forward
from llm_perf.systems.host_time import prefill_overhead_s
from llm_perf.systems.padded_experts import empty_blocks
from llm_perf.systems.registry import system_of

BLOCK = 128.0


def forward(system: str = "vllm@0.12", more: dict[str, float] | None = None, **inputs: Any) -> Forward:
    asked = {"model": "Qwen3-235B-A22B", "gpu": "h200-sxm", "weight_format": "fp8_block", "tp_size": 2}
    scenario = build_scenario(InferenceInputs(system=system, **(asked | inputs)))
    changed = scenario.replace(constants=tuple(sorted((more or {}).items())))
    return Forward(changed, system_of(changed).constants(changed))


def mlp_s(one: Forward, tokens: float) -> float:
    return float(one.decode_step(tokens)[0].parts_s["mlp"])


@pytest.mark.parametrize(
    ("rows", "touched", "empty"),
    [
        (0.0, 0.0, 127.0),  # 128 experts add 127 rows each
        (8.0, 8.0, 127.0 + 8 / 128 - 8),  # one block for each that has a row
        (128 * 128.0, 128.0, 128 + 127 - 128 * 1.5),  # each fills one, and half of another on average
    ],
)
def test_blocks_that_no_row_falls_into_are_counted(rows: float, touched: float, empty: float) -> None:
    assert empty_blocks(BLOCK, 128.0, rows, touched) == pytest.approx(empty)


def test_experts_without_a_token_are_loaded_in_the_versions_that_pad_them() -> None:
    """Each block that stays empty loads two bytes per weight of an expert, at the rate of the multiprocessors."""
    tokens = 4.0
    padded, plain = forward(), forward(more={"padded_expert_rows": 0.0})
    group, products = padded.groups[0]
    experts = [product for product in products if product.is_expert]
    weights = sum(product.weights for product in experts)
    rate = padded.constants["padded_gb_per_s_per_sm_ghz"] * 1e9 * 132 * 1.98
    touched = padded.touched(experts[0], tokens)
    empty = empty_blocks(BLOCK, 128.0, 8 * tokens, touched)
    expected = padded.model.num_layers * 2.0 * weights * float(empty) / rate
    assert mlp_s(padded, tokens) - mlp_s(plain, tokens) == pytest.approx(expected)
    assert group.count == padded.model.num_layers
    # So a step of few tokens takes nearly what one of many does, which it does not elsewhere.
    assert mlp_s(padded, 2.0) > 0.85 * mlp_s(padded, 64.0)
    assert mlp_s(forward("vllm@0.10"), 2.0) < 0.5 * mlp_s(forward("vllm@0.10"), 64.0)


@pytest.mark.parametrize(
    "inputs",
    [
        {"tp_size": 8},
        {"weight_format": "bf16", "tp_size": 4},
        {"system": "vllm@0.10"},
        {"system": "vllm@0.15"},
        {"system": "sglang@0.5"},
    ],
)
def test_other_ranks_formats_and_versions_have_no_empty_blocks(inputs: dict[str, Any]) -> None:
    plain, slower = (forward(more={"padded_gb_per_s_per_sm_ghz": rate}, **inputs) for rate in (21.0, 1.0))
    assert mlp_s(plain, 4.0) == mlp_s(slower, 4.0)


def test_the_versions_that_pad_are_a_file_that_stands_on_the_one_before() -> None:
    assert [release_of("vllm", version)[0] for version in ("0.11.0", "0.11.1", "0.12.0", "0.14.1", "0.15.0")] == [
        "0.10", "0.12", "0.12", "0.12", "0.15",
    ]  # fmt: skip
    assert stands_on("vllm", "0.12", "0.10")
    assert stands_on("tensorrt_llm", "1.2", "1.1")
    assert not stands_on("vllm", "0.10", "0.12")
    assert not stands_on("vllm", "0.15", "0.10")


def test_kernels_that_walk_along_the_inputs_take_the_same_however_few_the_outputs() -> None:
    constants = {"block_8bit_walk_us": 0.2, "native_4bit_walk_us": 0.4}
    assert walk_s(constants, BLOCK_SCALED, 7168) == pytest.approx(56 * 0.2e-6)
    assert walk_s(constants, "native 4-bit", 1024) == pytest.approx(8 * 0.4e-6)
    assert walk_s(constants, "native 8-bit", 7168) == 0.0


def test_a_walk_is_a_roof_of_small_products_and_no_more() -> None:
    """Of few rows it adds what the weights do not take already; of many the weights and the arithmetic hide it."""
    asked = {"system": "tensorrt_llm@1.1", "model": "deepseek-r1", "gpu": "b200-180gb", "tp_size": 8}
    without, walked = (
        forward(more={"block_8bit_walk_us": us}, **asked).decode_step(4)[0].parts_s for us in (0.0, 0.14)
    )
    assert walked["attention_projections"] > 1.05 * without["attention_projections"]
    assert walked["lm_head"] == without["lm_head"]  # 16 bits
    without, walked = (
        forward(more={"block_8bit_walk_us": us}, **asked).prefill(1, 8192).parts_s for us in (0.0, 0.14)
    )
    assert walked["attention_projections"] == pytest.approx(without["attention_projections"], rel=0.01)


def test_a_server_before_the_engine_delays_first_tokens_alone() -> None:
    few, more = (forward("vllm@0.15", more={"server_ms": ms}) for ms in (0.0, 10.0))
    assert prefill_overhead_s(more) - prefill_overhead_s(few) == pytest.approx(10e-3 * few.host_time_scale)
    assert few.decode_step(4)[0].total_s == more.decode_step(4)[0].total_s
