"""The least that serves requests as they come: engines, GPUs, how each is divided, under targets on what requests wait.

Deployments of a kind of GPU are tried in the order of what they cost, each by a simulation of its requests
(`llm_perf.requests.simulate`), until one meets the targets; so the first that does is the least. Of those that cost as much
the one that takes least of its limits is chosen, then the one that is less loaded. What is simulated is chosen
by the closed form of a batch that is kept full (`llm_perf.requests.served`): a division of the model begins with as many
engines as it says can serve the rate at all, with a margin, and is left out where a request alone misses a target already.
Where decoding is what is too slow, fewer sequences at once (``max_num_seqs``) are tried as well, and pools of which one reads
prompts and another generates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import DEFAULT_ENGINE, ServiceInputs, Simulation, simulation_of
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.config.parallelism import fewest_nodes
from llm_perf.errors import DoesNotFitError, SpecError
from llm_perf.requests.request_file import RequestFile, read_requests
from llm_perf.requests.simulate import unscheduled
from llm_perf.requests.workload import LATEST_S
from llm_perf.search.divisions import Structure
from llm_perf.search.misses import Misses
from llm_perf.search.plan import Pool
from llm_perf.search.plan_question import PlanOutcome, PlanQuestion
from llm_perf.search.service_options import ClosedForm, Option, Queue, objective_of
from llm_perf.search.targets import Target
from llm_perf.systems.families import find, scheduler_rules
from llm_perf.systems.registry import DEFAULT, engine_on

_SENT: Final = 600
"""Requests of the simulation that decides over a candidate: its 95th percentile is the mean of thirty."""
_MOST_SENT: Final = 1500
"""Requests of one that decides over pools, which are simulated all together."""
_MOST_SIMULATED: Final = 160
"""Simulations of a plan; what was not simulated by then is not shown."""
_SPREAD: Final = 0.2
"""Half-width over mean of lengths in a closed loop, whose requests would go in step if all were as long as each other."""
_FEWEST_AT_ONCE: Final = 4


def asks_for_service(question: PlanQuestion) -> bool:
    """Whether a question says how requests come."""
    return any(value is not None for value in (question.rate, question.requests, question.concurrency))


@dataclass(frozen=True)
class ServiceCandidate:
    """A deployment that serves the requests.

    Attributes:
        simulation: What requests meet, as ``llm-perf simulate`` says it; of one of ``engines`` equal engines at a rate, of
            all of them where pools divide the work.
        engines: Replicas of the deployment; of pools those that generate.
        num_gpus: GPUs of all engines, those that only read prompts included.
        running: Requests that one engine runs on average.
        values: Objective's quantities: cost_per_million_tokens, energy_j_per_token, num_gpus, throughput_tokens_per_s.
        meets: Whether every target is met.
    """

    simulation: Simulation
    engines: int
    num_gpus: int
    running: float
    values: dict[str, float]
    meets: bool

    @property
    def inputs(self) -> InferenceInputs:
        """The deployment of one engine, as ``llm-perf simulate`` takes it."""
        return self.simulation.deployment

    @property
    def reading(self) -> int:
        """Engines that only read prompts; 0 without pools."""
        return self.simulation.traffic.prefill_replicas or 0

    @property
    def load(self) -> float | None:
        """The rate over what is served at most, as ``llm-perf simulate`` says it; None in a closed loop."""
        known = self.simulation.capacity
        return None if known is None else known.load

    def figure(self, target: Target) -> float:
        """What a target limits."""
        if target.of_requests is not None:
            distribution = getattr(self.simulation.summary, target.of_requests)
            return float(distribution.percentile(target.figure))
        names = {"cost": "cost_per_million_tokens", "energy": "energy_j_per_token"}
        return self.values[names.get(target.name, "throughput_tokens_per_s")]

    def may_miss(self, target: Target) -> bool:
        """Whether the slow end of the interval misses a limit on times of requests."""
        interval = self.simulation.interval
        if interval is None or target.of_requests is None:
            return False
        _, high = interval.ends(target.of_requests, target.figure)
        return high is None or not target.met(high)


@dataclass(frozen=True, kw_only=True)
class ServicePlan(PlanOutcome):
    """The outcome: the best of each GPU that meets the targets, best first; ``nearest`` where nothing does."""

    best: tuple[ServiceCandidate, ...]
    nearest: ServiceCandidate | None
    simulated: int


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
        left_out=pool.left_out(),
        seconds=time.perf_counter() - start,
    )


def _engine_of(question: PlanQuestion) -> str:
    """The engine where none is named: the usual one, or any where that runs on none of the GPUs that are asked for."""
    found = [engine_on(get_gpu_config_by_name(name), DEFAULT_ENGINE) for name in question.gpus]
    return DEFAULT_ENGINE if DEFAULT_ENGINE in found or not found else found[0]


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
            question = question.replace(system=_engine_of(question))
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
        kept = kept.replace(max_batch_size=max(question.max_batch_size, question.concurrency or 1))
        self.pool = Pool(kept, every_division=lambda columns: self.closed_form.misses_alone(columns))
        if scheduler_rules(*find(question.system)) is None:
            raise unscheduled(question.system)
        self.pool.leave_out(question)
        self.simulated = 0
        self.missed: list[tuple[Option, ServiceCandidate]] = []
        self.closed_form = ClosedForm(question, self.pool, self.rate, self.file is not None)
        # By the number of a division: those that nothing helps, those tried with all the engines that there is room for,
        # and pools whose engines were counted.
        self.hopeless: set[int] = set()
        self.tried_at_most: set[int] = set()
        self.matched: set[int] = set()

    def _rate_of_file(self) -> float | None:
        if self.file is None:
            return None
        last = float(self.file.requests.arrival_s.max())
        return len(self.file.requests) / last if last > 0 else math.inf

    # -- simulations ------------------------------------------------------------------------------------------------

    def best(self, top: int) -> tuple[tuple[ServiceCandidate, ...], ServiceCandidate | None]:
        """The best of each GPU, by simulation, and what misses the targets least where there is none."""
        found: dict[str, ServiceCandidate] = {}
        cost: dict[str, tuple[float, int]] = {}  # of those found: the objective, and GPUs
        known = self.closed_form
        queue = Queue(self.question.max_gpus, known.value, lambda one: known.slowest_share(one.columns))
        for number, option in enumerate(known.options()):
            queue.add(option, number)
        while queue and self.simulated < _MOST_SIMULATED:
            value, option, number = queue.next()
            if len(found) >= top and value > max(one for one, _ in cost.values()):
                break
            if option.gpu in found:
                if cost[option.gpu] == (value, option.num_gpus) and number not in self.hopeless:
                    found[option.gpu] = self._better(option, found[option.gpu])
                continue
            if len(found) >= top or number in self.hopeless:
                continue
            if option.reading and number not in self.matched:
                self.matched.add(number)
                matched = self.closed_form.matched(option)
                if (matched.engines, matched.reading) != (option.engines, option.reading):
                    queue.add(matched, number)
                    continue
            candidate = self._tried(option, number)
            if candidate is not None and candidate.meets:
                found[option.gpu], cost[option.gpu] = candidate, (value, option.num_gpus)
                continue
            if candidate is not None:
                queue.add(self._larger(option, candidate), number)
        ordered = sorted(found.values(), key=lambda one: objective_of(self.question, one.values))
        if not found and not self.missed:
            self._try_the_nearest()
        nearest = None if found or not self.missed else min(self._whole(), key=self._missed)
        return tuple(ordered), nearest

    def _better(self, option: Option, rival: ServiceCandidate) -> ServiceCandidate:
        """Of an option and what costs as much, that which takes less of its limits, then that which is less loaded.

        Pools, which take two kinds of engines and a connection, are chosen only where they cost less.
        """
        share = self._share(rival)
        if (option.reading and not rival.reading) or self.closed_form.slowest_share(option.columns) > share:
            return rival
        candidate = self._candidate(option, self._tightened(share), within=share)
        if candidate is None or not candidate.meets:
            return rival
        return min((rival, candidate), key=lambda one: (self._share(one), one.load or 0.0))

    def _share(self, candidate: ServiceCandidate) -> float:
        """The largest share of a limit on times of requests that is taken; 0 where none is limited."""
        limits = [target for target in self.question.targets if target.of_requests]
        used = [float(target.used(candidate.figure(target))) for target in limits]
        return max((value for value in used if math.isfinite(value)), default=0.0)

    def _tightened(self, share: float) -> tuple[Target, ...]:
        """The limits on times of requests, of which no more than a share may be taken."""
        limits = (target for target in self.question.targets if target.of_requests)
        return tuple(replace(target, limit=target.limit * share) for target in limits)

    def _larger(self, option: Option, candidate: ServiceCandidate) -> Option:
        """With one engine more; of pools of the one whose part is what is missed, or of both."""
        if not option.reading:
            return replace(option, engines=option.engines + 1)
        missed = {target.name for target in self.question.targets if not target.met(candidate.figure(target))}
        reads, writes = "ttft" in missed, "tpot" in missed
        if not reads and not writes:  # neither by itself
            reads = writes = True
        return replace(option, reading=option.reading + reads, engines=option.engines + writes)

    def _try_the_nearest(self) -> None:
        """Simulate the division that comes closest where every one misses a target with a single request already."""
        known = self.closed_form
        for structure, columns in sorted(known.too_slow, key=lambda one: known.slowest_share(one[1])):
            engines = self.question.max_gpus // structure.scenario.parallelism.num_gpus
            option = Option(structure, columns, min(known.fewest(structure, columns), engines))
            candidate = self._candidate(option) if option.engines else None
            if candidate is not None:
                self.missed.append((option, candidate))
                return

    def _whole(self) -> Iterator[ServiceCandidate]:
        """What misses the targets, those simulated to the end that were left when it was certain."""
        for option, candidate in self.missed:
            running = candidate.simulation.summary.running
            whole = self._simulated(option) if running else candidate
            yield candidate if whole is None else whole

    def _missed(self, candidate: ServiceCandidate) -> float:
        used = [target.used(candidate.figure(target)) for target in self.question.targets]
        return max((value for value in used if math.isfinite(value)), default=0.0)

    def _tried(self, option: Option, number: int) -> ServiceCandidate | None:
        """The option, or the same with fewer sequences at once, simulated; the first that meets the targets, or the last."""
        candidate = self._candidate(option, self._not_helped)
        if candidate is None:
            self.hopeless.add(number)
            return None
        if candidate.meets:
            return candidate
        self.missed.append((option, candidate))
        fewer = self._with_fewer_at_once(option, candidate)
        if fewer is not None:
            return fewer
        if not option.reading:
            self._give_up(option, number)
        return candidate

    @cached_property
    def _not_helped(self) -> tuple[Target, ...]:
        """Targets that fewer sequences at once do not help: where one is missed, nothing else of a candidate is asked for."""
        return tuple(target for target in self.question.targets if target.name != "tpot")

    def _with_fewer_at_once(self, option: Option, candidate: ServiceCandidate) -> ServiceCandidate | None:
        """With so few sequences at once that decoding is fast enough, where that is what is missed."""
        slow = tuple(target for target in self.question.targets if not target.met(candidate.figure(target)))
        if not slow or any(target.name != "tpot" for target in slow):
            return None
        peak = int(candidate.simulation.outcome.steps.decode_sequences.max(initial=0))
        at_once = 2 ** ((peak - 1).bit_length() - 1) if peak > 1 else 0
        # At a rate fewer than those that run on average could not keep up with it.
        least = _FEWEST_AT_ONCE if self.rate is None else max(candidate.running, _FEWEST_AT_ONCE)
        while at_once >= least and self.simulated < _MOST_SIMULATED:
            found = self._candidate(replace(option, most_at_once=at_once), slow)
            if found is None:
                return None
            if found.meets:
                return found
            if all(target.met(found.figure(target)) for target in slow):
                return None  # fewer still would wait longer for their turn
            at_once //= 2
        return None

    def _give_up(self, option: Option, number: int) -> None:
        """Leave a division out that misses the targets with as many engines as there is room for as well."""
        most = self.question.max_gpus // option.each
        if most <= option.engines + 1 or number in self.tried_at_most:
            return
        self.tried_at_most.add(number)
        largest = replace(option, engines=most)
        # Whether so many keep up is not asked: a division is given up for its targets alone.
        candidate = self._candidate(largest, self._not_helped, within=0.0)
        if candidate is None or self._meets_targets(candidate):
            return
        if self._with_fewer_at_once(largest, candidate) is None:
            self.missed.append((largest, candidate))
            self.hopeless.add(number)

    def _meets_targets(self, candidate: ServiceCandidate) -> bool:
        return all(bool(target.met(candidate.figure(target))) for target in self.question.targets)

    def _candidate(
        self, option: Option, deciding: tuple[Target, ...] = (), within: float = math.inf
    ) -> ServiceCandidate | None:
        """The option simulated; no further than until one of the ``deciding`` targets is missed for certain.

        Whether it keeps up is not asked of what takes more of its limits than ``within``; it then counts as not meeting them.
        More engines of a pool are tried by which targets are missed: pools are simulated to their end.
        """
        candidate = self._simulated(option, deciding, within)
        self.simulated += candidate is not None
        return candidate

    def _simulated(
        self, option: Option, deciding: tuple[Target, ...] = (), within: float = math.inf
    ) -> ServiceCandidate | None:
        deployment = _deployment(option.structure).replace(max_num_seqs=option.most_at_once)
        try:
            traffic, file = self._traffic(option)
            ends_early = Misses(deciding, traffic.warm_up) if deciding else None
            simulation = simulation_of(deployment, traffic, file, ends_early=ends_early)
        except (SpecError, DoesNotFitError) as error:
            self.pool.refused[f"{option.gpu}, {option.engines} engines"] = str(error)
            return None
        summary, rate = simulation.summary, self.rate
        whole = option.reading or (self.file is not None and self.question.rate is None)
        tokens = summary.output_tokens_per_s * (1 if whole else option.engines)
        if rate is not None and math.isfinite(rate):
            tokens = rate * self.question.gen_len
        values = self.closed_form.values(option, tokens)
        candidate = ServiceCandidate(
            simulation=simulation,
            engines=option.engines,
            num_gpus=option.num_gpus,
            running=summary.mean_running / simulation.traffic.replicas,
            values=values,
            meets=False,
        )
        met = self._meets_targets(candidate)
        if not met or not summary.completed or self._share(candidate) > within:
            return candidate
        known = simulation.capacity
        keeps_up = known is None or self.question.rate is None or known.keeps_up is not False
        # As llm-perf simulate says them of the same requests.
        values["cost_per_million_tokens"] = _number(simulation.cost_per_million_tokens)
        values["energy_j_per_token"] = _number(simulation.energy_j_per_token)
        return replace(candidate, meets=keeps_up)

    def _traffic(self, option: Option) -> tuple[ServiceInputs, RequestFile | None]:
        """The requests of one engine of a service; those of a file with its times of all of them."""
        question = self.question
        if self.file is not None and question.rate is None:
            divided = self._divided(option) or {"replicas": option.engines}
            return ServiceInputs(requests=question.requests, seed=question.seed, **divided), self.file
        common: dict[str, Any] = {"seed": question.seed, "burstiness": question.burstiness}
        common |= self._divided(option)
        sent = min(_SENT * max(option.engines, option.reading), _MOST_SENT) if option.reading else _SENT
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
        share = (self.rate or 0.0) / (1 if option.reading else option.engines)
        if self.file is not None:
            return ServiceInputs(
                requests=question.requests, rate=share, num_requests=sent, **common
            ), self.file
        common |= {"prompt_len": str(question.prompt_len), "gen_len": str(question.gen_len)}
        return ServiceInputs(rate=share, num_requests=sent, **common), None

    def _divided(self, option: Option) -> dict[str, Any]:
        """What says that one pool reads prompts and another generates; nothing without pools."""
        if not option.reading:
            return {}
        host = option.structure.scenario.host
        return {
            "replicas": option.engines,
            "prefill_replicas": option.reading,
            "pools_on_one_node": fewest_nodes(option.num_gpus, host.gpus_per_node) == 1,
        }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


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
