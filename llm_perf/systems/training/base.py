"""What the model of a training step takes and gives. All numbers may be arrays over configurations."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_perf.counts.arrays import Number, maximum
from llm_perf.systems.base import PhaseCost


@dataclass(frozen=True, slots=True)
class TrainingLoad:
    """One optimizer step: ``micro_batch`` sequences per rank and pass, ``accumulation`` passes, tokens per sequence."""

    micro_batch: Number
    accumulation: Number
    seq_len: Number


@dataclass(frozen=True, slots=True)
class TrainingMemoryParts:
    """Bytes of one GPU, of one host or of its disks, by use. ``capacity_bytes`` is what can be allocated."""

    weights_bytes: Number = 0.0
    gradients_bytes: Number = 0.0
    optimizer_bytes: Number = 0.0
    activations_bytes: Number = 0.0
    logits_bytes: Number = 0.0
    buffers_bytes: Number = 0.0
    reserved_bytes: Number = 0.0
    capacity_bytes: float = 0.0

    @property
    def state_bytes(self) -> Number:
        """Weights, gradients and optimizer state."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def total_bytes(self) -> Number:
        """Sum of the parts."""
        live = self.activations_bytes + self.logits_bytes + self.buffers_bytes + self.reserved_bytes
        return self.state_bytes + live

    @property
    def shortfall_bytes(self) -> Number:
        """Bytes missing, 0 where it fits."""
        return maximum(self.total_bytes - self.capacity_bytes, 0.0)

    @property
    def fits(self) -> Number:
        """Whether the parts fit."""
        return self.total_bytes <= self.capacity_bytes


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Memory per tier: of the fullest GPU, of one host, of one host's disks."""

    gpu: TrainingMemoryParts
    cpu: TrainingMemoryParts
    nvme: TrainingMemoryParts

    @property
    def fits(self) -> Number:
        """Whether every tier fits."""
        return self.gpu.fits & self.cpu.fits & self.nvme.fits


@dataclass(frozen=True, slots=True)
class StepEvaluation:
    """What the model says about a scenario: memory, and the time of one optimizer step with its parts."""

    memory: TrainingMemory
    step: PhaseCost
    notes: tuple[str, ...] = field(default=())
