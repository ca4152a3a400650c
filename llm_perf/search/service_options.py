"""Deployments that may be enough for requests: a division of the model, and how many engines by the closed form.

The closed form is that of a batch that is kept full (`llm_perf.requests.served`): it says with how many engines of a division
a search begins, and which divisions need no simulation since a request alone misses a target already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import Final

import numpy as np

from llm_perf.errors import SpecError
from llm_perf.requests.simulate import rules_of
from llm_perf.requests.steady import SteadyState
from llm_perf.search.divisions import Structure
from llm_perf.search.plan import Pool
from llm_perf.search.plan_question import OBJECTIVES, PlanQuestion
from llm_perf.search.sweep import Array
from llm_perf.systems.families import declaration

_MARGIN: Final = 1.25
"""By how much an engine may serve more than the closed form says, at the most."""
_ALMOST: Final = 1 + 1e-9


@dataclass(frozen=True)
class Option:
    """A deployment that may be enough: a division, its engines, and those that only read prompts where there are pools."""

    structure: Structure
    columns: dict[str, Array]
    engines: int
    reading: int = 0
    most_at_once: int | None = None

    @property
    def gpu(self) -> str:
        """Name of the GPU."""
        return self.structure.scenario.gpu.name

    @property
    def each(self) -> int:
        """GPUs of one engine."""
        return self.structure.scenario.parallelism.num_gpus

    @property
    def num_gpus(self) -> int:
        """GPUs of all engines."""
        return self.each * (self.engines + self.reading)


class Queue:
    """Options in the order of the objective, then of GPUs, plain ones before divided ones; none twice.

    Args:
        most: GPUs beyond which an option is not wanted.
        value: The objective of an option.
        slowness: The lower the likelier the option is the best of those that cost as much: it is tried first.
    """

    def __init__(
        self, most: int, value: Callable[[Option], float], slowness: Callable[[Option], float]
    ) -> None:
        self._most, self._value, self._slowness = most, value, slowness
        self._entries: list[tuple[float, int, int, float, int, tuple[Option, int]]] = []
        self._seen: set[tuple[int, int, int]] = set()

    def add(self, option: Option, number: int) -> None:
        """Add an option of the division ``number``, unless it was there before, has too many GPUs or no value."""
        value = self._value(option)
        key = (number, option.engines, option.reading)
        if option.num_gpus > self._most or key in self._seen or not math.isfinite(value):
            return
        self._seen.add(key)
        ties = (option.num_gpus, option.reading, self._slowness(option))
        heappush(self._entries, (value, *ties, len(self._seen), (option, number)))

    def next(self) -> tuple[float, Option, int]:
        """The first option after its objective, and the number of its division."""
        value, *_, (option, number) = heappop(self._entries)
        return value, option, number

    def __len__(self) -> int:
        """How many are left."""
        return len(self._entries)


class ClosedForm:
    """What divisions of a model serve by the closed form, and what of them is worth a simulation.

    Args:
        question: What is asked, with the lengths of its requests.
        pool: The divisions; those of which the scheduler is not known are noted there.
        rate: Requests per second; None in a closed loop.
        lengths_differ: Requests are those of a file, of which no single one stands for all.

    Attributes:
        too_slow: Divisions of which a request that has an engine to itself misses a target.
    """

    def __init__(self, question: PlanQuestion, pool: Pool, rate: float | None, lengths_differ: bool) -> None:
        self.question, self.pool, self.rate, self.lengths_differ = question, pool, rate, lengths_differ
        self.too_slow: list[tuple[Structure, dict[str, Array]]] = []

    def options(self) -> Iterator[Option]:
        """Every division with as few engines as could be enough, and pools of as few."""
        for structure, columns in self.pool.divisions():
            fits = columns["fits"].astype(bool)
            if not fits.any():
                continue
            if self.misses_alone(columns):
                self.too_slow.append((structure, columns))
                continue
            try:
                rules_of(structure.scenario)
            except SpecError as error:
                self.pool.refused[_named(structure)] = str(error)
                continue
            option = Option(structure, columns, self.fewest(structure, columns))
            if option.num_gpus <= self.question.max_gpus:
                yield option
            yield from self._pools(structure, columns)

    def fewest(self, structure: Structure, columns: dict[str, Array]) -> int:
        """Engines fewer than which cannot serve the rate, or run all that is in flight."""
        if self.question.concurrency is not None:
            last = int(np.flatnonzero(columns["fits"])[-1])
            # Of the sizes that were evaluated the next one does not fit; any below it may.
            most = max(float(self.pool.batches[min(last + 1, len(self.pool.batches) - 1)]) - 1, 1.0)
            return math.ceil(self.question.concurrency / max(most, float(self.pool.batches[last])))
        if self.rate is None or math.isinf(self.rate):
            return 1
        # As a batch of one, stages work one at a time; kept full they work all at once.
        at_once = _MARGIN * structure.scenario.parallelism.pp_size
        return max(math.ceil(self.rate / (at_once * self._most_per_s(structure, columns))), 1)

    def _most_per_s(self, structure: Structure, columns: dict[str, Array]) -> float:
        """Requests per second of one micro-batch for each stage at the most, up to the next size after the largest that fits.

        Micro-batches keep stages busy, each with its part of the sequences. A larger batch adds less per sequence, since each
        shares the weights that are read with more: no unequal parts serve more than equal ones, and beyond the largest
        size that fits sequences add no more than the last ones did.
        """
        fitting = np.flatnonzero(columns["fits"])
        last, batches = int(fitting[-1]), self.pool.batches
        per_s = _per_s(structure, columns, self.question)
        stages = structure.scenario.parallelism.pp_size
        if last + 1 == len(batches):
            served = np.maximum.accumulate(per_s)
            return float(np.interp(batches[last] / stages, batches, served))
        added = float(per_s[last]) / batches[last]
        if last > 0:
            added = float(per_s[last] - per_s[last - 1]) / (batches[last] - batches[last - 1])
        beyond = float(per_s[last] + added * (batches[last + 1] - batches[last]))
        served = np.maximum.accumulate([*per_s[: last + 1], beyond])
        return float(np.interp(batches[last + 1] / stages, batches[: last + 2], served))

    def misses_alone(self, columns: dict[str, Array]) -> bool:
        """Whether a request that has an engine to itself misses a target."""
        return self.slowest_share(columns) > _ALMOST

    def slowest_share(self, columns: dict[str, Array]) -> float:
        """The largest share of a target that a request takes which has an engine to itself; 0 where lengths differ."""
        if self.lengths_differ:
            return 0.0
        names = {"ttft": "ttft_s", "tpot": "tpot_s", "latency": "total_latency_s"}
        shares = [
            float(target.used(columns[names[target.name]][0]))
            for target in self.question.targets
            if target.name in names
        ]
        return max((share for share in shares if math.isfinite(share)), default=0.0)

    def _pools(self, structure: Structure, columns: dict[str, Array]) -> Iterator[Option]:
        """The division with an engine that reads prompts and one that generates; more of either follow where they miss."""
        finite = self.rate is not None and math.isfinite(self.rate)
        start = declaration(self.pool.system).start
        if not self.question.pools or not finite or start is None or start.pools is None:
            return
        if (
            structure.scenario.parallelism.pp_size == 1
            and 2 * structure.scenario.parallelism.num_gpus <= self.question.max_gpus
        ):
            yield Option(structure, columns, 1, 1)

    def matched(self, option: Option) -> Option:
        """Pools of so many engines that each keeps up with the rate, in the closed form."""
        question = self.question
        state = SteadyState(option.structure.scenario, question.prompt_len + question.gen_len)
        reads, writes = state.of_pools(question.prompt_len, question.gen_len)
        rate = (self.rate or 0.0) / _MARGIN
        return replace(
            option, engines=max(math.ceil(rate / writes), 1), reading=max(math.ceil(rate / reads), 1)
        )

    def value(self, option: Option) -> float:
        """The objective, in the closed form."""
        return objective_of(self.question, self.values(option, self._tokens_per_s(option)))

    def _tokens_per_s(self, option: Option) -> float:
        if self.rate is not None and math.isfinite(self.rate):
            return self.rate * self.question.gen_len
        per_s = _per_s(option.structure, option.columns, self.question) * self.question.gen_len
        fits = option.columns["fits"].astype(bool)
        if self.question.concurrency is None:
            return float(per_s[fits].max()) * option.engines
        running = min(self.question.concurrency / option.engines, float(self.pool.batches[fits].max()))
        return float(np.interp(running, self.pool.batches, per_s)) * option.engines

    def values(self, option: Option, tokens_per_s: float) -> dict[str, float]:
        """The objective's quantities at so many tokens per second."""
        gpus, price = option.num_gpus, option.structure.price
        fits = option.columns["fits"].astype(bool)
        batch = self.pool.batches[fits]
        per_s = (_per_s(option.structure, option.columns, self.question) * self.question.gen_len)[fits]
        running = float(np.interp(tokens_per_s / option.engines, per_s, batch))
        energy = float(np.interp(running, batch, np.asarray(option.columns["energy_j_per_token"])[fits]))
        return {
            "num_gpus": float(gpus),
            "cost_per_million_tokens": math.nan
            if price is None
            else price * gpus / 3600 / tokens_per_s * 1e6,
            "energy_j_per_token": energy,
            "throughput_tokens_per_s": tokens_per_s,
        }


def _per_s(structure: Structure, columns: dict[str, Array], question: PlanQuestion) -> Array:
    """Requests per second of one engine, over batch sizes."""
    replicas = columns["num_gpus"] / structure.scenario.parallelism.num_gpus
    return np.asarray(columns["throughput_tokens_per_s"] / replicas / question.gen_len)


def _named(structure: Structure) -> str:
    """A division, for people."""
    p = structure.scenario.parallelism
    return f"{structure.scenario.gpu.name}, tp {p.tp_size}, pp {p.pp_size}"


def objective_of(question: PlanQuestion, values: dict[str, float]) -> float:
    """What is to be least."""
    value = values[OBJECTIVES[question.objective]]
    return -value if question.objective == "throughput" else value
