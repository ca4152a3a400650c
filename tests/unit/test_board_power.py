"""What a board's power limit leaves of its chip's arithmetic."""

from __future__ import annotations

import pytest

from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.hardware.gpu_time import KernelStyle, kernel_rates


@pytest.mark.parametrize(
    ("stem", "limited"), [("l4-24gb", True), ("rtx-6000-ada-48gb", True), ("rtx-4090-24gb", False)]
)
def test_products_sustain_what_the_board_can_power(stem: str, limited: bool) -> None:
    """TFLOP/s per watt of one architecture times the board's limit, where that is less than the share of the peak."""
    gpu = get_gpu_config_by_name(stem)
    gemm = gpu.efficiency.gemm_for("bf16")
    share = gemm.flops_efficiency * gpu.peak_flops_per_s("bf16")
    powered = gemm.tflops_per_w["ada"] * gpu.tdp_w * 1e12
    assert kernel_rates(gpu, 16, dtype="bf16").gemm.flops_per_s == min(share, powered)
    assert (powered < share) == limited
    # A stack's own difference stays below it; a share that is asked for is taken as it is.
    assert kernel_rates(gpu, 16, style=KernelStyle(flops_scale=5.0)).gemm.flops_per_s <= powered
    assert kernel_rates(gpu, 16, 1.0).gemm.flops_per_s == gpu.peak_flops_per_s(gpu.dtype_for(16))


def test_an_architecture_of_which_no_power_is_known_has_no_such_limit() -> None:
    borrowed = get_gpu_config_by_name("jetson-thor-128gb")
    assert borrowed.efficiency.name == "Ada"
    rate = kernel_rates(borrowed, 16, dtype="bf16").gemm.flops_per_s
    assert rate == borrowed.efficiency.gemm_for("bf16").flops_efficiency * borrowed.peak_flops_per_s("bf16")
