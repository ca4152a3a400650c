"""What every system takes and gives. All numbers may be arrays over configurations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llm_perf.config.base import serving_defaults
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import OffloadConfig, Workload
from llm_perf.counts.arrays import Number, is_array
from llm_perf.hardware.streams import STREAMS
from llm_perf.systems.constants import WithConstants
from llm_perf.systems.families import Family, Part, declaration
from llm_perf.systems.terms import Factor, Term, Terms, no_terms
from llm_perf.systems.tiers import Tier, Tiers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Load:
    """A workload as numbers or arrays: ``batch`` sequences over the whole deployment, tokens per sequence."""

    batch: Number
    prompt_len: Number
    gen_len: Number

    @classmethod
    def of(cls, workload: Workload) -> Load:
        """A scenario's own workload."""
        return cls(float(workload.batch_size), float(workload.prompt_len), float(workload.gen_len))

    def steps(self, encoder: bool) -> Number:
        """Decode steps of one sequence; none for encoders."""
        return self.gen_len * 0 if encoder else self.gen_len - 1

    def tokens(self, encoder: bool) -> Number:
        """Tokens that a throughput counts: generated ones, for encoders those that are read."""
        return self.batch * (self.prompt_len if encoder else self.gen_len)

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


@dataclass(frozen=True, slots=True)
class MemoryParts(Tier):
    """Bytes of one GPU, of one host or of its disks, by use. ``capacity_bytes`` is what can be allocated.

    ``waiting_bytes`` is cache of sequences that wait for room: it is not part of what is used.
    """

    uses: ClassVar[Mapping[str, str]] = {
        "weights_bytes": "weights",
        "kv_cache_bytes": "KV cache",
        "activations_bytes": "activations",
        "buffers_bytes": "buffers",
        "reserved_bytes": "context, reserve",
    }
    weights_bytes: Number
    kv_cache_bytes: Number
    activations_bytes: Number
    buffers_bytes: Number
    reserved_bytes: Number
    capacity_bytes: Number
    waiting_bytes: Number = 0.0

    @property
    def kv_room_bytes(self) -> Number:
        """Bytes that the cache may take: what everything else leaves."""
        return self.capacity_bytes - (self.total_bytes - self.kv_cache_bytes)

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


NO_MEMORY = MemoryParts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class MemoryUse(Tiers):
    """Memory per tier: of the fullest GPU, of one host, of one host's disks."""

    gpu: MemoryParts
    cpu: MemoryParts
    nvme: MemoryParts

    @property
    def at_once(self) -> Number:
        """Whether all sequences fit at once, so that none waits."""
        return self.fits & (self.gpu.waiting_bytes < 1.0)


_KERNELS = ("compute", "hbm", "kernel_floors")
_LINKS = ("interconnect",)
COMMON_PARTS: Mapping[str, Part] = {
    "attention_projections": Part(title="attention projections", waits_for=_KERNELS),
    "attention": Part(title="attention", waits_for=_KERNELS),
    "mlp": Part(title="feed-forward", waits_for=_KERNELS),
    "elementwise": Part(title="norms and elementwise", waits_for=_KERNELS),
    "lm_head": Part(title="LM head", waits_for=_KERNELS, once=True),
    "all_reduce": Part(title="all-reduce", waits_for=_LINKS),
    "all_gather": Part(title="all-gather of logits", waits_for=_LINKS, once=True),
    "all_to_all": Part(title="all-to-all of experts", waits_for=_LINKS),
    "pipeline_transfer": Part(title="pipeline transfers", waits_for=_LINKS, once=True),
    "reduce_scatter_all_gather": Part(title="reduce-scatter, all-gather", waits_for=_LINKS),
    "context_exchange": Part(title="exchange of context ranks", waits_for=_LINKS),
    "draft_model": Part(title="draft model", waits_for=_KERNELS, once=True),
    "dequantisation": Part(title="dequantisation", waits_for=_KERNELS),
    "framework": Part(title="framework (exposed)", waits_for=("host",)),
    "cpu_layers": Part(title="layers on the CPU", waits_for=("cpu",)),
    "cpu_experts": Part(title="experts on the CPU", waits_for=("cpu",)),
    "cpu_attention": Part(title="attention on the CPU", waits_for=("cpu",)),
    "cpu_hops": Part(title="hops between GPU and CPU", waits_for=("pcie",)),
    "weight_copies": Part(title="weights copied to the GPU", waits_for=("pcie",)),
    "file_reads": Part(title="reads of the file", waits_for=("nvme",)),
    "kv_offload": Part(title="KV cache in host memory", waits_for=("cpu", "pcie")),
    "weight_streaming": Part(title="weight streaming (exposed)", waits_for=("pcie", "nvme", "interconnect")),
}
"""Parts of a phase that several systems have; a system declares its own in its ``system.yaml``."""

COMMON_RESOURCES: Mapping[str, str] = STREAMS | {
    "compute": "GPU arithmetic",
    "hbm": "GPU memory bandwidth",
    "kernel_floors": "latency of small kernels",
    "pcie": "host-to-GPU link",
    "nvme": "NVMe reads",
    "host": "framework time on the CPU",
    "interconnect": "GPU-to-GPU links",
    "cpu": "attention on the CPU",
}
"""Resources that several systems wait for, in words."""

SERVING_OPTIONS = (
    *serving_defaults(ParallelismConfig),
    *serving_defaults(Workload),
    "draft_model",
    "draft_tokens",
    "acceptance",
    "acceptance_rate",
    "token_acceptance",
    "micro_batches",
)
"""Options of a request that serving stacks know."""

POLICY_OPTIONS = (
    "percent", "gpu_batch_size", "num_gpu_batches", "compress_weight", "compress_cache", "cpu_cache_compute",
    "attn_sparsity",
)  # fmt: skip
"""Options of a request that say how a batch is cut and where each tensor goes."""

HYBRID_OPTIONS = (
    "n_gpu_layers", "n_cpu_moe", "ubatch_size", "threads", "split_mode", "cpu_offload_gb", "kt_num_gpu_experts",
    "kt_gpu_prefill_token_threshold", "kt_max_deferred_experts_per_token", "expert_hit_rate",
)  # fmt: skip
"""Options of a request that divide a model between the GPU and a CPU that computes or keeps weights."""


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """One phase. ``parts_s`` are exposed seconds that sum to ``latency_s``; ``busy_s`` are seconds per resource.

    A resource can be busy while another is waited for, so ``busy_s`` may sum to more than the latency. In a pipeline
    both are those of one way through the stages, of which ``stages_busy`` work at once on average, and
    ``slowest_stage_s`` is how long the slowest works: None without stages. ``micro_batches`` are what the batch is cut into.
    ``terms`` makes what the parts consist of.
    """

    latency_s: Number
    parts_s: dict[str, Number]
    busy_s: dict[str, Number]
    stages_busy: Number = 1.0
    slowest_stage_s: Number | None = None
    micro_batches: Number = 1
    terms: Terms = field(default=no_terms, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Terms of arrays are dropped: nobody reads them, and they would keep intermediate arrays in memory."""
        if is_array(self.latency_s):
            object.__setattr__(self, "terms", no_terms)

    def explained(self) -> tuple[Term, ...]:
        """Terms that sum to the latency, part by part; a part that says nothing of itself is a term of its own.

        For a single configuration.
        """
        said = tuple(self.terms())
        named = {term.part for term in said}
        silent = (part for part, seconds in self.parts_s.items() if part not in named and seconds != 0)
        return (*said, *(Term(part, "seconds", (Factor("seconds", self.parts_s[part]),)) for part in silent))


def added(seconds: dict[str, Number], more: dict[str, Number], times: Number) -> dict[str, Number]:
    """Seconds by name, and those of others so many times."""
    names = dict.fromkeys((*seconds, *more))
    return {name: seconds.get(name, 0.0) + times * more.get(name, 0.0) for name in names}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a system says about a scenario: placement, memory, both phases. ``decode`` is None for encoders."""

    placement: Placement
    memory: MemoryUse
    prefill: PhaseCost
    decode: PhaseCost | None
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Policies:
    """Policies that a search found, all of which fit: ``flags(i)`` are the inputs that mean the i-th one."""

    latency_s: npt.NDArray[np.float64]
    throughput_tokens_per_s: npt.NDArray[np.float64]
    flags: Callable[[int], dict[str, Any]]
    searched: int


@dataclass(frozen=True, slots=True)
class Filling:
    """Settings of a model divided between GPU and CPU, of which one, ``name``, puts more on the GPU from value to value.

    ``flags`` are the others. Without a name there is nothing to fill.
    """

    flags: dict[str, Any]
    name: str | None
    values: range


class System(WithConstants, ABC):
    """One way of running a model: what it does in Python, beside what its ``system.yaml`` says (`Family`).

    A system gives ``name``, ``place``, ``memory`` and ``evaluate``. Everything else has a default that says no.

    Attributes:
        options: Options of a request (`SERVING_OPTIONS`, `POLICY_OPTIONS`, `HYBRID_OPTIONS`) that it knows; others are
            refused.
    """

    options: ClassVar[frozenset[str]] = frozenset()

    @property
    def family(self) -> Family:
        """What it says about itself, whatever its version."""
        return declaration(self.name)

    @property
    def parts(self) -> Mapping[str, Part]:
        """Parts of its phases by name."""
        return {**COMMON_PARTS, **self.family.parts}

    def waits_for(self, part: str) -> tuple[str, ...]:
        """Resources that a part of the breakdown waits for; a part may be named after the one that it waits for."""
        known = self.parts.get(part)
        return (part,) if known is None else known.waits_for or (part,)

    def part_title(self, part: str) -> str:
        """What reports call a part of the breakdown."""
        known = self.parts.get(part)
        return part.replace("_", " ") if known is None else known.title

    def resource_title(self, resource: str) -> str:
        """What reports call a resource that is waited for."""
        return {**COMMON_RESOURCES, **self.family.resources}.get(resource, resource.replace("_", " "))

    # -- what it does -------------------------------------------------------------------------------------------

    def check(self, scenario: Scenario) -> None:
        """Refuse what this system cannot do.

        Raises:
            SpecError: with what could be done instead.
        """

    @abstractmethod
    def place(self, scenario: Scenario, load: Load) -> Placement:
        """Where tensors live; chosen where the scenario does not say."""

    @abstractmethod
    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:
        """Memory per tier with this placement."""

    @abstractmethod
    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and time."""

    def takes(self, option: str) -> bool:
        """Whether it knows an option, and all that a prediction with it rests on."""
        return option in self.options

    # -- what a request means to it -----------------------------------------------------------------------------

    def dtype_of(self, inputs: Mapping[str, Any], dtype: DtypeConfig) -> DtypeConfig:  # noqa: ARG002 - a hook
        """Number formats with what the system's own options say, by the names of the inputs of ``infer``.

        Raises:
            SpecError: options that contradict each other.
        """
        return dtype

    def offload_of(self, inputs: Mapping[str, Any], offload: OffloadConfig) -> OffloadConfig:  # noqa: ARG002
        """Placement and batches with what the system's own options say.

        Raises:
            SpecError: options that contradict each other.
        """
        return offload

    # -- what could be changed ----------------------------------------------------------------------------------

    def smaller(self, inputs: Mapping[str, Any], scenario: Scenario) -> Iterator[dict[str, Any]]:  # noqa: ARG002
        """Changes to the inputs that need less memory, smallest first, for advice where a request does not fit."""
        yield from ()

    def knobs(self, lossless: bool) -> Iterator[dict[str, Any]]:  # noqa: ARG002
        """Combinations of inputs that ``llm-perf policy`` tries, each with batches of many sizes; none: not searched."""
        yield from ()

    def fillings(self, scenario: Scenario, lossless: bool) -> Iterator[Filling]:  # noqa: ARG002
        """Divisions of a model between GPU and CPU that ``llm-perf policy`` tries; none: it does not divide."""
        yield from ()

    def policies(
        self,
        scenario: Scenario,  # noqa: ARG002
        lossless: bool,  # noqa: ARG002
        max_latency_s: float | None,  # noqa: ARG002
    ) -> Policies | None:
        """Policies from a search of the system's own, in place of ``knobs``; None where it has none."""
        return None

    def nearest_policy(self, scenario: Scenario, lossless: bool) -> dict[str, Any] | None:  # noqa: ARG002
        """Inputs that lack the least memory where no policy fits; None where the system's search cannot tell."""
        return None

    def describe_policy(self, flags: Mapping[str, Any]) -> str:
        """A policy in few words, for one cell of a table."""
        return ", ".join(f"{name} {value}" for name, value in flags.items() if name != "system")
