"""Seconds of communication: tensor, expert, context and pipeline parallelism per layer, and the training state's shards."""

from __future__ import annotations

from llm_perf.config.gpu import TrainingEfficiency
from llm_perf.config.model import LayerGroup
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.training import TrainingScenario
from llm_perf.counts.arrays import Number
from llm_perf.counts.parameters import expert_tensor_shards
from llm_perf.counts.trained import HeldParams, expert_replicas
from llm_perf.hardware.rank_group import RankGroup, rank_group


class Exchange:
    """Rank groups of one scenario. Ranks are numbered tensor, context, data, pipeline parallel, the first one fastest.

    Experts take the fastest ranks of a stage, as Megatron Core numbers them, so that they stay in one NVLink domain as
    long as they can.
    """

    def __init__(
        self, scenario: TrainingScenario, efficiency: TrainingEfficiency, constants: dict[str, float]
    ) -> None:
        self.scenario, self.c = scenario, constants
        self.plan, p = scenario.plan, scenario.parallelism
        tp, cp, dp, ep = p.tp_size, p.cp_size, p.dp_size, p.ep_size
        expert_tp = expert_tensor_shards(tp, dp * cp, ep)
        stage = tp * cp * dp

        def group(ranks: float, stride: int) -> RankGroup:
            domain = scenario.gpus_per_node
            return rank_group(scenario.gpu, scenario.host, efficiency, int(ranks), stride, domain)

        self.tensor = group(tp, 1)
        self.context = group(cp, tp)
        self.expert = group(ep, expert_tp)
        self.pipeline = group(2 if p.pp_size > 1 else 1, stage)
        self.shards = group(scenario.shard_ranks, tp)
        self.copies = group(dp * cp // scenario.shard_ranks, tp * scenario.shard_ranks)
        replicas = expert_replicas(p)
        shared = min(replicas, scenario.shard_ranks)
        self.expert_shards = group(shared, ep * expert_tp)
        self.expert_copies = group(replicas // shared, int(ep * expert_tp * shared))

    # -- per layer and micro-batch -----------------------------------------------------------------------------

    def tensor_s(self, group: LayerGroup, tokens: Number) -> Number:
        """One pass of a layer: per block an all-reduce, or a gather and a scatter with sequence parallelism."""
        return 2.0 * self.regather_s(group, tokens)

    def regather_s(self, group: LayerGroup, tokens: Number) -> Number:
        """Inputs of a layer's blocks gathered once: sequence parallelism keeps a rank's share (arXiv 2205.05198, 4.2.2)."""
        if self.tensor.ranks == 1:
            return 0.0
        size = tokens * self.scenario.model.hidden_size * self.plan.wide_bytes
        return _blocks(group) * self.tensor.gather_s(size)

    def expert_s(self, group: LayerGroup, tokens: Number) -> Number:
        """Dispatch and combination of one pass: every token to its experts and back."""
        if not group.mlp.routed_experts or self.expert.ranks == 1:
            return 0.0
        own = tokens / self.scenario.parallelism.tp_size * self.scenario.parallelism.expert_imbalance
        size = own * group.mlp.routed_input_width(self.scenario.model.hidden_size) * self.plan.wide_bytes
        copies: float = group.mlp.experts_per_token
        flex = self.plan.moe_dispatcher == "flex"
        if flex:
            # Of `copies` evenly chosen ranks so many are different.
            copies = self.expert.ranks * (1 - (1 - 1 / self.expert.ranks) ** copies)
        return 2.0 * self.expert.all_to_all_s(size, copies, flex)

    def context_s(self, group: LayerGroup, tokens: Number, backward: bool = False) -> Number:
        """What context parallelism exchanges in one pass of a layer.

        ``p2p`` passes keys and values of the other ranks around a ring (arXiv 2310.01889) and ``all_gather`` gathers them:
        the same bytes, and in the backward pass again, with their gradients. ``a2a`` swaps tokens for heads of queries, keys
        and values, and back for the result (DeepSpeed-Ulysses, arXiv 2309.14509).
        """
        ranks, tp, wide = self.context.ranks, self.scenario.parallelism.tp_size, self.plan.wide_bytes
        if ranks == 1:
            return 0.0
        if self.plan.cp_comm_type == "a2a":
            width = sum(
                part.num_heads / tp * (part.head_dim + part.value_dim) + part.key_value_elements(tp)
                for part in group.attention.parts
            )
            # Each rank keeps its own part of what it holds, so all but one in `ranks` of it moves.
            return self.context.all_to_all_s(tokens * width * wide, 1)
        width = group.attention.key_value_elements(tp)
        passed = self.context.gather_s(tokens * ranks * width * wide)
        if self.plan.cp_comm_type == "p2p":
            passed = passed + (ranks - 2) * self.context.latency_s
        return 2.0 * passed if backward else passed

    def stage_transfer_s(self, tokens: Number) -> Number:
        """Hidden states to the next stage and gradients back, one micro-batch through all chunks of a rank."""
        if self.pipeline.ranks == 1:
            return 0.0
        # Each tensor-parallel rank sends its part (scatter-gather, arXiv 2104.04473, section 4.1).
        size = (
            tokens
            * self.scenario.model.hidden_size
            * self.plan.wide_bytes
            / self.scenario.parallelism.tp_size
        )
        return 2.0 * self.plan.virtual_stages * self.pipeline.send_s(size)

    # -- state ---------------------------------------------------------------------------------------------------

    def gather_weights_s(self, params: HeldParams) -> Number:
        """All-gather of weights that ZeRO shares."""
        wide: float = self.plan.wide_bytes
        if self.plan.lora_rank and self.plan.base_weight_bits:
            wide = self.plan.base_weight_bits / 8
        return self.shards.gather_s(params.dense * wide) + self._experts(params, wide)

    def _experts(self, params: HeldParams, element_bytes: float) -> Number:
        return self.expert_shards.gather_s(params.experts * element_bytes) if params.experts else 0.0

    @property
    def _reduced_bytes(self) -> float:
        """Width of gradients as they are reduced: no more than they are added up in."""
        own = self.plan.gradient_dtype_bytes
        return self.c["reduce_bytes"] if own is None else min(self.c["reduce_bytes"], float(own))

    def reduce_scatter_s(self, params: HeldParams) -> Number:
        """Reduce-scatter of gradients onto the ranks that share the state, then over copies of the shard."""
        element = self._reduced_bytes
        own = self.shards.gather_s(params.dense * element) + self._experts(params, element)
        over = self.copies.all_reduce_s(params.dense / self.shards.ranks * element)
        if params.experts:
            over = over + self.expert_copies.all_reduce_s(params.experts / self.expert_shards.ranks * element)
        return own + over

    def reduced_s(self, params: HeldParams) -> Number:
        """Once per step for stages 0 and 1: an all-reduce of gradients, or their reduce-scatter.

        Stages 2 and 3 reduce with each micro-batch.
        """
        stage = self.plan.ds_zero
        if stage >= DSZeRO.STAGE_2:
            return 0.0
        scattered = self.reduce_scatter_s(params)
        return (
            scattered if stage is DSZeRO.STAGE_1 else scattered + self._gathered(params, self._reduced_bytes)
        )

    def updated_s(self, params: HeldParams) -> Number:
        """Once per step for stages 1 and 2: a gather of the new weights; stage 3 gathers them where they are used."""
        sharded = self.plan.ds_zero in (DSZeRO.STAGE_1, DSZeRO.STAGE_2)
        return self._gathered(params, self.plan.wide_bytes) if sharded else 0.0

    def _gathered(self, params: HeldParams, element_bytes: float) -> Number:
        return self.shards.gather_s(params.dense * element_bytes) + self._experts(params, element_bytes)

    @property
    def state_stream(self) -> str:
        """What the exchange of the training state occupies."""
        return self.shards.stream


def _blocks(group: LayerGroup) -> int:
    """Blocks of a layer with a sum over tensor-parallel ranks: a mixer and an MLP that read one input are one."""
    if group.parallel_attention:
        return 1
    return len(group.attention.parts) + (1 if group.mlp.ffn_size else 0)
