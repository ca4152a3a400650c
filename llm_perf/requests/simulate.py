"""Requests through an engine: who arrives when, which replica serves it, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import TypeAlias

import numpy as np

from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError, bad_value
from llm_perf.requests.engine import Engine
from llm_perf.requests.limits import Limits
from llm_perf.requests.lockstep import Lockstep
from llm_perf.requests.outcome import Outcome
from llm_perf.requests.records import Records
from llm_perf.requests.static import StaticEngine
from llm_perf.requests.step_times import StepTimes
from llm_perf.requests.workload import Requests
from llm_perf.systems.base import Load
from llm_perf.systems.cpu_forward import CpuForward
from llm_perf.systems.families import scheduler_rules
from llm_perf.systems.forward import Forward
from llm_perf.systems.registry import full_name, system_of
from llm_perf.systems.resident import Resident
from llm_perf.systems.scheduling import SchedulerRules
from llm_perf.systems.speculation import Rounds

ROUTINGS = ("round-robin", "least-loaded", "prefix-aware")
MOST_ENGINES = 1024
"""Engines of one simulation at most: each is a schedule of its own, whose steps are all computed."""
_FOREVER = float("inf")

AnyEngine: TypeAlias = Engine | StaticEngine | Lockstep


def simulate(
    deployment: Scenario,
    requests: Requests,
    *,
    replicas: int = 1,
    routing: str = "round-robin",
    scheduler: str | None = None,
    seed: int = 0,  # noqa: ARG001 - arrivals hold all that is drawn; the engine draws nothing
) -> Outcome:
    """Serve requests and say what became of each.

    Args:
        deployment: The question of one replica, as `infer` has it; its batch and its lengths mean nothing here.
        requests: What is asked for.
        replicas: Equal engines.
        routing: Which of them a request goes to: the next one, the one with the fewest requests, or the one that has
            its prefix or its session.
        scheduler: One of the engine's policies by name; its default if None.
        seed: Of what is drawn by chance in the engine; today nothing is.

    Raises:
        SpecError: the system's scheduler is not known, or the deployment is of a kind that is not simulated.
        DoesNotFitError: the weights leave no room for a cache.
    """
    if routing not in ROUTINGS:
        raise bad_value("routing", routing, ", ".join(ROUTINGS))
    if replicas < 1:
        raise bad_value("replicas", replicas, "a positive integer")
    check_engines({"replicas": replicas, "dp_size": deployment.parallelism.dp_size})
    rules = rules_of(deployment, scheduler)
    scenario = of_mean_lengths(deployment, requests)
    whole = requests.prompt_tokens + requests.output_tokens
    limits = Limits.of(scenario, rules, int(whole.max(initial=1)))
    times = step_times(scenario, limits)
    return serve(
        requests,
        rules,
        limits,
        times,
        replicas=replicas,
        dp_size=deployment.parallelism.dp_size,
        routing=routing,
    )


def serve(
    requests: Requests,
    rules: SchedulerRules,
    limits: Limits,
    times: StepTimes,
    *,
    replicas: int = 1,
    dp_size: int = 1,
    routing: str = "round-robin",
) -> Outcome:
    """Requests through engines whose rules, limits and step times are known."""
    records = Records(requests)
    engines = _engines(records, rules, limits, times, replicas, dp_size)
    _Dispatch(records, engines, routing, limits, rules).run()
    return records.outcome(limits.kv_tokens, rejection(requests, limits, rules), rules.name)


def rules_of(scenario: Scenario, scheduler: str | None = None) -> SchedulerRules:
    """How the deployment's engine schedules.

    Raises:
        SpecError: that is not known, or it does not serve requests, or is divided in a way that is not simulated.
    """
    system = system_of(scenario)
    rules = scheduler_rules(scenario.system, scenario.system_version, scheduler)
    if rules is None or not isinstance(system, Resident):
        raise SpecError(
            f"system {full_name(scenario)} has no scheduler of requests that is known here: simulate needs a serving stack "
            "such as vllm, sglang or tensorrt_llm"
        )
    if scenario.model.encoder:
        raise SpecError(
            f"{scenario.model.name} is an encoder: it generates no tokens, so its requests are not simulated"
        )
    placed = system.place(scenario, Load.of(scenario.workload))
    whole = "cpu" if scenario.gpu.absent else "gpu"
    if getattr(placed.weights, whole) < 1 or getattr(placed.kv_cache, whole) < 1:
        where = "in the host's memory" if scenario.gpu.absent else "on the GPUs"
        raise SpecError(
            f"requests are simulated where weights and cache are {where}, and {full_name(scenario)} has a part of them "
            "elsewhere here"
        )
    p = scenario.parallelism
    for name, size in (("pp_size", p.pp_size), ("cp_size", p.cp_size)):
        if size > 1:
            raise SpecError(
                f"{name} {size}: requests are simulated on tensor and data ranks only; possible: 1"
            )
    return rules


def check_engines(counts: Mapping[str, int]) -> None:
    """Refuse more engines than are simulated; what the counts are called multiplies to them.

    Raises:
        SpecError: there are more than `MOST_ENGINES`.
    """
    if math.prod(counts.values()) > MOST_ENGINES:
        stated = " x ".join(f"{name} {count}" for name, count in counts.items() if count > 1)
        raise SpecError(
            f"{stated}: at most {MOST_ENGINES:,} engines are simulated; of equal ones that share requests evenly simulate "
            "a part, with its part of the requests"
        )


def of_mean_lengths(scenario: Scenario, requests: Requests) -> Scenario:
    """The scenario with the requests' mean lengths, by which layers with windows share the cache."""
    lengths = (requests.prompt_tokens, requests.output_tokens)
    return of_lengths(scenario, *(max(round(float(tokens.mean())), 1) for tokens in lengths))


def of_lengths(scenario: Scenario, prompt: int, output: int) -> Scenario:
    """The scenario with other lengths, which decide how much layers with windows keep; cut to the model's positions."""
    positions = scenario.model.max_position_embeddings
    if positions is not None and not scenario.allow_long_context:
        prompt = max(min(prompt, positions - 1), 1)
        output = max(min(output, positions - prompt), 1)
    asked = scenario.workload.replace(
        prompt_len=prompt, gen_len=output, prefix_hit_rate=0.0, shared_prefix=False
    )
    return scenario.replace(workload=asked)


def step_times(scenario: Scenario, limits: Limits) -> StepTimes:
    """Tables of the deployment's step times."""
    constants = system_of(scenario).constants(scenario)
    rounds = None if scenario.speculation is None else Rounds(scenario, constants)
    forward = CpuForward(scenario, constants) if scenario.gpu.absent else Forward(scenario, constants)
    return StepTimes(forward, limits.max_sequences, limits.step_tokens, rounds)


def rejected(requests: Requests, limits: Limits, rules: SchedulerRules) -> np.ndarray:
    """Which requests can never run."""
    whole = requests.prompt_tokens + requests.output_tokens
    block = limits.block_tokens
    needed = -(-(whole - 1) // block)
    found = (needed > limits.kv_blocks) | (whole > limits.max_context)
    if not rules.chunked and rules.batch == "continuous":
        found |= requests.prompt_tokens > limits.step_tokens
    return np.asarray(found)


def rejection(requests: Requests, limits: Limits, rules: SchedulerRules) -> str:
    """Why requests were rejected; "" where none was."""
    found = rejected(requests, limits, rules)
    if not found.any():
        return ""
    longest = int((requests.prompt_tokens + requests.output_tokens)[found].max())
    return (
        f"{int(found.sum())} of {len(requests)} requests were rejected: the longest has {longest:,} tokens, the cache holds "
        f"{limits.kv_tokens:,}, the model {limits.max_context:,} and a step {limits.step_tokens:,}"
    )


def _engines(
    records: Records, rules: SchedulerRules, limits: Limits, times: StepTimes, replicas: int, dp: int
) -> list[AnyEngine]:
    """An engine for each replica; those that share their experts step together."""
    if rules.batch == "static":
        return [StaticEngine(records, limits, times, index) for index in range(replicas * dp)]
    found = [Engine(records, rules, limits, times, index) for index in range(replicas * dp)]
    if times.forward.expert_batches == 1:
        return list(found)
    return [Lockstep(found[first : first + dp]) for first in range(0, replicas * dp, dp)]


class _Dispatch:
    """Arrivals in the order of time, and engines that are never ahead of what may still reach them."""

    def __init__(
        self,
        records: Records,
        engines: list[AnyEngine],
        routing: str,
        limits: Limits,
        rules: SchedulerRules,
    ) -> None:
        self.records, self.engines, self.routing = records, engines, routing
        requests = records.requests
        self.frontend_s = engines[0].times.frontend_s
        self.one_frontend = rules.one_frontend
        self.frontend_free = [0.0] * len(engines)
        self.rejected: list[bool] = rejected(requests, limits, rules).tolist()
        self.followers: dict[int, list[int]] = {}
        previous = records.previous
        for turn, before in enumerate(previous):
            if before >= 0:
                self.followers.setdefault(before, []).append(turn)
        self.think: list[float] = requests.think_s.tolist()
        first = [index for index, before in enumerate(previous) if before < 0]
        arrival = requests.arrival_s.tolist()
        self.arrivals: list[tuple[float, int]] = []
        self.queue: list[int] = []
        if requests.concurrency is None:
            self.arrivals = [(arrival[index], index) for index in first]
        else:
            self.queue = first[::-1]
            for _ in range(min(requests.concurrency, len(first))):
                index = self.queue.pop()
                self.arrivals.append((arrival[index], index))
        heapify(self.arrivals)
        self.turn = 0
        self.homes: dict[int, int] = {}

    @property
    def alone(self) -> bool:
        """Whether no engine depends on another: what it gets is known before it runs."""
        return len(self.engines) == 1 or (
            self.routing == "round-robin" and not self.queue and not self.followers
        )

    def run(self) -> None:
        """Until every request has ended or was rejected."""
        if self.alone:
            while self.arrivals:
                self._send(*heappop(self.arrivals))
            for engine in self.engines:
                self._drain(engine)
            return
        self._together()

    def _drain(self, engine: AnyEngine) -> None:
        """All that one engine gets; what follows on its ends comes to itself."""
        follows = bool(self.queue or self.followers)
        while engine.next_step_s < _FOREVER:
            engine.row()
            if follows and engine.finished:
                self._after(engine)
                while self.arrivals:
                    self._send(*heappop(self.arrivals))

    def _together(self) -> None:
        """Engines in the order of their clocks, none beyond the next arrival or the next end of another."""
        engines = self.engines
        while True:
            engine = min(engines, key=lambda one: one.next_step_s)
            arrival = self.arrivals[0][0] if self.arrivals else _FOREVER
            if engine.next_step_s == _FOREVER and arrival == _FOREVER:
                return
            if arrival <= engine.next_step_s:
                self._send(*heappop(self.arrivals))
                continue
            until = arrival - self.frontend_s if arrival < _FOREVER else _FOREVER
            if self.queue or self.followers:
                ends = (other.next_end_s for other in engines if other is not engine)
                until = min(until, min(ends, default=_FOREVER))
            engine.row(max(until, engine.next_step_s))
            if engine.finished:
                self._after(engine)

    def _after(self, engine: AnyEngine) -> None:
        """What the ends of requests bring: the next of a closed loop, and the session's next turn."""
        for request in engine.finished:
            end = self.records.finished[request]
            self._follow(request, end)

    def _follow(self, request: int, end: float) -> None:
        if self.queue:
            heappush(self.arrivals, (end, self.queue.pop()))
        for turn in self.followers.get(request, ()):
            heappush(self.arrivals, (end + self.think[turn], turn))

    def _send(self, arrival: float, request: int) -> None:
        self.records.arrival[request] = arrival
        index = self._replica(request)
        if self.rejected[request]:
            self.records.reject(request, index)
            self._follow(request, arrival)
            return
        ready = arrival + self.frontend_s
        if self.one_frontend:
            ready = self.frontend_free[index] = max(arrival, self.frontend_free[index]) + self.frontend_s
        self.engines[index].submit(request, ready)

    def _replica(self, request: int) -> int:
        """Which engine a request goes to."""
        engines, count = self.engines, len(self.engines)
        if count == 1:
            return 0
        if self.routing == "prefix-aware":
            prefix, key = self.records.prefix[request], self.records.key[request]
            home = self.homes.get(key if prefix < 0 else -1 - prefix)
            if home is None:
                home = min(range(count), key=lambda index: (engines[index].load, (index - self.turn) % count))
                self.homes[key if prefix < 0 else -1 - prefix] = home
                self.turn = home + 1
            return home
        if self.routing == "least-loaded":
            found = min(range(count), key=lambda index: (engines[index].load, (index - self.turn) % count))
            self.turn = found + 1
            return found
        found = self.turn % count
        self.turn += 1
        return found
