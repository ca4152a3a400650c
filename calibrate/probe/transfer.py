"""Copies between host and device by size: pinned and pageable memory, each direction, and both at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from calibrate.probe.sampler import Call, Item

SIZES = (64 << 10, 1 << 20, 16 << 20, 256 << 20)


def items(device: Any) -> Iterator[Item]:
    """Nothing on a CPU, where host and device are the same memory."""
    if device.kind != "cuda":
        return
    for size in SIZES:
        for pinned in (True, False):
            for direction in ("h2d", "d2h"):
                settings = {"direction": direction, "pinned": pinned, "bytes": size}
                yield Item(
                    "transfer", settings, {"bytes": float(size)}, one_way(device, size, pinned, direction)
                )
    both = {"direction": "both", "pinned": True, "bytes": SIZES[-1]}
    yield Item("transfer", both, {"bytes": 2.0 * SIZES[-1]}, lambda: _both_ways(device, SIZES[-1]))


def one_way(device: Any, size: int, pinned: bool, direction: str) -> Callable[[], Call]:
    """What makes a copy ``h2d`` or ``d2h`` ready."""

    def prepare() -> Call:
        import torch

        on_host = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
        on_device = torch.zeros(size, dtype=torch.uint8, device=device.torch_device)
        target, source = (on_device, on_host) if direction == "h2d" else (on_host, on_device)
        return lambda _turn: target.copy_(source, non_blocking=pinned)

    return prepare


def _both_ways(device: Any, size: int) -> Call:
    """One copy on a stream of its own per direction; the timed stream waits for both."""
    import torch

    where = device.torch_device
    up, down = (torch.zeros(size, dtype=torch.uint8, pin_memory=True) for _ in range(2))
    up_there, down_there = (torch.zeros(size, dtype=torch.uint8, device=where) for _ in range(2))
    streams = torch.cuda.Stream(where), torch.cuda.Stream(where)

    def call(_turn: int) -> None:
        current = torch.cuda.current_stream(where)
        for stream, target, source in ((streams[0], up_there, up), (streams[1], down, down_there)):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                target.copy_(source, non_blocking=True)
            current.wait_stream(stream)

    return call
