"""Copies between host and GPU, and disk reads: which rate a path has, measured or as a ratio of the data sheet."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig, Rate
from llm_perf.errors import SpecError


@dataclass(frozen=True, slots=True)
class PathRate:
    """A rate in bytes/s and where it comes from."""

    bytes_per_s: float
    source: str
    measured: bool


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
    gpu: GPUConfig, host: HostConfig, system: str, path: str, ratio: float, ratio_source: str
) -> PathRate:
    """Rate of one host-to-GPU copy path of a system: measured on this machine, else ``ratio`` of the link.

    A rate belongs to machine, kind of host memory and software together, so a host's entry
    ``copies["<system>.<path>"]`` comes first, then the host's own entry for the path. A measured rate is
    scaled down where the GPU's link is slower than the one it was measured on, and never beats the link.
    """
    link = host_link_bytes_per_s(gpu, host)
    rate: Rate | None = host.copies.get(f"{system}.{path}") or getattr(host, path, None)
    if rate is None:
        return PathRate(
            link * ratio, f"{ratio:g} of the link's {link / 1e9:.4g} GB/s ({ratio_source})", False
        )
    host_link = host.pcie_bytes_per_s or link
    return PathRate(min(rate.bytes_per_s / host_link, 1.0) * link, rate.source, True)


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
