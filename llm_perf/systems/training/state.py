"""Parameters of a training job by pipeline stage, and the bytes of the state that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.training import TrainingScenario
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.optimizer import Sharded, optimizer_by_name, zero_shards
from llm_perf.counts.trained import (
    HeldParams,
    adapter_params,
    ends_held_params,
    expert_replicas,
    layer_held_params,
)

_NONE = HeldParams(0.0, 0.0)
_WIDE_MOMENTS_BYTES = 4
"""Optimizers whose moments have 32 bits keep them as wide as the weights where they are torch's own."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A pipeline stage: its layers as (group, count), and which ends of the model it holds."""

    index: int
    layers: tuple[tuple[int, float], ...]
    first: bool
    last: bool

    @property
    def num_layers(self) -> float:
        """Layers of all groups."""
        return sum(count for _, count in self.layers)


@dataclass(frozen=True, slots=True)
class StageParams:
    """Parameters of one rank of a stage, before ZeRO: of its layers, of the ends that it holds, and trained ones."""

    layers: HeldParams
    ends: HeldParams
    adapters: HeldParams
    trained_ends: HeldParams

    @property
    def held(self) -> HeldParams:
        """Layers and ends, without adapters."""
        return self.layers + self.ends


class State:
    """Training state of one scenario under a framework's constants, independent of the load."""

    def __init__(self, scenario: TrainingScenario, constants: dict[str, float]) -> None:
        self.scenario, self.constants = scenario, constants
        self.plan, self.p, self.model = scenario.plan, scenario.parallelism, scenario.model
        self.optimizer = optimizer_by_name(self.plan.optimizer)
        self.layers = [layer_held_params(self.model, group, self.p) for group in self.model.layer_groups]
        self.held = self._fullest()
        self.trained = self._trained()

    # -- parameters of the fullest rank, for what is timed -----------------------------------------------------------

    def _fullest(self) -> HeldParams:
        """What the fullest stage holds: its layers, and the larger one of both ends (both without a pipeline)."""
        embedding, head = ends_held_params(self.model, self.p)
        ends = embedding + head if self.p.pp_size == 1 else max(embedding, head, key=lambda end: end.total)
        return ends + self.stage_params()

    def stage_params(self) -> HeldParams:
        """Parameters of the fullest stage's layers."""
        return sum((self.layers[index] * count for index, count in self.stage_layers()), _NONE)

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
        ends = self.held.total - self.stage_params().total if self.plan.lora_ends else 0.0
        return HeldParams(total + ends, 0.0)

    def adapters(self, index: int) -> float:
        """Adapter parameters of one layer of a group on one rank."""
        plan, group = self.plan, self.model.layer_groups[index]
        return adapter_params(
            self.model, group, plan.lora_rank, plan.lora_targets, self.p.tp_size, plan.adapter == "dora"
        )

    # -- parameters stage by stage --------------------------------------------------------------------------------------

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The pipeline stages that can hold most: all of them where layers differ, else the first and the last."""
        pp, total = self.p.pp_size, self.model.num_layers
        if pp == 1:
            whole = tuple((index, float(group.count)) for index, group in enumerate(self.model.layer_groups))
            return (Stage(0, whole, True, True),)
        size = -(-total // pp)
        sizes = [min(size, max(total - size * index, 0)) for index in range(pp)]
        found = []
        for index in range(pp):
            layers = self._layers_of(size * index, sizes[index])
            found.append(Stage(index, layers, index == 0, index == pp - 1))
        alike = len({stage.layers for stage in found[:-1]}) == 1
        return (found[0], found[-1]) if alike else tuple(found)

    def _layers_of(self, start: int, count: int) -> tuple[tuple[int, float], ...]:
        """(group, layers) of a stage that begins with layer ``start``.

        Dense layers stand before mixtures where there are both (DeepSeek, GLM); groups that only differ in attention
        alternate. Others are taken heaviest first on every stage, which is the most that any can hold.
        """
        groups, total = self.model.layer_groups, self.model.num_layers
        if all(group.mlp == groups[0].mlp for group in groups):
            return tuple((index, count * group.count / total) for index, group in enumerate(groups))
        if len(groups) == 2 and not groups[0].mlp.routed_experts and groups[1].mlp.routed_experts:
            dense = max(min(groups[0].count - start, count), 0)
            return tuple((i, float(n)) for i, n in ((0, dense), (1, count - dense)) if n)
        left, found = count, []
        for index in sorted(range(len(groups)), key=lambda index: -self.layers[index].total):
            taken = min(left, groups[index].count)
            if taken:
                found.append((index, float(taken)))
            left -= taken
        return tuple(found)

    def params_of(self, stage: Stage) -> StageParams:
        """Parameters of one rank of a stage."""
        known = self._params.get(stage.index)
        if known is None:
            known = self._params[stage.index] = self._counted(stage)
        return known

    @cached_property
    def _params(self) -> dict[int, StageParams]:
        return {}

    def _counted(self, stage: Stage) -> StageParams:
        embedding, head = ends_held_params(self.model, self.p)
        ends = (embedding if stage.first else _NONE) + (head if stage.last else _NONE)
        layers = sum((self.layers[index] * count for index, count in stage.layers), _NONE)
        if not self.plan.lora_rank:
            return StageParams(layers, ends, _NONE, _NONE)
        adapters = sum(count * self.adapters(index) for index, count in stage.layers)
        trained = ends * self._end_width if self.plan.lora_ends else _NONE
        return StageParams(layers, ends, HeldParams(adapters, 0.0), trained)

    @property
    def _end_width(self) -> float:
        """Width of whole matrices trained beside adapters over theirs: copies of the base, with moments as wide."""
        if self.master_element_bytes or not self.constants["moments_as_weights"]:
            return 1.0
        return self.plan.wide_bytes / self.trained_element_bytes

    def sharded(self, params: HeldParams, what: Sharded) -> float:
        """Parameters of one rank's shard of one kind of state under the ZeRO stage."""
        ranks = self.scenario.shard_ranks
        replicas = expert_replicas(self.p)
        stage = self.plan.ds_zero
        dense = params.dense / zero_shards(what, stage, ranks)
        return dense + params.experts / zero_shards(what, stage, min(ranks, replicas))

    # -- bytes ------------------------------------------------------------------------------------------------------------

    @property
    def quantised(self) -> bool:
        """Whether frozen weights have fewer bits than the products."""
        bits = self.plan.base_weight_bits
        return bool(self.plan.lora_rank) and bits is not None and bits < 16

    @property
    def weight_element_bytes(self) -> float:
        """Width of weights that are not quantised, where they are kept."""
        return self.plan.weights_dtype_bytes or self.plan.wide_bytes

    @property
    def base_element_bytes(self) -> float:
        """Bytes per weight of a layer as it is stored, scales included."""
        if not self.quantised:
            return self.weight_element_bytes
        bits = self.plan.base_weight_bits or 16
        double = self.plan.base_double_quant
        if double is None:
            double = bool(self.constants["base_double_quant"])
        if bits == 8:
            return bits / 8 * self.constants["quantised_8bit_scale"]
        return bits / 8 * self.constants["quantised_base_scale" if double else "quantised_single_scale"]

    @property
    def frozen_end_bytes(self) -> float:
        """Bytes per parameter of embedding and head where they are frozen beside quantised layers."""
        return self.constants["frozen_end_bytes"] if self.quantised else self.weight_element_bytes

    @property
    def trained_element_bytes(self) -> float:
        """Width of what is trained."""
        if self.plan.lora_rank:
            return self.constants["adapter_bytes"] or self.plan.wide_bytes
        return self.weight_element_bytes

    @property
    def gradient_element_bytes(self) -> float:
        """Width of a gradient where it is accumulated; the framework's 0 means as wide as what is trained."""
        own = self.plan.gradient_dtype_bytes or self.constants["gradient_bytes"]
        return own or self.trained_element_bytes

    @property
    def moment_element_bytes(self) -> float:
        """Bytes per trained parameter of the optimizer's state without master weights."""
        own = self.plan.optimizer_state_bytes
        if own is not None:
            return own
        state = self.optimizer.state_bytes
        follows = self.constants["moments_as_weights"] and state >= _WIDE_MOMENTS_BYTES
        return state * self.trained_element_bytes / 4 if follows else state

    @property
    def master_element_bytes(self) -> float:
        """Bytes per trained parameter of master weights; none where the weights themselves have 32 bits."""
        master = self.plan.master_weights_dtype_bytes
        cloned = self.plan.ds_zero.value and self.constants["master_beside_fp32"]
        return 0 if self.trained_element_bytes == 4 and master == 4 and not cloned else master

    @property
    def optimizer_element_bytes(self) -> float:
        """Bytes per trained parameter of master weights and optimizer state."""
        return self.master_element_bytes + self.moment_element_bytes

    def trained_of(self, params: StageParams) -> HeldParams:
        """What is trained of a stage."""
        return params.adapters + params.trained_ends if self.plan.lora_rank else params.held

    def weight_bytes_of(self, params: StageParams) -> float:
        """Bytes of one rank's weights of a stage, adapters apart. Quantised base weights are those of layers."""
        layers = self.sharded(params.layers, "weights") * self.base_element_bytes
        return layers + self.sharded(params.ends, "weights") * self.frozen_end_bytes

    def adapter_bytes_of(self, params: StageParams) -> float:
        """Bytes of one rank's adapters, and of whole matrices that are trained beside them."""
        return self.sharded(self.trained_of(params), "weights") * self.trained_element_bytes

    @cached_property
    def largest_matrix(self) -> float:
        """Elements of the largest matrix of a layer on one rank."""
        return max(
            outputs * inputs
            for group in self.model.layer_groups
            for outputs, inputs in (
                linear.shard_shape(self.p.tp_size) for linear in layer_linears(group, self.model.hidden_size)
            )
        )

    @property
    def copies_own(self) -> bool:
        """Whether one rank that shares with nobody copies what it would gather all the same."""
        return self.plan.ds_zero is DSZeRO.STAGE_3 and self.constants["own_gather_passes"] > 0

    @property
    def gathers(self) -> bool:
        """Whether weights are gathered layer by layer."""
        return self.plan.ds_zero is DSZeRO.STAGE_3 and self.scenario.shard_ranks > 1
