"""Many batches and lengths of one training scenario at once: the same code as one prediction, on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llm_perf.config.training import TrainingScenario
from llm_perf.counts.flops import training_flops
from llm_perf.errors import SpecError
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep

Floats: TypeAlias = npt.NDArray[np.float64]

_CHUNK = 8192
"""Points evaluated together: the arrays of one chunk stay in a core's cache, and memory stays bounded."""


@dataclass(frozen=True, slots=True)
class TrainingSweep:
    """Predictions for n batches; every field is an array of length n. ``feasible`` is whether every tier fits."""

    micro_batch_size: Floats
    gradient_accumulation_steps: Floats
    seq_len: Floats
    global_batch_size: Floats
    step_time_s: Floats
    throughput_tokens_per_s: Floats
    mfu: Floats
    gpu_memory_bytes: Floats
    cpu_memory_bytes: Floats
    nvme_bytes: Floats
    feasible: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.micro_batch_size)


def sweep_training(
    scenario: TrainingScenario,
    micro_batch_size: npt.ArrayLike,
    gradient_accumulation_steps: npt.ArrayLike = 1,
    seq_len: npt.ArrayLike | None = None,
) -> TrainingSweep:
    """Predict a scenario at n batches, given as arrays that broadcast to one length; the plan's own sizes do not count.

    Each point equals the single prediction of that batch.

    Raises:
        SpecError: a size is no positive whole number, or a sequence is longer than the model's positions (unless the
            scenario allows it) or does not divide over context-parallel ranks.
    """
    lengths = scenario.plan.seq_len if seq_len is None else seq_len
    axes = _broadcast(micro_batch_size, gradient_accumulation_steps, lengths)
    _check(scenario, *axes)
    model = TrainingStep(scenario, get_framework(scenario.framework))
    starts = range(0, len(axes[0]), _CHUNK)
    chunks = [_evaluate(model, *(axis[start : start + _CHUNK] for axis in axes)) for start in starts]
    *numbers, feasible = (np.concatenate(column) for column in zip(*chunks, strict=True))
    columns: tuple[Any, ...] = (*axes, *numbers, feasible.astype(np.bool_))
    return TrainingSweep(*columns)


def _broadcast(*axes: npt.ArrayLike) -> tuple[Floats, ...]:
    try:
        arrays = np.broadcast_arrays(*(np.asarray(axis, dtype=np.float64) for axis in axes))
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"micro_batch_size, gradient_accumulation_steps and seq_len must be numbers of one common shape: {error}"
        ) from None
    return tuple(np.atleast_1d(array).ravel() for array in arrays)


def _check(scenario: TrainingScenario, micro: Floats, steps: Floats, lengths: Floats) -> None:
    if not len(micro):
        raise SpecError("micro_batch_size, gradient_accumulation_steps and seq_len give no points")
    named = (("micro_batch_size", micro), ("gradient_accumulation_steps", steps), ("seq_len", lengths))
    for name, values in named:
        bad = ~((values >= 1) & (values <= 1e12) & (values == np.floor(values)))
        if bad.any():
            raise SpecError(f"{name} must be positive whole numbers, got {values[bad][0]:g}")
    cp, limit = scenario.parallelism.cp_size, scenario.model.max_position_embeddings
    if (lengths % cp).any():
        raise SpecError(f"seq_len must be multiples of cp_size {cp}, got {lengths[lengths % cp != 0][0]:g}")
    if limit is not None and not scenario.allow_long_context and lengths.max() > limit:
        raise SpecError(f"seq_len {lengths.max():g} exceeds the {limit} positions of {scenario.model.name}")


def _evaluate(model: TrainingStep, micro: Floats, steps: Floats, lengths: Floats) -> tuple[Floats, ...]:
    scenario = model.scenario
    load = TrainingLoad(micro, steps, lengths)
    memory = model.footprint.memory(load)

    def full(value: object) -> Floats:
        return np.broadcast_to(np.asarray(value), micro.shape)

    seconds = full(model.step_cost(load, parts=False).latency_s)
    sequences = micro * steps * scenario.parallelism.dp_size
    flops = training_flops(scenario.model, sequences, lengths, scenario.plan.lora_rank > 0)
    peak = scenario.gpu.peak_flops_per_s(model.kernels.dtype) * scenario.num_gpus
    return (
        sequences,
        seconds,
        sequences * lengths / seconds,
        flops / seconds / peak,
        full(memory.gpu.total_bytes),
        full(memory.cpu.total_bytes),
        full(memory.nvme.total_bytes),
        full(memory.fits),
    )
