"""Kernels by format and generation: whole tiles of 4-bit operands, weights unpacked and multiplied in turn."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.named_models import get_model_config_by_name
from llm_perf.counts.products import Product
from llm_perf.systems.costs import Costs
from llm_perf.systems.format_kernels import unpacked_in_turn_factor
from llm_perf.systems.forward import Forward
from llm_perf.systems.registry import system_of
from llm_perf.systems.tiled_products import turns, whole_tiles_s

CARD = "rtx-pro-6000-blackwell-server"


def forward(gpu: str = CARD, **asked: Any) -> Forward:
    asked = {"model": "llama-3.1-8b", "system": "vllm@0.15", "weight_format": "nvfp4"} | asked
    scenario = build_scenario(InferenceInputs(gpu=gpu, **asked))
    return Forward(scenario, system_of(scenario).constants(scenario))


def product(inputs: float, outputs: float) -> Product:
    (stored,) = {
        each.stored
        for _, products in forward().groups
        for each in products
        if each.stored is not None and each.stored.name == "nvfp4"
    }
    return Product("mlp_up", inputs * outputs, inputs, outputs, stored=stored)


@given(
    tile=st.sampled_from([64, 128, 256]),
    rows=st.integers(1, 3000),
    outputs=st.integers(1, 40_000),
    processors=st.integers(1, 200),
)
def test_the_busiest_multiprocessor_has_the_tiles_that_dealing_them_out_gives_it(
    tile: int, rows: int, outputs: int, processors: int
) -> None:
    dealt = [0] * processors
    for one in range(len(range(0, rows, tile)) * len(range(0, outputs, tile))):
        dealt[one % processors] += 1
    assert turns(tile, float(rows), float(outputs), processors) == max(dealt)


@given(rows=st.integers(1, 128), outputs=st.integers(1, 128 * 188))
def test_few_rows_and_outputs_compute_as_long_as_one_whole_tile(rows: int, outputs: int) -> None:
    one, shape = forward(), product(4096.0, float(outputs))
    gemm, gpu = one._gemm(shape), one.scenario.gpu
    found = whole_tiles_s(one.constants, gemm, gpu, shape, float(rows))
    peak = gpu.peak_tflops["fp4"] * 1e12 / gpu.sm_count * one.constants["native_4bit_tile_flops"]
    assert found == pytest.approx(2 * 4096 * 128 * 128 / peak)
    assert one.product_s(shape, float(rows)).compute_s >= found


TIMED_US = {
    (1, 2048, 4096): 21.0, (1, 4096, 4096): 21.1, (64, 6144, 4096): 21.1, (512, 6144, 4096): 42.1, (1, 1024, 8192): 37.1,
    (64, 8192, 8192): 39.6, (512, 8192, 8192): 78.7, (1, 4096, 12288): 51.7, (128, 4096, 12288): 52.5,
    (64, 16384, 4096): 35.3, (64, 12288, 12288): 70.4, (64, 16384, 16384): 118.9, (128, 16384, 16384): 117.7,
}  # fmt: skip
"""Microseconds by rows, outputs and inputs: nvfp4 by vLLM 0.19 on RTX PRO 6000 Server Edition, activations narrowed first
(ai-dynamo/aiconfigurator, rtx_pro_6000_server, gemm_perf); 6 of them are what the smallest products take."""


@pytest.mark.parametrize("shape", TIMED_US)
def test_products_of_4_bit_operands_take_what_was_timed(shape: tuple[int, int, int]) -> None:
    rows, outputs, inputs = shape
    plain = forward()
    # Of 64 rows and more they read as fast as others; the version's share is that of fewer rows as well.
    one = Forward(plain.scenario, plain.constants | {"native_4bit_bandwidth": 1.0})
    found = one.product_s(product(float(inputs), float(outputs)), float(rows))
    assert (found.seconds - found.floor_s) * 1e6 + 6.0 == pytest.approx(TIMED_US[shape], rel=0.15)


@given(
    gpu=st.sampled_from(["a100-sxm-80gb", "h200-sxm-141gb", "rtx-4090-24gb", "rtx-5090-32gb", "b200-180gb"]),
    rate=st.floats(100.0, 5000.0),
)
def test_seconds_of_unpacking_and_of_multiplying_add_up(gpu: str, rate: float) -> None:
    one = forward(gpu, model="qwen3-30b-a3b", weight_format="awq")
    gemm, found = one.rates.gemm, one.scenario.gpu
    factor = unpacked_in_turn_factor({"marlin_gflops_per_sm_per_ghz": rate}, found, gemm)
    unpacking = rate * 1e9 * found.sm_count * found.sm_clock_mhz / 1000
    both = 1 / gemm.peak_flops_per_s + 1 / unpacking
    assert factor == pytest.approx(max(both * gemm.flops_per_s, 1.0))


MODULE_US = {
    CARD: {64: 213, 256: 268, 1024: 504, 2048: 797, 8192: 2635},
    "h200-sxm-141gb": {256: 252, 512: 371, 1024: 574, 2048: 912, 8192: 2888},
}
"""Microseconds by tokens of 128 experts of 2048 x 768, 8 a token, int4 by Marlin: SGLang 0.5.10 on RTX PRO 6000, vLLM 0.14 on
H200, routing and activations included (ai-dynamo/aiconfigurator, moe_perf, power law 1.01)."""


@pytest.mark.parametrize("gpu", MODULE_US)
def test_experts_by_marlin_take_what_was_timed_on_gpus_of_other_peaks(gpu: str) -> None:
    one = forward(gpu, model="qwen3-30b-a3b", weight_format="awq")
    layers = sum(group.count for group, _ in one.groups)
    for tokens, measured in MODULE_US[gpu].items():
        costs = Costs()
        one.experts(costs, float(tokens))
        vectors = one.constants["expert_hidden_vectors"] * tokens * 8 * 2048 * 2
        found = float(costs.total_s) / layers + vectors / one.rates.elementwise_bytes_per_s
        found += (one.constants["moe_us"] + one.constants["expert_weight_only_us"]) * 1e-6
        assert abs(math.log(found * 1e6 / measured)) < math.log(1.3), tokens


@pytest.mark.parametrize(
    ("model", "name"), [("gpt-oss-20b", "mxfp4"), ("gpt-oss-120b", "mxfp4"), ("deepseek-v3", "fp8")]
)
def test_the_format_of_a_release_asked_for_by_name_is_the_release(model: str, name: str) -> None:
    """What its publisher left in 16 bits stays so: attention of gpt-oss, whose experts alone are in MXFP4."""
    assert get_model_config_by_name(model).quantization is not None
    asked, auto = (
        build_scenario(InferenceInputs(model=model, gpu="h200-sxm", num_gpus=8, tp_size=8, system="vllm", **more)).dtype
        for more in ({"weight_format": name}, {})
    )  # fmt: skip
    assert asked.formats is not None
    assert auto.formats is not None
    assert asked.formats.layers == auto.formats.layers
    assert (asked.formats.embedding, asked.formats.head) == (auto.formats.embedding, auto.formats.head)


@pytest.mark.parametrize(
    ("gpu", "kind"),
    [
        ("b200-180gb", "4-bit by 8-bit"),
        (CARD, "weight-only 4-bit"),
        ("gb10-128gb", "weight-only 4-bit"),
        ("rtx-4090-24gb", "weight-only 4-bit"),
        ("h200-sxm-141gb", "weight-only 4-bit"),
    ],
)
def test_experts_in_mxfp4_are_narrowed_to_8_bits_only_where_tensor_cores_have_a_memory(
    gpu: str, kind: str
) -> None:
    one = forward(gpu, model="gpt-oss-20b", weight_format="mxfp4")
    assert {one._kernel_kind(each) for _, products in one.groups for each in products if each.is_expert} == {
        kind
    }
