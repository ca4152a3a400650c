"""Laws of matrix products of few rows: their bytes bound them, and more rows never take less time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.loading import get_gpu_config_by_name, known_names
from llm_perf.hardware.gpu_time import KernelStyle, kernel_rates, lost_rows
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems import system_of
from llm_perf.systems.costs import Costs
from llm_perf.systems.families import find, folder_of, runs_on
from llm_perf.systems.forward import Forward

LARGE_BYTES = 100e6
CARDS = (
    "rtx-3090-24gb",
    "rtx-4090-24gb",
    "rtx-a6000-48gb",
    "a100-sxm-80gb",
    "h100-sxm-80gb",
    "v100-sxm2-32gb",
    "t4-16gb",
)
STACKS = (
    "llama_cpp",
    "exllama",
    "gpt_fast",
    "autoawq",
    "vllm",
    "sglang",
    "tensorrt_llm",
    "transformers",
    "lmdeploy",
)


def forward_of(gpu: str, system: str = "resident", bits: int = 16, model: str = "qwen3-32b") -> Forward:
    asked = build_scenario(InferenceInputs(model=model, gpu=gpu, system=system, weight_bits=bits))
    return Forward(asked, system_of(asked).constants(asked))


def products_of(forward: Forward):
    return [*forward.groups[0][1], *forward.head]


def pairs(gpus):
    """Stacks on the GPUs that they have kernels for."""
    found = [(system, gpu, runs_on(*find(system))) for system in ("resident", *STACKS) for gpu in gpus]
    return [(s, gpu) for s, gpu, rule in found if rule is None or rule.takes(get_gpu_config_by_name(gpu))]


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize(("system", "gpu"), pairs(CARDS))
def test_no_product_reads_faster_than_the_data_sheet(system, gpu, bits):
    forward = forward_of(gpu, system, bits)
    sheet = forward.scenario.gpu.hbm_bandwidth_bytes_per_s
    for product in products_of(forward):
        stored = product.weights * forward._stored_bytes(product)
        for rows in (1.0, 7.0, 8.0, 9.0, 64.0, 2048.0):
            assert forward.product_s(product, rows).seconds >= stored / sheet * (1 - 1e-12), product.op


@pytest.mark.parametrize("bits", [4, 16])
@pytest.mark.parametrize("gpu", CARDS)
def test_one_row_of_a_large_matrix_takes_what_its_bytes_take(gpu, bits):
    """With 100 MB and more of 16-bit weights the floor and the arithmetic of one tile are small beside the bytes.

    The exception that the knee allows is 15 %: GeForce cards of 2020 have few FLOPs per byte of 4-bit weights.
    """
    forward = forward_of(gpu, "engine@any", bits)
    gemm = forward.rates.gemm
    tested = 0
    for product in products_of(forward):
        if product.weights * 2 < LARGE_BYTES:
            continue
        one = forward.product_s(product, 1.0)
        assert one.memory_s <= one.seconds - one.floor_s <= 1.15 * one.memory_s, product.op
        reads = product.weights * forward.weight_bytes_per_element(product, 1.0)
        assert one.memory_s == pytest.approx(reads / gemm.bytes_per_s, rel=1e-3)
        tested += 1
    assert tested >= 3


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize(
    ("system", "gpu"), pairs([*CARDS, "mi300x-192gb", "mi250x-gcd-64gb", "apple-m2-ultra-76c"])
)
def test_more_rows_are_never_faster(system, gpu, bits):
    """Also where other kernels begin: matrix-vector kernels end at 8 rows, unpacking begins, tiles fill up."""
    forward = forward_of(gpu, system, bits)
    rows = np.array(
        [1, 2, 4, 7, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64, 65, 80, 96, 128, 256, 1024], dtype=float
    )
    for product in products_of(forward):
        seconds = forward.product_s(product, rows).seconds
        assert (np.diff(seconds) >= -1e-12 * seconds[1:]).all(), (product.op, seconds)


@given(
    st.sampled_from(sorted(known_names("GPU"))),
    st.floats(1, 4096),
    st.floats(1, 4096),
    st.integers(20, 30),
)
def test_the_table_of_a_gpu_never_gives_more_rows_less_time(name, rows, more, weights):
    gpu = get_gpu_config_by_name(name)
    gemm = kernel_rates(gpu, 16).gemm
    low, high = sorted((rows, rows + more))
    times = [
        gemm.time_s(gemm.compute_s(m, 2.0**weights), gemm.memory_s(2.0**weights, 0.0, m)) for m in (low, high)
    ]
    assert times[0] <= times[1] * (1 + 1e-12)


def test_rows_are_lost_as_tiles_are():
    """16 rows fill a tile; then each row loses another until ``half_m`` are lost, as large products lose them."""
    assert lost_rows(1.0, 16.0, 55.0) == 15.0
    assert lost_rows(16.0, 16.0, 55.0) == 0.0
    assert lost_rows(40.0, 16.0, 55.0) == 24.0
    assert lost_rows(4096.0, 16.0, 55.0) == 55.0
    assert lost_rows(1.0, 16.0, 0.0) == 15.0
    assert lost_rows(300.0, 1.0, 55.0) == 55.0
    assert list(lost_rows(np.array([1.0, 20.0, 300.0]), 16.0, 55.0)) == [15.0, 4.0, 55.0]


@pytest.mark.parametrize("version", folder_of("llama_cpp").releases)
@pytest.mark.parametrize("gpu", ["mi250x-gcd-64gb", "a100-sxm-80gb"])
def test_nine_rows_take_at_least_what_eight_take_in_llama_cpp(version, gpu):
    forward = forward_of(gpu, f"llama_cpp@{version}", 16, "llama-2-7b")
    product = forward.groups[0][1][0]
    eight, nine = (float(forward.product_s(product, rows).seconds) for rows in (8.0, 9.0))
    assert eight <= nine <= 1.5 * eight


def test_4_bit_decode_of_one_sequence_on_an_rtx_3090_is_bound_by_its_bytes():
    """Qwen3-32B with AWQ: the layers' 17.3 GB take 18.5 ms at 936 GB/s, of which kernels reach three fifths and more."""
    asked = build_scenario(
        InferenceInputs(
            model="qwen3-32b", gpu="rtx-3090-24gb", system="vllm", weight_bits=4, prompt_len=128, gen_len=32
        )
    )
    forward = Forward(asked, system_of(asked).constants(asked))
    layers = sum(
        group.count * sum(float(forward.product_s(product, 1.0).seconds) for product in products)
        for group, products in forward.groups
    )
    assert math.isfinite(layers)
    stored = sum(
        group.count * sum(product.weights * forward._stored_bytes(product) for product in products)
        for group, products in forward.groups
    )
    assert 1.0 < layers / (stored / 936e9) < 1 / 0.6


def test_the_knee_of_one_tile_is_what_the_two_roofs_make_of_it():
    forward = forward_of("rtx-3090-24gb", bits=4)
    product, gemm = forward.groups[0][1][0], forward.rates.gemm
    one = forward.product_s(product, 1.0)
    assert one.compute_s == pytest.approx(2 * 16 * product.weights / gemm.flops_per_s)
    assert one.seconds - one.floor_s == pytest.approx(p_norm(one.compute_s, one.memory_s, gemm.knee_exponent))


@pytest.mark.parametrize("system", ["vllm", "sglang", "transformers"])
@pytest.mark.parametrize("rows", [1.0, 32.0, 4096.0])
def test_weights_converted_before_each_product_cost_16_bits_and_three_bytes_each(system, rows):
    """torchao's 8-bit weights: a conversion reads one byte and writes two, whatever the rows; then the product in 16 bits."""

    def forward(weight_format):
        asked = InferenceInputs(
            model="llama-3.1-8b", gpu="h100-sxm-80gb", system=system, weight_format=weight_format
        )
        scenario = build_scenario(asked)
        return Forward(scenario, system_of(scenario).constants(scenario))

    converted, wide = forward("torchao_int8"), forward("bf16")
    for (group, narrow), (_, plain) in zip(converted.groups, wide.groups, strict=True):
        for product, other in zip(narrow, plain, strict=True):
            assert converted.product_s(product, rows) == wide.product_s(other, rows)
            costs = Costs()
            converted._unpack(costs, product, rows, group.count, rows)
            moved = 3 * group.count * product.weights
            assert costs.parts_s["dequantisation"] == pytest.approx(
                moved / converted.rates.elementwise_bytes_per_s
            )
    assert converted.product_s(converted.head[0], rows) == wide.product_s(wide.head[0], rows)


@pytest.mark.parametrize("gpu", sorted(known_names("GPU")))
def test_kernels_for_warps_of_32_threads_fill_half_of_those_of_64(gpu):
    """Only GCN and CDNA have such warps; on all others they are what kernels for any warp are."""
    board, plain = get_gpu_config_by_name(gpu), KernelStyle(matvec_gb_per_s_per_sm_ghz=7.0)
    narrow = replace(plain, matvec_lanes=32.0)
    wide = (board.architecture or "").startswith(("gcn", "cdna"))
    assert narrow.matvec_gb_per_s_per_sm_ghz_on(board) == (3.5 if wide else 7.0)
    assert plain.matvec_gb_per_s_per_sm_ghz_on(board) == 7.0
    assert replace(plain, matvec_lanes=64.0).matvec_gb_per_s_per_sm_ghz_on(board) == 7.0


def product_of_many_rows_s(gpu: str, system: str, weight_format: str, rows: float = 16_384.0) -> float:
    asked = build_scenario(
        InferenceInputs(model="qwen3-32b", gpu=gpu, system=system, weight_format=weight_format)
    )
    forward = Forward(asked, system_of(asked).constants(asked))
    product = max(forward.groups[0][1], key=lambda one: one.weights)
    return float(forward.product_s(product, rows).compute_s)


@pytest.mark.parametrize("weight_format", ["int4", "nvfp4_weight_only"])
@pytest.mark.parametrize(
    ("gpu", "system", "times"),
    [
        ("a100-sxm-80gb", "sglang@0.5", 1.0),  # its peak is what a warp reaches
        ("h100-sxm-80gb", "sglang@0.5", 989.5 / (2.54 * 132 * 1.98)),
        ("h100-sxm-80gb", "vllm@0.15", 1.0),  # Machete multiplies by groups of warps
        ("b200-180gb", "sglang@0.5", 2250 / (2.54 * 148 * 1.965)),
        ("b200-180gb", "vllm@0.15", 2250 / (2.54 * 148 * 1.965)),
    ],
)
def test_kernels_that_unpack_in_a_warp_multiply_at_its_rate(
    gpu: str, system: str, times: float, weight_format: str
) -> None:
    """Many rows take as much longer by Marlin than in 16 bits as the GPU's own matrix instructions beat a warp's."""
    wide = product_of_many_rows_s(gpu, system, "bf16")
    assert product_of_many_rows_s(gpu, system, weight_format) == pytest.approx(times * wide, rel=0.05)


def test_4_bit_activations_are_what_makes_4_bit_products_quick_on_blackwell() -> None:
    narrow = product_of_many_rows_s("b200-180gb", "sglang@0.5", "nvfp4")
    assert narrow < product_of_many_rows_s("b200-180gb", "sglang@0.5", "bf16") / 1.5
    assert product_of_many_rows_s("b200-180gb", "sglang@0.5", "nvfp4_weight_only") > 4 * narrow
