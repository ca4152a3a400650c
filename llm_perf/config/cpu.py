"""What a host says of its processor: which kernels its cores can run, how fast its memory can be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_perf.config.base import GB
from llm_perf.config.host import HostConfig
from llm_perf.errors import SpecError

Kernels = Literal["amx", "avx512", "avx2", "neon", "rvv", "scalar"]
"""Classes of instruction sets that products on a CPU have kernels of their own for; AVX-512 with products of bytes; scalar
where a core has no vectors."""

X86: tuple[Kernels, ...] = ("amx", "avx512", "avx2")
"""Classes of processors of Intel and AMD."""

_PRODUCTS_OF_16_BITS = ("avx512_bf16", "amx_bf16", "neon", "sve2")
"""Instruction sets that multiply numbers of 16 bits; without one they are widened to 32 bits first."""

_CLASSES: tuple[tuple[Kernels, tuple[str, ...]], ...] = (
    ("amx", ("amx_int8",)),
    ("avx512", ("avx512_vnni",)),
    ("neon", ("neon", "sve2", "i8mm", "sme")),
    ("rvv", ("rvv",)),
    ("scalar", ("rv64",)),
)


@dataclass(frozen=True, slots=True)
class CpuFacts:
    """The processors of one host.

    ``virtual``: the cores are a virtual machine's, a part of a processor's. ``ghz`` is what all cores keep under load, None
    where the host does not state it. ``vector_bits`` of an instruction are multiplied at once. ``native_16bit``: they
    multiply numbers of 16 bits. ``fast_cores`` of the cores are fast, each other one multiplies ``slow_share`` of what a fast
    one does; ``neon_share`` is what cores with NEON multiply in a cycle over Apple's.
    ``channels_bytes_per_s`` is what all memory channels of a socket
    could deliver, ``cores_bytes_per_s`` what its cores can take in where their links are narrower, None where these are
    no limit; ``core_bytes_per_s`` what one core can at most, likewise. ``measured_bytes_per_s`` is what reads of all
    sockets' memory were measured to reach, None where nobody did.
    """

    sockets: int
    cores: int
    virtual: bool
    ghz: float | None
    vector_bits: int
    native_16bit: bool
    kernels: Kernels
    fast_cores: int
    slow_share: float
    neon_share: float
    channels_bytes_per_s: float
    cores_bytes_per_s: float | None
    core_bytes_per_s: float | None
    measured_bytes_per_s: float | None

    def fast_of(self, threads: float) -> float:
        """So many threads as threads of fast cores, which are taken first."""
        return min(threads, self.fast_cores) + self.slow_share * max(threads - self.fast_cores, 0.0)


def kernels_of(host: HostConfig) -> Kernels:
    """The widest class of instruction sets; AVX2 where the host lists none."""
    sets = set(host.instruction_sets)
    return next((name for name, needed in _CLASSES if sets & set(needed)), "avx2")


def cpu_facts(host: HostConfig) -> CpuFacts:
    """The processors of a host.

    Raises:
        SpecError: its cores or its memory channels are not known.
    """
    stated, measured = host.memory_bandwidth_gb_per_s_per_socket, host.read_gb_per_s
    if stated is None and measured is None:
        raise SpecError(
            f"memory channels of host {host.name} are not known, so its CPU cannot be priced: give --host-bandwidth, the "
            "GB/s that reads of its memory reach"
        )
    if host.cores_per_socket is None:
        raise SpecError(
            f"cores of host {host.name} are not known, so its CPU cannot be priced: cores_per_socket"
        )
    per_socket = (measured or 0.0) / host.sockets if stated is None else stated
    fast = host.performance_cores_per_socket
    of_cores = host.cores_read_gb_per_s_per_socket
    return CpuFacts(
        sockets=host.sockets,
        cores=host.sockets * host.cores_per_socket,
        virtual=host.shared_cores is not None,
        ghz=host.all_core_ghz,
        vector_bits=host.vector_bits or 256,
        native_16bit=bool(set(host.instruction_sets) & set(_PRODUCTS_OF_16_BITS)),
        kernels=kernels_of(host),
        fast_cores=host.sockets * (host.cores_per_socket if fast is None else fast),
        slow_share=host.efficiency_core_share,
        neon_share=host.neon_core_share,
        channels_bytes_per_s=per_socket * GB,
        cores_bytes_per_s=None if of_cores is None else of_cores * GB,
        core_bytes_per_s=None if host.core_read_gb_per_s is None else host.core_read_gb_per_s * GB,
        measured_bytes_per_s=None if measured is None else measured * GB,
    )
