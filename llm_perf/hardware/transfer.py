"""Copies between host and GPU, and disk reads: which rate a path has, measured or as a ratio of the data sheet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llm_perf.config.base import GB
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import Disk, HostConfig, Rate
from llm_perf.counts.arrays import Number, is_array, where
from llm_perf.errors import SpecError
from llm_perf.hardware.streams import CPU, DISK_READ, DISK_WRITE


@dataclass(frozen=True, slots=True)
class SizeCurve:
    """Seconds that one copy takes beyond its bytes over the full rate, measured at several sizes, in bytes."""

    sizes: tuple[float, ...]
    excess_s: tuple[float, ...]

    @classmethod
    def of(cls, rate: Rate) -> SizeCurve | None:
        """Of a rate's table; None where it has none. A larger copy never takes less time than a smaller one."""
        if rate.by_size is None:
            return None
        sizes = np.array([entry.bytes for entry in rate.by_size])
        full = rate.by_size[-1].gb_per_s * GB
        seconds = np.maximum.accumulate([entry.bytes / (entry.gb_per_s * GB) for entry in rate.by_size])
        excess = np.maximum(seconds - sizes / full, 0.0)
        return cls(tuple(sizes.tolist()), tuple(excess.tolist()))

    def of_copy_s(self, size_bytes: Number) -> Number:
        """Seconds beyond the full rate of one copy of a size; below the smallest size and above the largest theirs."""
        found = np.interp(size_bytes, self.sizes, self.excess_s)
        return found if is_array(size_bytes) else float(found)


def copy_seconds(
    moved_bytes: Number, copies: Number, bytes_per_s: float, latency_s: float, curve: SizeCurve | None
) -> Number:
    """Seconds of moving ``moved_bytes`` in so many copies of about one size: bytes / rate + copies x latency.

    The latency is that of each copy, whatever its size, and what a measured table says of copies of that size.
    """
    seconds = moved_bytes / bytes_per_s + copies * latency_s
    if curve is None:
        return seconds
    size = moved_bytes / where(copies > 0, copies, 1.0)
    return seconds + copies * curve.of_copy_s(size)


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

    @property
    def stated(self) -> str:
        """Its rate, and where that comes from."""
        return f"{self.bytes_per_s / 1e9:.4g} GB/s: {self.source}"

    def shared_by(self, users: float) -> Path:
        """The same path where ``users`` use it at once and each gets an equal part."""
        if users <= 1:
            return self
        return replace(self, bytes_per_s=self.bytes_per_s / users)


def link_sharers(host: HostConfig, gpus_per_node: int) -> float:
    """GPUs of a deployment that share one link to the host, all of them copying at once; 1 where each has its own.

    A deployment spreads over a node's links as far as they go: DeepSpeed's rows on 2 and 4 of a DGX-2's 16 GPUs show a
    link each, although pairs of GPUs share one (DeepSpeed's blog on ZeRO-Inference, 2022-09-10).
    """
    links = max(host.gpus_per_node // host.gpus_per_pcie_link, 1)
    return max(gpus_per_node / links, 1.0)


def host_link_bytes_per_s(gpu: GPUConfig, host: HostConfig) -> float:
    """Raw rate of one GPU's link to the host per direction: the slower end's.

    Raises:
        SpecError: neither the GPU nor the host has such a link.
    """
    ends = [rate for rate in (gpu.pcie_bytes_per_s, host.pcie_bytes_per_s) if rate]
    if not ends:
        raise SpecError(
            f"{gpu.name} on host {host.name} has no host link that weights could be streamed over"
        )
    return min(ends)


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
    """One copy path of a system between host and GPU: measured on this machine, else ``ratio`` of the link.

    A rate belongs to machine, kind of host memory and software together, so a host's entry
    ``copies["<system>.<path>"]`` comes first, then the host's own entry for the path. A measured rate is
    scaled down where the GPU's link is slower than the one it was measured on, and never beats the link. ``latency_s``
    is that of each copy where the measured rate states none. ``gpus_per_node`` GPUs copy at once, and those that share a
    link get an equal part of it.
    """
    link, sharers = host_link_bytes_per_s(gpu, host), link_sharers(host, gpus_per_node)
    rate: Rate | None = host.copies.get(f"{system}.{path}") or getattr(host, path, None)
    if rate is None:
        source = f"{ratio:g} of the link's {link / 1e9:.4g} GB/s ({ratio_source})"
        return Path(stream, link * ratio, latency_s, source).shared_by(sharers)
    host_link = host.pcie_bytes_per_s or link
    full = min(rate.bytes_per_s / host_link, 1.0) * link
    measured = Path(stream, full, copy_latency_s(rate, latency_s), rate.source, True, SizeCurve.of(rate))
    return measured.shared_by(sharers)


def copy_latency_s(rate: Rate, default_s: float) -> float:
    """Seconds of each copy beside its bytes: as stated with the rate; none where a table by size holds it."""
    if rate.by_size is not None:
        return 0.0
    return default_s if rate.latency_us is None else rate.latency_us * 1e-6


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
    """Reads by a software path ("direct", "buffered", "mmap"): measured, else the stated rate.

    ``gpus_per_node`` GPUs that read parts of their own share a shared disk.

    Raises:
        SpecError: the host has no disk.
    """
    disk = _disk(host)
    return _disk_path(DISK_READ, host, f"{software}_read", disk.stated_read_gb_per_s, gpus_per_node)


def disk_write_path(host: HostConfig, software: str, gpus_per_node: int = 1) -> Path:
    """Writes by a software path ("direct" or "buffered"): measured, else the stated rate, else that of reads.

    Raises:
        SpecError: the host has no disk.
    """
    disk = _disk(host)
    stated = disk.stated_write_gb_per_s or disk.stated_read_gb_per_s
    return _disk_path(DISK_WRITE, host, f"{software}_write", stated, gpus_per_node)


def _disk(host: HostConfig) -> Disk:
    if host.disk is None:
        raise SpecError(f"host {host.name} has no disk to offload to")
    return host.disk


def _disk_path(
    stream: str, host: HostConfig, software: str, stated_gb_per_s: float, gpus_per_node: int
) -> Path:
    disk = _disk(host)
    rate: Rate | None = getattr(disk, software)
    if rate is None:
        path = Path(stream, stated_gb_per_s * 1e9, 0.0, f"rate stated for the disk of {host.name}")
    else:
        path = Path(stream, rate.bytes_per_s, 0.0, rate.source, True)
    return path.shared_by(gpus_per_node if disk.shared else 1)


def cpu_attention_path(host: HostConfig, system: str, ratio: float, ratio_source: str) -> Path:
    """KV bytes per second that attention on the CPU works through: measured, else ``ratio`` of the memory bandwidth.

    Raises:
        SpecError: the host states neither.
    """
    rate = host.copies.get(f"{system}.cpu_attention_kv") or host.cpu_attention_kv
    if rate is not None:
        return Path(CPU, rate.bytes_per_s, 0.0, rate.source, True)
    bandwidth = host.memory_bandwidth_gb_per_s_per_socket
    if bandwidth is None:
        raise SpecError(
            f"host {host.name} states no memory bandwidth, so attention on its CPU cannot be priced"
        )
    source = f"{ratio:.3g} of a socket's {bandwidth:g} GB/s ({ratio_source})"
    return Path(CPU, bandwidth * 1e9 * ratio, 0.0, source)
