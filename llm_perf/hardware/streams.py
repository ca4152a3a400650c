"""Streams: what can be busy at the same time in one machine, and the rate at which bytes take a path over them.

A schedule (`llm_perf.systems.schedule`) is made of work on these streams. Work on one stream is served one after the
other, work on different streams may overlap if the system lets it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig, Rate
from llm_perf.counts.arrays import Number
from llm_perf.errors import SpecError
from llm_perf.hardware.transfer import (
    PathRate,
    SizeCurve,
    copy_latency_s,
    copy_rate,
    copy_seconds,
    disk_read_rate,
)

COMPUTE: Final = "compute"
HBM: Final = "hbm"
H2D: Final = "h2d"
D2H: Final = "d2h"
CPU: Final = "cpu"
CPU_MEMORY: Final = "cpu_memory"
DISK_READ: Final = "disk_read"
DISK_WRITE: Final = "disk_write"
INTERCONNECT: Final = "interconnect"
NETWORK: Final = "network"
HOST: Final = "host"

STREAMS: Final[dict[str, str]] = {
    COMPUTE: "GPU arithmetic",
    HBM: "GPU memory",
    H2D: "copies to the GPU",
    D2H: "copies from the GPU",
    CPU: "computing on the CPU",
    CPU_MEMORY: "copies in host memory",
    DISK_READ: "disk reads",
    DISK_WRITE: "disk writes",
    INTERCONNECT: "GPU-to-GPU links",
    NETWORK: "network between nodes",
    HOST: "framework time on the CPU",
}
"""Every stream with its title. ``host`` is the framework's own thread: launches, bookkeeping."""


@dataclass(frozen=True, slots=True)
class Path:
    """A way that bytes take: ``bytes_per_s`` once under way, ``latency_s`` for each copy.

    The rate that a copy of n bytes reaches is n / (latency + n / rate): half of it at n = latency x rate. ``curve`` is
    a measured table of what copies of several sizes take, in the place of the latency.
    """

    stream: str
    bytes_per_s: float
    latency_s: float = 0.0
    source: str = ""
    measured: bool = False
    curve: SizeCurve | None = None

    def seconds(self, moved_bytes: Number, copies: Number = 0.0) -> Number:
        """Seconds of moving ``moved_bytes`` in so many copies."""
        return copy_seconds(moved_bytes, copies, self.bytes_per_s, self.latency_s, self.curve)

    def shared_by(self, users: float) -> Path:
        """The same path where ``users`` use it at once and each gets an equal part."""
        if users <= 1:
            return self
        return replace(self, bytes_per_s=self.bytes_per_s / users)


def link_sharers(host: HostConfig, gpus_per_node: int) -> int:
    """GPUs of the deployment that share one link to the host, all of them copying at once."""
    return min(host.gpus_per_pcie_link, gpus_per_node)


def copy_path(
    stream: str,
    gpu: GPUConfig,
    host: HostConfig,
    system: str,
    path: str,
    ratio: float,
    ratio_source: str,
    latency_s: float = 0.0,
    gpus_per_node: int = 1,
) -> Path:
    """A copy between host and GPU; see :func:`llm_perf.hardware.transfer.copy_rate` for where its rate comes from.

    GPUs that share a link get an equal part of it.
    """
    rate = copy_rate(gpu, host, system, path, ratio, ratio_source, latency_s)
    whole = Path(stream, rate.bytes_per_s, rate.latency_s, rate.source, rate.measured, rate.curve)
    return whole.shared_by(link_sharers(host, gpus_per_node))


def host_path(
    stream: str, host: HostConfig, system: str, path: str, default_bytes_per_s: float, default_source: str
) -> Path:
    """A path whose rate host memory sets, not the link: measured on this machine, else the default."""
    rate: Rate | None = host.copies.get(f"{system}.{path}") or getattr(host, path, None)
    if rate is None:
        return Path(stream, default_bytes_per_s, 0.0, default_source)
    latency_s = copy_latency_s(rate, 0.0)
    return Path(stream, rate.bytes_per_s, latency_s, rate.source, True, SizeCurve.of(rate))


def disk_read_path(host: HostConfig, software: str, gpus_per_node: int = 1) -> Path:
    """Reads by a software path ("direct", "buffered", "mmap"). GPUs of a node share a shared disk.

    Raises:
        SpecError: the host has no disk.
    """
    return _disk_path(DISK_READ, host, disk_read_rate(host, software), gpus_per_node)


def disk_write_path(host: HostConfig, software: str, gpus_per_node: int = 1) -> Path:
    """Writes by a software path ("direct" or "buffered"): measured, else the stated rate, else that of reads.

    Raises:
        SpecError: the host has no disk.
    """
    if host.disk is None:
        raise SpecError(f"host {host.name} has no disk to offload to")
    rate: Rate | None = getattr(host.disk, f"{software}_write")
    if rate is not None:
        found = PathRate(rate.bytes_per_s, rate.source, True)
    else:
        stated = host.disk.stated_write_gb_per_s or host.disk.stated_read_gb_per_s
        found = PathRate(stated * 1e9, f"rate stated for the disk of {host.name}", False)
    return _disk_path(DISK_WRITE, host, found, gpus_per_node)


def _disk_path(stream: str, host: HostConfig, rate: PathRate, gpus_per_node: int) -> Path:
    shared = host.disk is not None and host.disk.shared
    path = Path(stream, rate.bytes_per_s, 0.0, rate.source, rate.measured)
    return path.shared_by(gpus_per_node if shared else 1)
