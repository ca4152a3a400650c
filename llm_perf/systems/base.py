"""What every system takes and gives. All numbers may be arrays over configurations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, where
from llm_perf.systems.constants import ConstantsFile


@dataclass(frozen=True, slots=True)
class Load:
    """A workload as numbers or arrays: ``batch`` sequences over the whole deployment, tokens per sequence."""

    batch: Number
    prompt_len: Number
    gen_len: Number

    @property
    def context_len(self) -> Number:
        """Tokens whose keys and values are kept at the end."""
        return self.prompt_len + self.gen_len


@dataclass(frozen=True, slots=True)
class TierShares:
    """Fractions of one kind of tensor per tier."""

    gpu: Number
    cpu: Number
    nvme: Number


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each kind of tensor lives, and why (``reason`` is for a single configuration)."""

    weights: TierShares
    kv_cache: TierShares
    activations: TierShares
    reason: str = ""


ALL_ON_GPU = TierShares(1.0, 0.0, 0.0)
ALL_ON_CPU = TierShares(0.0, 1.0, 0.0)
ALL_ON_NVME = TierShares(0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """Bytes of one GPU, of one host or of its disks, by use. ``capacity_bytes`` is what can be allocated."""

    weights_bytes: Number
    kv_cache_bytes: Number
    activations_bytes: Number
    buffers_bytes: Number
    reserved_bytes: Number
    capacity_bytes: float

    @property
    def total_bytes(self) -> Number:
        """Sum of the parts."""
        return (
            self.weights_bytes
            + self.kv_cache_bytes
            + self.activations_bytes
            + self.buffers_bytes
            + self.reserved_bytes
        )

    @property
    def shortfall_bytes(self) -> Number:
        """Bytes missing, 0 where it fits."""
        return where(self.fits, 0.0, self.total_bytes - self.capacity_bytes)

    @property
    def fits(self) -> Number:
        """Whether the parts fit: memory comes in whole bytes, so less than one missing is a sum's rounding.

        A placement that fills what is free (Accelerate's) ends at the capacity, where sums of floats differ in their last
        digits.
        """
        return self.total_bytes - self.capacity_bytes < 1.0


NO_MEMORY = MemoryParts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory per tier: of the fullest GPU, of one host, of one host's disks."""

    gpu: MemoryParts
    cpu: MemoryParts
    nvme: MemoryParts

    @property
    def fits(self) -> Number:
        """Whether every tier fits."""
        return self.gpu.fits & self.cpu.fits & self.nvme.fits


_KERNELS = ("compute", "hbm", "kernel_floors")
WAITS_FOR: dict[str, tuple[str, ...]] = {
    "attention_projections": _KERNELS,
    "attention": _KERNELS,
    "mlp": _KERNELS,
    "elementwise": _KERNELS,
    "lm_head": _KERNELS,
    "dequantisation": _KERNELS,
    "gpu_pass": _KERNELS,
    "all_reduce": ("interconnect",),
    "all_gather": ("interconnect",),
    "all_to_all": ("interconnect",),
    "pipeline_transfer": ("interconnect",),
    "reduce_scatter_all_gather": ("interconnect",),
    "context_exchange": ("interconnect",),
    "draft_model": _KERNELS,
    "network": ("interconnect",),
    "framework": ("host",),
    "weight_streaming": ("pcie", "nvme", "interconnect"),
    "kv_offload": ("cpu", "pcie"),
}
"""Resources that a part of the breakdown waits for. Parts that are named after a resource wait for that one."""


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """One phase. ``parts_s`` are exposed seconds that sum to ``latency_s``; ``busy_s`` are seconds per resource.

    A resource can be busy while another is waited for, so ``busy_s`` may sum to more than the latency. In a pipeline
    both are those of one way through the stages, of which ``stages_busy`` work at once on average, and
    ``slowest_stage_s`` is how long the slowest works: None without stages.
    """

    latency_s: Number
    parts_s: dict[str, Number]
    busy_s: dict[str, Number]
    stages_busy: Number = 1.0
    slowest_stage_s: Number | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a system says about a scenario: placement, memory, both phases. ``decode`` is None for encoders."""

    placement: Placement
    memory: MemoryUse
    prefill: PhaseCost
    decode: PhaseCost | None
    notes: tuple[str, ...] = field(default=())


class System(Protocol):
    """One way of running a model."""

    name: str
    release: str | None

    @property
    def file(self) -> ConstantsFile:
        """The system's constants with their sources."""

    def check(self, scenario: Scenario) -> None:
        """Refuse what this system cannot do.

        Raises:
            SpecError: with what could be done instead.
        """

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The system's constants by name, those of the scenario's profile in place of the file's."""

    def place(self, scenario: Scenario, load: Load) -> Placement:
        """Where tensors live; chosen where the scenario does not say."""

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:
        """Memory per tier with this placement."""

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and time."""
