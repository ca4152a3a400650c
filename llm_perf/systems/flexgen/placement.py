"""FlexGen places whole tensors: each goes to the tier in whose range of percent its middle falls.

Source: FMInference/FlexGen, flexgen/flex_opt.py, get_choice and init_weight_list. The tensors of one layer (embedding,
attention, feed-forward, head) are lined up by size; disk takes the first percents, then host memory, then the GPU.
The token table is kept twice, once for each end of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.counts.arrays import Number, is_array, maximum, minimum, where
from llm_perf.counts.linears import Linear, attention_linears, mlp_linears
from llm_perf.counts.parameters import attention_params, norm_params, token_table_params
from llm_perf.systems.base import TierShares

VECTOR_BYTES = 2.0
"""Biases and norms are never compressed."""

PhaseKind = Literal["embed", "attention", "mlp", "head"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """``copies`` tensors of so many elements, one after the other; matrices are compressed, vectors are not."""

    elements: float
    matrix: bool
    copies: int = 1


@dataclass(frozen=True, slots=True)
class PhaseTensors:
    """The tensors of one phase of the schedule, in FlexGen's order. ``group`` is None for the ends of the model."""

    kind: PhaseKind
    group: LayerGroup | None
    tensors: tuple[Tensor, ...]

    @property
    def elements(self) -> float:
        """Elements of all tensors."""
        return sum(tensor.elements * tensor.copies for tensor in self.tensors)

    @property
    def matrix_elements(self) -> float:
        """Elements of all matrices: what is unpacked where weights are compressed."""
        return sum(tensor.elements * tensor.copies for tensor in self.tensors if tensor.matrix)


@dataclass(frozen=True, slots=True)
class TierWeights:
    """Bytes of one phase's weights per tier, how many copies they travel in, and host bytes in page-locked blocks.

    A tensor is one copy, a compressed matrix two: its elements and its scales.
    """

    gpu_bytes: Number
    cpu_bytes: Number
    disk_bytes: Number
    cpu_copies: Number
    disk_copies: Number
    cpu_locked_bytes: Number

    @property
    def streamed_bytes(self) -> Number:
        """Bytes that come to the GPU in every pass."""
        return self.cpu_bytes + self.disk_bytes

    @property
    def total_bytes(self) -> Number:
        """Bytes on all tiers."""
        return self.gpu_bytes + self.cpu_bytes + self.disk_bytes


@cache
def model_phases(model: ModelConfig) -> tuple[PhaseTensors, ...]:
    """Embedding, then attention and feed-forward of each group of layers, then the head."""
    hidden, table = model.hidden_size, token_table_params(model)
    projection = model.embedding_size * hidden if model.embedding_size else 0
    embed = [Tensor(table, True), Tensor(model.learned_positions * hidden, True), Tensor(projection, True)]
    norms = norm_params(model)
    head = [Tensor(norms if model.final_norm else 0, False), Tensor(projection, True), Tensor(table, True)]
    phases = [PhaseTensors("embed", None, _real(embed))]
    for group in model.layer_groups:
        attention = attention_linears(group.attention, hidden)
        extras = attention_params(model, group) - sum(linear.params for linear in attention)
        first = min(group.norms, 1)
        inside = (*_tensors(attention), Tensor(extras, False), Tensor(first * norms, False))
        rest = (*_tensors(mlp_linears(group.mlp, hidden)), Tensor((group.norms - first) * norms, False))
        phases.append(PhaseTensors("attention", group, _real(inside)))
        phases.append(PhaseTensors("mlp", group, _real(rest)))
    phases.append(PhaseTensors("head", None, _real(head)))
    return tuple(phases)


def _tensors(linears: tuple[Linear, ...]) -> list[Tensor]:
    found = []
    for linear in linears:
        found.append(Tensor(linear.weights, True, linear.copies))
        found.append(Tensor(linear.out_features if linear.bias else 0, False, linear.copies))
    return found


def _real(tensors: list[Tensor] | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor for tensor in tensors if tensor.elements > 0)


def place_tensors(phase: PhaseTensors, stated: TierShares, weight_bytes: Number) -> TierWeights:
    """Where the tensors of a phase go with the stated shares, and what they take there.

    ``weight_bytes`` are stored bytes per element of a matrix.
    """
    whole = phase.elements
    to_disk, to_cpu = stated.nvme * whole, (stated.nvme + stated.cpu) * whole
    gpu: Number = 0.0
    cpu: Number = 0.0
    disk: Number = 0.0
    cpu_count: Number = 0.0
    disk_count: Number = 0.0
    locked: Number = 0.0
    start = 0.0
    pieces = where(weight_bytes < VECTOR_BYTES, 2.0, 1.0)
    for tensor in phase.tensors:
        on_disk = _before(to_disk, start, tensor)
        off_gpu = _before(to_cpu, start, tensor)
        off_gpu = maximum(off_gpu, on_disk)
        size = tensor.elements * (weight_bytes if tensor.matrix else VECTOR_BYTES)
        gpu = gpu + (tensor.copies - off_gpu) * size
        cpu = cpu + (off_gpu - on_disk) * size
        disk = disk + on_disk * size
        copies = pieces if tensor.matrix else 1.0
        cpu_count = cpu_count + (off_gpu - on_disk) * copies
        disk_count = disk_count + on_disk * copies
        locked = locked + (off_gpu - on_disk) * power_of_two(size)
        start += tensor.elements * tensor.copies
    return TierWeights(gpu, cpu, disk, cpu_count, disk_count, locked)


def _before(limit: Number, start: float, tensor: Tensor) -> Number:
    """How many of a tensor's copies have their middle before ``limit``, counted in elements.

    The middle of copy i is at start + (i + 1/2) x elements; a hair of slack lets 80 % of 5 be 4 in binary too.
    """
    count = ceil((limit - start) / tensor.elements - 0.5 - 1e-9)
    return minimum(maximum(count, 0.0), float(tensor.copies))


def ceil(value: Number) -> Number:
    """The least whole number that is not below ``value``."""
    return np.ceil(value) if is_array(value) else float(math.ceil(value))


def power_of_two(size: Number) -> Number:
    """The least power of two that is not below ``size``: what PyTorch's page-locked allocator takes for a block."""
    if is_array(size):
        return np.exp2(np.ceil(np.log2(np.maximum(size, 1.0))))
    return 2.0 ** math.ceil(math.log2(max(size, 1.0)))


def place_cache(stated: TierShares, sequences: Number) -> TierShares:
    """Shares of the cache that really lie on each tier: whole sequences of a GPU batch, rounded down on GPU and host.

    With nothing on disk the host takes the rest; else the disk does (TorchMixedDevice.init_cache_one_gpu_batch).
    """
    gpu = _floor_share(stated.gpu, sequences)
    with_disk = stated.nvme > 1e-9
    cpu = _floor_share(stated.cpu, sequences)
    cpu = cpu * with_disk + (1.0 - gpu) * (~with_disk if is_array(with_disk) else not with_disk)
    return TierShares(gpu, cpu, maximum(1.0 - gpu - cpu, 0.0))


def _floor_share(share: Number, sequences: Number) -> Number:
    whole = share * sequences
    floored = (np.floor(whole + 1e-9) if is_array(whole) else math.floor(whole + 1e-9)) / sequences
    return minimum(floored, 1.0)
