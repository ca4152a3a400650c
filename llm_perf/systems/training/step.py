"""The time of one optimizer step: micro-batches through a pipeline, the gradients' reduction, the optimizer.

    step = [ m x slowest stage + (all stages - slowest stage) / v + gradients + optimizer ] x stragglers

with m micro-batches of a replica and v chunks per pipeline rank: a pipeline fills and drains once, and interleaving
divides that bubble (Narayanan et al., arXiv 2104.04473, section 2.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_perf.config.model import LayerGroup
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.config.training import TrainingScenario
from llm_perf.counts.arrays import Number, any_of, maximum, where
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.trained import HeldParams, adapted_linears, ends_held_params
from llm_perf.hardware.roofline import p_norm
from llm_perf.hardware.streams import COMPUTE, HOST
from llm_perf.systems.base import PhaseCost
from llm_perf.systems.schedule import Block, Schedule, Step, Work, sum_costs
from llm_perf.systems.training.base import StepEvaluation, TrainingLoad
from llm_perf.systems.training.exchange import Exchange
from llm_perf.systems.training.framework import Framework, framework_constants
from llm_perf.systems.training.kernels import KernelPass, Kernels, LayerTimes
from llm_perf.systems.training.memory import Footprint, is_mixture, recomputing_share
from llm_perf.systems.training.offload import Offload


@dataclass(frozen=True, slots=True)
class _Passes:
    """How often a pass of a layer runs each kind of its forward communication."""

    tensor: float
    expert: float
    context: float


_REPEATED = {
    ActivationRecomputation.NONE: _Passes(0.0, 0.0, 0.0),
    ActivationRecomputation.ATTN_COMPUTE: _Passes(0.0, 0.0, 1.0),
    ActivationRecomputation.ATTN: _Passes(0.5, 0.0, 1.0),
    ActivationRecomputation.NORM_ATTN_NORM: _Passes(0.5, 0.0, 1.0),
    ActivationRecomputation.FULL: _Passes(1.0, 1.0, 1.0),
}
"""What of it a level of recomputation repeats in the backward pass: of tensor parallelism's two blocks none, one or both."""


@dataclass(frozen=True, slots=True)
class _Message:
    """Communication inside one pass of a layer: how long it takes, and how much of that is waited for."""

    stream: str
    label: str
    seconds: Number
    exposed_s: Number


_GPUS_WITHOUT_STRAGGLERS = 8
_BACKWARD_SHARE = 2 / 3
"""Of both passes where weights are trained: two products for each of the forward pass."""
_NARROW = ("fp8", "fp4")


@dataclass(frozen=True, slots=True)
class _Stages:
    """Micro-batch costs of a pipeline: its slowest stage, and all stages together."""

    slowest: list[tuple[PhaseCost, Number]]
    slowest_s: Number
    whole_s: Number


class TrainingStep:
    """The model of one scenario. Built once, it prices any number of batches and lengths, as numbers or arrays."""

    def __init__(self, scenario: TrainingScenario, framework: Framework) -> None:
        self.scenario, self.framework = scenario, framework
        self.c = framework_constants(scenario, framework)
        self.plan, self.model, self.p = scenario.plan, scenario.model, scenario.parallelism
        self.footprint = Footprint(scenario, self.c, framework.loss)
        self.kernels = Kernels(scenario, self.c, framework.attention, self.footprint.loss)
        self.wide_kernels = self._in_16_bit(framework)
        self.exchange = Exchange(scenario, self.kernels.rates.efficiency, self.c)
        self.offload = Offload(scenario, self.c, self.footprint)

    def _in_16_bit(self, framework: Framework) -> Kernels:
        """Kernels of layers that a narrower precision leaves in 16 bit."""
        if not (self.plan.wide_layers or self.plan.mtp_depth) or self.plan.compute_dtype not in _NARROW:
            return self.kernels
        wide = self.scenario.replace(plan=self.plan.replace(precision="bf16", fp8_attention=False))
        return Kernels(wide, self.c, framework.attention, self.footprint.loss)

    def evaluate(self, load: TrainingLoad) -> StepEvaluation:
        """Memory and time of one optimizer step."""
        return StepEvaluation(self.footprint.memory(load), self.step_cost(load))

    def step_cost(self, load: TrainingLoad, parts: bool = True) -> PhaseCost:
        """Seconds of one optimizer step, by part and by stream unless only its length counts."""
        stages = self._stages(load, parts)
        costs = [(cost, weight * load.accumulation) for cost, weight in stages.slowest]
        bubble = maximum(stages.whole_s - stages.slowest_s, 0.0) / self.plan.virtual_stages
        once = [
            _part("pipeline_bubble", bubble),
            self._synchronisation(stages.slowest_s),
            self.offload.optimizer_cost(
                self._optimizer_on_gpu_s(),
                stages.slowest_s * load.accumulation,
                _BACKWARD_SHARE * stages.slowest_s,
            ),
            _part("framework", self.c["step_ms"] * 1e-3, HOST),
        ]
        total = sum_costs([*costs, *((cost, 1.0) for cost in once)])
        gpus = self.scenario.num_gpus
        doublings = max(math.log2(gpus / _GPUS_WITHOUT_STRAGGLERS), 0.0)
        waited = _part("stragglers", total.latency_s * self.c["straggler_share"] * doublings)
        return sum_costs([(total, 1.0), (waited, 1.0)])

    # -- a micro-batch ---------------------------------------------------------------------------------------------

    def _stages(self, load: TrainingLoad, parts: bool) -> _Stages:
        """The slowest stage is the fullest one, or the last one: fewer layers where they do not divide, but the head."""
        layers, stages = self.model.num_layers, self.p.pp_size
        groups = self.model.layer_groups
        wide = self.plan.wide_layers / layers
        costs = [
            (self._layer(index, load, parts, kernels), share * group.count / layers)
            for index, group in enumerate(groups)
            for kernels, share in ((self.kernels, 1 - wide), (self.wide_kernels, wide))
            if share
        ]
        layer_s = sum(weight * cost.latency_s for cost, weight in costs)
        head = self._head(load, parts)
        transfer = _part(
            "pipeline_transfer",
            self.c["pipeline_exposed"] * self._transfer_s(load),
            self.exchange.pipeline.stream,
        )
        fullest, last = stage_sizes(layers, stages, self.plan.virtual_stages)
        has_head = (
            1.0 if stages == 1 else where(last * layer_s + head.latency_s > fullest * layer_s, 1.0, 0.0)
        )
        held = has_head * last + (1 - has_head) * fullest
        slowest = [*((cost, weight * held) for cost, weight in costs), (head, has_head), (transfer, 1.0)]
        slowest_s = held * layer_s + has_head * head.latency_s + transfer.latency_s
        whole_s = layers * layer_s + head.latency_s + stages * transfer.latency_s
        return _Stages(slowest, slowest_s, whole_s)

    def _transfer_s(self, load: TrainingLoad) -> Number:
        return self.exchange.stage_transfer_s(self.kernels.rank_tokens(load))

    def _layer(self, index: int, load: TrainingLoad, parts: bool, kernels: Kernels) -> PhaseCost:
        """Forward and backward pass of one layer with one micro-batch, and what the host is waited for beside them."""
        group = self.model.layer_groups[index]
        times, share = kernels.layer(group, load), recomputing_share(self.scenario)
        steps = (*self._forward(index, load, times), *self._backward(index, load, times))
        again = share * sum(times.again.values(), start=0.0)
        device = self._within_power(
            Schedule((Block(steps),)).cost(parts),
            times.joules + share * times.joules_again,
            sum(times.forward.values(), start=0.0) + sum(times.backward.values(), start=0.0) + again,
        )
        host = self._host_s(group)
        together = p_norm(device.latency_s, host, self.c["host_exponent"])
        framework = _part("framework", maximum(together - device.latency_s, 0.0))
        busy = PhaseCost(0.0, {}, {HOST: host})
        return sum_costs([(device, 1.0), (framework, 1.0), (busy, 1.0)])

    def _within_power(self, cost: PhaseCost, joules: Number, kernels_s: Number) -> PhaseCost:
        """What a board's power limit stretches: as much energy as kernels need comes in no faster.

        Over a layer's kernels, since clocks follow the mean of some milliseconds: those that only move memory leave power to
        the products beside them. Exchanges that are waited for do not: products timed by themselves, over and over, are no
        slower than those of a layer.
        """
        board = self.kernels.rates.board
        if board is None:
            return cost
        waited = maximum(board.least_s(joules) - kernels_s, 0.0)
        return sum_costs([(cost, 1.0), (_part("power_limit", waited, COMPUTE), 1.0)])

    def _host_s(self, group: LayerGroup) -> float:
        """Seconds that the host takes to launch one layer's both passes; a recomputed forward pass launches again."""
        c = self.c
        milliseconds = self._launching_ms(group)
        if self.footprint.gathers:
            milliseconds += c["host_ms_per_gather"]
        if self.plan.lora_rank:
            matrices = adapted_linears(self.model, group, self.plan.lora_targets)
            milliseconds += c["host_ms_per_adapter"] * len(matrices)
        if self.footprint.quantised:
            matrices = layer_linears(group, self.model.hidden_size)
            milliseconds += c["host_ms_per_unpacking"] * sum(one.op != "router" for one in matrices)
        full = self.plan.activation_recomputation is ActivationRecomputation.FULL
        launched = full or (is_mixture(group) and "moe" in self.plan.recompute_modules)
        again = recomputing_share(self.scenario) / 3 if launched else 0.0
        grace = c["grace_host_scale"] if "grace" in (self.scenario.host.cpu or "").lower() else 1.0
        return milliseconds * 1e-3 * grace * (1 + again)

    def _launching_ms(self, group: LayerGroup) -> float:
        """Milliseconds in which the host launches a layer's kernels, but for what is a CUDA graph.

        Graphs of layers hold mixers, routing and shared experts, which are a dense block; routed experts' products are
        launched one by one, as many as a rank holds, and so is what adds a bias to each. A graph of an iteration holds
        all of them.
        """
        c, mlp, graphs = self.c, group.mlp, self.plan.cuda_graphs
        if graphs == "iteration":
            return 0.0
        half = c["host_ms_per_layer"] / 2
        mixers = 0.0 if graphs in ("layers", "mixers") else half * len(group.attention.parts)
        if not mlp.routed_experts:
            return mixers + (half if mlp.ffn_size else 0.0)
        held = graphs == "layers"
        routing = c["host_ms_per_moe_layer"] * (c["graphed_host_scale"] if held else 1.0)
        shared = half if mlp.dense_width and not held else 0.0
        biased = c["host_ms_per_biased_expert"] if mlp.bias and not self.plan.fused_experts else 0.0
        each = c["host_ms_per_expert"] + biased
        return mixers + routing + shared + each * mlp.routed_experts / self.p.ep_size

    def _forward(self, index: int, load: TrainingLoad, times: LayerTimes) -> tuple[Step, ...]:
        group = self.model.layer_groups[index]
        work = [Work(COMPUTE, "forward", sum(times.forward.values()), self.kernels.used)]
        moved: dict[str, list[Work]] = {"gather": self._gather(index)}
        copies = self.offload.forward(index, group, load)
        return self._passes("forward", work, self._messages(group, load, times, 0.0), moved | copies)

    def _backward(self, index: int, load: TrainingLoad, times: LayerTimes) -> tuple[Step, ...]:
        group = self.model.layer_groups[index]
        share = recomputing_share(self.scenario)
        work = [Work(COMPUTE, "backward", sum(times.backward.values()), self.kernels.used)]
        if share:
            work.append(Work(COMPUTE, "recompute", share * sum(times.again.values(), start=0.0)))
        moved = {"gather": self._gather(index), "reduction": self._reduction(index)}
        copies = self.offload.backward(index, group, load)
        messages = self._messages(group, load, times, share, backward=True)
        return self._passes("backward", work, messages, moved | copies)

    def _messages(
        self, group: LayerGroup, load: TrainingLoad, times: LayerTimes, again: float, backward: bool = False
    ) -> list[_Message]:
        """Communication of a layer's blocks in one pass; ``again`` is the share of layers that recompute in it."""
        tokens, c, exchange = self.kernels.rank_tokens(load), self.c, self.exchange
        repeated = _REPEATED[self.plan.activation_recomputation]
        found = []

        def add(stream: str, label: str, seconds: Number, exposed: Number) -> None:
            if any_of(seconds > 0):
                found.append(_Message(stream, label, seconds, exposed))

        tensor = (1 + again * repeated.tensor) * exchange.tensor_s(group, tokens)
        if backward and self.p.sp_size > 1:
            tensor = tensor + exchange.regather_s(group, tokens)
        share = c["tensor_exposed_overlapped" if self.plan.tp_comm_overlap else "tensor_exposed"]
        add(exchange.tensor.stream, "tensor_parallel", tensor, share * tensor)
        repeats = 1.0 if "moe" in self.plan.recompute_modules else repeated.expert
        expert = (1 + again * repeats) * exchange.expert_s(group, tokens)
        share = c["expert_exposed_overlapped" if self.plan.moe_overlap else "expert_exposed"]
        add(exchange.expert.stream, "expert_parallel", expert, share * expert)
        context = self._context(group, tokens, times.forward["attention"], backward=False)
        if backward:
            first = self._context(group, tokens, times.backward["attention"], backward=True)
            scale = again * repeated.context
            context = (first[0] + scale * context[0], first[1] + scale * context[1])
        add(exchange.context.stream, "context_parallel", *context)
        return found

    def _context(
        self, group: LayerGroup, tokens: Number, attention_s: Number, backward: bool
    ) -> tuple[Number, Number]:
        """(seconds, seconds that are waited for) of context parallelism in one pass.

        While a ring's rank computes with one block the next one comes in, so that only what is longer than the computing
        with all blocks but the last is waited for. A gather comes before attention, an all-to-all before and after it.
        """
        seconds = self.exchange.context_s(group, tokens, backward)
        if self.plan.cp_comm_type != "p2p":
            return seconds, seconds
        ranks = self.p.cp_size
        return seconds, maximum(seconds - attention_s * (ranks - 1) / ranks, 0.0)

    def _passes(
        self, name: str, work: list[Work], messages: list[_Message], moved: dict[str, list[Work]]
    ) -> tuple[Step, ...]:
        """One pass as steps. Of what is moved beside the kernels a share overlaps with them, and the rest follows them."""
        main = work + [Work(item.stream, item.label, item.exposed_s) for item in messages]
        behind = tuple(
            Work(item.stream, item.label, item.seconds - item.exposed_s)
            for item in messages
            if item.exposed_s is not item.seconds
        )
        hidden = {"messages": behind} if behind else {}
        switched = {"gather": self.plan.overlap_param_gather, "reduction": self.plan.overlap_grad_reduce}
        after = [item for lane, works in moved.items() if not switched.get(lane, True) for item in works]
        main += after
        moved = {lane: works for lane, works in moved.items() if works and switched.get(lane, True)}
        if not moved:
            return (Step(name, {"gpu": tuple(main)} | hidden),)
        overlap = self.c["copy_overlap"]
        state = [item for lane in ("gather", "reduction") for item in moved.pop(lane, [])]
        lanes = {"state": tuple(state)} if state else {}
        lanes |= {lane: tuple(works) for lane, works in moved.items()}
        together = Step(name, {"gpu": tuple(main)} | hidden | lanes, repeats=overlap)
        serial = tuple(main) + tuple(item for works in lanes.values() for item in works)
        apart = Step(name, {"gpu": serial} | hidden, repeats=1 - overlap)
        return (together, apart)

    def _gather(self, index: int) -> list[Work]:
        return self._gathered(self.footprint.layers[index])

    def _gathered(self, held: HeldParams) -> list[Work]:
        """Weights that stage 3 collects for one pass: from other ranks, or one rank's own out of its flat shard."""
        if self.plan.ds_zero is not DSZeRO.STAGE_3:
            return []
        if self.exchange.shards.ranks == 1:
            return self._own_copies("weight_gather", held, self.c["own_gather_passes"])
        seconds = self.exchange.gather_weights_s(held)
        return [Work(self.exchange.state_stream, "weight_gather", seconds)]

    def _reduction(self, index: int) -> list[Work]:
        held = self.footprint.layers[index]
        if self.plan.lora_rank:
            held = HeldParams(self.footprint.adapters(index), 0.0)
        return self._reduced(held)

    def _reduced(self, held: HeldParams) -> list[Work]:
        """Gradients that stages 2 and 3 hand on with each micro-batch; one rank copies them through buckets."""
        if self.plan.ds_zero < DSZeRO.STAGE_2:
            return []
        if self.exchange.shards.ranks == 1:
            passes = self.c["own_reduction_passes"] if self.plan.ds_zero is DSZeRO.STAGE_3 else 0.0
            return self._own_copies("gradient_reduction", held, passes)
        seconds = self.exchange.reduce_scatter_s(held)
        return [Work(self.exchange.state_stream, "gradient_reduction", seconds)]

    def _own_copies(self, label: str, held: HeldParams, passes: float) -> list[Work]:
        """So many copies of parameters or gradients inside one device's memory, each read and written."""
        moved = 2.0 * passes * held.total * self.plan.wide_bytes
        return [Work(COMPUTE, label, moved / self.kernels.rates.elementwise_bytes_per_s)] if moved else []

    def _ends_cost(self) -> PhaseCost:
        """What one rank copies of embedding and head in both passes under stage 3."""
        if self.exchange.shards.ranks > 1:
            return PhaseCost(0.0, {}, {})
        embedding, head = ends_held_params(self.model, self.p)
        works = [*self._gathered(embedding + head) * 2, *self._reduced(embedding + head)]
        return sum_costs([(_part(work.label, work.seconds, work.stream), 1.0) for work in works])

    def _head(self, load: TrainingLoad, parts: bool) -> PhaseCost:
        """The head with its loss, and for each further token that is predicted a block and the head again."""
        head = sum_costs(
            [(self._kernels_cost("head", self.kernels.head(load)), 1.0), (self._ends_cost(), 1.0)]
        )
        depth = self.plan.mtp_depth
        if not depth:
            return head
        block = self._layer(self._last_attention, load, parts, self.wide_kernels)
        joined = self._kernels_cost("head", self.wide_kernels.joined(load))
        again = self._kernels_cost("head", self.kernels.head(load))
        return sum_costs([(head, 1.0), (again, depth), (joined, depth), (block, depth)])

    def _kernels_cost(self, label: str, kernels: KernelPass) -> PhaseCost:
        seconds = kernels.forward + kernels.backward
        cost = PhaseCost(seconds, {label: seconds}, {COMPUTE: seconds})
        return self._within_power(cost, kernels.forward_j + kernels.backward_j, seconds)

    @property
    def _last_attention(self) -> int:
        """The group whose layer stands for a block of multi-token prediction: the last one with attention and both blocks."""
        groups = list(enumerate(self.model.layer_groups))
        whole = [index for index, group in groups if group.mlp.ffn_size and not group.attention.recurrent]
        return whole[-1] if whole else groups[-1][0]

    # -- once per step ---------------------------------------------------------------------------------------------

    def _synchronisation(self, micro_batch_s: Number) -> PhaseCost:
        """What stages 0 to 2 exchange once per step, beside the passes that it can hide behind.

        Gradients are whole with the last micro-batch only, so its backward pass (two thirds of it) is all that hides their
        reduction, however many came before; new weights are needed by the first forward pass.
        """
        exchange, trained = self.exchange, self.footprint.trained
        reduced, updated = exchange.reduced_s(trained), exchange.updated_s(trained)
        exposed = self._waited(reduced, micro_batch_s * 2 / 3, self.plan.overlap_grad_reduce) + self._waited(
            updated, micro_batch_s / 3, self.plan.overlap_param_gather
        )
        return PhaseCost(exposed, {"gradient_reduction": exposed}, {exchange.state_stream: reduced + updated})

    def _waited(self, seconds: Number, beside_s: Number, overlaps: bool) -> Number:
        """What is waited for of an exchange beside a pass: the layer that ends (or begins) it has nothing to hide behind."""
        if not overlaps:
            return seconds
        return maximum(seconds - self.c["gradient_overlap"] * beside_s, self.c["gradient_exposed"] * seconds)

    def _optimizer_on_gpu_s(self) -> float:
        """Seconds of the update over device memory: gradients, state and weights read, state and weights written."""
        footprint, plan = self.footprint, self.plan
        own = footprint.sharded(footprint.trained, "optimizer")
        moved = 2 * footprint.gradient_element_bytes + 2 * footprint.optimizer_element_bytes + plan.wide_bytes
        if plan.wide_bytes == 2:
            moved += self.c["update_copy_bytes"]
        elif plan.ds_zero.value:
            whole = plan.ds_zero is DSZeRO.STAGE_3
            moved += self.c["update_copy_bytes_fp32_stage3" if whole else "update_copy_bytes_fp32"]
        rates = self.kernels.rates
        update = own * moved / rates.elementwise_bytes_per_s
        # Newton-Schulz: products of a matrix with squares of its smaller side, 2 x side FLOPs per parameter each.
        orthogonalised = footprint.optimizer.matrix_products * 2.0 * self.model.hidden_size * own
        return update + orthogonalised / rates.wide_gemm.flops_per_s


def stage_sizes(layers: int, stages: int, chunks: int) -> tuple[float, float]:
    """(layers of the fullest pipeline stage, layers of the last one, which holds the head too).

    Layers that do not divide leave fewer on the last stage. Where they do only once embedding and head count as a
    layer each, the first and the last stage have one fewer (Megatron's accounting for both).
    """
    if layers % (stages * chunks) and (layers + 2) % (stages * chunks) == 0 and stages > 1:
        even = (layers + 2) // stages
        return even if stages > 2 else even - 1, even - 1
    fullest = -(-layers // stages)
    return fullest, max(layers - (stages - 1) * fullest, 0)


def _part(label: str, seconds: Number, stream: str | None = None) -> PhaseCost:
    return PhaseCost(seconds, {label: seconds}, {stream: seconds} if stream else {})
