"""Laws of what a stack's decode attention reads of device memory beside what the GPU's table has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.hardware.gpu_time import KernelStyle, kernel_rates

GPUS = ("mi300x-192gb", "mi355x-288gb", "h100-sxm-80gb", "mi100-32gb")


@given(
    name=st.sampled_from(GPUS),
    scale=st.floats(0.3, 1.2),
    kv_bytes=st.floats(1e3, 1e9),
    flops=st.floats(1e3, 1e9),
)
def test_keys_and_values_at_half_the_rate_take_twice_as_long_and_products_no_longer(
    name, scale, kv_bytes, flops
):
    """Bytes over ``scale`` times the rate, never more than the data sheet has; products and prompts' scores are untouched."""
    gpu = get_gpu_config_by_name(name)
    plain, scaled = (
        kernel_rates(gpu, 16),
        kernel_rates(gpu, 16, style=KernelStyle(attention_memory_scale=scale)),
    )
    table = gpu.efficiency.attention.decode_memory_efficiency
    slower = min(1.0, table * scale) / table
    assert scaled.decode_attention_s_per_token(0.0, kv_bytes) == pytest.approx(
        plain.decode_attention_s_per_token(0.0, kv_bytes) / slower
    )
    assert scaled.decode_attention_s_per_token(flops, 0.0) == plain.decode_attention_s_per_token(flops, 0.0)
    assert scaled.gemm == plain.gemm
    assert scaled.attention_flops_per_s == plain.attention_flops_per_s
