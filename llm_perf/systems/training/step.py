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
from llm_perf.counts.arrays import Number, maximum, where
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.trained import HeldParams, adapted_linears
from llm_perf.hardware.roofline import p_norm
from llm_perf.hardware.streams import COMPUTE, HOST
from llm_perf.systems.base import PhaseCost
from llm_perf.systems.schedule import Block, Schedule, Step, Work, sum_costs
from llm_perf.systems.training.base import StepEvaluation, TrainingLoad
from llm_perf.systems.training.exchange import Exchange
from llm_perf.systems.training.framework import Framework, framework_constants
from llm_perf.systems.training.kernels import Kernels, LayerTimes
from llm_perf.systems.training.memory import Footprint, is_mixture, recomputing_share
from llm_perf.systems.training.offload import Offload


@dataclass(frozen=True, slots=True)
class _Passes:
    """How often a pass of a layer runs each kind of its forward communication."""

    tensor: float
    expert: float
    context: float


_FORWARD = _Passes(1.0, 1.0, 1.0)
_BACKWARD = _Passes(1.0, 1.0, 2.0)  # keys and values go around again, and so do their gradients
_REPEATED = {
    ActivationRecomputation.NONE: _Passes(0.0, 0.0, 0.0),
    ActivationRecomputation.ATTN_COMPUTE: _Passes(0.0, 0.0, 1.0),
    ActivationRecomputation.ATTN: _Passes(0.5, 0.0, 1.0),
    ActivationRecomputation.NORM_ATTN_NORM: _Passes(0.5, 0.0, 1.0),
    ActivationRecomputation.FULL: _Passes(1.0, 1.0, 1.0),
}
"""What of it a level of recomputation repeats: of tensor parallelism's two blocks none, one or both."""
_GPUS_WITHOUT_STRAGGLERS = 8


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
        self.exchange = Exchange(scenario, self.kernels.rates.efficiency, self.c)
        self.offload = Offload(scenario, self.c, self.footprint)

    def evaluate(self, load: TrainingLoad) -> StepEvaluation:
        """Memory and time of one optimizer step."""
        return StepEvaluation(self.footprint.memory(load), self.step_cost(load))

    def step_cost(self, load: TrainingLoad, parts: bool = True) -> PhaseCost:
        """Seconds of one optimizer step, by part and by stream unless only its length counts."""
        stages = self._stages(load, parts)
        costs = [(cost, weight * load.accumulation) for cost, weight in stages.slowest]
        bubble = maximum(stages.whole_s - stages.slowest_s, 0.0) / self.plan.virtual_stages
        backward = stages.slowest_s * 2 / 3
        once = [
            _part("pipeline_bubble", bubble),
            self._synchronisation(backward),
            self.offload.optimizer_cost(self._optimizer_on_gpu_s()),
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
        costs = [
            (self._layer(index, load, parts), group.count / layers) for index, group in enumerate(groups)
        ]
        layer_s = sum(weight * cost.latency_s for cost, weight in costs)
        head = self._head(load)
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

    def _layer(self, index: int, load: TrainingLoad, parts: bool) -> PhaseCost:
        """Forward and backward pass of one layer with one micro-batch, and what the host is waited for beside them."""
        group = self.model.layer_groups[index]
        times = self.kernels.layer(group, load)
        steps = (*self._forward(index, load, times), *self._backward(index, load, times))
        device = Schedule((Block(steps),)).cost(parts)
        host = self._host_s(group)
        together = p_norm(device.latency_s, host, self.c["host_exponent"])
        framework = _part("framework", maximum(together - device.latency_s, 0.0))
        busy = PhaseCost(0.0, {}, {HOST: host})
        return sum_costs([(device, 1.0), (framework, 1.0), (busy, 1.0)])

    def _host_s(self, group: LayerGroup) -> float:
        """Seconds that the host takes to launch one layer's both passes; a recomputed forward pass launches again."""
        c = self.c
        milliseconds = c["host_ms_per_moe_layer"] if is_mixture(group) else c["host_ms_per_layer"]
        if self.footprint.gathers:
            milliseconds += c["host_ms_per_gather"]
        if self.plan.lora_rank:
            matrices = adapted_linears(self.model, group, self.plan.lora_targets)
            milliseconds += c["host_ms_per_adapter"] * len(matrices)
        if self.footprint.quantised:
            matrices = layer_linears(group, self.model.hidden_size)
            milliseconds += c["host_ms_per_unpacking"] * sum(one.op != "router" for one in matrices)
        full = self.plan.activation_recomputation is ActivationRecomputation.FULL
        again = recomputing_share(self.scenario) / 3 if full else 0.0
        grace = c["grace_host_scale"] if "grace" in (self.scenario.host.cpu or "").lower() else 1.0
        return milliseconds * 1e-3 * grace * (1 + again)

    def _forward(self, index: int, load: TrainingLoad, times: LayerTimes) -> tuple[Step, ...]:
        group = self.model.layer_groups[index]
        work = [Work(COMPUTE, "forward", sum(times.forward.values()), self.kernels.used)]
        moved: dict[str, list[Work]] = {"gather": self._gather(index)}
        copies = self.offload.forward(index, group, load)
        return self._passes("forward", work, self._messages(group, load, _FORWARD), moved | copies)

    def _backward(self, index: int, load: TrainingLoad, times: LayerTimes) -> tuple[Step, ...]:
        group = self.model.layer_groups[index]
        share = recomputing_share(self.scenario)
        work = [Work(COMPUTE, "backward", sum(times.backward.values()), self.kernels.used)]
        if share:
            work.append(Work(COMPUTE, "recompute", share * sum(times.again.values(), start=0.0)))
        state = self._gather(index) + self._reduction(index)
        copies = self.offload.backward(index, group, load)
        again = _REPEATED[self.plan.activation_recomputation]
        passes = _Passes(
            _BACKWARD.tensor + share * again.tensor,
            _BACKWARD.expert + share * again.expert,
            _BACKWARD.context + share * again.context,
        )
        return self._passes("backward", work, self._messages(group, load, passes), {"gather": state} | copies)

    def _messages(self, group: LayerGroup, load: TrainingLoad, passes: _Passes) -> list[tuple[Work, float]]:
        """Communication of a layer's blocks with the share of it that is waited for."""
        tokens, c, exchange = self.kernels.rank_tokens(load), self.c, self.exchange
        pipelined = "expert_exposed_in_pipeline" if self.p.pp_size > 1 else "expert_exposed"
        found = (
            (
                Work(
                    exchange.tensor.stream,
                    "tensor_parallel",
                    passes.tensor * exchange.tensor_s(group, tokens),
                ),
                c["tensor_exposed"],
            ),
            (
                Work(
                    exchange.expert.stream,
                    "expert_parallel",
                    passes.expert * exchange.expert_s(group, tokens),
                ),
                c[pipelined],
            ),
            (
                Work(
                    exchange.context.stream,
                    "context_parallel",
                    passes.context * exchange.context_s(group, tokens),
                ),
                c["context_exposed"],
            ),
        )
        return [(work, share) for work, share in found if _any(work.seconds)]

    def _passes(
        self, name: str, work: list[Work], messages: list[tuple[Work, float]], moved: dict[str, list[Work]]
    ) -> tuple[Step, ...]:
        """One pass as steps. Of what is moved beside the kernels a share overlaps with them, and the rest follows them."""
        main = work + [Work(item.stream, item.label, share * item.seconds) for item, share in messages]
        behind = tuple(
            Work(item.stream, item.label, (1 - share) * item.seconds) for item, share in messages if share < 1
        )
        moved = {lane: works for lane, works in moved.items() if works}
        hidden = {"messages": behind} if behind else {}
        if not moved:
            return (Step(name, {"gpu": tuple(main)} | hidden),)
        overlap = self.c["copy_overlap"]
        lanes = {lane: tuple(works) for lane, works in moved.items()}
        together = Step(name, {"gpu": tuple(main)} | hidden | lanes, repeats=overlap)
        serial = tuple(main) + tuple(item for works in moved.values() for item in works)
        apart = Step(name, {"gpu": serial} | hidden, repeats=1 - overlap)
        return (together, apart)

    def _gather(self, index: int) -> list[Work]:
        if self.plan.ds_zero is not DSZeRO.STAGE_3 or self.exchange.shards.ranks == 1:
            return []
        return [
            Work(
                self.exchange.state_stream,
                "weight_gather",
                self.exchange.gather_weights_s(self.footprint.layers[index]),
            )
        ]

    def _reduction(self, index: int) -> list[Work]:
        if self.plan.ds_zero < DSZeRO.STAGE_2 or self.exchange.shards.ranks == 1:
            return []
        held = self.footprint.layers[index]
        if self.plan.lora_rank:
            held = HeldParams(self.footprint.adapters(index), 0.0)
        return [Work(self.exchange.state_stream, "gradient_reduction", self.exchange.reduce_scatter_s(held))]

    def _head(self, load: TrainingLoad) -> PhaseCost:
        forward, backward = self.kernels.head(load)
        seconds = forward + backward
        return PhaseCost(seconds, {"head": seconds}, {COMPUTE: seconds})

    # -- once per step ---------------------------------------------------------------------------------------------

    def _synchronisation(self, last_backward_s: Number) -> PhaseCost:
        """Gradients of stages 0 and 1 hide behind the last backward pass as far as the framework lets them."""
        trained = self.footprint.trained
        seconds = self.exchange.synchronise_s(trained)
        hidden = self.c["gradient_overlap"] * last_backward_s
        exposed = maximum(seconds - hidden, self.c["gradient_exposed"] * seconds)
        return PhaseCost(exposed, {"gradient_reduction": exposed}, {self.exchange.state_stream: seconds})

    def _optimizer_on_gpu_s(self) -> float:
        """Seconds of the update over device memory: gradients, state and weights read, state and weights written."""
        footprint, plan = self.footprint, self.plan
        own = footprint.sharded(footprint.trained, "optimizer")
        moved = 2 * footprint.gradient_element_bytes + 2 * footprint.optimizer_element_bytes + plan.wide_bytes
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


def _any(seconds: Number) -> bool:
    return bool(seconds.any()) if hasattr(seconds, "any") else seconds > 0
