"""Sweeps: every combination of the values of every input, evaluated in vectors and cut into chunks.

The numeric axes (batch size, prompt and generation length) are evaluated as arrays; the combinations of all other
inputs are structures, one Scenario each. Points are numbered structure by structure, the generation length running
fastest, so that a chunk is a range of numbers: any process can evaluate any chunk, at any time, with the same result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from llm_perf.analysis.request import InferenceInputs, build_scenario, derive_parallelism
from llm_perf.analysis.sweep import MISSING_TIERS, refusals, sweep_inference
from llm_perf.analysis.without_gpu import NO_GPU_NAME, missing_gpu, names_host_alone
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.search.checks import NUMERIC, check_values

DEFAULTS: Final = {name: InferenceInputs.model_fields[name].default for name in NUMERIC}

CHUNK_POINTS: Final = 131_072
CHUNK_STRUCTURES: Final = 128
"""A chunk has at most so many points and about so many structures: a fraction of a second of work, 15 MB of results."""

MOST_POINTS: Final = 10**12

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Coded:
    """A column of few different values: ``values[codes[i]]`` is the value of point i."""

    codes: npt.NDArray[np.int32]
    values: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def decoded(self) -> Array:
        """The values themselves, as objects."""
        table = np.array([*self.values, None], dtype=object)  # the code -1 is the last one: nothing
        return table[self.codes]


Columns: TypeAlias = Mapping[str, "Array | Coded"]

MEASURES: Final = (
    "prefill_latency_s",
    "decode_latency_s",
    "latency_per_token_s",
    "total_latency_s",
    "throughput_tokens_per_s",
    "gpu_memory_bytes",
    "cpu_memory_bytes",
    "nvme_bytes",
    "weights_on_gpu",
    "weights_on_cpu",
    "ttft_s",
    "tpot_s",
)
"""Columns of numbers; NaN where a point was refused, ``tpot_s`` and its older name
``latency_per_token_s`` also where there are no decode steps; ``ttft_s`` is ``prefill_latency_s``."""


@dataclass(frozen=True)
class Sweep:
    """Values of each input. ``listed`` are combinations given one by one; each goes with all values of ``axes``.

    Attributes:
        axes: Values by the name of the input, as in `InferenceInputs`.
        listed: Combinations of further inputs, each a mapping; the same inputs in all of them.
    """

    axes: Mapping[str, tuple[Any, ...]]
    listed: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        known = InferenceInputs.model_fields
        fields = set(self.listed[0]) if self.listed else set()
        for name in (*self.axes, *fields):
            if name not in known:
                raise SpecError(f"{name} is no input of a prediction; known are: {', '.join(known)}")
        if any(set(point) != fields for point in self.listed):
            raise SpecError("every listed point must give the same inputs")
        both = sorted(fields & set(self.axes))
        if both:
            raise SpecError(f"{both[0]} is given both as an axis and in the listed points")
        for name in ("model", "gpu"):
            if name not in self.axes and name not in fields:
                if name == "gpu":
                    self._compute_on_hosts()
                    continue
                raise SpecError(f"--{name} is required (llm-perf {name}s list shows the bundled ones)")
        for name, values in self.axes.items():
            if not values:
                raise SpecError(f"{name} has no values")
        given = [
            set(self.axes) | {name for name in point if point[name] is not None} for point in self.listed
        ]
        if any({"gpu_batch_size", "batch_size"} <= names for names in given or [set(self.axes)]):
            raise SpecError("give batch_size or gpu_batch_size, not both: the one follows from the other")
        points = self.structures * self.points_per_structure  # len() ends at 2**63
        if points > MOST_POINTS:
            raise SpecError(f"{points:.3g} points are more than {MOST_POINTS:,}")
        check_values(self.axes, self.listed)

    def _compute_on_hosts(self) -> None:
        """No GPU, where each host is named for a system that computes on a host alone.

        Raises:
            SpecError: one needs a GPU.
        """
        for host, system in itertools.product(self._given("host"), self._given("system")):
            asked = {"host": host, "system": system}
            if not names_host_alone(asked):
                raise missing_gpu(asked)
        object.__setattr__(self, "axes", {**self.axes, "gpu": (NO_GPU_NAME,)})

    def _given(self, name: str) -> tuple[Any, ...]:
        """All values of an input; None where it is not given."""
        return self.axes.get(name) or tuple(point.get(name) for point in self.listed) or (None,)

    # -- numbering ----------------------------------------------------------------------------------------------

    @cached_property
    def grid(self) -> tuple[Array, ...]:
        """Values of batch size, prompt length and generation length; None is the default."""
        given = [(name, self.axes.get(name, (None,))) for name in NUMERIC]
        return tuple(
            np.array([DEFAULTS[name] if value is None else value for value in values], dtype=np.float64)
            for name, values in given
        )

    @cached_property
    def points_per_structure(self) -> int:
        """Points of one structure."""
        return math.prod(len(self.axes.get(name, (None,))) for name in NUMERIC)

    @cached_property
    def structure_axes(self) -> dict[str, tuple[Any, ...]]:
        """Values of the inputs that are not evaluated as arrays."""
        return {name: values for name, values in self.axes.items() if name not in NUMERIC}

    @cached_property
    def structures(self) -> int:
        """Combinations of these inputs and the listed points."""
        return math.prod(len(values) for values in self.structure_axes.values()) * max(len(self.listed), 1)

    def __len__(self) -> int:
        return self.structures * self.points_per_structure

    @cached_property
    def chunk_points(self) -> int:
        """Points of a chunk; the last one may have fewer."""
        return min(CHUNK_POINTS, CHUNK_STRUCTURES * self.points_per_structure)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-len(self) // self.chunk_points)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the result, inputs first."""
        listed = tuple(self.listed[0]) if self.listed else ()
        inputs = (*(name for name in self.structure_axes), *(n for n in listed if n not in NUMERIC), *NUMERIC)
        return (*inputs, "feasible", "reason", *MEASURES)

    def structure(self, number: int) -> dict[str, Any]:
        """Inputs of a structure, without the numeric ones that are axes; a listed size of None is not given."""
        axes = self.structure_axes
        found: dict[str, Any] = {}
        for name in reversed(axes):
            number, position = divmod(number, len(axes[name]))
            found[name] = axes[name][position]
        inputs = {name: found[name] for name in axes}
        if not self.listed:
            return inputs
        point = self.listed[number].items()
        return inputs | {name: value for name, value in point if value is not None or name not in NUMERIC}

    def chunk_range(self, chunk: int) -> tuple[int, int]:
        """Numbers of the first point of a chunk and of the first one after it."""
        first = chunk * self.chunk_points
        return first, min(first + self.chunk_points, len(self))

    # -- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self, chunk: int) -> dict[str, Array | Coded]:
        """Predictions of a chunk's points, by column."""
        first, end = self.chunk_range(chunk)
        size = self.points_per_structure
        parts = []
        for number in range(first // size, -(-end // size)):
            start, stop = max(first - number * size, 0), min(end - number * size, size)
            parts.append(self._evaluate_structure(number, start, stop))
        return {name: joined([part[name] for part in parts]) for name in self.columns}

    def _evaluate_structure(self, number: int, start: int, stop: int) -> dict[str, Array | Coded]:
        given = self.structure(number)
        axes = self._grid_points(given, start, stop)
        count = stop - start
        columns: dict[str, Array | Coded] = {
            name: constant(given[name], count) for name in given if name not in NUMERIC
        }
        try:
            scenario = structure_scenario(given)
        except SpecError as error:
            return columns | _numeric(axes) | refused(str(error), count)
        if "gpu_batch_size" in given and "batch_size" not in given:
            axes = (np.full(count, float(scenario.workload.batch_size)), *axes[1:])
        return columns | _numeric(axes) | predictions(scenario, axes)

    def _grid_points(self, given: Mapping[str, Any], start: int, stop: int) -> tuple[Array, ...]:
        """Values of the numeric inputs for a range of a structure's points; a listed point may give its own."""
        shape = tuple(len(values) for values in self.grid)
        positions = np.unravel_index(np.arange(start, stop), shape)
        return tuple(
            np.full(stop - start, float(given[name])) if name in given else values[position]
            for name, values, position in zip(NUMERIC, self.grid, positions, strict=True)
        )


def structure_scenario(given: Mapping[str, Any]) -> Scenario:
    """The scenario that stands for all points of a structure, with a workload that every system accepts.

    Raises:
        SpecError: the inputs contradict each other.
    """
    inputs = {name: value for name, value in given.items() if name not in NUMERIC and value is not None}
    if inputs.get("gpu_batch_size") is None:
        # One sequence for each replica, GPU batch and micro-batch: which batches divide is a question of each point.
        parallelism = derive_parallelism(InferenceInputs(**inputs))
        blocks = (inputs.get("num_gpu_batches") or 1) * (inputs.get("micro_batches") or parallelism.pp_size)
        least = parallelism.dp_size * blocks
        # Prompts that differ are no more than those of the batch; batches that are smaller are refused point by point.
        inputs["batch_size"] = least * -(-(inputs.get("distinct_prompts") or 1) // least)
    # Which lengths the context ranks can share is a question of each point as well.
    shortest: dict[str, Any] = {"prompt_len": inputs.get("cp_size") or 1, "gen_len": 1}
    return build_scenario(InferenceInputs(**shortest | inputs))


def predictions(scenario: Scenario, axes: Sequence[Array]) -> dict[str, Array | Coded]:
    """Feasibility, reason and measures of many workloads of a scenario."""
    reasons = refusals(scenario, *axes)
    good = reasons.codes < 0
    values = list(reasons.values)
    codes = reasons.codes.copy()
    columns = {name: np.full(len(codes), np.nan) for name in MEASURES}
    feasible = np.zeros(len(codes), dtype=bool)
    if good.any():
        found = sweep_inference(scenario, *(axis[good] for axis in axes))
        feasible[good] = found.feasible
        for name in MEASURES:
            columns[name][good] = getattr(found, name)
        table = np.full(len(MISSING_TIERS), -1, dtype=np.int32)
        for tiers in np.unique(found.missing[found.missing > 0]):
            table[tiers] = len(values)
            values.append(f"more {MISSING_TIERS[tiers]} needed than there is")
        codes[good] = table[found.missing]
    return {"feasible": feasible, "reason": Coded(codes, tuple(values)), **columns}


def refused(reason: str, count: int) -> dict[str, Array | Coded]:
    """Columns of points that cannot be predicted at all."""
    nothing = {name: np.full(count, np.nan) for name in MEASURES}
    return {"feasible": np.zeros(count, dtype=bool), "reason": constant(reason, count), **nothing}


def constant(value: Any, count: int) -> Coded:
    """A column of one value; None is -1, as in Arrow's dictionaries."""
    if value is None:
        return Coded(np.full(count, -1, dtype=np.int32), ())
    return Coded(np.zeros(count, dtype=np.int32), (value,))


def _numeric(axes: Sequence[Array]) -> dict[str, Array | Coded]:
    return {name: axis.astype(np.int64) for name, axis in zip(NUMERIC, axes, strict=True)}


def joined(parts: Sequence[Array | Coded]) -> Array | Coded:
    """One column of several parts, which are all numbers or all coded."""
    if not isinstance(parts[0], Coded):
        return np.concatenate([part for part in parts if not isinstance(part, Coded)])
    position: dict[Any, int] = {}
    codes = []
    for part in parts:
        if not isinstance(part, Coded):
            continue
        table = np.array([position.setdefault((type(v), v), len(position)) for v in part.values] or [-1])
        codes.append(np.where(part.codes < 0, -1, table[part.codes]).astype(np.int32))
    return Coded(np.concatenate(codes), tuple(value for _, value in position))
