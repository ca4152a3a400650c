"""Collectives of a group of ranks that is spread over NVLink domains: links inside, network cards between."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.gpu import GPUConfig, TrainingEfficiency
from llm_perf.config.host import HostConfig
from llm_perf.counts.arrays import Number, maximum, sqrt
from llm_perf.hardware.collective import GATHER, fabric, link_bytes_per_s
from llm_perf.hardware.streams import INTERCONNECT, NETWORK


@dataclass(frozen=True, slots=True)
class RankGroup:
    """``ranks`` GPUs, ``local`` of them in each of ``nodes`` domains.

    ``link_bytes_per_s`` is what one GPU's link reaches per direction, ``network_bytes_per_s`` what the cards of the
    group's GPUs in one domain reach together: groups that run side by side use the other cards. ``sqrt_term_s`` is what
    a collective of 1 MB inside a domain loses while its channels fill (`llm_perf.hardware.collective.Fabric`).
    """

    ranks: int
    local: int
    link_bytes_per_s: float
    all_to_all_bytes_per_s: float
    dispatch_bytes_per_s: float
    nic_bytes_per_s: float
    latency_s: float
    sqrt_term_s: float = 0.0

    @property
    def nodes(self) -> int:
        """Domains that the group touches."""
        return -(-self.ranks // self.local)

    @property
    def stream(self) -> str:
        """What the group's collectives occupy."""
        return NETWORK if self.nodes > 1 else INTERCONNECT

    def gather_s(self, size_bytes: Number) -> Number:
        """All-gather that leaves ``size_bytes`` on every rank, or reduce-scatter of as much: link or network, the slower."""
        if self.ranks == 1:
            return 0.0 * size_bytes
        link = (self.ranks - 1) / self.ranks * size_bytes / self.link_bytes_per_s
        if self.nodes == 1:
            latency, root = GATHER
            return latency * self.latency_s + root * self.sqrt_term_s * sqrt(size_bytes / 1e6) + link
        network = (self.nodes - 1) / self.nodes * size_bytes / (self.local * self.nic_bytes_per_s)
        return self.latency_s + maximum(link, network)

    def all_reduce_s(self, size_bytes: Number) -> Number:
        """Reduce-scatter and all-gather."""
        return 2.0 * self.gather_s(size_bytes)

    def all_to_all_s(self, tokens_bytes: Number, copies: float, dispatched: bool = False) -> Number:
        """Tokens of ``tokens_bytes`` to ``copies`` ranks each, chosen evenly: one copy per domain crosses the network.

        ``dispatched``: by kernels made for it, and not by the library's all-to-all.

        Of ``copies`` ranks a token meets nodes x (1 - (1 - 1/nodes)^copies) domains on average.
        """
        if self.ranks == 1:
            return 0.0 * tokens_bytes
        rate = self.dispatch_bytes_per_s if dispatched else self.all_to_all_bytes_per_s
        link = (self.ranks - 1) / self.ranks * copies * tokens_bytes / rate
        if self.nodes == 1:
            return self.latency_s + link
        domains = self.nodes * (1 - (1 - 1 / self.nodes) ** copies)
        remote = (self.nodes - 1) / self.nodes * domains * tokens_bytes / self.nic_bytes_per_s
        return self.latency_s + maximum(link, remote)

    def send_s(self, size_bytes: Number) -> Number:
        """One message to the neighbour."""
        return self.latency_s + size_bytes / (
            self.nic_bytes_per_s if self.nodes > 1 else self.link_bytes_per_s
        )


def rank_group(
    gpu: GPUConfig, host: HostConfig, efficiency: TrainingEfficiency, ranks: int, stride: int, domain: int
) -> RankGroup:
    """The group of ``ranks`` GPUs that stand ``stride`` apart, with ``domain`` GPUs per NVLink domain."""
    local = max(1, min(ranks, domain // max(stride, 1)))
    nic = (host.nic_gb_per_s or gpu.inter_node_gb_per_s) * 1e9 * efficiency.inter_node_efficiency
    link = link_bytes_per_s(gpu, local, host) if local > 1 else nic
    inside = fabric(gpu, ranks, local, host)
    own = efficiency.dispatch_efficiency
    return RankGroup(
        ranks=ranks,
        local=local,
        link_bytes_per_s=link * efficiency.gather_efficiency,
        all_to_all_bytes_per_s=link * efficiency.all_to_all_efficiency,
        dispatch_bytes_per_s=link * (efficiency.all_to_all_efficiency if own is None else own),
        nic_bytes_per_s=nic,
        latency_s=inside.latency_s,
        sqrt_term_s=inside.sqrt_term_s,
    )
