"""Times of a GPU's kernels: products, attention, elementwise work. Each is a pure function of shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llm_perf.config.gpu import GemmEfficiency, GPUConfig
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.hardware.roofline import p_norm

_ONE_COPY = 1e-9
"""Least copies that rows are divided by: without any, nothing is computed."""

_REREAD_EXPONENT = 2
"""Reads from HBM and reads again from L2 overlap in part: slopes of llama.cpp's decode over the context, see its page."""


@dataclass(frozen=True, slots=True)
class KernelStyle:
    """How a software stack's kernels differ from those that the GPU's efficiencies were measured on.

    ``flops_scale`` and ``memory_scale`` are factors on the efficiencies of products. The three rates per streaming
    multiprocessor and GHz are limits that a kernel with a fixed number of bytes in flight has, whatever the memory
    could do (Little's law): of matrix-vector kernels (products of at most ``matvec_max_rows`` rows), of elementwise
    kernels and of decode attention that reads keys and values once per query head. 0 is no limit.
    ``accumulate_16bit``: products add up in 16 bits, twice as fast on GeForce cards. ``matvec_lanes``: matrix-vector kernels
    are written for warps of so many threads, and the others of a warp are idle; 0: for whatever the GPU has.
    """

    flops_scale: float = 1.0
    memory_scale: float = 1.0
    accumulate_16bit: bool = False
    matvec_gb_per_s_per_sm_ghz: float = 0.0
    matvec_max_rows: float = 0.0
    elementwise_gb_per_s_per_sm_ghz: float = 0.0
    attention_gb_per_s_per_sm_ghz: float = 0.0
    matvec_lanes: float = 0.0

    @classmethod
    def of(cls, constants: Mapping[str, float], quantised: bool = False) -> KernelStyle:
        """The style that a stack's constants describe; kernels for ``quantised`` weights have a limit of their own."""
        matvec = "quantised_matvec_gb_per_s_per_sm_ghz" if quantised else "matvec_gb_per_s_per_sm_ghz"
        return cls(
            constants["flops_scale"],
            constants["memory_scale"],
            bool(constants.get("accumulate_16bit", 0)),
            constants.get(matvec, 0.0),
            constants.get("matvec_max_rows", 0.0),
            constants.get("elementwise_gb_per_s_per_sm_ghz", 0.0),
            constants.get("attention_gb_per_s_per_sm_ghz", 0.0),
            constants.get("matvec_lanes", 0.0),
        )

    def matvec_gb_per_s_per_sm_ghz_on(self, gpu: GPUConfig) -> float:
        """What matrix-vector kernels read per multiprocessor and GHz, with the lanes of a GPU's warps that they fill."""
        filled = min(self.matvec_lanes / gpu.warp_lanes, 1.0) if self.matvec_lanes else 1.0
        return self.matvec_gb_per_s_per_sm_ghz * filled


MEASURED_STYLE = KernelStyle()
"""Kernels exactly as measured."""


@dataclass(frozen=True, slots=True)
class GemmRates:
    """What matrix products of one number format reach on one GPU.

    ``half_m`` and ``tile_rows`` say how many rows of each matrix count as arithmetic, see :meth:`lost_rows`. Products of
    at most ``matvec_max_rows`` rows read memory at ``matvec_bytes_per_s``. The peaks are those that efficiencies are
    shares of, ``source`` says whose. ``loads_apart``: of more rows, a multiprocessor loads a tile and then multiplies it,
    with no other tile to load meanwhile. ``ragged``: copies have different numbers of rows, and tiles of one width.
    """

    flops_per_s: float
    bytes_per_s: float
    half_m: float
    floor_s: float
    knee_exponent: float
    matvec_bytes_per_s: float
    matvec_max_rows: float = 0.0
    peak_flops_per_s: float = 0.0
    peak_bytes_per_s: float = 0.0
    source: str = ""
    tile_rows: Number = 1.0
    loads_apart: bool = False
    ragged: bool = False

    def compute_s(self, rows: Number, weights: Number, copies: Number = 1) -> Number:
        """Seconds of arithmetic: 2 FLOPs per weight and row, with the rows that each of ``copies`` matrices loses."""
        return 2.0 * weights * (rows + copies * self.lost_rows(rows, copies)) / self.flops_per_s

    def lost_rows(self, rows: Number, copies: Number = 1) -> Number:
        """Rows of each matrix for which its tiles compute nothing; matrix-vector kernels have no tiles."""
        each = rows / maximum(copies, _ONE_COPY)
        if self.ragged:
            # The last tile of a copy is half filled on average; the only one has what rows there are.
            lost = maximum(self.tile_rows - each, self.tile_rows / 2)
        else:
            lost = lost_rows(each, self.tile_rows, self.half_m)
        if not self.matvec_max_rows:
            return lost
        return where(rows <= self.matvec_max_rows, 0.0, lost)

    def read_bytes_per_s(self, rows: Number) -> Number:
        """The rate at which a product of so many rows reads memory."""
        if not self.matvec_max_rows:
            return self.bytes_per_s
        return where(rows <= self.matvec_max_rows, self.matvec_bytes_per_s, self.bytes_per_s)

    def memory_s(self, weight_bytes: Number, activation_bytes: Number, rows: Number = math.inf) -> Number:
        """Seconds of device memory traffic: weights once, inputs and outputs of ``rows`` rows."""
        return (weight_bytes + activation_bytes) / self.read_bytes_per_s(rows)

    def exponent_of(self, rows: Number) -> Number:
        """How well arithmetic and memory traffic of a product of so many rows overlap; 1 is not at all."""
        return (
            where(rows > self.matvec_max_rows, 1.0, self.knee_exponent)
            if self.loads_apart
            else self.knee_exponent
        )

    def time_s(self, compute_s: Number, memory_s: Number, rows: Number = math.inf) -> Number:
        """Seconds of the product: both, rounded at the knee, plus the kernel's floor."""
        return self.floor_s + p_norm(compute_s, memory_s, self.exponent_of(rows))


def lost_rows(rows: Number, tile_rows: Number, half_m: float) -> Number:
    """Rows of one matrix that a product of ``rows`` rows computes in vain.

    Kernels for few rows have tiles of ``tile_rows`` (16 for the matrix instructions of tensor cores), which they fill up:
    the arithmetic of 1 row is that of ``tile_rows``, and nearly always hidden behind the weights' bytes. Larger products
    run in larger tiles, whose last ones are partly filled and leave multiprocessors idle: ``half_m`` rows at most, at
    which a product has half the rate, and never more than a product has rows beyond the first tile.
    """
    beyond = rows - tile_rows
    return where(beyond < 0, -1.0 * beyond, minimum(beyond, half_m))


@dataclass(frozen=True, slots=True)
class KernelRates:
    """All rates of one GPU that a forward pass needs, efficiencies applied. Built by :func:`kernel_rates`."""

    gemm: GemmRates
    attention_flops_per_s: float
    attention_half_len: float
    attention_bytes_per_s: float
    attention_floor_s: float
    reread_bytes_per_s: float
    elementwise_bytes_per_s: float
    long_rows_bytes_per_s: float
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

    def decode_attention_s_per_token(
        self, flops: Number, kv_bytes: Number, reread_bytes: Number = 0.0
    ) -> Number:
        """Seconds of decode attention per token of context, floor left out: linear in the context, so it can be summed.

        ``reread_bytes`` is what all query heads read together, most of it from the L2 cache, where the kernel of a
        stack does not share keys and values between the heads of a group.
        """
        seconds = p_norm(
            flops / self.gemm.flops_per_s, kv_bytes / self.attention_bytes_per_s, self.knee_exponent
        )
        if self.reread_bytes_per_s == math.inf:
            return seconds
        return p_norm(seconds, reread_bytes / self.reread_bytes_per_s, _REREAD_EXPONENT)

    def elementwise_s(self, moved_bytes: Number, working_set_bytes: Number) -> Number:
        """Seconds of kernels that move ``moved_bytes``, floors left out.

        What of the working set stays in the L2 cache moves ``l2_speedup`` times faster.
        """
        return moved_bytes / self.elementwise_bytes_per_s * self.missed_share(working_set_bytes)

    def scores_s(self, moved_bytes: Number, working_set_bytes: Number) -> Number:
        """The same for attention scores: rows as long as the context keep enough bytes in flight on any GPU."""
        return moved_bytes / self.long_rows_bytes_per_s * self.missed_share(working_set_bytes)

    def missed_share(self, working_set_bytes: Number) -> Number:
        """Time of moving a working set over what it would take if none of it stayed in the L2 cache."""
        if self.l2_bytes <= 0 or self.l2_speedup == 1.0:
            return 1.0
        cached = minimum(self.l2_bytes / working_set_bytes, 1.0)
        return 1.0 - cached * (1.0 - 1.0 / self.l2_speedup)


def kernel_rates(
    gpu: GPUConfig,
    compute_bits: int,
    flops_efficiency: float | None = None,
    memory_efficiency: float | None = None,
    style: KernelStyle = MEASURED_STYLE,
    dtype: str | None = None,
) -> KernelRates:
    """The rates of a GPU for products of ``compute_bits`` wide operands.

    ``flops_efficiency`` and ``memory_efficiency`` replace the GPU's own constants (floors stay); ``style`` is a software
    stack's difference from them, never beyond the data sheet.

    Raises:
        SpecError: the GPU has no number format that wide.
    """
    dtype = dtype or gpu.dtype_for(compute_bits)
    peak, bandwidth = product_peak_flops_per_s(gpu, dtype, style), gpu.hbm_bandwidth_bytes_per_s
    efficiency = gpu.efficiency
    gemm, attention, elementwise = efficiency.gemm_for(dtype), efficiency.attention, efficiency.elementwise

    def share(own: float, given: float | None, scale: float) -> float:
        return given if given is not None else min(1.0, own * scale)

    def limited(bytes_per_s: float, per_processor: float) -> float:
        return _limited(bytes_per_s, processors * per_processor, efficiency.knee_exponent)

    processors = (gpu.sm_count or 0) * (gpu.sm_clock_mhz or 0.0) * 1e6
    products_bytes_per_s = bandwidth * share(gemm.memory_efficiency, memory_efficiency, style.memory_scale)
    elementwise_bytes_per_s = bandwidth * share(elementwise.memory_efficiency, memory_efficiency, 1.0)

    half_m = 0.0 if flops_efficiency is not None else gemm.half_m
    half_len = 0.0 if flops_efficiency is not None else attention.prefill_half_len
    wide_peak = gpu.peak_flops_per_s(gpu.dtype_for(max(compute_bits, 16)))
    return KernelRates(
        gemm=GemmRates(
            flops_per_s=min(
                peak * share(gemm.flops_efficiency, flops_efficiency, style.flops_scale),
                math.inf if flops_efficiency is not None else sustained_flops_per_s(gpu, gemm),
            ),
            bytes_per_s=products_bytes_per_s,
            half_m=half_m,
            floor_s=gemm.floor_s,
            knee_exponent=efficiency.knee_exponent,
            matvec_bytes_per_s=limited(products_bytes_per_s, style.matvec_gb_per_s_per_sm_ghz_on(gpu)),
            matvec_max_rows=style.matvec_max_rows,
            peak_flops_per_s=peak,
            peak_bytes_per_s=bandwidth,
            source=f"{gpu.name}; {efficiency.source}",
            tile_rows=1.0 if flops_efficiency is not None else gemm.tile_rows,
        ),
        attention_flops_per_s=wide_peak * share(attention.prefill_flops_efficiency, flops_efficiency, 1.0),
        attention_half_len=half_len,
        attention_bytes_per_s=bandwidth * share(attention.decode_memory_efficiency, memory_efficiency, 1.0),
        attention_floor_s=attention.floor_s,
        reread_bytes_per_s=processors * style.attention_gb_per_s_per_sm_ghz or math.inf,
        elementwise_bytes_per_s=limited(elementwise_bytes_per_s, style.elementwise_gb_per_s_per_sm_ghz),
        long_rows_bytes_per_s=elementwise_bytes_per_s,
        elementwise_floor_s=elementwise.floor_s,
        l2_bytes=(gpu.l2_mib or 0.0) * 2**20,
        l2_speedup=elementwise.l2_speedup,
        knee_exponent=efficiency.knee_exponent,
    )


def sustained_flops_per_s(gpu: GPUConfig, gemm: GemmEfficiency) -> float:
    """FLOP/s of products that the board's power limit sustains; no limit where either is not known."""
    per_w = gemm.tflops_per_w.get(gpu.architecture or "")
    return math.inf if per_w is None or gpu.tdp_w is None else per_w * 1e12 * gpu.tdp_w


def product_peak_flops_per_s(gpu: GPUConfig, dtype: str, style: KernelStyle = MEASURED_STYLE) -> float:
    """Peak of products in a number format, FLOP/s: with 16-bit accumulation where the stack uses it and it is faster."""
    if style.accumulate_16bit and dtype == "fp16" and gpu.fp16_accumulate_tflops is not None:
        return gpu.fp16_accumulate_tflops * 1e12
    return gpu.peak_flops_per_s(dtype)


def _limited(bytes_per_s: float, limit_bytes_per_s: float, exponent: float) -> float:
    """The rate of kernels that neither the memory nor the processors let go faster; no limit where it is 0."""
    if limit_bytes_per_s <= 0:
        return bytes_per_s
    return float(1.0 / p_norm(1.0 / bytes_per_s, 1.0 / limit_bytes_per_s, exponent))
