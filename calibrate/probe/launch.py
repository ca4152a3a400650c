"""What a kernel costs its host: a tiny operation, launched again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calibrate.probe.sampler import Call, Item

_LAUNCHES = 200
"""In a row: fewer than a GPU's queue takes, so that the host is not made to wait."""


def items(device: Any) -> Iterator[Item]:
    """The host's time per launch, and on CUDA the device's time per tiny kernel."""
    yield Item("launch", {"operation": "add"}, {}, lambda: _prepare(device), True, _LAUNCHES)
    if device.kind == "cuda":
        yield Item("kernel_floor", {"operation": "add"}, {}, lambda: _prepare(device))


def _prepare(device: Any) -> Call:
    import torch

    value = torch.zeros(8, device=device.torch_device)
    return lambda _turn: value.add_(1.0)
