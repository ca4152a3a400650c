"""Repeats of one call until its median is known to 2 %, or its time is up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

TARGET = 0.02
"""Relative half-width of the median's confidence interval at which sampling stops."""

_CONFIDENCE_Z = 1.96
"""Of a 95 % interval."""

_LEAST_SAMPLES = 7
_MOST_SAMPLES = 400
_SAMPLE_S = 1e-3
"""A sample repeats its call until it lasts about this long: shorter ones measure the clock."""

Call = Callable[[int], object]
"""What is timed; it is told its turn, so that it can work on other data than the last time."""


@dataclass(frozen=True)
class Item:
    """One thing to measure.

    Attributes:
        kind: What is measured: "gemm", "attention_prefill", "copy", …
        settings: Sizes and formats, as they go into the record.
        work: What one call does: ``flops`` and ``bytes``, where it makes sense.
        prepare: Makes the data and returns the call. What it allocates is freed with the call.
        host_only: The host's own time counts, not the device's (launches).
        inner: Calls per sample; as many as last a millisecond where it is None.
    """

    kind: str
    settings: dict[str, Any]
    work: dict[str, float]
    prepare: Callable[[], Call]
    host_only: bool = False
    inner: int | None = None


@dataclass(frozen=True)
class Samples:
    """Seconds of single calls, each an average over ``inner`` calls in a row."""

    seconds: list[float] = field(default_factory=list)
    inner: int = 1

    @property
    def median_s(self) -> float:
        """The median of the samples."""
        return median(self.seconds)

    @property
    def relative_uncertainty(self) -> float:
        """Half the width of the median's 95 % interval, relative to it."""
        return median_uncertainty(self.seconds)

    @property
    def converged(self) -> bool:
        """Whether the median is known to the target."""
        return self.relative_uncertainty <= TARGET


def median_uncertainty(values: Sequence[float]) -> float:
    """Half the width of a 95 % interval of the median, relative to it, from order statistics; infinite below 7 values.

    The number of values below the true median is binomial, so that two of the sorted values enclose it whatever their
    distribution is (Conover, Practical Nonparametric Statistics, section 3.2).
    """
    count = len(values)
    if count < _LEAST_SAMPLES:
        return math.inf
    ordered = sorted(values)
    spread = _CONFIDENCE_Z * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - spread))
    high = min(count - 1, math.ceil(count / 2 + spread))
    middle = median(ordered)
    return (ordered[high] - ordered[low]) / 2 / middle if middle > 0 else math.inf


class Clock:
    """Seconds of so many calls on a device: events on CUDA, the host's clock elsewhere."""

    def __init__(self, device: Any, host_only: bool = False) -> None:
        self.sync: Callable[[], object] = device.synchronize or (lambda: None)
        self._events = device.kind == "cuda" and not host_only

    def seconds(self, call: Call, inner: int, turn: int) -> float:
        """Seconds of one of ``inner`` calls in a row."""
        if self._events:
            return self._by_events(call, inner, turn)
        self.sync()
        start = time.perf_counter()
        for offset in range(inner):
            call(turn + offset)
        took = time.perf_counter() - start
        self.sync()
        return took / inner

    def _by_events(self, call: Call, inner: int, turn: int) -> float:
        import torch

        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.sync()
        begin.record()
        for offset in range(inner):
            call(turn + offset)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3 / inner


def sample(call: Call, clock: Clock, limit_s: float, inner: int | None = None) -> Samples:
    """Repeat a call until its median is known or ``limit_s`` have passed; two calls before do not count.

    At least one sample is taken, however long it lasts.

    Args:
        call: What is timed.
        clock: How.
        limit_s: Seconds that this may take, the first calls included.
        inner: Calls per sample; as many as last a millisecond where it is None.
    """
    start = time.perf_counter()
    first = clock.seconds(call, 1, 0)
    second = clock.seconds(call, 1, 1) if time.perf_counter() - start < limit_s else first
    if inner is None:
        inner = max(1, min(1000, math.ceil(_SAMPLE_S / max(second, 1e-9))))
    seconds: list[float] = []
    turn = 2
    while not seconds or (time.perf_counter() - start < limit_s and len(seconds) < _MOST_SAMPLES):
        seconds.append(clock.seconds(call, inner, turn))
        turn += inner
        if median_uncertainty(seconds) <= TARGET:
            break
    return Samples(seconds, inner)
