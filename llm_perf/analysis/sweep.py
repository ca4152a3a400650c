"""Many workloads of one scenario at once: the same code as one prediction, on arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llm_perf.analysis.measures import Measures, measure
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems import Load

Floats: TypeAlias = npt.NDArray[np.float64]

TIERS = ("GPU memory", "host memory", "NVMe")
MISSING_TIERS = tuple(
    " and ".join(name for bit, name in enumerate(TIERS) if number >> bit & 1) for number in range(8)
)
"""Names of the tiers that do not fit, by a number with a bit for each; empty where all do."""

_CHUNK = 8192
"""Points evaluated together: the arrays of one chunk stay in a core's cache, and memory stays bounded."""


@dataclass(frozen=True, slots=True)
class InferenceSweep:
    """Predictions for n workloads; every field is an array of length n.

    ``decode_latency_s`` is 0 and ``tpot_s`` NaN where there are no decode steps. ``feasible`` is whether every tier fits;
    ``MISSING_TIERS[missing[i]]`` names those that do not.
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
    missing: npt.NDArray[np.int8]
    ttft_s: Floats
    tpot_s: Floats

    def __len__(self) -> int:
        return len(self.batch_size)

    @property
    def latency_per_token_s(self) -> Floats:
        """The older name of ``tpot_s``."""
        return self.tpot_s


_COLUMNS = tuple(field.name for field in fields(InferenceSweep))[3:]
"""What is measured, after the three axes."""


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


@dataclass(frozen=True, slots=True)
class Refusals:
    """Why workloads are refused: ``values[codes[i]]``, or nothing where the code is -1."""

    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]


def refusals(scenario: Scenario, batch: Floats, prompt: Floats, gen: Floats) -> Refusals:
    """What is wrong with each of n workloads of a scenario, without predicting any; the first reason counts."""
    found = list(_rules(scenario, batch, prompt, gen))
    codes = np.full(len(batch), -1, dtype=np.int32)
    for number, (_, bad, _) in reversed(list(enumerate(found))):
        codes[bad] = number
    return Refusals(codes, tuple(reason for reason, _, _ in found))


def _check(scenario: Scenario, batch: Floats, prompt: Floats, gen: Floats) -> None:
    if not len(batch):
        raise SpecError("batch_size, prompt_len and gen_len give no points")
    for reason, bad, values in _rules(scenario, batch, prompt, gen):
        if bad.any():
            raise SpecError(f"{reason}, got {values[bad][0]:g}")


def _rules(
    scenario: Scenario, batch: Floats, prompt: Floats, gen: Floats
) -> Iterator[tuple[str, npt.NDArray[np.bool_], Floats]]:
    """What must hold for each workload: the rule in words, where it is broken, and the values that it is about."""
    for name, values in (("batch_size", batch), ("prompt_len", prompt), ("gen_len", gen)):
        whole = (values >= 1) & (values <= 1e12) & (values == np.floor(values))
        yield f"{name} must be positive whole numbers", ~whole, values
    replicas = scenario.parallelism.dp_size
    if replicas > 1:
        yield f"batch_size must be multiples of dp_size {replicas}", batch % replicas != 0, batch
    blocks = scenario.offload.num_gpu_batches * scenario.offload.micro_batches
    kind = "GPU batches" if scenario.offload.num_gpu_batches > 1 else "micro-batches"
    if blocks > 1:
        yield f"batch_size must be multiples of the {blocks} {kind}", batch % blocks != 0, batch
    distinct = scenario.workload.distinct_prompts
    if distinct is not None:
        yield f"batch_size must be at least the {distinct} distinct_prompts of it", batch < distinct, batch
    ranks = scenario.parallelism.cp_size
    if ranks > 1:
        yield f"prompt_len must be at least the cp_size {ranks} that shares it", prompt < ranks, prompt
    models = (
        [scenario.model] if scenario.speculation is None else [scenario.model, scenario.speculation.draft]
    )
    for model in models:
        limit = model.max_position_embeddings
        if limit is not None and not scenario.allow_long_context:
            context = prompt if model.encoder else prompt + gen
            yield f"contexts must be within the {limit} positions of {model.name}", context > limit, context


def _evaluate(scenario: Scenario, batch: Floats, prompt: Floats, gen: Floats) -> tuple[npt.NDArray[Any], ...]:
    return columns_of(measure(scenario, Load(batch, prompt, gen), parts=False), _COLUMNS)


def columns_of(found: Measures, names: tuple[str, ...]) -> tuple[npt.NDArray[Any], ...]:
    """Measures of arrays by name, each in the shape of the load; ``missing`` is a position in `MISSING_TIERS`."""
    shape = np.broadcast_shapes(
        *(np.shape(axis) for axis in (found.load.batch, found.load.prompt_len, found.load.gen_len))
    )
    values = (np.asarray(_missing(found) if name == "missing" else getattr(found, name)) for name in names)
    return tuple(value if value.shape == shape else np.broadcast_to(value, shape) for value in values)


def _missing(found: Measures) -> npt.NDArray[np.int8]:
    """The tiers that do not fit, as a position in `MISSING_TIERS`."""
    memory = found.memory
    tiers = (memory.gpu, memory.cpu, memory.nvme)
    return np.asarray(sum(np.where(parts.fits, 0, 2**bit) for bit, parts in enumerate(tiers)), dtype=np.int8)
