"""Device memory: a copy far larger than any cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calibrate.probe.sampler import Call, Item

_SIZES = {"cpu": (256 << 20,), "cuda": (256 << 20, 2 << 30)}


def items(device: Any) -> Iterator[Item]:
    """One item per size; bytes are those read and written."""
    for size in _SIZES[device.kind]:
        yield Item(
            "copy",
            {"bytes": size},
            {"bytes": 2.0 * size},
            lambda size=size: _prepare(device, size),  # type: ignore[misc]
        )


def _prepare(device: Any, size: int) -> Call:
    import torch

    # Written once: a first touch of fresh pages costs several times a copy.
    source = torch.zeros(size, dtype=torch.uint8, device=device.torch_device)
    target = torch.ones_like(source)
    return lambda _turn: target.copy_(source)
