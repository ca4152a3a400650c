"""Copies between host and GPU, and disk reads: which rate a path has, measured or as a ratio of the data sheet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_perf.config.base import GB
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig, Rate
from llm_perf.counts.arrays import Number, is_array, where
from llm_perf.errors import SpecError


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
class PathRate:
    """A rate in bytes/s and where it comes from; ``latency_s`` and ``curve``: what each copy takes beside its bytes."""

    bytes_per_s: float
    source: str
    measured: bool
    latency_s: float = 0.0
    curve: SizeCurve | None = None

    def seconds(self, moved_bytes: Number, copies: Number = 0.0) -> Number:
        """Seconds of moving ``moved_bytes`` in so many copies."""
        return copy_seconds(moved_bytes, copies, self.bytes_per_s, self.latency_s, self.curve)


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


def copy_rate(
    gpu: GPUConfig,
    host: HostConfig,
    system: str,
    path: str,
    ratio: float,
    ratio_source: str,
    latency_s: float = 0.0,
) -> PathRate:
    """Rate of one host-to-GPU copy path of a system: measured on this machine, else ``ratio`` of the link.

    A rate belongs to machine, kind of host memory and software together, so a host's entry
    ``copies["<system>.<path>"]`` comes first, then the host's own entry for the path. A measured rate is
    scaled down where the GPU's link is slower than the one it was measured on, and never beats the link. ``latency_s``
    is that of each copy where the measured rate states none.
    """
    link = host_link_bytes_per_s(gpu, host)
    rate: Rate | None = host.copies.get(f"{system}.{path}") or getattr(host, path, None)
    if rate is None:
        source = f"{ratio:g} of the link's {link / 1e9:.4g} GB/s ({ratio_source})"
        return PathRate(link * ratio, source, False, latency_s)
    host_link = host.pcie_bytes_per_s or link
    full = min(rate.bytes_per_s / host_link, 1.0) * link
    return PathRate(full, rate.source, True, copy_latency_s(rate, latency_s), SizeCurve.of(rate))


def copy_latency_s(rate: Rate, default_s: float) -> float:
    """Seconds of each copy beside its bytes: as stated with the rate; none where a table by size holds it."""
    if rate.by_size is not None:
        return 0.0
    return default_s if rate.latency_us is None else rate.latency_us * 1e-6


def disk_read_rate(host: HostConfig, path: str) -> PathRate:
    """Rate at which a software path ("direct", "buffered", "mmap") reads from the host's disks.

    Raises:
        SpecError: the host has no disk.
    """
    if host.disk is None:
        raise SpecError(f"host {host.name} has no disk to offload to")
    rate: Rate | None = getattr(host.disk, f"{path}_read")
    if rate is None:
        return PathRate(
            host.disk.stated_read_gb_per_s * 1e9, f"rate stated for the disk of {host.name}", False
        )
    return PathRate(rate.bytes_per_s, rate.source, True)


def cpu_attention_rate(host: HostConfig, system: str, ratio: float, ratio_source: str) -> PathRate:
    """KV bytes per second that attention on the CPU works through: measured, else ``ratio`` of the memory bandwidth.

    Raises:
        SpecError: the host states neither.
    """
    rate = host.copies.get(f"{system}.cpu_attention_kv") or host.cpu_attention_kv
    if rate is not None:
        return PathRate(rate.bytes_per_s, rate.source, True)
    bandwidth = host.memory_bandwidth_gb_per_s_per_socket
    if bandwidth is None:
        raise SpecError(
            f"host {host.name} states no memory bandwidth, so attention on its CPU cannot be priced"
        )
    return PathRate(
        bandwidth * 1e9 * ratio, f"{ratio:.3g} of a socket's {bandwidth:g} GB/s ({ratio_source})", False
    )
