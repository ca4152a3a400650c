"""Bytes of a training job: state by ZeRO stage and tier, activations in flight of a pipeline, logits, buffers."""

from __future__ import annotations

from collections.abc import Iterator

from llm_perf.config.model import LayerGroup
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.config.training import TrainingScenario
from llm_perf.counts.activations import KeptOptions, layer_kept_bytes
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.counts.optimizer import Sharded, optimizer_by_name, zero_shards
from llm_perf.counts.products import lm_head_products
from llm_perf.counts.trained import (
    HeldParams,
    adapter_params,
    ends_held_params,
    expert_replicas,
    layer_held_params,
)
from llm_perf.systems.terms import Factor, Quantity
from llm_perf.systems.training.base import TrainingLoad, TrainingMemory, TrainingMemoryParts

_GIB = 2**30


class Footprint:
    """Memory of one scenario under a framework's constants. What does not depend on the load is counted once."""

    def __init__(self, scenario: TrainingScenario, constants: dict[str, float]) -> None:
        self.scenario, self.constants = scenario, constants
        self.plan, self.p, self.model = scenario.plan, scenario.parallelism, scenario.model
        self.optimizer = optimizer_by_name(self.plan.optimizer)
        self.layers = [layer_held_params(self.model, group, self.p) for group in self.model.layer_groups]
        self.held = self._fullest()
        self.trained = self._trained()

    # -- parameters --------------------------------------------------------------------------------------------

    def _fullest(self) -> HeldParams:
        """What the fullest stage holds: its layers, and the larger one of both ends (both without a pipeline)."""
        embedding, head = ends_held_params(self.model, self.p)
        ends = embedding + head if self.p.pp_size == 1 else max(embedding, head, key=lambda end: end.total)
        return ends + self.stage_params()

    def stage_params(self) -> HeldParams:
        """Parameters of the fullest stage's layers."""
        return sum((self.layers[index] * count for index, count in self.stage_layers()), HeldParams(0.0, 0.0))

    def stage_layers(self) -> list[tuple[int, float]]:
        """(group, layers) of the fullest pipeline stage: the heaviest layers first where groups differ in their blocks.

        Groups that differ in attention only alternate, so a stage has its share of each.
        """
        groups = self.model.layer_groups
        total = self.model.num_layers
        stage = -(-total // self.p.pp_size)
        if all(group.mlp == groups[0].mlp for group in groups):
            return [(index, stage * group.count / total) for index, group in enumerate(groups)]
        found, left = [], stage
        for index in sorted(range(len(groups)), key=lambda index: -self.layers[index].total):
            taken = min(left, groups[index].count)
            found.append((index, float(taken)))
            left -= taken
        return found

    def _trained(self) -> HeldParams:
        """Parameters of the fullest rank that gradients and optimizer state exist for."""
        if not self.plan.lora_rank:
            return self.held
        total = sum(count * self.adapters(index) for index, count in self.stage_layers())
        return HeldParams(total, 0.0)

    def adapters(self, index: int) -> float:
        """Adapter parameters of one layer of a group on one rank."""
        plan, group = self.plan, self.model.layer_groups[index]
        return adapter_params(
            self.model, group, plan.lora_rank, plan.lora_targets == "attention", self.p.tp_size
        )

    def sharded(self, params: HeldParams, what: Sharded) -> float:
        """Parameters of one rank's shard of one kind of state under the ZeRO stage."""
        ranks = self.scenario.shard_ranks
        replicas = expert_replicas(self.p)
        stage = self.plan.ds_zero
        dense = params.dense / zero_shards(what, stage, ranks)
        return dense + params.experts / zero_shards(what, stage, min(ranks, replicas))

    # -- state -------------------------------------------------------------------------------------------------

    @property
    def weight_bytes(self) -> float:
        """Bytes of one rank's weights, adapters included. Quantised base weights are those of layers."""
        plan = self.plan
        if not plan.lora_rank:
            return self.sharded(self.held, "weights") * plan.wide_bytes
        bits = plan.base_weight_bits
        base = plan.wide_bytes if bits in (None, 16) else bits / 8 * self.constants["quantised_base_scale"]
        layers = self.sharded(self.stage_params(), "weights")
        ends = self.sharded(self.held, "weights") - layers
        adapters = self.sharded(self.trained, "weights")
        return layers * base + (ends + adapters) * plan.wide_bytes

    @property
    def gradient_element_bytes(self) -> float:
        """Width of a gradient where it is accumulated."""
        return self.plan.gradient_dtype_bytes or self.constants["gradient_bytes"]

    @property
    def gradient_bytes(self) -> float:
        """Bytes of one rank's gradients."""
        return self.sharded(self.trained, "gradients") * self.gradient_element_bytes

    @property
    def optimizer_element_bytes(self) -> float:
        """Bytes per trained parameter of master weights and optimizer state."""
        own, master = self.plan.optimizer_state_bytes, self.plan.master_weights_dtype_bytes
        if self.plan.wide_bytes == 4 and master == 4:
            master = 0  # the weights themselves have 32 bits
        return master + (self.optimizer.state_bytes if own is None else own)

    @property
    def optimizer_bytes(self) -> float:
        """Bytes of one rank's optimizer state."""
        return self.sharded(self.trained, "optimizer") * self.optimizer_element_bytes

    # -- activations -------------------------------------------------------------------------------------------

    def kept_options(self) -> KeptOptions:
        """How much of a layer is kept."""
        plan = self.plan
        quant = plan.mlp_activation_quant_bits
        return KeptOptions(
            element_bytes=plan.wide_bytes,
            norm_bytes=max(plan.layernorm_dtype_bytes, plan.wide_bytes),
            flash=plan.flash_attn,
            softmax_dropout=plan.softmax_dropout,
            dropout=plan.dropout,
            recompute_activation=plan.mlp_recompute_gelu,
            mlp_bytes=None if quant is None else quant / 8,
        )

    def layer_bytes(
        self, group: LayerGroup, load: TrainingLoad, recompute: ActivationRecomputation | None = None
    ) -> Number:
        """Bytes of one layer that one micro-batch keeps."""
        level = self.plan.activation_recomputation if recompute is None else recompute
        return layer_kept_bytes(
            self.model, group, load.micro_batch, load.seq_len, self.kept_options(), level,
            self.p.tp_size, self.p.sp_size, self.p.cp_size,
        )  # fmt: skip

    def mean_layer_bytes(self, group: LayerGroup, load: TrainingLoad) -> Number:
        """Bytes that one micro-batch keeps of a layer, the mean over those that recompute and the others."""
        share = recomputing_share(self.scenario)
        kept = share * self.layer_bytes(group, load)
        if share < 1:
            kept = kept + (1 - share) * self.layer_bytes(group, load, ActivationRecomputation.NONE)
        return kept

    def stage_activation_bytes(self, load: TrainingLoad) -> Number:
        """Bytes of one micro-batch over the fullest stage's layers."""
        groups = self.model.layer_groups
        return sum(
            (count * self.mean_layer_bytes(groups[index], load) for index, count in self.stage_layers()), 0.0
        )

    def in_flight(self, load: TrainingLoad) -> Number:
        """Micro-batches whose activations the first stage holds at once (arXiv 2205.05198, section 4.2.3)."""
        pp, chunks = self.p.pp_size, self.plan.virtual_stages
        most = pp * (1 + (pp - 1) / (pp * chunks)) if chunks > 1 else pp
        return minimum(load.accumulation, most) if pp > 1 else 1.0

    def working_bytes(self, load: TrainingLoad) -> Number:
        """The layer that is being recomputed: all that its backward pass needs exists at once."""
        level = self.plan.activation_recomputation
        if level is ActivationRecomputation.NONE:
            return 0.0
        most: Number = 0.0
        for group in self.model.layer_groups:
            whole = self.layer_bytes(group, load, ActivationRecomputation.NONE)
            most = maximum(most, whole - self.layer_bytes(group, load))
        return most

    def logit_bytes(self, load: TrainingLoad) -> Number:
        """Logits and their gradient on the last stage."""
        width = lm_head_products(self.model, self.p.tp_size)[-1].out_features
        tokens = load.micro_batch * load.seq_len / self.p.cp_size
        return tokens * width * self.constants["live_logit_bytes"] * self.plan.wide_bytes / 2

    # -- all together ------------------------------------------------------------------------------------------

    def memory(self, load: TrainingLoad) -> TrainingMemory:
        """Memory of the fullest GPU, and of a host and its disks where something is kept there."""
        plan = self.plan
        tiers: dict[str, dict[str, Number]] = {"gpu": {}, "cpu": {}, "nvme": {}}
        tiers[plan.weights_device]["weights_bytes"] = self.weight_bytes
        tiers[plan.optimizer_device]["optimizer_bytes"] = self.optimizer_bytes
        # ZeRO-Offload updates on the CPU: stages 2 and 3 pass on a shard's gradients as they are reduced; stage 1 adds up
        # whole ones on the GPU and copies its shard when the step ends.
        leaves = plan.optimizer_device != "gpu" and plan.ds_zero >= DSZeRO.STAGE_2
        gradients = "cpu" if leaves else "gpu"
        tiers[gradients]["gradients_bytes"] = self.gradient_bytes
        activations, logits = self._live(load)
        tiers["gpu"] |= {"logits_bytes": logits, "buffers_bytes": self._buffers(load)}
        tiers[plan.activations_device]["activations_bytes"] = activations
        gpu = TrainingMemoryParts(
            **tiers["gpu"],
            reserved_bytes=self.constants["process_reserve_gib"] * _GIB,
            capacity_bytes=self.scenario.gpu.usable_memory_bytes,
        )
        return TrainingMemory(gpu, self._host(tiers["cpu"]), self._disk(tiers["nvme"]))

    def quantities(self, load: TrainingLoad) -> Iterator[Quantity]:
        """State and activations of one GPU with what they follow from; for a single configuration."""
        plan, trained = self.plan, self.trained
        if not plan.lora_rank:
            kept = Factor("parameters of the fullest stage that it keeps", self.sharded(self.held, "weights"))
            yield Quantity("weights of one GPU", ((kept, Factor("bytes", plan.wide_bytes)),), "bytes")
        reduced = Factor(
            f"parameters that it reduces under ZeRO {plan.ds_zero.value}", self.sharded(trained, "gradients")
        )
        size = Factor("bytes", self.gradient_element_bytes)
        yield Quantity("gradients of one GPU", ((reduced, size),), "bytes", "arXiv 1910.02054, section 5")
        updated = Factor("parameters that it updates", self.sharded(trained, "optimizer"))
        state = Factor(f"bytes of master weights and state of {plan.optimizer}", self.optimizer_element_bytes)
        yield Quantity("optimizer state of one GPU", ((updated, state),), "bytes", self.optimizer.source)
        stage = Factor("bytes of one micro-batch over the fullest stage", self.stage_activation_bytes(load))
        flight = Factor("micro-batches in flight on the first one", self.in_flight(load))
        source = "arXiv 2205.05198, sections 4 and 4.2.3"
        yield Quantity("activations of one GPU", ((stage, flight),), "bytes", source)

    def _live(self, load: TrainingLoad) -> tuple[Number, Number]:
        """(activations, logits) of the stage that holds more: the first with all in flight, or the last with the logits."""
        stage, logits = self.stage_activation_bytes(load), self.logit_bytes(load)
        if self.p.pp_size == 1:
            return stage, logits
        first = stage * self.in_flight(load)
        return first, maximum(stage + logits - first, 0.0)

    def _buffers(self, load: TrainingLoad) -> Number:
        """Gathered layers of ZeRO-3, what is recomputed, communication buffers; copies on their way to the host."""
        plan, constants = self.plan, self.constants
        layer = max(held.total for held in self.layers) * plan.wide_bytes
        gathered = constants["gathered_layers"] * layer if plan.ds_zero.value == 3 else 0.0
        staged = (
            2 * self.layer_bytes(self.model.layer_groups[0], load)
            if plan.activations_device == "cpu"
            else 0.0
        )
        sizes = (self.p.tp_size, self.p.pp_size, self.p.dp_size, self.p.ep_size, self.p.cp_size)
        communicators = sum(size > 1 for size in sizes) * constants["communicator_gib"] * _GIB
        return gathered + self.working_bytes(load) + communicators + staged

    def _host(self, parts: dict[str, Number]) -> TrainingMemoryParts:
        ranks = self.scenario.gpus_per_node
        buffers = 0.0
        if self.plan.optimizer_device == "nvme" or self.plan.weights_device == "nvme":
            buffers = self.constants["nvme_buffer_gib"] * _GIB * ranks
        scaled = {name: size * ranks for name, size in parts.items()}
        return TrainingMemoryParts(
            **scaled, buffers_bytes=buffers, capacity_bytes=self.scenario.host.usable_memory_bytes
        )

    def _disk(self, parts: dict[str, Number]) -> TrainingMemoryParts:
        disk = self.scenario.host.disk
        scaled = {name: size * self.scenario.gpus_per_node for name, size in parts.items()}
        return TrainingMemoryParts(**scaled, capacity_bytes=0.0 if disk is None else disk.capacity_bytes)


def recomputing_share(scenario: TrainingScenario) -> float:
    """Share of the layers that recompute."""
    plan = scenario.plan
    if plan.activation_recomputation is ActivationRecomputation.NONE:
        return 0.0
    return 1.0 if plan.recompute_layers is None else plan.recompute_layers / scenario.model.num_layers


def is_mixture(group: LayerGroup) -> bool:
    """Whether a layer has routed experts."""
    return group.mlp.routed_experts > 0
