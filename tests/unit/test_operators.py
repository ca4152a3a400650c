"""The efficiency tables against measured operators: no family drifts away from what it was fitted to."""

import math

import pytest

from calibrate.validate.operators import load_operators, operator_residuals, predicted_s, residual
from calibrate.validate.relatives import relatives, with_relatives_efficiency
from llm_perf.config.loading import get_gpu_config_by_name, known_names

RESIDUALS = operator_residuals()
# (operation, GPU, format) -> why the shipped constant is not the sample's: docs/accuracy.md, at its end.
OTHER_KERNELS = {
    ("gemm", "L40S-48GB", "fp8"): 1.6,
    ("gemm", "MI210-64GB", "fp16"): 1.6,
    ("gemm", "B200-180GB", "fp8"): 1.4,
    ("gemm", "GB200-192GB", "fp8"): 1.4,
    ("attention_decode", "A100-SXM-80GB", "bf16"): 1.7,
    ("attention_decode", "L40S-48GB", "bf16"): 1.5,
}


@pytest.mark.parametrize("row", RESIDUALS, ids=lambda row: f"{row['op']} {row['gpu']} {row['dtype']}")
def test_a_table_explains_the_operators_it_was_fitted_to(row):
    limit = {"gemm": 1.2}.get(row["op"], 1.4)
    assert row["gm"] <= OTHER_KERNELS.get((row["op"], row["gpu"], row["dtype"]), limit)
    assert row["sources"]


def test_large_kernels_are_explained_best():
    """A long kernel has no floor to hide behind: products of more than 1024 rows and prompts of more than 4096 tokens."""
    for row in RESIDUALS:
        key = (row["op"], row["gpu"], row["dtype"])
        if row["op"] == "attention_prefill" and row["gm_by_size"][-1] is not None:
            assert row["gm_by_size"][-1] < 1.2
        if row["op"] == "gemm" and row["gm_by_size"][-1] is not None and key not in OTHER_KERNELS:
            assert row["gm_by_size"][-1] < 1.35


def test_every_generation_with_operators_is_covered():
    found = {row["gpu"] for row in RESIDUALS}
    assert {"A40-48GB", "A100-SXM-80GB", "H100-SXM-80GB", "H200-SXM-141GB", "H20-SXM-96GB"} <= found
    assert {"L40S-48GB", "B200-180GB", "GB200-192GB", "MI210-64GB"} <= found


def test_time_is_positive_and_never_less_than_the_data_sheets_roof():
    for one in load_operators():
        gpu = get_gpu_config_by_name(one.gpu)
        seconds = predicted_s(one, gpu)
        assert seconds > 0
        if one.op == "gemm":
            assert seconds >= 2 * one.m * one.n * one.k / gpu.peak_flops_per_s(one.dtype) * (1 - 1e-9)


def test_a_family_of_its_own_explains_a_gpu_better_than_its_relative():
    """The H20 has a family of its own since Hopper's is off by more than half for its products."""
    products = [one for one in load_operators() if one.gpu == "H20-SXM-96GB" and one.op == "gemm"]
    own, hoppers = residual(products), residual(products, get_gpu_config_by_name("h100-sxm-80gb"))
    assert own < 1.1
    assert hoppers > 1.4


def test_relatives_are_other_families_of_the_same_vendor():
    families = {}
    for name in known_names("GPU"):
        gpu = get_gpu_config_by_name(name)
        families.setdefault(gpu.efficiency.name, gpu)
    for family, name in relatives().items():
        relative = get_gpu_config_by_name(name)
        assert relative.efficiency.name != family
        assert relative.vendor == families[family].vendor
        swapped = with_relatives_efficiency(families[family])
        assert swapped.efficiency.gemm == relative.efficiency.gemm
        assert math.isclose(swapped.memory_gib, families[family].memory_gib)
