"""What the model of a training step takes and gives. All numbers may be arrays over configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.systems.base import PhaseCost
from llm_perf.systems.tiers import Tier, Tiers

LOAD, FORWARD, BACKWARD, BACKWARD_END, STEP = PHASES = (
    "load",
    "forward",
    "backward",
    "end of backward",
    "step",
)
"""Moments of a step at which memory is counted: weights loaded; forward pass done and the loss with its gradient computed;
the backward pass of the last layer, which comes first; that of the first layer, with all gradients; the optimizer."""
PASSES = frozenset({FORWARD, BACKWARD, BACKWARD_END})
TRAINING = PASSES | {STEP}
ALWAYS = TRAINING | {LOAD}


@dataclass(frozen=True, slots=True)
class TrainingLoad:
    """One optimizer step: ``micro_batch`` sequences per rank and pass, ``accumulation`` passes, tokens per sequence."""

    micro_batch: Number
    accumulation: Number
    seq_len: Number


@dataclass(frozen=True, slots=True)
class MemoryTerm:
    """Bytes that one thing takes during some phases. ``part`` is the field of `TrainingMemoryParts` that it belongs to."""

    name: str
    part: str
    size_bytes: Number
    phases: frozenset[str]
    source: str = ""


@dataclass(frozen=True, slots=True)
class TrainingMemoryParts(Tier):
    """Bytes of one GPU, of one host or of its disks, by use. ``capacity_bytes`` is what can be allocated.

    ``temporaries_bytes`` are what an optimizer step, a gradient's norm or a layer's backward pass needs for a moment;
    ``fragmentation_bytes`` what the allocator has reserved and cannot use; ``reserved_bytes`` is outside of it: context,
    libraries, communicators.
    """

    uses: ClassVar[Mapping[str, str]] = {
        "weights_bytes": "weights",
        "gradients_bytes": "gradients",
        "optimizer_bytes": "optimizer state",
        "activations_bytes": "activations",
        "logits_bytes": "logits",
        "buffers_bytes": "buffers",
        "temporaries_bytes": "temporaries",
        "fragmentation_bytes": "allocator's unused",
        "reserved_bytes": "context, communicators",
    }
    weights_bytes: Number = 0.0
    gradients_bytes: Number = 0.0
    optimizer_bytes: Number = 0.0
    activations_bytes: Number = 0.0
    logits_bytes: Number = 0.0
    buffers_bytes: Number = 0.0
    temporaries_bytes: Number = 0.0
    fragmentation_bytes: Number = 0.0
    reserved_bytes: Number = 0.0
    capacity_bytes: float = 0.0

    @property
    def state_bytes(self) -> Number:
        """Weights, gradients and optimizer state."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def allocated_bytes(self) -> Number:
        """What the framework's allocator has given out."""
        live = self.activations_bytes + self.logits_bytes + self.buffers_bytes + self.temporaries_bytes
        return self.state_bytes + live

    @property
    def allocator_bytes(self) -> Number:
        """What the framework's allocator has reserved."""
        return self.allocated_bytes + self.fragmentation_bytes

    @property
    def total_bytes(self) -> Number:
        """Sum of the parts."""
        return self.allocator_bytes + self.reserved_bytes


PARTS = tuple(TrainingMemoryParts.uses)


@dataclass(frozen=True, slots=True)
class Moment:
    """The terms of one pipeline stage in one phase, and their sums by use."""

    stage: int
    phase: str
    terms: tuple[MemoryTerm, ...]
    parts: TrainingMemoryParts


def moments_of(
    terms: Sequence[MemoryTerm],
    stage: int,
    capacity_bytes: float,
    fragmentation: tuple[float, float] = (0.0, 0.0),
) -> tuple[Moment, ...]:
    """A stage's memory phase by phase.

    ``fragmentation`` are shares of what comes and goes within a step: what an allocator usually has reserved in vain, and
    what of it cannot be given back. An allocator that runs out of memory first returns the blocks that it does not use, so
    the former shrinks to the latter where the device is full.
    """
    found = []
    for phase in PHASES:
        here = [term for term in terms if phase in term.phases]
        usual, least = fragmentation
        if usual:
            moving = sum((term.size_bytes for term in here if term.part in _MOVING), 0.0)
            room = capacity_bytes - _ROUNDING - sum((term.size_bytes for term in here), 0.0)
            unused = MemoryTerm(
                "blocks that the allocator cannot use",
                "fragmentation_bytes",
                minimum(usual * moving, maximum(room, min(usual, least) * moving)),
                ALWAYS,
                "a share of what comes and goes within a step",
            )
            here.append(unused)
        sums: dict[str, Number] = {}
        for term in here:
            sums[term.part] = sums.get(term.part, 0.0) + term.size_bytes
        parts = TrainingMemoryParts(**sums, capacity_bytes=capacity_bytes)
        found.append(Moment(stage, phase, tuple(here), parts))
    return tuple(found)


_ROUNDING = 4096.0
"""Bytes by which blocks that fill a device stay below its size, so that sums of floats do not exceed it."""
_MOVING = frozenset({"activations_bytes", "logits_bytes", "buffers_bytes", "temporaries_bytes"})


def fullest(moments: Iterable[Moment]) -> TrainingMemoryParts:
    """The parts at the moment that takes most; of arrays, for each configuration its own moment."""
    every = list(moments)
    totals = [moment.parts.total_bytes for moment in every]
    if not any(isinstance(total, np.ndarray) for total in totals):
        return binding(every).parts
    values = np.empty((len(PARTS) + 1, len(every), *np.broadcast_shapes(*map(np.shape, totals))))
    for number, (moment, total) in enumerate(zip(every, totals, strict=True)):
        for part, name in enumerate(PARTS):
            values[part, number] = getattr(moment.parts, name)
        values[-1, number] = total
    chosen = values[-1].argmax(axis=0)
    picked = np.take_along_axis(values, chosen[None, None], axis=1)[:, 0]
    return TrainingMemoryParts(
        **dict(zip(PARTS, picked, strict=False)), capacity_bytes=every[0].parts.capacity_bytes
    )


def binding(moments: Iterable[Moment]) -> Moment:
    """The moment that takes most; of equal ones the first."""
    return max(moments, key=lambda moment: float(moment.parts.total_bytes))


@dataclass(frozen=True, slots=True)
class TrainingMemory(Tiers):
    """Memory per tier: of the fullest GPU, of one host, of one host's disks, each at its fullest moment.

    ``moments`` are the GPU's, of every pipeline stage that can be the fullest.
    """

    gpu: TrainingMemoryParts
    cpu: TrainingMemoryParts
    nvme: TrainingMemoryParts
    moments: tuple[Moment, ...] = ()
    host_moments: tuple[Moment, ...] = ()

    def at(self, phase: str) -> Moment:
        """A GPU's fullest stage in one phase; for a single configuration."""
        return binding(moment for moment in self.moments if moment.phase == phase)

    @property
    def binding(self) -> Moment:
        """The moment at which a GPU holds most; for a single configuration."""
        return binding(self.moments)


@dataclass(frozen=True, slots=True)
class StepEvaluation:
    """What the model says about a scenario: memory, and the time of one optimizer step with its parts."""

    memory: TrainingMemory
    step: PhaseCost
    notes: tuple[str, ...] = field(default=())
