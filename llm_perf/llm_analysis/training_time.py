"""Seconds of one step of the optimizer: micro-batches through the pipeline, gradients, weight update.

The backward pass computes twice the forward pass' products and sends what the forward pass sends. Stages follow the
1F1B schedule, whose time is that of one micro-batch through all stages and of each further one through the slowest
(Narayanan et al., arXiv 2104.04473, section 2.2). What replicas exchange runs beside the backward pass, what of it
takes longer is exposed.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.counts.flops import lm_head_flops
from llm_perf.counts.optimizer import ADAM_MOMENTS_BYTES, zero_shards
from llm_perf.hardware.collective import Fabric
from llm_perf.llm_analysis import latency, memory
from llm_perf.llm_analysis.latency import Pass, PassTimes
from llm_perf.llm_analysis.setup import Layer, Setup
from llm_perf.llm_analysis.training_request import Training, TrainingRequest

Level = ActivationRecomputation


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Seconds of one micro-batch on some part of the model.

    ``backward`` and ``recompute`` include what tensor and expert parallelism send; ``exchange`` is what replicas
    exchange for ZeRO beside them.
    """

    forward: float = 0.0
    backward: float = 0.0
    recompute: float = 0.0
    exchange: float = 0.0

    @property
    def total(self) -> float:
        """Forward, and the longer of backward pass with recomputation and the exchange beside it."""
        return self.forward + max(self.backward + self.recompute, self.exchange)

    @property
    def exposed(self) -> float:
        """What of the exchange nothing hides."""
        return max(0.0, self.exchange - self.backward - self.recompute)

    def __add__(self, other: MicroBatch) -> MicroBatch:
        return MicroBatch(
            self.forward + other.forward,
            self.backward + other.backward,
            self.recompute + other.recompute,
            self.exchange + other.exchange,
        )

    def __mul__(self, factor: float) -> MicroBatch:
        return MicroBatch(
            self.forward * factor, self.backward * factor, self.recompute * factor, self.exchange * factor
        )


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of one step of the optimizer.

    ``whole`` is one micro-batch through all stages, with ``transfers`` between them forward and back; ``slowest`` one
    through the stage that takes longest. ``gradient_exchange`` is what of the replicas' exchange at the end nothing
    hides, with the gathering of updated weights.
    """

    accumulation: int
    stages: int
    fwd: PassTimes
    whole: MicroBatch
    slowest: MicroBatch
    transfers: float
    gradient_exchange: float
    weight_update: float

    @property
    def micro_batch_s(self) -> float:
        """One micro-batch alone."""
        return self.whole.total + self.transfers

    @property
    def bubble_s(self) -> float:
        """What the slowest stage waits in one step."""
        return self.micro_batch_s - self.slowest.total

    @property
    def total_s(self) -> float:
        """The step."""
        steady = (self.accumulation - 1) * self.slowest.total
        return self.micro_batch_s + steady + self.gradient_exchange + self.weight_update


def step_times(setup: Setup, training: Training) -> StepTimes:
    """Seconds of one step."""
    request, pp = training.request, setup.parallelism.pp_size
    step = latency.whole_pass(setup, training.batch, request.seq_len)
    layers = [_layer(setup, layer, step, request) for layer in setup.layers]
    ends = _input_end(setup, step, request), _output_end(setup, step, request)
    every_layer = sum(
        (one * layer.count for one, layer in zip(layers, setup.layers, strict=True)), MicroBatch()
    )
    whole = every_layer + ends[0] + ends[1]
    fuller_end = max(ends, key=lambda end: end.total)
    slowest = whole if pp == 1 else every_layer * (setup.stage_layers / setup.model.num_layers) + fuller_end
    return StepTimes(
        accumulation=training.accumulation,
        stages=pp,
        fwd=latency.pass_times(
            setup, step, request.options.layernorm_dtype_bytes, request.stage, inference=False
        ),
        whole=whole,
        slowest=slowest,
        transfers=2 * latency.stage_transfer_time(setup, step.tokens),
        gradient_exchange=_exchange_at_the_end(setup, request.stage, slowest),
        weight_update=weight_update_time(setup, request),
    )


# -- one micro-batch ----------------------------------------------------------------------------------------


def _layer(setup: Setup, layer: Layer, step: Pass, request: TrainingRequest) -> MicroBatch:
    norm_bytes, stage = request.options.layernorm_dtype_bytes, request.stage
    times = latency.layer_times(setup, layer, step, norm_bytes, stage, inference=False)
    all_to_alls = 2 * latency.all_to_all_time(setup, layer, step.tokens)
    computed = times.attn + times.mlp - all_to_alls + times.layernorm
    exchange = times.sharded_dp_comm  # ZeRO-3 gathers the weights a second time
    if stage >= DSZeRO.STAGE_2:  # and every micro-batch's gradients go to those who keep them
        exchange += latency.replica_gather_time(setup, layer, setup.activation_bytes)
    return MicroBatch(
        forward=times.total,
        backward=2 * computed + all_to_alls + times.tp_comm,
        recompute=recompute_time(setup, layer, step, request),
        exchange=exchange,
    )


def recompute_time(setup: Setup, layer: Layer, step: Pass, request: TrainingRequest) -> float:
    """Seconds in which one layer's activations are computed again, with the all-reduces inside of what is."""
    level = request.options.recompute
    if level is Level.NONE:
        return 0.0
    if level is Level.ATTN_COMPUTE:
        rank_flops = latency.attention_core_flops(layer, step) / setup.parallelism.tp_size
        return rank_flops / setup.flops_per_s
    times = latency.layer_times(
        setup, layer, step, request.options.layernorm_dtype_bytes, DSZeRO.NONE, inference=False
    )
    if level is Level.FULL:
        return times.total
    # The attention's own all-reduce: a block whose two halves share one has none.
    inside = times.tp_comm * (layer.all_reduces - 1) / layer.all_reduces
    return times.attn + inside + (times.layernorm if level is Level.NORM_ATTN_NORM else 0.0)


def _input_end(setup: Setup, step: Pass, request: TrainingRequest) -> MicroBatch:
    """The look-up; its backward pass adds to the same rows, and sends nothing."""
    element, tokens = setup.embedding_bytes, step.tokens
    sent = latency.all_reduce_time(setup, tokens, element)
    forward = latency.input_embedding_time(setup, tokens, element)
    return MicroBatch(
        forward, 2 * (forward - sent), 0.0, _end_exchange(setup, setup.embedding_rank_params, request.stage)
    )


def _output_end(setup: Setup, step: Pass, request: TrainingRequest) -> MicroBatch:
    """The logits; their backward pass ends with an all-reduce of the hidden states' gradient."""
    forward = latency.output_embedding_time(setup, step.tokens)
    sent = latency.all_reduce_time(setup, step.tokens, setup.activation_bytes)
    params = setup.head_rank_params if setup.parallelism.pp_size == 1 else setup.lm_head_rank_weights
    return MicroBatch(forward, 2 * forward + sent, 0.0, _end_exchange(setup, params, request.stage))


def _end_exchange(setup: Setup, params: float, stage: DSZeRO) -> float:
    """Seconds in which a micro-batch's gradients of embedding or head go to those who keep them."""
    if stage < DSZeRO.STAGE_2:
        return 0.0
    return float(_replicas(setup).all_gather_s(params * setup.activation_bytes))


def _replicas(setup: Setup) -> Fabric:
    return Fabric(setup.parallelism.dp_size, 0.0, latency.replica_link_bytes_per_s(setup))


# -- the end of a step --------------------------------------------------------------------------------------


def _exchange_at_the_end(setup: Setup, stage: DSZeRO, last: MicroBatch) -> float:
    """Seconds of the replicas' exchange that nothing hides.

    Without ZeRO gradients are all-reduced beside the ``last`` micro-batch's backward pass, with stage 1 they are
    scattered there; stages 1 and 2 then gather the updated weights. Gradients travel in the format of activations.
    """
    if stage is DSZeRO.STAGE_3:
        return 0.0
    gathered = _stage_gather_time(setup, setup.weight_bytes, setup.embedding_bytes)
    if stage is DSZeRO.STAGE_2:
        return gathered
    scattered = _stage_gather_time(setup, setup.activation_bytes, setup.activation_bytes)
    hidden = last.backward + last.recompute
    if stage is DSZeRO.STAGE_1:
        return max(0.0, scattered - hidden) + gathered
    return max(0.0, 2 * scattered - hidden)  # a ring all-reduce is a scatter and a gather


def _stage_gather_time(setup: Setup, element_bytes: float, embedding_bytes: float) -> float:
    """Seconds of gathering, or of scattering, what the longest stage holds."""
    layers = setup.mean(lambda layer: latency.replica_gather_time(setup, layer, element_bytes))
    size = memory.stage_embedding_params(setup) * embedding_bytes
    return float(setup.stage_layers * layers + _replicas(setup).all_gather_s(size))


def weight_update_time(setup: Setup, request: TrainingRequest) -> float:
    """Seconds of the optimizer: it reads gradients, reads and writes its state, and writes the weights it owns."""
    master = request.master_weights_bytes
    other = ADAM_MOMENTS_BYTES if request.other_op_bytes is None else request.other_op_bytes
    shards = zero_shards("optimizer", request.stage, setup.parallelism.dp_size)

    def of_layer(layer: Layer) -> float:
        expert_shards = zero_shards("optimizer", request.stage, layer.expert_replicas)
        return (layer.rank.total - layer.rank.experts) / shards + layer.rank.experts / expert_shards

    layers = setup.stage_layers * setup.mean(of_layer) + setup.last_norm_params / shards
    ends = memory.stage_embedding_params(setup) / shards
    state = master + 2 * (master + other)
    moved = layers * (state + setup.weight_bytes) + ends * (state + setup.embedding_bytes)
    return moved / setup.bytes_per_s


# -- FLOPs --------------------------------------------------------------------------------------------------


def recompute_flops(setup: Setup, step: Pass, level: ActivationRecomputation) -> float:
    """FLOPs that are computed again, over all ranks; the logits never are."""
    if level is Level.NONE:
        return 0.0
    if level is Level.ATTN_COMPUTE:
        return float(setup.total(lambda layer: latency.attention_core_flops(layer, step)))
    if level is Level.FULL:
        return latency.forward_flops(setup, step) - float(lm_head_flops(setup.model, step.tokens))
    return float(setup.total(lambda layer: latency.attention_flops(layer, step)))
