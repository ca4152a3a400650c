"""Unpacking quantised weights, by DeepSpeed's own code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calibrate.probe.sampler import Call, Item
from calibrate.probe.tensors import torch_dtype

_SHAPES = {"cpu": ((3072, 768), (8192, 2048)), "cuda": ((4096, 4096), (16384, 4096))}
_GROUP_SIZE = 64


def items(device: Any, dtypes: tuple[str, ...]) -> Iterator[Item]:
    """4 and 8 bits of a small and of a large matrix; large ones go through fresh memory on a CPU."""
    for dtype in dtypes[:1]:
        for bits in (4, 8):
            for rows, columns in _SHAPES[device.kind]:
                settings = {"dtype": dtype, "bits": bits, "group_size": _GROUP_SIZE, "k": columns, "n": rows}
                yield Item(
                    "dequantise", settings, {"weights": float(rows * columns)},
                    lambda dtype=dtype, bits=bits, rows=rows, columns=columns: prepare(  # type: ignore[misc]
                        device, dtype, bits, _GROUP_SIZE, rows, columns
                    ),
                )  # fmt: skip


def prepare(device: Any, dtype: str, bits: int, group_size: int, rows: int, columns: int) -> Call:
    """A matrix of so many rows and columns is unpacked."""
    import torch
    from deepspeed.inference.quantization.utils import DeQuantizer, Quantizer

    config = {"num_bits": bits, "group_size": group_size, "group_dim": 1, "symmetric": False}
    weights = torch.randn(rows, columns, device=device.torch_device).to(torch_dtype(dtype))
    packed = Quantizer(config).quantize(weights)
    unpack = DeQuantizer(config, torch_dtype(dtype))
    return lambda _turn: unpack.dequantize(*packed)
