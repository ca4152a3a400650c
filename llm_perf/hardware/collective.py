"""Times of collectives over the GPUs of a deployment, and what joins them: links in a node, a network between nodes.

A group of ranks talks over a :class:`Fabric`. Inside a node that is the GPUs' own link where it joins all of them,
else PCIe; beyond a node it is the network cards. :class:`Topology` says which ranks form a group and where they stand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.counts.arrays import Number, minimum, sqrt, where

GATHER = (0.75, 0.8)
_EXCHANGE = (1.15, 0.83)
"""All-gather and all-to-all against the all-reduce of the same fabric: shares of the latency and of the square-root term;
the bus is the same. The latency of an all-to-all is that of one exchange, since all pairs talk at once.

Source: fitted on the NCCL 2.26 to 2.29 tables of A100, H100, H200, B200 and GB200 with 2 to 8 GPUs and 512 bytes to 512 MB
(ai-dynamo/aiconfigurator), 2026-11; residuals 1.11 (all-gather and reduce-scatter alike) and 1.12.
"""


_CUSTOM_STARTS = ((2, 1.0), (4, 1.3), (math.inf, 1.6))
_ONE_SHOT_RANKS, _TWO_SHOT_BYTES, _CUSTOM_SHARE, _MESH_RANKS = 2, 1.8, 65 / 300, 4
"""Of `Fabric.custom_all_reduce_s`."""


@dataclass(frozen=True, slots=True)
class Fabric:
    """What joins ``ranks`` GPUs.

    ``latency_s`` is one collective's, ``bytes_per_s`` the rate per rank and direction of a ring through all of them
    (algorithms that NCCL picks by itself are in these two, as measured). ``exchange_latency_s`` is that of a single
    exchange between two ranks. Over several nodes ``ranks_per_node`` of the group share a node, and each has a network
    card's share of ``nic_bytes_per_s``; ``port_bytes_per_s`` is what a rank sends inside its node, ``one_port`` whether the
    network's bytes leave by the same way (PCIe). In a ``mesh`` each pair of ranks has a link of its own,
    and its kernels are known (AMD's).
    """

    ranks: int
    latency_s: float
    bytes_per_s: float
    sqrt_term_s: float = 0.0
    exchange_latency_s: float = 0.0
    ranks_per_node: int = 0
    nic_bytes_per_s: float = 0.0
    port_bytes_per_s: float = math.inf
    one_port: bool = False
    mesh: bool = False

    @property
    def spans_nodes(self) -> bool:
        """Whether the group talks over the network."""
        return 0 < self.ranks_per_node < self.ranks

    def all_reduce_s(self, size_bytes: Number) -> Number:
        """Ring all-reduce: alpha + gamma sqrt(size / 1 MB) + 2 (N-1)/N size / bus; nothing over one rank."""
        if self.ranks == 1:
            return 0.0 * size_bytes
        wire = 2.0 * (self.ranks - 1) / self.ranks * size_bytes / self.bytes_per_s
        return self.latency_s + self.sqrt_term_s * sqrt(size_bytes / 1e6) + wire

    def one_shot_all_reduce_s(self, size_bytes: Number) -> Number:
        """Every rank reads what all others hold and adds it up itself: one exchange, (N-1) times the bytes."""
        if self.ranks == 1:
            return 0.0 * size_bytes
        return self.exchange_latency_s + (self.ranks - 1) * size_bytes / self.bytes_per_s

    def small_all_reduce_s(self, size_bytes: Number, one_shot_bytes: float) -> Number:
        """All-reduce of a stack with a one-shot kernel for messages up to so many bytes, inside a node only."""
        usual = self.all_reduce_s(size_bytes)
        if one_shot_bytes <= 0 or self.spans_nodes:
            return usual
        direct = minimum(usual, self.one_shot_all_reduce_s(size_bytes))
        return where(size_bytes <= one_shot_bytes, direct, usual)

    def custom_all_reduce_s(self, size_bytes: Number, small_s: float) -> Number:
        """All-reduce by a serving stack's own kernels over peer memory, inside a node with a link between all GPUs.

        ``small_s`` is what a small message takes between two ranks; more ranks take 1.3 (4) and 1.6 (8) times as long, and
        move 1.8 times the bytes (two-shot: reduce-scatter and all-gather). Source: all-reduce times by size that serving
        stacks print for H100 at tp 2, 4, 8 (512 bytes to 1 MB); their slope is 65 GB/s beside a ring of 300 GB/s.

        Over AMD's mesh both halves of a two-shot kernel use all links at once, each its part: the bytes of a ring at its
        rate. Source: kernels of vLLM and SGLang on two and four MI300X (ROCm/aiter pull request 801, sgl-project/sglang pull
        request 6619), which this gives to 1.23 and 1.14 from 1 to 8 MiB. None was found for eight, and runs on eight MI300X
        tell otherwise: under vLLM 0.8.5 to 0.10 (ROCm/vllm) 112 rows are 1.068 off with it by their best fit and 1.037
        without, throughputs that no fit saw 1.19 and 1.11.
        """
        if self.ranks == 1:
            return 0.0 * size_bytes
        start = next(times for ranks, times in _CUSTOM_STARTS if self.ranks <= ranks)
        if self.mesh:
            return start * small_s + 2.0 * (self.ranks - 1) / self.ranks * size_bytes / self.bytes_per_s
        wire = 1.0 if self.ranks <= _ONE_SHOT_RANKS else _TWO_SHOT_BYTES
        return start * small_s + wire * size_bytes / (_CUSTOM_SHARE * self.bytes_per_s)

    def all_gather_s(self, size_bytes: Number) -> Number:
        """All-gather that leaves ``size_bytes`` on every rank: half of an all-reduce's bytes."""
        if self.ranks == 1:
            return 0.0 * size_bytes
        latency, root = GATHER
        wire = (self.ranks - 1) / self.ranks * size_bytes / self.bytes_per_s
        return latency * self.latency_s + root * self.sqrt_term_s * sqrt(size_bytes / 1e6) + wire

    def reduce_scatter_s(self, size_bytes: Number) -> Number:
        """Reduce-scatter of ``size_bytes`` held by every rank: the mirror image of an all-gather."""
        return self.all_gather_s(size_bytes)

    def reduce_scatter_all_gather_s(self, size_bytes: Number) -> Number:
        """Reduce-scatter and all-gather in place of an all-reduce, as sequence parallelism has it (arXiv 2205.05198).

        The same bytes; two starts instead of one.
        """
        return self.reduce_scatter_s(size_bytes) + self.all_gather_s(size_bytes)

    def all_to_all_s(self, size_bytes: Number) -> Number:
        """All-to-all of ``size_bytes`` held by every rank, an equal part for each.

        Between nodes each rank sends what goes to other nodes over its own share of the network card, meanwhile what stays
        in the node over the link there; over PCIe both pass one port.
        """
        if self.ranks == 1:
            return 0.0 * size_bytes
        if not self.spans_nodes:
            latency, root = _EXCHANGE
            wire = (self.ranks - 1) / self.ranks * size_bytes / self.bytes_per_s
            alpha = latency * self.exchange_latency_s
            return alpha + root * self.sqrt_term_s * sqrt(size_bytes / 1e6) + wire
        outside = (self.ranks - self.ranks_per_node) / self.ranks
        port = (self.ranks - 1) / self.ranks if self.one_port else (self.ranks_per_node - 1) / self.ranks
        wire = max(outside / self.nic_bytes_per_s, port / self.port_bytes_per_s)
        return self.latency_s + wire * size_bytes

    def send_s(self, size_bytes: Number) -> Number:
        """One message to a neighbour; nothing where there is none."""
        if self.ranks == 1:
            return 0.0 * size_bytes
        return self.latency_s + size_bytes / self.bytes_per_s


def fabric(
    gpu: GPUConfig, ranks: int, gpus_per_node: int, host: HostConfig | None = None, span: int | None = None
) -> Fabric:
    """The fabric of ``ranks`` GPUs that are spread evenly over ``span`` consecutive ones (as many if not given).

    While they fit in a node that is the node's link, else the network between nodes. A ring over nodes goes through
    every node once per network card, so that the cards of all ranks that share a node carry it together; the links in
    the node bound it. The latency for a rank count that was not measured grows with log2 of the count.
    """
    measured = gpu.efficiency.collective
    inside_rate = link_bytes_per_s(gpu, ranks, host) * measured.bus_share(ranks, over_pcie(gpu, ranks))
    if host is not None and host.peer_gb_per_s is not None and over_pcie(gpu, ranks):
        inside_rate = host.peer_gb_per_s * 1e9
    span = span or ranks
    if ranks == 1 or span <= gpus_per_node:
        return Fabric(
            ranks,
            _latency_s(gpu, ranks),
            inside_rate,
            measured.sqrt_term_us * 1e-6,
            _latency_s(gpu, 2) if ranks > 1 else 0.0,
            mesh=(
                gpu.maker == "amd"
                and gpu.link.topology == "mesh"
                and ranks <= _MESH_RANKS
                and not over_pcie(gpu, ranks)
            ),
        )
    together = max(1, gpus_per_node * ranks // span)
    nodes = -(-ranks // together)
    stated = None if host is None else host.nic_gb_per_s
    nic = (stated or gpu.inter_node_gb_per_s) * 1e9 * measured.inter_node_efficiency
    latency = measured.inter_node_alpha_us * 1e-6 * math.log2(nodes) + _latency_s(gpu, together)
    return Fabric(
        ranks,
        latency,
        nic if together == 1 else min(nic * together, inside_rate),
        max(measured.sqrt_term_us, measured.inter_node_sqrt_term_us) * 1e-6,
        measured.inter_node_alpha_us * 1e-6,
        together,
        nic,
        port_bytes_per_s=math.inf if together == 1 else inside_rate,
        one_port=over_pcie(gpu, ranks),
    )


def link_bytes_per_s(gpu: GPUConfig, ranks: int, host: HostConfig | None) -> float:
    """What one GPU sends to ``ranks`` - 1 others of its node per second, at data-sheet rates.

    A bridge joins two cards, so that a ring of more crosses PCIe. The links of a mesh go to one peer each: fewer
    ranks use fewer of them.
    """
    link = gpu.link
    if over_pcie(gpu, ranks) and gpu.pcie_gb_per_s:
        return gpu.pcie_gb_per_s * 1e9
    rate = gpu.intra_node_bytes_per_s or gpu.inter_node_gb_per_s * 1e9
    if link.topology != "mesh":
        return rate
    peers = link.peers or (max(host.gpus_per_node - 1, 1) if host is not None else 7)
    return rate * min(1.0, max(ranks - 1, 1) / peers)


def over_pcie(gpu: GPUConfig, ranks: int) -> bool:
    """Whether so many GPUs of a node talk over PCIe: those without a link, and rings of more than two bridged cards."""
    return gpu.link.gb_per_s_per_direction is None or (gpu.link.topology == "pairs" and ranks > 2)


def joins_all(gpu: GPUConfig, ranks: int) -> bool:
    """Whether a link, and not PCIe, joins so many GPUs of a node."""
    return not over_pcie(gpu, ranks) and gpu.link.gb_per_s_per_direction is not None


def with_pcie_share(group: Fabric, gpu: GPUConfig, host: HostConfig, share: float) -> Fabric:
    """The fabric with a stack's own share of PCIe as its bus, where it runs over PCIe inside a node; as it is where 0.

    Of a ring over nodes that share bounds the part in each of them.

    What is known of the host, and of the GPU's family, over PCIe comes first: whether cards copy to each other directly is
    theirs.
    """
    if share <= 0 or not over_pcie(gpu, group.ranks) or not gpu.pcie_gb_per_s:
        return group
    if host.peer_gb_per_s is not None or gpu.efficiency.collective.pcie_bus_efficiency is not None:
        return group
    rate = share * gpu.pcie_gb_per_s * 1e9
    if group.spans_nodes:
        return replace(group, bytes_per_s=min(group.bytes_per_s, rate))
    return replace(group, bytes_per_s=rate)


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


@dataclass(frozen=True, slots=True)
class Topology:
    """Where the ranks of a deployment stand: tensor ranks side by side, then context ranks, stages, replicas.

    ``gpus_per_node`` consecutive ranks share a node. A group's fabric follows from how far apart its ranks are.
    """

    gpu: GPUConfig
    host: HostConfig
    parallelism: ParallelismConfig
    gpus_per_node: int

    def _group(self, ranks: int, stride: int) -> Fabric:
        return fabric(self.gpu, ranks, self.gpus_per_node, self.host, ranks * stride)

    @property
    def tensor(self) -> Fabric:
        """Ranks that share every matrix."""
        return self._group(self.parallelism.tp_size, 1)

    @property
    def context(self) -> Fabric:
        """Ranks that share the tokens of each sequence."""
        return self._group(self.parallelism.cp_size, self.parallelism.tp_size)

    @property
    def replicas(self) -> Fabric:
        """Ranks that hold the same part of the model."""
        return self._group(self.parallelism.dp_size, self.parallelism.replica_size)

    @property
    def experts(self) -> Fabric:
        """Ranks over which experts are spread: replicas first, then the tensor ranks inside them."""
        p = self.parallelism
        return fabric(
            self.gpu, p.ep_size, self.gpus_per_node, self.host, min(p.ep_size, p.dp_size) * p.replica_size
        )

    @property
    def hops_between_nodes(self) -> int:
        """Borders between stages at which a node ends: stages fill one node after another."""
        p = self.parallelism
        return min(-(-p.replica_size // self.gpus_per_node), p.pp_size) - 1

    @property
    def hop_in_node(self) -> Fabric:
        """Two neighbouring stages of one node."""
        return fabric(self.gpu, min(self.parallelism.pp_size, 2), 2, self.host)

    @property
    def hop_between_nodes(self) -> Fabric:
        """Two neighbouring stages on two nodes."""
        return fabric(self.gpu, min(self.parallelism.pp_size, 2), 1, self.host)
