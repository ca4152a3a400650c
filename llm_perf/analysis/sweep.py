"""Many workloads of one scenario at once: the same code as one prediction, on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number
from llm_perf.errors import SpecError
from llm_perf.systems import Load, get_system

Floats: TypeAlias = npt.NDArray[np.float64]

_CHUNK = 8192
"""Points evaluated together: the arrays of one chunk stay in a core's cache, and memory stays bounded."""


@dataclass(frozen=True, slots=True)
class InferenceSweep:
    """Predictions for n workloads; every field is an array of length n.

    ``decode_latency_s`` is 0 where there are no decode steps. ``feasible`` is whether every tier fits.
    """

    batch_size: Floats
    prompt_len: Floats
    gen_len: Floats
    prefill_latency_s: Floats
    decode_latency_s: Floats
    total_latency_s: Floats
    throughput_tokens_per_s: Floats
    gpu_memory_bytes: Floats
    cpu_memory_bytes: Floats
    nvme_bytes: Floats
    weights_on_gpu: Floats
    weights_on_cpu: Floats
    feasible: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.batch_size)


def sweep_inference(
    scenario: Scenario, batch_size: npt.ArrayLike, prompt_len: npt.ArrayLike, gen_len: npt.ArrayLike
) -> InferenceSweep:
    """Predict a scenario at n workloads, given as arrays that broadcast to one length.

    Each point equals the single prediction of that workload. Placement that the scenario leaves open is chosen
    for each point.

    Raises:
        SpecError: a size is no positive whole number, a batch does not divide over the replicas, or a context is
            longer than the model's positions (unless the scenario allows it).
    """
    batch, prompt, gen = (np.atleast_1d(axis).ravel() for axis in _broadcast(batch_size, prompt_len, gen_len))
    _check(scenario, batch, prompt, gen)
    chunks = [
        _evaluate(
            scenario,
            batch[start : start + _CHUNK],
            prompt[start : start + _CHUNK],
            gen[start : start + _CHUNK],
        )
        for start in range(0, len(batch), _CHUNK)
    ]
    return InferenceSweep(
        batch, prompt, gen, *(np.concatenate(column) for column in zip(*chunks, strict=True))
    )


def _broadcast(*axes: npt.ArrayLike) -> tuple[Floats, ...]:
    try:
        return tuple(np.broadcast_arrays(*(np.asarray(axis, dtype=np.float64) for axis in axes)))
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"batch_size, prompt_len and gen_len must be numbers of one common shape: {error}"
        ) from None


def _check(scenario: Scenario, batch: Floats, prompt: Floats, gen: Floats) -> None:
    if not len(batch):
        raise SpecError("batch_size, prompt_len and gen_len give no points")
    for name, values in (("batch_size", batch), ("prompt_len", prompt), ("gen_len", gen)):
        bad = ~((values >= 1) & (values <= 1e12) & (values == np.floor(values)))
        if bad.any():
            raise SpecError(f"{name} must be positive whole numbers, got {values[bad][0]:g}")
    replicas = scenario.parallelism.dp_size
    if (batch % replicas).any():
        raise SpecError(
            f"batch_size must be multiples of dp_size {replicas}, got {batch[batch % replicas != 0][0]:g}"
        )
    limit = scenario.model.max_position_embeddings
    if limit is None or scenario.allow_long_context:
        return
    longest = float((prompt if scenario.model.encoder else prompt + gen).max(initial=0))
    if longest > limit:
        raise SpecError(
            f"a context of {longest:g} tokens exceeds the {limit} positions of {scenario.model.name}"
        )


def _evaluate(scenario: Scenario, batch: Floats, prompt: Floats, gen: Floats) -> tuple[Floats, ...]:
    load = Load(batch, prompt, gen)
    evaluation = get_system(scenario.system).evaluate(scenario, load)

    def full(value: Number) -> Floats:
        return np.broadcast_to(np.asarray(value), batch.shape)

    prefill = full(evaluation.prefill.latency_s)
    decode = full(0.0 if evaluation.decode is None else evaluation.decode.latency_s)
    total = prefill + decode
    tokens = batch * (prompt if scenario.model.encoder else gen)
    memory, weights = evaluation.memory, evaluation.placement.weights
    return (
        prefill,
        decode,
        total,
        tokens / total,
        full(memory.gpu.total_bytes),
        full(memory.cpu.total_bytes),
        full(memory.nvme.total_bytes),
        full(weights.gpu),
        full(weights.cpu),
        full(memory.fits),
    )
