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
        if self.tensor.ranks == 1:
            return 0.0
        blocks = 1 if group.parallel_attention else 2
        size = tokens * self.scenario.model.hidden_size * self.plan.wide_bytes
        return blocks * self.tensor.all_reduce_s(size)

    def expert_s(self, group: LayerGroup, tokens: Number) -> Number:
        """Dispatch and combination of one pass: every token to its experts and back."""
        if not group.mlp.routed_experts or self.expert.ranks == 1:
            return 0.0
        own = tokens / self.scenario.parallelism.tp_size * self.scenario.parallelism.expert_imbalance
        size = own * self.scenario.model.hidden_size * self.plan.wide_bytes
        return 2.0 * self.expert.all_to_all_s(size, group.mlp.experts_per_token)

    def context_s(self, group: LayerGroup, tokens: Number) -> Number:
        """Keys and values of the other ranks, passed around a ring (arXiv 2310.01889), or gathered: the same bytes."""
        if self.context.ranks == 1:
            return 0.0
        width = group.attention.key_value_elements(self.scenario.parallelism.tp_size)
        return self.context.gather_s(tokens * self.context.ranks * width * self.plan.wide_bytes)

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

    def reduce_scatter_s(self, params: HeldParams) -> Number:
        """Reduce-scatter of gradients onto the ranks that share the state, then over copies of the shard."""
        element = self.c["reduce_bytes"]
        own = self.shards.gather_s(params.dense * element) + self._experts(params, element)
        over = self.copies.all_reduce_s(params.dense / self.shards.ranks * element)
        if params.experts:
            over = over + self.expert_copies.all_reduce_s(params.experts / self.expert_shards.ranks * element)
        return own + over

    def synchronise_s(self, params: HeldParams) -> Number:
        """Once per step for stages 0 and 1: an all-reduce of gradients, or a reduce-scatter and a gather of new weights.

        Stages 2 and 3 reduce with each micro-batch; stage 2 gathers the new weights here, stage 3 where they are used.
        """
        stage = self.plan.ds_zero
        gathered = self.shards.gather_s(params.dense * self.plan.wide_bytes) + self._experts(
            params, self.plan.wide_bytes
        )
        if stage is DSZeRO.STAGE_3:
            return 0.0
        if stage is DSZeRO.STAGE_2:
            return gathered
        if stage is DSZeRO.STAGE_1:
            return gathered + self.reduce_scatter_s(params)
        element = self.c["reduce_bytes"]
        return (
            self.reduce_scatter_s(params)
            + self.shards.gather_s(params.dense * element)
            + self._experts(params, element)
        )

    @property
    def state_stream(self) -> str:
        """What the exchange of the training state occupies."""
        return self.shards.stream
