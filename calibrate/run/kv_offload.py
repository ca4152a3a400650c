"""A KV cache that lives in host memory, for released versions of transformers.

transformers' own ``offloaded`` caches need CUDA, and ``set_kv_cache_offload`` of the original script existed in a fork
only. Here every layer keeps its keys and values in one growing host buffer, tokens first, so that what is fetched is one
contiguous copy. On a CPU "host" and "device" are the same memory and the copies are plain ones.
"""

from __future__ import annotations

from typing import Any

from llm_perf.errors import EnvironmentFailure


class Traffic:
    """Bytes that a cache moved since it was made."""

    def __init__(self) -> None:
        self.to_host_bytes = 0
        self.to_device_bytes = 0


class CopyLane:
    """How copies are made: blocking, or on a stream of their own (CUDA) with an event to wait for."""

    def __init__(self, device: Any, asynchronous: bool) -> None:
        import torch

        self.asynchronous = asynchronous and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.asynchronous else None

    def begin(self) -> None:
        """The lane starts behind everything that the device was told to do so far."""
        import torch

        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream())

    def wait(self) -> None:
        """The device goes on only when the lane is done."""
        import torch

        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)

    def copy(self, target: Any, source: Any) -> None:
        """Copy, on the lane's stream where there is one."""
        import torch

        if self.stream is None:
            target.copy_(source)
            return
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
        for tensor in (target, source):
            if tensor.device.type == "cuda":
                tensor.record_stream(self.stream)


class HostBuffer:
    """Keys or values of one layer in host memory: (tokens, batch, heads, head size), grown by doubling."""

    def __init__(self, capacity: int, pinned: bool) -> None:
        self.capacity, self.pinned = capacity, pinned
        self.data: Any = None
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that the buffer takes."""
        return 0 if self.data is None else self.data.numel() * self.data.element_size()

    def reserve(self, tokens: int, like: Any) -> None:
        """Make room for so many tokens in all.

        Raises:
            EnvironmentFailure: the host has not the (page-locked) memory.
        """
        import torch

        if self.data is not None and tokens <= self.data.shape[0]:
            return
        rows = max(tokens, self.capacity, 0 if self.data is None else 2 * self.data.shape[0])
        try:
            grown = torch.empty(
                (rows, *like.shape[1:]), dtype=like.dtype, device="cpu", pin_memory=self.pinned
            )
        except RuntimeError as error:
            kind = "page-locked " if self.pinned else ""
            first = str(error).splitlines()[0]
            raise EnvironmentFailure(f"no {kind}host memory for the KV cache: {first}") from None
        if self.data is not None:
            grown[: self.length] = self.data[: self.length]
        self.data = grown


def make_cache(
    device: Any, capacity: int, pin: bool = True, asynchronous: bool = False, traffic: Traffic | None = None
) -> Any:
    """A cache for ``model.generate(past_key_values=...)`` whose keys and values live in host memory.

    Args:
        device: The torch device that computes.
        capacity: Tokens per sequence to make room for at first.
        pin: Page-locked buffers; on CUDA only.
        asynchronous: Stores overlap with computing, and the next layer's part is fetched early; on CUDA only.
        traffic: Counts the bytes moved.

    Returns:
        A ``transformers.Cache``; use a new one for each generation.
    """
    import torch
    from transformers.cache_utils import Cache, DynamicLayer

    counted = traffic if traffic is not None else Traffic()
    lane = CopyLane(device, asynchronous)
    pinned = pin and device.type == "cuda"

    class HostLayer(DynamicLayer):  # type: ignore[misc, unused-ignore]
        """One layer's part. What ``update`` returns lives on the device until attention is done with it."""

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.buffers = (HostBuffer(capacity, pinned), HostBuffer(capacity, pinned))
            self.early: tuple[Any, Any] | None = None

        def get_seq_length(self) -> int:
            return self.buffers[0].length

        def fetch(self) -> tuple[Any, Any]:
            """Copies of all that is stored, on the device, as (batch, heads, tokens, head size)."""
            found = []
            for buffer in self.buffers:
                stored = buffer.data[: buffer.length]
                copy = torch.empty(stored.shape, dtype=stored.dtype, device=device)
                lane.copy(copy, stored)
                counted.to_device_bytes += stored.numel() * stored.element_size()
                found.append(copy.permute(1, 2, 0, 3))
            return found[0], found[1]

        def fetch_early(self) -> None:
            """Start fetching before the layer is reached."""
            if self.early is None and self.get_seq_length() > 0:
                self.early = self.fetch()

        def update(self, key_states: Any, value_states: Any, *_args: Any, **_kwargs: Any) -> tuple[Any, Any]:
            self.is_initialized = True
            past = None
            if self.get_seq_length() > 0:
                if self.early is None:
                    lane.begin()
                past = self.early or self.fetch()
                self.early = None
                lane.wait()
            self._store(key_states, value_states)
            if past is None:
                return key_states, value_states
            return torch.cat((past[0], key_states), dim=-2), torch.cat((past[1], value_states), dim=-2)

        def _store(self, *states: Any) -> None:
            ordered = [state.permute(2, 0, 1, 3).contiguous() for state in states]
            lane.begin()  # behind the kernels that have just put the tokens first
            for buffer, tokens_first in zip(self.buffers, ordered, strict=True):
                end = buffer.length + tokens_first.shape[0]
                if self.early is not None or buffer.data is None or end > buffer.data.shape[0]:
                    _synchronize(lane)  # a buffer that is still being written must not be replaced
                buffer.reserve(end, tokens_first)
                lane.copy(buffer.data[buffer.length : end], tokens_first)
                buffer.length = end
                counted.to_host_bytes += tokens_first.numel() * tokens_first.element_size()

        def reset(self) -> None:
            self.early = None
            for buffer in self.buffers:
                buffer.length = 0

    class HostCache(Cache):  # type: ignore[misc, unused-ignore]
        """All layers; made as they are reached."""

        def __init__(self) -> None:
            super().__init__(layer_class_to_replicate=HostLayer)

        @property
        def host_bytes(self) -> int:
            """Host memory of all layers."""
            return sum(buffer.nbytes for layer in self.layers for buffer in layer.buffers)

        def update(
            self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any
        ) -> Any:
            found = super().update(key_states, value_states, layer_idx, *args, **kwargs)
            if lane.asynchronous and layer_idx + 1 < len(self.layers):
                lane.begin()
                self.layers[layer_idx + 1].fetch_early()
            return found

    return HostCache()


def _synchronize(lane: CopyLane) -> None:
    if lane.stream is not None:
        lane.stream.synchronize()
