"""HostConfig: what stands around the GPUs, and the rates of the copy paths that were measured there."""

import itertools
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from llm_perf.config.base import (
    GB,
    GIB,
    Fraction,
    Name,
    NonNegativeInt,
    NonNegativeQuantity,
    PositiveInt,
    Quantity,
    Spec,
)
from llm_perf.config.provenance import Evidence, Provenance, check_fields

_LANE_GB_PER_S = {1: 0.25, 2: 0.5, 3: 0.9846, 4: 1.9692, 5: 3.9385, 6: 7.563}
"""Raw rate of one lane per direction after encoding, GB/s (PCI-SIG base specifications 1.0 to 6.0)."""

PCIeGeneration = Annotated[PositiveInt, Field(le=max(_LANE_GB_PER_S))]

_OLD_WORDS = {"data sheet": "documented", "ratio": "assumed"}
"""Words of earlier files for a provenance, and today's."""


def _word_of_today(word: Any) -> Any:
    return _OLD_WORDS.get(word, word) if isinstance(word, str) else word


InstructionSet = Literal[
    "avx", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "amx_fp16",
    "neon", "sve2", "i8mm", "sme", "rvv", "rv64",
]  # fmt: skip
"""What a processor's cores can do to many numbers at once, as /proc/cpuinfo's flags abbreviate it; ``rv64`` is RISC-V
without vectors (``rvv``)."""

_BYTES_PER_TRANSFER = 8
"""A DDR channel is 64 bits wide (JEDEC; DDR5 splits it in two halves of 32)."""


class RateAtSize(Spec):
    """What single copies of ``bytes`` reach."""

    bytes: Quantity
    gb_per_s: Quantity


class Rate(Evidence):
    """A rate with where it comes from. ``relative_error`` is the stated uncertainty, None where unknown.

    ``gb_per_s`` is what large copies reach. What small ones lose is one of two: ``latency_us``, time of each copy
    whatever its size (None: the system's own figure), or ``by_size``, what single copies of several sizes reached,
    smallest first, as a microbenchmark measures it. A table counts by the seconds that each size takes longer than at
    the rate of its last entry, so that ``gb_per_s`` may be another rate, as of a whole run.
    """

    gb_per_s: Quantity
    provenance: Annotated[Provenance, BeforeValidator(_word_of_today)]
    relative_error: NonNegativeQuantity | None = None
    latency_us: NonNegativeQuantity | None = None
    by_size: Annotated[tuple[RateAtSize, ...], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _one_way_of_small_copies(self) -> "Rate":
        sizes = [entry.bytes for entry in self.by_size or ()]
        if any(later <= earlier for earlier, later in itertools.pairwise(sizes)):
            raise ValueError("by_size must rise in bytes from entry to entry")
        if sizes and self.latency_us is not None:
            raise ValueError("give latency_us or by_size, not both: a table holds the latency")
        return self

    @property
    def bytes_per_s(self) -> float:
        """The rate in bytes/s."""
        return self.gb_per_s * GB


class HostTimeScale(Evidence):
    """How long this machine takes for the host's work in a serving stack, against that of an EPYC 7742 (a DGX A100).

    It covers Python, scheduling, sampling and launches. It is a fact of a machine, not of its processor's type: clocks,
    settings and neighbours count, and machines with equal processors differ.
    """

    value: Quantity


class Disk(Spec):
    """One host's NVMe. A rate belongs to a software path, not to the device (direct, buffered, memory map).

    ``shared``: all GPUs of the host read from the same device, so that its rate is not multiplied.
    """

    capacity_gib: Quantity
    stated_read_gb_per_s: Quantity
    stated_write_gb_per_s: Quantity | None = None
    direct_read: Rate | None = None
    direct_write: Rate | None = None
    buffered_read: Rate | None = None
    buffered_write: Rate | None = None
    mmap_read: Rate | None = None
    shared: bool = True

    @property
    def capacity_bytes(self) -> float:
        """Size, bytes."""
        return self.capacity_gib * GIB

    def read_bytes_per_s(self, path: Literal["direct", "buffered", "mmap"]) -> float:
        """Read rate of a software path, bytes/s: measured where known, else the stated rate of the device."""
        rate: Rate | None = getattr(self, f"{path}_read")
        return rate.bytes_per_s if rate is not None else self.stated_read_gb_per_s * GB


class HostConfig(Spec):
    """One node: memory, processors, the link to each GPU, disks, network.

    Rates that are None are taken as a ratio of the data sheet by the system that needs them, and the report
    says so. ``copies`` are rates of this machine under one system, since a rate belongs to machine, kind of
    memory and software together: ``<system>.<path>`` with the paths ``pinned_h2d``, ``pageable_h2d``,
    ``mmap_h2d`` (the driver's own copy out of pageable memory), ``growing_slice_h2d`` and
    ``cpu_attention_kv`` (bytes of KV cache that attention on the CPU works through). ``layer_overhead_ms`` is
    host time per layer by system. ``host_time_scale`` is how its time for Python and launches compares, 1 where None.
    ``peer_gb_per_s`` is what a GPU's copies to another of the node over PCIe reach, where sockets, switches or a driver that
    copies through host memory decide; None where the GPU's own figures hold.
    ``nic_gb_per_s`` is one GPU's share of the network per direction, None
    where the GPU's own figure holds.
    ``from_profile`` names the fields that a profile gave: they go before what a version of a system states for this host.
    ``provenance`` holds for every field that is no rate with its own, but for those that ``assumed`` names.
    ``gpus_per_node`` GPUs share the fast link, ``gpus_per_pcie_link`` of them one link to the host; ``larger`` is the
    host that people have more of the same cards in, ``improvised`` one that nobody sells. ``made_with``:
    architectures of the accelerators that a machine is made with, where it is no host of slots for any card.
    ``memory_channels_per_socket`` DDR channels of 64 bits at
    ``memory_mt_per_s`` million transfers per second give the memory bandwidth where that is not stated.
    ``instruction_sets``: those for products. ``all_core_ghz`` is the clock that all cores keep under load, ``vector_bits``
    how wide their units for products are where that is more than 256 bits of a wider instruction at once, ``neon_core_share``
    what a core with NEON multiplies in a cycle over one of Apple's, which have four units of 128 bits.
    ``performance_cores_per_socket``: those of the
    cores that are fast, all where None; each of the others multiplies ``efficiency_core_share`` of what a fast one does.
    ``cores_read_gb_per_s_per_socket`` is what the cores of a socket can take in together where that is less than its
    channels deliver (links between chiplets), ``core_read_gb_per_s`` what one core can, ``read_gb_per_s`` what reads of
    all memory were measured to reach. ``shared_cores`` are the cores of the processor that a virtual machine has a part
    of, whose memory others read as well.
    """

    name: Name
    aliases: tuple[str, ...] = ()
    from_profile: tuple[str, ...] = ()
    memory_gib: Quantity
    usable_memory_gib: Quantity
    swap_gib: NonNegativeQuantity = 0.0
    cpu: str | None = None
    sockets: PositiveInt = 1
    cores_per_socket: PositiveInt | None = None
    all_core_ghz: Quantity | None = None
    vector_bits: Literal[256, 512] | None = None
    neon_core_share: Fraction = 1.0
    performance_cores_per_socket: NonNegativeInt | None = None
    efficiency_core_share: Fraction = 1.0
    memory_channels_per_socket: PositiveInt | None = None
    memory_mt_per_s: Quantity | None = None
    instruction_sets: tuple[InstructionSet, ...] = ()
    memory_bandwidth_gb_per_s_per_socket: Quantity | None = None
    cores_read_gb_per_s_per_socket: Quantity | None = None
    core_read_gb_per_s: Quantity | None = None
    read_gb_per_s: Quantity | None = None
    shared_cores: PositiveInt | None = None
    cpu_matmul_tflops_small_batch: Quantity | None = None
    cpu_matmul_tflops_large_batch: Quantity | None = None
    cpu_attention_kv: Rate | None = None
    pcie_generation: PCIeGeneration | None = None
    pcie_lanes: PositiveInt = 16
    pcie_gb_per_s: Quantity | None = None
    gpus_per_pcie_link: PositiveInt = 1
    peer_gb_per_s: Quantity | None = None
    pinned_h2d: Rate | None = None
    pinned_d2h: Rate | None = None
    pageable_h2d: Rate | None = None
    growing_slice_h2d: Rate | None = None
    fresh_d2h: Rate | None = None
    copies: dict[str, Rate] = Field(default_factory=dict)
    layer_overhead_ms: dict[str, NonNegativeQuantity] = Field(default_factory=dict)
    host_time_scale: HostTimeScale | None = None
    disk: Disk | None = None
    nic_gb_per_s: Quantity | None = None
    gpus_per_node: PositiveInt = 8
    larger: str | None = None
    improvised: bool = False
    made_with: tuple[str, ...] = ()
    provenance: Provenance = "documented"
    assumed: tuple[str, ...] = ()
    source: str = Field(min_length=1)
    notes: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _bandwidth_of_channels(cls, data: Any) -> Any:
        """Channels x transfers x 8 bytes, where the bandwidth itself is not given."""
        if not isinstance(data, dict):
            return data
        channels, rate = data.get("memory_channels_per_socket"), data.get("memory_mt_per_s")
        if not isinstance(channels, int) or not isinstance(rate, (int, float)):
            return data
        return {
            "memory_bandwidth_gb_per_s_per_socket": channels * rate * _BYTES_PER_TRANSFER / 1000,
            **data,
        }

    @model_validator(mode="after")
    def _fast_cores_are_some_of_its_cores(self) -> "HostConfig":
        fast, cores = self.performance_cores_per_socket, self.cores_per_socket
        if fast is not None and (cores is None or fast > cores):
            raise ValueError(f"performance_cores_per_socket {fast}: there are {cores} cores per socket")
        return self

    @model_validator(mode="after")
    def _bandwidth_is_that_of_the_channels(self) -> "HostConfig":
        if self.memory_channels_per_socket is None or self.memory_mt_per_s is None:
            return self
        channels = self.memory_channels_per_socket * self.memory_mt_per_s * _BYTES_PER_TRANSFER / 1000
        stated = self.memory_bandwidth_gb_per_s_per_socket
        if stated is not None and abs(stated / channels - 1) > 0.01:  # sheets round to three digits
            raise ValueError(
                f"memory_bandwidth_gb_per_s_per_socket {stated:g} is not what {self.memory_channels_per_socket} channels at "
                f"{self.memory_mt_per_s:g} MT/s give, {channels:g}: leave it out or correct one"
            )
        return self

    @model_validator(mode="after")
    def _assumed_fields_exist(self) -> "HostConfig":
        check_fields(self, self.assumed)
        return self

    @model_validator(mode="after")
    def _usable_is_part_of_installed(self) -> "HostConfig":
        if self.usable_memory_gib > self.memory_gib:
            raise ValueError(
                f"usable_memory_gib {self.usable_memory_gib} is more than memory_gib {self.memory_gib}"
            )
        return self

    def without_fits(self) -> "HostConfig":
        """The host without the rates that were fitted to whole runs: ratios to its data sheet take their place."""
        disk = self.disk
        if disk is not None:
            disk = disk.replace(**_fitted_fields(disk))
        kept = {name: rate for name, rate in self.copies.items() if not rate.fitted}
        scale = self.host_time_scale
        return self.replace(
            **_fitted_fields(self),
            copies=kept,
            disk=disk,
            host_time_scale=None if scale is None or scale.fitted else scale,
        )

    @property
    def fitted_values(self) -> int:
        """How many rates were fitted to whole runs."""
        of_disk = [] if self.disk is None else _fitted_fields(self.disk)
        scales = self.host_time_scale is not None and self.host_time_scale.fitted
        rates = sum(rate.fitted for rate in self.copies.values())
        return len(_fitted_fields(self)) + len(of_disk) + rates + scales

    def with_sockets(self, times: int) -> "HostConfig":
        """The machine with so many times its sockets and memory."""
        if times == 1:
            return self
        return self.replace(
            name=f"{times}x {self.name}",
            sockets=self.sockets * times,
            memory_gib=self.memory_gib * times,
            usable_memory_gib=self.usable_memory_gib * times,
        )

    def with_memory(self, gib: int) -> "HostConfig":
        """The machine with so much memory in all, of which programs can have the same share."""
        stated = ("memory_gib", "usable_memory_gib")
        return self.replace(
            name=f"{self.name}-{gib}gb",
            memory_gib=float(gib),
            usable_memory_gib=gib * self.usable_memory_gib / self.memory_gib,
            assumed=tuple(field for field in self.assumed if field not in stated),
        )

    @property
    def memory_bytes(self) -> float:
        """Installed memory, bytes."""
        return self.memory_gib * GIB

    @property
    def usable_memory_bytes(self) -> float:
        """Memory that a process can allocate, bytes."""
        return self.usable_memory_gib * GIB

    @property
    def pcie_bytes_per_s(self) -> float | None:
        """Raw rate of one GPU's link per direction, bytes/s."""
        if self.pcie_gb_per_s is not None:
            return self.pcie_gb_per_s * GB
        if self.pcie_generation is None:
            return None
        return pcie_link_gb_per_s(self.pcie_generation, self.pcie_lanes) * GB


def _fitted_fields(spec: Spec) -> dict[str, None]:
    """Fields that hold a fitted rate, each with None in its place."""
    found = {name: getattr(spec, name) for name in type(spec).model_fields}
    return {name: None for name, rate in found.items() if isinstance(rate, Rate) and rate.fitted}


def pcie_link_gb_per_s(generation: int, lanes: int) -> float:
    """Raw rate of a PCIe link per direction, GB/s."""
    return _LANE_GB_PER_S[generation] * lanes
