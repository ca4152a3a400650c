"""What the ranks of one replica send one another in a pass: sums and gathers of tensor ranks, hops between stages."""

from __future__ import annotations

from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import Mixer
from llm_perf.config.model import LayerGroup
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, minimum
from llm_perf.hardware.collective import Fabric, Topology, joins_all, with_pcie_share
from llm_perf.systems.costs import Costs


def norms_all_heads(mixer: Mixer) -> bool:
    """Whether queries and keys are normed over all heads together, not each head by itself."""
    return isinstance(mixer, Attention) and mixer.qk_norm > 2 * mixer.head_dim


class Exchanges:
    """The links between the ranks of a scenario, and what a stack's exchanges take over them."""

    def __init__(self, scenario: Scenario, constants: dict[str, float]) -> None:
        self._scenario, self._constants = scenario, constants
        topology = Topology(scenario.gpu, scenario.host, scenario.parallelism, scenario.gpus_per_node)
        self.tensor: Fabric = with_pcie_share(
            topology.tensor, scenario.gpu, scenario.host, constants["pcie_bus_efficiency"]
        )
        self.experts: Fabric = topology.experts
        self.context: Fabric = topology.context
        self.hops_between_nodes = topology.hops_between_nodes
        self.hop_in_node: Fabric = topology.hop_in_node
        self.hop_between_nodes: Fabric = topology.hop_between_nodes

    def of_tensor_ranks(self, costs: Costs, group: LayerGroup, size: Number) -> None:
        """Sums of ``size`` bytes of hidden states in each layer of a group."""
        parallelism, c = self._scenario.parallelism, self._constants
        if parallelism.tp_size == 1:
            return
        count = group.count * self.reductions(group)
        extra = c["all_reduce_extra_us"] * 1e-6
        if parallelism.sp_size > 1:
            pair = self.tensor.reduce_scatter_all_gather_s(size) + 2 * extra
            costs.collective("reduce_scatter_all_gather", count, pair)
            return
        costs.collective("all_reduce", count, self._sum_s(size) + extra)

    def of_wide_norms(self, costs: Costs, group: LayerGroup, rows: Number) -> None:
        """Sums of squares of ``rows`` queries and keys, in fp32, in layers that norm all heads together (MiniMax-M2, OLMo 2).

        Models with layer norms have a weight per head and element, and norm each head by itself (Cohere).
        """
        if self._scenario.parallelism.tp_size == 1 or self._scenario.model.norm != "rmsnorm":
            return
        wide = sum(norms_all_heads(part) for part in group.attention.parts)
        if wide:
            extra = self._constants["all_reduce_extra_us"] * 1e-6
            costs.collective("all_reduce", group.count * wide, self._sum_s(2 * 4.0 * rows) + extra)

    def _sum_s(self, size: Number) -> Number:
        """One sum over the tensor ranks, by the quickest way that the stack has.

        A stack's own kernels read the memory of peers: ranks on two nodes have the library alone. vLLM's
        (custom_all_reduce.py, `in_the_same_node_as`), SGLang's copy of it and TensorRT-LLM's (allReduceOp.cpp, of
        ranks with peer access) all say so.
        """
        c = self._constants
        reduced = self.tensor.small_all_reduce_s(size, c["one_shot_all_reduce_kib"] * 1024)
        own = c["custom_all_reduce_us"] * 1e-6
        joined = joins_all(self._scenario.gpu, self._scenario.parallelism.tp_size)
        if own > 0 and joined and not self.tensor.spans_nodes:
            reduced = minimum(reduced, self.tensor.custom_all_reduce_s(size, own))
        return reduced

    def reductions(self, group: LayerGroup) -> int:
        """Sums over tensor ranks in one layer: one per product of a mixer that is split by rows, one of the MLP's block."""
        linears = group.attention.linears(self._scenario.model.hidden_size)
        split = {linear.op for linear in linears if linear.split == "row"}
        if group.parallel_attention:
            return max(len(split), 1)
        return len(split) + (1 if group.mlp.ffn_size else 0)

    def of_stages(self, costs: Costs, size: Number) -> None:
        """Hidden states of ``size`` bytes cross each boundary between stages."""
        stages = self._scenario.parallelism.pp_size
        if stages == 1:
            return
        between = self.hops_between_nodes
        hops = between * self.hop_between_nodes.send_s(size)
        hops = hops + (stages - 1 - between) * self.hop_in_node.send_s(size)
        extra = (stages - 1) * self._constants["hop_us"] * 1e-6
        costs.collective("pipeline_transfer", 1, hops + extra)
