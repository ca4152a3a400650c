"""The least that serves requests as they come: engines, GPUs, how each is divided, under targets on what requests wait.

Every division of the model over GPUs is evaluated for all batch sizes at once, as a batch that is kept full
(`llm_perf.requests.served`): that gives the rate that one engine serves within the targets, and so how many engines a rate
takes. The cheapest of these are simulated request by request (`llm_perf.requests.simulate`), with one more engine where a
target is missed, until the best of each kind of GPU is known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import DEFAULT_ENGINE, ServiceInputs, Simulation, simulation_of
from llm_perf.errors import DoesNotFitError, SpecError
from llm_perf.requests.request_file import RequestFile, read_requests
from llm_perf.requests.simulate import rules_of
from llm_perf.requests.workload import LATEST_S
from llm_perf.search.plan import PlanQuestion, Pool, Structure
from llm_perf.search.sweep import Array
from llm_perf.search.targets import Target
from llm_perf.systems.registry import DEFAULT

__all__ = ["ServiceCandidate", "ServicePlan", "asks_for_service", "plan_service"]

_FULLEST: Final = 0.97
"""Load of an engine beyond which its queue would take longer to settle than any simulation shows."""
_SENT: Final = 600
"""Requests of the simulation that decides over a candidate: its 95th percentile is the mean of thirty."""
_MOST_ENGINES_MORE: Final = 3
"""Engines that are added where the simulation misses a target that the closed form meets."""
_MOST_SIMULATED: Final = 24
"""Simulations of a plan; what was not simulated by then is not shown."""
_SPREAD: Final = 0.2
"""Half-width over mean of lengths in a closed loop, whose requests would go in step if all were as long as each other."""


def asks_for_service(question: PlanQuestion) -> bool:
    """Whether a question says how requests come."""
    return any(value is not None for value in (question.rate, question.requests, question.concurrency))


@dataclass(frozen=True)
class ServiceCandidate:
    """A deployment that serves the requests.

    Attributes:
        simulation: What requests meet, as ``llm-perf simulate`` says it; of one of ``engines`` equal engines at a rate.
        engines: Replicas of the deployment.
        num_gpus: GPUs of all engines.
        load: Rate over what they can serve within memory, in the closed form; None in a closed loop.
        running: Requests that one engine runs on average.
        values: Objective's quantities: cost_per_million_tokens, energy_j_per_token, num_gpus, throughput_tokens_per_s.
        meets: Whether every target is met.
    """

    simulation: Simulation
    engines: int
    num_gpus: int
    load: float | None
    running: float
    values: dict[str, float]
    meets: bool

    @property
    def inputs(self) -> InferenceInputs:
        """The deployment of one engine, as ``llm-perf simulate`` takes it."""
        return self.simulation.deployment

    def figure(self, target: Target) -> float:
        """What a target limits."""
        if target.of_requests is not None:
            distribution = getattr(self.simulation.summary, target.of_requests)
            return float(distribution.percentile(target.figure))
        names = {"cost": "cost_per_million_tokens", "energy": "energy_j_per_token"}
        return self.values[names.get(target.name, "throughput_tokens_per_s")]


@dataclass(frozen=True)
class ServicePlan:
    """The outcome: the best of each GPU that meets the targets, best first; ``nearest`` where nothing does."""

    question: PlanQuestion
    best: tuple[ServiceCandidate, ...]
    nearest: ServiceCandidate | None
    evaluated: int
    simulated: int
    too_large: int
    unpriced: tuple[str, ...]
    unrated: tuple[str, ...]
    refused: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class _Option:
    """A division and a number of engines that the closed form holds for enough."""

    structure: Structure
    engines: int
    load: float | None
    running: float
    energy_j: float
    value: float = field(default=math.nan)


def plan_service(question: PlanQuestion, top: int = 5) -> ServicePlan:
    """Find the best deployments for requests that come over time.

    Raises:
        SpecError: unknown names, targets that cannot be read, requests that are stated twice or cannot be read, an engine
            whose scheduler is not known.
    """
    start = time.perf_counter()
    search = _Search(question)
    search.pool.fill()
    best, nearest = search.best(top)
    pool = search.pool
    return ServicePlan(
        question=search.question,
        best=best,
        nearest=nearest,
        evaluated=pool.evaluated,
        simulated=search.simulated,
        too_large=pool.too_large,
        unpriced=pool.unpriced,
        unrated=pool.unrated,
        refused=pool.refused,
        seconds=time.perf_counter() - start,
    )


class _Search:
    def __init__(self, question: PlanQuestion) -> None:
        stated = [name for name in ("rate", "requests", "concurrency") if getattr(question, name) is not None]
        if len(stated) > 1 and stated != ["rate", "requests"]:
            flags = " and ".join(f"--{name}" for name in stated)
            raise SpecError(
                f"{flags} exclude each other: requests come at a rate, when others end, or as a file says"
            )
        if question.rate is not None and question.rate < _SENT / LATEST_S:
            raise SpecError(
                f"--rate {question.rate:g}: expected at least {_SENT / LATEST_S:g} requests per second"
            )
        if question.batching == "static":
            raise SpecError(
                "--batching static is of one batch: leave --rate, --requests and --concurrency out"
            )
        self.file: RequestFile | None = None
        if question.system == DEFAULT:
            question = question.replace(system=DEFAULT_ENGINE)
        if question.requests is not None:
            self.file = read_requests(question.requests, timed=question.rate is None)
            sent = self.file.requests
            means = {"prompt_len": _mean(sent.prompt_tokens), "gen_len": _mean(sent.output_tokens)}
            question = question.replace(**means)
        self.question = question
        self.rate = question.rate if question.rate is not None else self._rate_of_file()
        # Targets that a whole service has are looked at with all its engines; streaming runs no requests.
        kept = question.replace(
            target="", offload=False, objective="gpus", rate=None, requests=None, concurrency=None
        )
        self.pool = Pool(kept.replace(max_batch_size=max(question.max_batch_size, question.concurrency or 1)))
        self.pool.leave_out(question)
        self.simulated = 0

    def _rate_of_file(self) -> float | None:
        if self.file is None:
            return None
        last = float(self.file.requests.arrival_s.max())
        return len(self.file.requests) / last if last > 0 else math.inf

    # -- the closed form --------------------------------------------------------------------------------------------

    def options(self) -> list[_Option]:
        """Divisions with as many engines as the closed form says they take, the best first."""
        found = []
        for structure, columns in self.pool.divisions():
            option = self._option(structure, columns)
            if option is not None:
                found.append(replace(option, value=self._value(option)))
        return sorted(
            found, key=lambda option: (option.value, option.structure.scenario.parallelism.num_gpus)
        )

    def _option(self, structure: Structure, columns: dict[str, Array]) -> _Option | None:
        fits = columns["fits"].astype(bool)
        each = structure.scenario.parallelism.num_gpus
        if not fits.any():
            return None
        batch = self.pool.batches
        per_s = columns["throughput_tokens_per_s"] / (columns["num_gpus"] / each) / self.question.gen_len
        good = fits.copy()
        for target in self.question.targets:
            if target.of_requests is not None and target.figure != "p50":
                column = {"latency": "total_latency_s"}.get(target.name, target.measure)
                good &= target.met(columns[column])
        if not good.any():
            good = fits  # what serves them at all; the simulation says by how much it misses
        most = int(self.question.max_gpus // each)
        if self.question.concurrency is not None:
            engines = math.ceil(self.question.concurrency / batch[good].max())
            running = self.question.concurrency / engines
            load = None
        else:
            at_most = float(per_s[good].max())
            rate = float(per_s[fits].max()) if math.isinf(self.rate or 0.0) else float(self.rate or 0.0)
            engines = max(math.ceil(rate / min(at_most, _FULLEST * float(per_s[fits].max()))), 1)
            share = rate / engines
            running = float(np.interp(share, per_s[fits], batch[fits]))
            load = share / float(per_s[fits].max())
        if engines > most:
            return None
        energy = float(np.interp(running, batch[fits], np.asarray(columns["energy_j_per_token"])[fits]))
        return _Option(structure, engines, load, running, energy)

    def _value(self, option: _Option) -> float:
        """The objective, in the closed form."""
        values = self._values(option, self._tokens_per_s(option))
        return _objective(self.question, values)

    def _tokens_per_s(self, option: _Option) -> float:
        if self.rate is not None and math.isfinite(self.rate):
            return self.rate * self.question.gen_len
        columns = next(
            columns for structure, columns in self.pool.divisions() if structure is option.structure
        )
        each = option.structure.scenario.parallelism.num_gpus
        per_s = columns["throughput_tokens_per_s"] / (columns["num_gpus"] / each)
        return float(np.interp(option.running, self.pool.batches, per_s)) * option.engines

    def _values(self, option: _Option, tokens_per_s: float) -> dict[str, float]:
        gpus = option.structure.scenario.parallelism.num_gpus * option.engines
        price = option.structure.price
        return {
            "num_gpus": float(gpus),
            "cost_per_million_tokens": math.nan
            if price is None
            else price * gpus / 3600 / tokens_per_s * 1e6,
            "energy_j_per_token": option.energy_j,
            "throughput_tokens_per_s": tokens_per_s,
        }

    # -- simulations ------------------------------------------------------------------------------------------------

    def best(self, top: int) -> tuple[tuple[ServiceCandidate, ...], ServiceCandidate | None]:
        """The best of each GPU, by simulation, and what misses the targets least where there is none."""
        found: dict[str, ServiceCandidate] = {}
        missed: list[ServiceCandidate] = []
        for option in self.options():
            gpu = option.structure.scenario.gpu.name
            if gpu in found or not math.isfinite(option.value):
                continue
            if len(found) >= top or self.simulated >= _MOST_SIMULATED:
                break
            for candidate in self._simulated(option):
                if candidate.meets:
                    found[gpu] = candidate
                    break
                missed.append(candidate)
        ordered = sorted(found.values(), key=lambda one: _objective(self.question, one.values))
        nearest = None if found or not missed else min(missed, key=self._missed)
        return tuple(ordered), nearest

    def _missed(self, candidate: ServiceCandidate) -> float:
        used = [target.used(candidate.figure(target)) for target in self.question.targets]
        return max((value for value in used if math.isfinite(value)), default=0.0)

    def _simulated(self, option: _Option) -> Iterator[ServiceCandidate]:
        """The option, then with more engines while there is room for them."""
        each = option.structure.scenario.parallelism.num_gpus
        most = self.question.max_gpus // each
        for more in range(_MOST_ENGINES_MORE + 1):
            engines = option.engines + more
            if engines > most:
                return
            scaled = option.engines / engines
            load = None if option.load is None else option.load * scaled
            candidate = self._candidate(
                replace(option, engines=engines, load=load, running=option.running * scaled)
            )
            if candidate is None:
                return
            yield candidate

    def _candidate(self, option: _Option) -> ServiceCandidate | None:
        deployment = _deployment(option.structure)
        try:
            rules_of(option.structure.scenario)
            simulation = simulation_of(deployment, *self._traffic(option))
        except (SpecError, DoesNotFitError) as error:
            self.pool.refused[f"{option.structure.scenario.gpu.name}, {option.engines} engines"] = str(error)
            return None
        self.simulated += 1
        summary = simulation.summary
        rate = self.rate
        tokens = summary.output_tokens_per_s * (
            1 if self.file is not None and self.question.rate is None else option.engines
        )
        if rate is not None and math.isfinite(rate):
            tokens = rate * self.question.gen_len
        values = self._values(option, tokens)
        candidate = ServiceCandidate(
            simulation=simulation,
            engines=option.engines,
            num_gpus=int(values["num_gpus"]),
            load=option.load,
            running=summary.mean_running / simulation.traffic.replicas,
            values=values,
            meets=False,
        )
        met = all(bool(target.met(candidate.figure(target))) for target in self.question.targets)
        served = summary.completed > 0 and (option.load is None or option.load <= 1)
        return replace(candidate, meets=met and served)

    def _traffic(self, option: _Option) -> tuple[ServiceInputs, RequestFile | None]:
        """The requests of one engine of a service; those of a file with its times of all of them."""
        question = self.question
        if self.file is not None and question.rate is None:
            return ServiceInputs(
                requests=question.requests, replicas=option.engines, seed=question.seed
            ), self.file
        common: dict[str, Any] = {"seed": question.seed, "burstiness": question.burstiness}
        if question.concurrency is not None:
            running = max(round(question.concurrency / option.engines), 1)
            asked = ServiceInputs(
                concurrency=running,
                num_requests=_SENT + 2 * running,
                warm_up=running,
                seed=question.seed,
                prompt_len=_around(question.prompt_len),
                gen_len=_around(question.gen_len),
            )
            return asked, None
        share = (self.rate or 0.0) / option.engines
        if self.file is not None:
            return ServiceInputs(
                requests=question.requests, rate=share, num_requests=_SENT, **common
            ), self.file
        common |= {"prompt_len": str(question.prompt_len), "gen_len": str(question.gen_len)}
        return ServiceInputs(rate=share, num_requests=_SENT, **common), None


def _objective(question: PlanQuestion, values: dict[str, float]) -> float:
    """What is to be least."""
    names = {"cost": "cost_per_million_tokens", "energy": "energy_j_per_token", "gpus": "num_gpus"}
    if question.objective == "throughput":
        return -values["throughput_tokens_per_s"]
    return values[names[question.objective]]


def _deployment(structure: Structure) -> InferenceInputs:
    """The inputs of one engine without a batch and lengths, which are the requests'."""
    named = {name: value for name, value in structure.inputs.items() if name not in ("prompt_len", "gen_len")}
    return InferenceInputs(**named)


def _mean(tokens: Any) -> int:
    return max(round(float(tokens.mean())), 1)


def _around(tokens: int) -> str:
    """Lengths evenly about a mean."""
    least, most = round(tokens * (1 - _SPREAD)), round(tokens * (1 + _SPREAD))
    return f"uniform:{max(least, 1)}:{max(most, 1)}"
