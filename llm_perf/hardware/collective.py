"""Times of collectives over the GPUs of a deployment."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.counts.arrays import Number, sqrt


@dataclass(frozen=True, slots=True)
class Fabric:
    """What joins ``ranks`` GPUs: ``latency_s`` of one collective and the rate of one GPU's link per direction."""

    ranks: int
    latency_s: float
    bytes_per_s: float
    sqrt_term_s: float = 0.0

    def all_reduce_s(self, size_bytes: Number) -> Number:
        """Ring all-reduce: alpha + gamma sqrt(size / 1 MB) + 2 (N-1)/N size / bus; nothing over one rank."""
        if self.ranks == 1:
            return 0.0 * size_bytes
        wire = 2.0 * (self.ranks - 1) / self.ranks * size_bytes / self.bytes_per_s
        return self.latency_s + self.sqrt_term_s * sqrt(size_bytes / 1e6) + wire

    def all_gather_s(self, size_bytes: Number) -> Number:
        """All-gather that leaves ``size_bytes`` on every rank: half of an all-reduce's bytes."""
        if self.ranks == 1:
            return 0.0 * size_bytes
        return self.latency_s + (self.ranks - 1) / self.ranks * size_bytes / self.bytes_per_s

    def all_to_all_s(self, size_bytes: Number) -> Number:
        """All-to-all of ``size_bytes`` held by every rank."""
        return self.all_gather_s(size_bytes)

    def send_s(self, size_bytes: Number) -> Number:
        """One message to a neighbour."""
        return self.latency_s + size_bytes / self.bytes_per_s


def fabric(
    gpu: GPUConfig, ranks: int, gpus_per_node: int, host: HostConfig | None = None, span: int | None = None
) -> Fabric:
    """The fabric of ``ranks`` GPUs: the node's link while they fit in a node, else the network between nodes.

    The latency for a rank count that was not measured grows with log2 of the count (tree and ring starts).
    """
    measured = gpu.efficiency.collective
    if ranks > 1 and (span or ranks) > gpus_per_node:
        stated = None if host is None else host.nic_gb_per_s
        rate = (stated or gpu.inter_node_gb_per_s) * 1e9 * measured.inter_node_efficiency
        hops = math.log2(ranks)
        return Fabric(ranks, measured.inter_node_alpha_us * 1e-6 * hops, rate, measured.sqrt_term_us * 1e-6)
    return Fabric(
        ranks,
        _latency_s(gpu, ranks),
        (gpu.intra_node_bytes_per_s or gpu.inter_node_gb_per_s * 1e9) * measured.bus_efficiency,
        measured.sqrt_term_us * 1e-6,
    )


def _latency_s(gpu: GPUConfig, ranks: int) -> float:
    known = gpu.efficiency.collective.alpha_us
    if ranks == 1:
        return 0.0
    if ranks in known:
        return known[ranks] * 1e-6
    if not known:
        return gpu.min_message_latency_us * 1e-6
    nearest = min(known, key=lambda count: abs(math.log2(count / ranks)))
    return known[nearest] * 1e-6 * math.log2(ranks) / math.log2(nearest)
