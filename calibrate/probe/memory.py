"""Memory: copies on the device far larger than any cache, and reads of the host's memory by all its threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calibrate.probe.sampler import Call, Item

_HOST_READ = 512 << 20
"""Bytes of a read that no processor's caches hold for the cores that read it."""
_ROWS = 8192
_SIZES = {"cpu": (256 << 20,), "cuda": (256 << 20, 2 << 30)}


def items(device: Any) -> Iterator[Item]:
    """One item per size; bytes are those read and written."""
    for size in _SIZES[device.kind]:
        yield Item(
            "copy",
            {"bytes": size},
            {"bytes": 2.0 * size},
            lambda size=size: prepare(device, size),  # type: ignore[misc]
        )
    yield Item(
        "host_read", {"bytes": _HOST_READ}, {"bytes": float(_HOST_READ)}, _prepare_read, host_only=True
    )


def prepare(device: Any, size: int) -> Call:
    """A copy of so many bytes on the device."""
    import torch

    # Written once: a first touch of fresh pages costs several times a copy.
    source = torch.zeros(size, dtype=torch.uint8, device=device.torch_device)
    target = torch.ones_like(source)
    return lambda _turn: target.copy_(source)


def _prepare_read() -> Call:
    import torch

    # A product of one row is what reads are wanted for; a plain sum is bound by its additions.
    matrix = torch.ones(_ROWS, _HOST_READ // 4 // _ROWS, dtype=torch.float32)
    row = torch.ones(matrix.shape[1], dtype=torch.float32)
    return lambda _turn: matrix.mv(row)
