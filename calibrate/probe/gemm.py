"""Matrix products over rows M and the (K, N) of real layers, their weights out of memory and not out of a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calibrate.probe.sampler import Call, Item
from calibrate.probe.tensors import BYTES, torch_dtype

CPU_ROWS = (1, 4, 16, 64, 256, 1024)
CUDA_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
CPU_SHAPES = ((768, 768), (768, 3072), (2048, 2048), (2048, 8192), (8192, 2048))
"""(K, N) of the layers of opt-125m and opt-1.3b."""
CUDA_SHAPES = ((2048, 2048), (4096, 4096), (4096, 16384), (5120, 20480), (7168, 28672), (11008, 4096))
"""(K, N) of the layers of opt-1.3b, 6.7b, 13b and 30b and of Llama-2-7b."""

_ROTATION_BYTES = 128 << 20
"""Weights alternate over at least this much, more than the last-level cache of usual processors and GPUs."""


def items(device: Any, dtypes: tuple[str, ...]) -> Iterator[Item]:
    """One item per format, shape and number of rows; few rows first, which decoding needs most."""
    cuda = device.kind == "cuda"
    for dtype in dtypes:
        for rows in CUDA_ROWS if cuda else CPU_ROWS:
            for k, n in CUDA_SHAPES if cuda else CPU_SHAPES:
                yield item(device, dtype, rows, k, n)


def item(device: Any, dtype: str, m: int, k: int, n: int) -> Item:
    """The product of M x K inputs and K x N weights."""
    return Item(
        "gemm",
        {"dtype": dtype, "m": m, "k": k, "n": n},
        {"flops": 2.0 * m * k * n, "bytes": float(BYTES[dtype]) * (k * n + m * k + m * n)},
        lambda: prepare(device, dtype, m, k, n),
    )


def prepare(device: Any, dtype: str, m: int, k: int, n: int) -> Call:
    """The product, over weights of which no cache holds all."""
    import torch
    from torch.nn.functional import linear

    count = max(2, -(-_ROTATION_BYTES // (k * n * BYTES[dtype])))
    kind, where = torch_dtype(dtype), device.torch_device
    inputs = torch.randn(m, k, device=where).to(kind)
    one = torch.randn(n, k, device=where).to(kind)
    weights = [one.clone() for _ in range(count)]
    return lambda turn: linear(inputs, weights[turn % count])
