"""Grouped kernels that give each expert a block of rows, whether a token is sent to it or not.

An engine that may not ask the device how many rows an expert has sizes the grouped product for the worst case: a block less
one row more for each expert. Blocks that no row falls into multiply nothing, but their tiles are loaded like all others'
(DeepGEMM, sm90_fp8_gemm_1d2d.cuh: ``is_computation_valid`` skips the matrix instructions alone). A step of few tokens, which
leaves most experts alone, then takes about as long as one that reads them all.

Marlin's kernel for experts (weights that are unpacked) has such blocks too, as many as there are rows for: their height is
chosen by the mean of rows that an expert gets, and the rows of each expert fill up its last one.
"""

from __future__ import annotations

from collections.abc import Mapping

from llm_perf.counts.arrays import Number, maximum, where
from llm_perf.counts.products import Product
from llm_perf.systems.format_kernels import BLOCK_SCALED, Kind

_BYTES_PER_WEIGHT = 2.0
"""What tiles as wide as a block is high load per weight of an expert: the weight and as many bytes of rows, 8 bits each."""


def pads_experts(constants: Mapping[str, float], kind: Kind, tensor_ranks: float) -> bool:
    """Whether experts with products of this kind, each divided over so many tensor ranks, run by such kernels."""
    below = constants["padded_expert_ranks"]
    return constants["padded_expert_rows"] > 0 and kind == BLOCK_SCALED and tensor_ranks < below


def empty_blocks(block: float, experts: float, rows: Number, touched: Number) -> Number:
    """Blocks without any row: of ``experts`` on a rank, ``touched`` of which share ``rows`` rows.

    Each expert adds a block less one row to the rows; those with rows fill whole blocks but for their last ones.
    """
    blocks = (rows + experts * (block - 1.0)) / block
    rows_each = rows / maximum(touched, 1e-9)
    filled = touched * maximum(rows_each / block + 0.5, 1.0)
    return maximum(blocks - filled, 0.0)


def loaded_bytes(product: Product, blocks: Number) -> Number:
    """Bytes that the multiprocessors load for so many blocks of a product that stay empty."""
    return blocks * product.weights * _BYTES_PER_WEIGHT


_MARLIN_BLOCKS = (8, 16, 32, 48, 64)
_MARLIN_FILLED = 0.9
"""Heights of Marlin's blocks: the least that the mean of an expert's rows fills to less than nine tenths, else the highest.

Source: vllm-project/vllm, fused_marlin_moe.py since pull request 14447 (0.8.4), and sgl-project/sglang, its copy. With the
last block of each expert half filled, and 0.54 of the peak, its times for W4A16 on H20 by vLLM 0.20 come out to 1.1 where
they compute (flagos-ai/FlagGems pull requests 3609 and 4350: Mixtral of 64 to 16,384 tokens, 512 experts of 1,024 to 4,096).
"""


def marlin_block(rows_each: Number) -> Number:
    """Rows of a block of Marlin's kernel where an expert gets so many on average, those without any counted in."""
    height: Number = float(_MARLIN_BLOCKS[-1])
    for block in reversed(_MARLIN_BLOCKS[:-1]):
        height = where(rows_each < _MARLIN_FILLED * block, float(block), height)
    return height
