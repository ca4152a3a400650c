"""Kernels that give each multiprocessor whole tiles of a product and walk along all of its inputs.

A tile has as many rows as outputs. A multiprocessor multiplies full tiles, however few of their rows there are, and no two
of them share the inputs of one: a product of few rows leaves those idle that its outputs make no tiles for, and one tile
more than there are multiprocessors takes a second turn. CUTLASS's block-scaled kernels for 4-bit operands are such, with
tiles of 128 (vllm-project/vllm, csrc/quantization/fp4/nvfp4_scaled_mm_sm120_kernels.cu and nvfp4_scaled_mm_kernels.cu);
cuBLAS and Marlin divide the inputs as well. Among 5,168 timings of 1 to 16 rows by vLLM 0.19 on RTX PRO 6000 such times
leave 1.04 where products that fill the GPU leave 1.37, among those on B200 1.07 and 1.18, with one share of the peak
(ai-dynamo/aiconfigurator, gemm tables).
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_perf.config.gpu import GPUConfig
from llm_perf.counts.arrays import Number, ceil
from llm_perf.counts.products import Product
from llm_perf.hardware.gpu_time import GemmRates

_BESIDE = "shared_expert"
"""Products on a stream of their own beside routed experts, whose tiles take the multiprocessors that these leave idle (vLLM's
``shared_experts_stream``, SGLang's ``alt_stream``)."""


def turns(tile: float, rows: Number, outputs: float, processors: float) -> Number:
    """Tiles that the busiest of so many multiprocessors multiplies one after another; rows and outputs fill tiles up."""
    return ceil(ceil(rows / tile) * ceil(outputs / tile) / processors)


def whole_tiles_s(
    constants: Mapping[str, float], gemm: GemmRates, gpu: GPUConfig, product: Product, rows: Number
) -> Number:
    """Least seconds of arithmetic of a product of 4-bit operands by such kernels; 0 where a stack has none.

    ``rows`` are those of its one matrix, ``gemm`` the rates of its format, whose data sheet's peak multiprocessors share.
    """
    tile, processors = constants["native_4bit_tile"], gpu.sm_count or 0
    if tile <= 0 or not processors or product.is_expert or product.op.startswith(_BESIDE):
        return 0.0
    flops = 2.0 * product.in_features * tile * tile
    each = constants["native_4bit_tile_flops"] * gemm.peak_flops_per_s / processors
    return turns(tile, rows, product.out_features, processors) * flops / each
