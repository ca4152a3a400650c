"""Times of a GPU's kernels: products, attention, elementwise work. Each is a pure function of shapes."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.gpu import GPUConfig
from llm_perf.counts.arrays import Number, minimum
from llm_perf.hardware.roofline import p_norm


@dataclass(frozen=True, slots=True)
class GemmRates:
    """What matrix products of one number format reach on one GPU.

    ``half_m``: rows at which the compute rate is half of ``flops_per_s``.
    """

    flops_per_s: float
    bytes_per_s: float
    half_m: float
    floor_s: float
    knee_exponent: float

    def compute_s(self, rows: Number, weights: Number, copies: Number = 1) -> Number:
        """Seconds of arithmetic: 2 FLOPs per weight and row, ``half_m`` rows lost per matrix."""
        return 2.0 * weights * (rows + copies * self.half_m) / self.flops_per_s

    def memory_s(self, weight_bytes: Number, activation_bytes: Number) -> Number:
        """Seconds of device memory traffic: weights once, inputs and outputs."""
        return (weight_bytes + activation_bytes) / self.bytes_per_s

    def time_s(self, compute_s: Number, memory_s: Number) -> Number:
        """Seconds of the product: both, rounded at the knee, plus the kernel's floor."""
        return self.floor_s + p_norm(compute_s, memory_s, self.knee_exponent)


@dataclass(frozen=True, slots=True)
class KernelRates:
    """All rates of one GPU that a forward pass needs, efficiencies applied. Built by :func:`kernel_rates`."""

    gemm: GemmRates
    attention_flops_per_s: float
    attention_half_len: float
    attention_bytes_per_s: float
    attention_floor_s: float
    elementwise_bytes_per_s: float
    elementwise_floor_s: float
    l2_bytes: float
    l2_speedup: float
    knee_exponent: float

    def prefill_attention_s(self, flops: Number, query_len: Number, kv_bytes: Number) -> Number:
        """Seconds of fused prefill attention: score FLOPs at a rate that grows with the length, keys and values read once."""
        compute = flops * (1.0 + self.attention_half_len / query_len) / self.attention_flops_per_s
        return self.attention_floor_s + p_norm(
            compute, kv_bytes / self.attention_bytes_per_s, self.knee_exponent
        )

    def decode_attention_s_per_token(self, flops: Number, kv_bytes: Number) -> Number:
        """Seconds of decode attention per token of context, floor left out: linear in the context, so it can be summed."""
        return p_norm(
            flops / self.gemm.flops_per_s, kv_bytes / self.attention_bytes_per_s, self.knee_exponent
        )

    def elementwise_s(self, moved_bytes: Number, working_set_bytes: Number) -> Number:
        """Seconds of kernels that move ``moved_bytes``, floors left out.

        What of the working set stays in the L2 cache moves ``l2_speedup`` times faster.
        """
        if self.l2_bytes <= 0 or self.l2_speedup == 1.0:
            return moved_bytes / self.elementwise_bytes_per_s
        cached = minimum(self.l2_bytes / working_set_bytes, 1.0)
        return moved_bytes / self.elementwise_bytes_per_s * (1.0 - cached * (1.0 - 1.0 / self.l2_speedup))


def kernel_rates(
    gpu: GPUConfig,
    compute_bits: int,
    flops_efficiency: float | None = None,
    memory_efficiency: float | None = None,
    flops_scale: float = 1.0,
    memory_scale: float = 1.0,
    dtype: str | None = None,
) -> KernelRates:
    """The rates of a GPU for products of ``compute_bits`` wide operands.

    ``flops_efficiency`` and ``memory_efficiency`` replace the GPU's own constants (floors stay);
    ``flops_scale`` and ``memory_scale`` are a software stack's factor on them, never beyond the data sheet.

    Raises:
        SpecError: the GPU has no number format that wide.
    """
    dtype = dtype or gpu.dtype_for(compute_bits)
    peak, bandwidth = gpu.peak_flops_per_s(dtype), gpu.hbm_bandwidth_bytes_per_s
    efficiency = gpu.efficiency
    gemm, attention, elementwise = efficiency.gemm_for(dtype), efficiency.attention, efficiency.elementwise

    def share(own: float, given: float | None, scale: float) -> float:
        return given if given is not None else min(1.0, own * scale)

    half_m = 0.0 if flops_efficiency is not None else gemm.half_m
    half_len = 0.0 if flops_efficiency is not None else attention.prefill_half_len
    wide_peak = gpu.peak_flops_per_s(gpu.dtype_for(max(compute_bits, 16)))
    return KernelRates(
        gemm=GemmRates(
            flops_per_s=peak * share(gemm.flops_efficiency, flops_efficiency, flops_scale),
            bytes_per_s=bandwidth * share(gemm.memory_efficiency, memory_efficiency, memory_scale),
            half_m=half_m,
            floor_s=gemm.floor_s,
            knee_exponent=efficiency.knee_exponent,
        ),
        attention_flops_per_s=wide_peak * share(attention.prefill_flops_efficiency, flops_efficiency, 1.0),
        attention_half_len=half_len,
        attention_bytes_per_s=bandwidth * share(attention.decode_memory_efficiency, memory_efficiency, 1.0),
        attention_floor_s=attention.floor_s,
        elementwise_bytes_per_s=bandwidth * share(elementwise.memory_efficiency, memory_efficiency, 1.0),
        elementwise_floor_s=elementwise.floor_s,
        l2_bytes=(gpu.l2_mib or 0.0) * 2**20,
        l2_speedup=elementwise.l2_speedup,
        knee_exponent=efficiency.knee_exponent,
    )
