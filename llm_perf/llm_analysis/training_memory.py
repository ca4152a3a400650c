"""Bytes of the fullest GPU in training: weights, gradients, optimizer state and kept activations.

Stages that are fullest in weights and in activations are taken as one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llm_perf.config.base import GIB
from llm_perf.config.parallelism import ActivationRecomputation
from llm_perf.errors import DoesNotFitError
from llm_perf.llm_analysis import memory
from llm_perf.llm_analysis.memory import LayerBytes, TrainingBytes
from llm_perf.llm_analysis.setup import Setup
from llm_perf.llm_analysis.training_request import Training, TrainingRequest


class ModelStates(NamedTuple):
    """What does not depend on the batch, in bytes; ``layers`` are the weights of the longest stage's layers."""

    layers: LayerBytes
    embedding: float
    last_norm: float
    gradients: float
    optimizer_state: float

    @property
    def weights(self) -> float:
        """All weights."""
        return self.layers.total + self.embedding + self.last_norm

    @property
    def total(self) -> float:
        """Weights, gradients and optimizer state."""
        return self.weights + self.gradients + self.optimizer_state


class Activations(NamedTuple):
    """Kept activations in bytes: of the fuller of first and last stage, and their parts.

    ``layers`` are those of the micro-batches in flight, ``logits`` the last stage's, ``rebuilt`` what one layer's
    recomputation brings back for its backward pass.
    """

    total: float
    layers: LayerBytes
    logits: float
    rebuilt: float


def model_states(setup: Setup, request: TrainingRequest) -> ModelStates:
    """Weights, gradients and optimizer state of one GPU."""
    stage = request.stage
    weights = [memory.layer_weight_bytes(setup, layer, stage) for layer in setup.layers]
    state, gradients = zip(*_states(setup, request), strict=True)
    return ModelStates(
        layers=LayerBytes(*(setup.stage_layers * setup.mean_of(part) for part in zip(*weights, strict=True))),
        embedding=memory.stage_embedding_bytes(setup, stage),
        last_norm=memory.last_norm_weight_bytes(setup, stage),
        gradients=sum(gradients),
        optimizer_state=sum(state),
    )


def _states(setup: Setup, request: TrainingRequest) -> list[TrainingBytes]:
    """Optimizer state and gradients of layers, embedding and last norm."""
    arguments = (request.stage, request.master_weights_bytes, request.other_op_bytes)
    layers = [memory.layer_training_bytes(setup, layer, *arguments) for layer in setup.layers]
    ends = (memory.stage_embedding_params(setup), setup.last_norm_params / setup.parallelism.tp_size)
    per_layer = (setup.stage_layers * setup.mean_of(part) for part in zip(*layers, strict=True))
    return [
        TrainingBytes(*per_layer),
        *(memory.training_bytes(setup, params, *arguments) for params in ends),
    ]


def activations(setup: Setup, request: TrainingRequest, batch: int, accumulation: int) -> Activations:
    """Activations of micro-batches of ``batch`` sequences, of which ``accumulation`` follow each other.

    With one forward and one backward in turn (1F1B) the first of p stages keeps those of min(p, accumulation)
    micro-batches, the last one those of one micro-batch, its logits and its norm (arXiv 2205.05198, section 4.2.3).
    """
    in_flight = min(setup.parallelism.pp_size, accumulation)
    one = _layer_activations(setup, request, batch, request.options.recompute)
    everything = _layer_activations(setup, request, batch, ActivationRecomputation.NONE)
    rebuilt = max(0.0, max(whole.total - kept.total for whole, kept in zip(everything, one, strict=True)))
    layers = LayerBytes(*(setup.stage_layers * setup.mean_of(part) for part in zip(*one, strict=True)))
    logits = memory.logits_bytes(setup, batch, request.seq_len)
    norm = memory.norm_activation_bytes(setup, batch, request.seq_len, request.options.layernorm_dtype_bytes)
    first, last = in_flight * layers.total, layers.total + logits + norm
    held = LayerBytes(*(part * (in_flight if first > last else 1) for part in layers))
    return Activations(max(first, last) + rebuilt, held, logits, rebuilt)


def _layer_activations(
    setup: Setup, request: TrainingRequest, batch: int, level: ActivationRecomputation
) -> list[LayerBytes]:
    options = request.options._replace(recompute=level)
    return [
        memory.layer_activation_bytes(setup, layer, batch, request.seq_len, False, options)
        for layer in setup.layers
    ]


def max_batch(setup: Setup, request: TrainingRequest, states: ModelStates, accumulation: int) -> int:
    """Sequences of the largest micro-batch that fits beside the model's states; 0 if none does."""
    one = activations(setup, request, 1, accumulation).total
    return max(0, math.floor((setup.gpu.memory_bytes - states.total) / one))


def check_fit(setup: Setup, training: Training, states: ModelStates, kept: Activations, largest: int) -> None:
    """The GPU's memory holds everything.

    Raises:
        DoesNotFitError: it does not; the message says how much is missing, and what would fit.
    """
    required, capacity = states.total + kept.total, setup.gpu.memory_bytes
    if required > capacity:
        raise shortfall(setup, states, kept, training.batch, largest)


def shortfall(
    setup: Setup, states: ModelStates, kept: Activations, batch: int, largest: int
) -> DoesNotFitError:
    """The error for a batch that does not fit: how much is missing, and what would fit."""
    required, capacity = states.total + kept.total, setup.gpu.memory_bytes
    remedy = (
        f"the largest batch that fits is {largest}"
        if largest
        else "no batch fits: shard over more GPUs, or recompute more"
    )
    return DoesNotFitError(
        f"training {setup.model.name} at batch_size_per_gpu {batch} needs {required / GIB:.1f} GiB per GPU "
        f"(weights {states.weights / GIB:.1f}, gradients {states.gradients / GIB:.1f}, optimizer state "
        f"{states.optimizer_state / GIB:.1f}, activations {kept.total / GIB:.1f}) and {setup.gpu.name} has "
        f"{capacity / GIB:.1f} GiB: {(required - capacity) / GIB:.1f} GiB are missing; {remedy}"
    )
