"""Requests through an engine: who arrives when, which replica serves it, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError, bad_value
from llm_perf.requests.arrivals import Coming
from llm_perf.requests.engine import Engine
from llm_perf.requests.limits import Limits
from llm_perf.requests.lockstep import Lockstep
from llm_perf.requests.outcome import Outcome
from llm_perf.requests.records import Records
from llm_perf.requests.stages import Pipelined, Slot, limits_of_slots
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
_ROWS_BETWEEN: Final = 64
"""Rows of steps after which it is asked whether a simulation is to go on: asking takes as long as one or two."""

AnyEngine: TypeAlias = Engine | StaticEngine | Lockstep | Pipelined


def simulate(
    deployment: Scenario,
    requests: Requests,
    *,
    replicas: int = 1,
    routing: str = "round-robin",
    scheduler: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,  # noqa: ARG001 - arrivals hold all that is drawn; the engine draws nothing
    ends_early: Callable[[Records], bool] | None = None,
) -> Outcome:
    """Serve requests and say what became of each.

    Args:
        deployment: The question of one replica, as `infer` has it; its batch and its lengths mean nothing here.
        requests: What is asked for.
        replicas: Equal engines.
        routing: Which of them a request goes to: the next one, the one with the fewest requests, or the one that has
            its prefix or its session.
        scheduler: One of the engine's policies by name; its default if None.
        settings: Fields of the scheduling rules that were set to something else than the engine's default.
        seed: Of what is drawn by chance in the engine; today nothing is.
        ends_early: Asked now and then whether enough is known; requests that have not ended by then stay as they are. Engines
            that depend on each other, as by their routing, go on to the end.

    Raises:
        SpecError: the system's scheduler is not known, or the deployment is of a kind that is not simulated.
        DoesNotFitError: the weights leave no room for a cache.
    """
    if routing not in ROUTINGS:
        raise bad_value("routing", routing, ", ".join(ROUTINGS))
    if replicas < 1:
        raise bad_value("replicas", replicas, "a positive integer")
    check_engines({"replicas": replicas, "dp_size": deployment.parallelism.dp_size})
    rules = rules_of(deployment, scheduler).replace(**(settings or {}))
    scenario = of_mean_lengths(deployment, requests)
    longest = int((requests.prompt_tokens + requests.output_tokens).max(initial=1))
    limits = Limits.of(scenario, rules, longest)
    times = _recent_step_times(scenario, limits, rules)
    return serve(
        requests,
        rules,
        limits,
        times,
        replicas=replicas,
        dp_size=deployment.parallelism.dp_size,
        stages=1 if rules.batch == "static" else deployment.parallelism.pp_size,
        routing=routing,
        ends_early=ends_early,
    )


def serve(
    requests: Requests,
    rules: SchedulerRules,
    limits: Limits,
    times: StepTimes,
    *,
    replicas: int = 1,
    dp_size: int = 1,
    stages: int = 1,
    routing: str = "round-robin",
    ends_early: Callable[[Records], bool] | None = None,
) -> Outcome:
    """Requests through engines whose rules, limits and step times are known, each with so many pipeline stages."""
    records = Records(requests)
    whole, limits = limits, limits_of_slots(limits, rules, stages)
    count = replicas * dp_size
    engines = _engines(records, rules, limits, times, count, stages)
    if times.forward.expert_batches > 1 and rules.batch != "static":
        engines = _in_step(engines, dp_size, rules)
    _Dispatch(records, engines, routing, limits, rules, ends_early).run()
    records.replica = [index // stages if index > 0 else index for index in records.replica]
    return records.outcome(whole.kv_tokens, rejection(requests, limits, rules), rules.name, count * stages)


def unscheduled(name: str) -> SpecError:
    """The refusal of a system of which no scheduler is known."""
    return SpecError(
        f"system {name} has no scheduler of requests that is known here: requests over time need a serving stack such as "
        "vllm, sglang or tensorrt_llm"
    )


def rules_of(scenario: Scenario, scheduler: str | None = None) -> SchedulerRules:
    """How the deployment's engine schedules.

    Raises:
        SpecError: that is not known, or it does not serve requests, or is divided in a way that is not simulated.
    """
    system = system_of(scenario)
    rules = scheduler_rules(scenario.system, scenario.system_version, scheduler)
    if rules is None or not isinstance(system, Resident):
        raise unscheduled(full_name(scenario))
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
    _check_ranks(scenario, rules)
    return rules


def _check_ranks(scenario: Scenario, rules: SchedulerRules) -> None:
    """Refuse divisions that are not simulated.

    Raises:
        SpecError: with what is.
    """
    p = scenario.parallelism
    if p.cp_size > 1:
        raise SpecError(
            f"cp_size {p.cp_size}: requests are simulated on tensor, pipeline and data ranks only; possible: 1"
        )
    if p.pp_size == 1 or rules.batch == "static":
        return
    if rules.micro_batches is None:
        raise SpecError(
            f"pp_size {p.pp_size}: how {full_name(scenario)} keeps several stages busy is not known here; possible: 1, "
            f"or replicas by dp_size {p.pp_size}"
        )
    if scenario.speculation is not None:
        raise SpecError(f"pp_size {p.pp_size} and a draft model are not simulated together: leave one out")
    if min(p.ep_size, p.dp_size) > 1:
        raise SpecError(
            f"pp_size {p.pp_size} and experts that replicas share (ep_size {p.ep_size}) are not simulated together: "
            "leave one out"
        )


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


def step_times(
    scenario: Scenario, limits: Limits, dense: int | None = None, rules: SchedulerRules | None = None
) -> StepTimes:
    """Tables of the deployment's step times, with every count up to ``dense``; ``rules`` are the engine's own if None."""
    constants = system_of(scenario).constants(scenario)
    rounds = None if scenario.speculation is None else Rounds(scenario, constants)
    forward = CpuForward(scenario, constants) if scenario.gpu.absent else Forward(scenario, constants)
    more: dict[str, Any] = {} if dense is None else {"dense": dense}
    known = rules or rules_of(scenario)
    more |= {"one_process": known.one_process, "offline": known.offline}
    return StepTimes(forward, limits.max_sequences, limits.step_tokens, rounds, **more)


_KEPT: Final = 4
_recent: list[tuple[tuple[Any, ...], StepTimes]] = []


def _recent_step_times(scenario: Scenario, limits: Limits, rules: SchedulerRules) -> StepTimes:
    """`step_times`, those of the last few deployments kept.

    What engines serve at most, and how sure that is, are further simulations of the same ones.
    """
    asked = scenario, limits.max_sequences, limits.step_tokens, rules.one_process, rules.offline
    for known, times in tuple(_recent):
        if known == asked:
            return times
    made = step_times(scenario, limits, rules=rules)
    _recent[:] = [*_recent[1 - _KEPT :], (asked, made)]
    return made


def places(scenario: Scenario, requests: Requests, scheduler: str | None = None) -> float:
    """Requests of these lengths that one engine runs at once at most, by its cache and by its scheduler.

    Raises:
        SpecError, DoesNotFitError: as `simulate`.
    """
    rules = rules_of(scenario, scheduler)
    whole = requests.prompt_tokens + requests.output_tokens
    limits = Limits.of(scenario, rules, int(whole.max(initial=1)))
    stages = scenario.parallelism.pp_size
    each = limits_of_slots(limits, rules, stages)
    slots = 1 if rules.micro_batches in (None, "together") or rules.batch == "static" else stages
    return max(min(limits.kv_tokens / float(whole.mean()), float(each.max_sequences * slots)), 1.0)


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
    records: Records, rules: SchedulerRules, limits: Limits, times: StepTimes, count: int, stages: int
) -> list[AnyEngine]:
    """So many engines; with stages each has as many micro-batches, which are numbered through in the timeline."""
    if rules.batch == "static":
        return [StaticEngine(records, limits, times, index) for index in range(count)]
    if stages == 1:
        return [Engine(records, rules, limits, times, index) for index in range(count)]
    # While one micro-batch is on its way the next is scheduled: nothing more is ahead of time.
    own = rules.model_copy(update={"ahead": False})
    return [
        Pipelined(
            [Slot(records, own, limits, times, engine * stages + index) for index in range(stages)],
            rules,
            times,
        )
        for engine in range(count)
    ]


def _in_step(engines: list[AnyEngine], dp: int, rules: SchedulerRules) -> list[AnyEngine]:
    """Replicas that share their experts step together."""
    plain = [engine for engine in engines if isinstance(engine, Engine)]
    return [Lockstep(plain[first : first + dp], rules.balance) for first in range(0, len(plain), dp)]


class _Dispatch:
    """Arrivals in the order of time, and engines that are never ahead of what may still reach them."""

    def __init__(
        self,
        records: Records,
        engines: list[AnyEngine],
        routing: str,
        limits: Limits,
        rules: SchedulerRules,
        ends_early: Callable[[Records], bool] | None = None,
    ) -> None:
        self.ends_early = ends_early
        self.records, self.engines, self.routing = records, engines, routing
        requests = records.requests
        self.frontend_s = engines[0].times.frontend_s
        self.one_frontend = rules.one_frontend
        self.frontend_free = [0.0] * len(engines)
        self.rejected: list[bool] = rejected(requests, limits, rules).tolist()
        self.coming = Coming(requests)
        self.turn = 0
        self.touched: set[int] = set()
        self.homes: dict[int, int] = {}

    @property
    def alone(self) -> bool:
        """Whether no engine depends on another: what it gets is known before it runs."""
        return len(self.engines) == 1 or (self.routing == "round-robin" and not self.coming.follows)

    def run(self) -> None:
        """Until every request has ended or was rejected."""
        if self.alone:
            while self.coming.times:
                self._send(*self.coming.next())
            for engine in self.engines:
                self._drain(engine)
            return
        self._together()

    def _drain(self, engine: AnyEngine) -> None:
        """All that one engine gets; what follows on its ends comes to itself."""
        follows, rows = self.coming.follows, 0
        while engine.next_step_s < _FOREVER:
            if self.ends_early is not None and rows % _ROWS_BETWEEN == 0 and self.ends_early(self.records):
                return
            rows += 1
            engine.row()
            if follows and engine.finished:
                self._after(engine)
                while self.coming.times:
                    self._send(*self.coming.next())

    def _together(self) -> None:
        """Engines in the order of their clocks, none beyond the next arrival or the next end of another."""
        engines = self.engines
        starts, ends = [_FOREVER] * len(engines), [_FOREVER] * len(engines)
        while True:
            for index in self.touched:  # another's clock and its next end are as they were
                starts[index], ends[index] = engines[index].next_step_s, engines[index].next_end_s
            self.touched.clear()
            start = min(starts)
            arrival = self.coming.next_s
            if start == _FOREVER and arrival == _FOREVER:
                return
            if arrival <= start:
                self._send(*self.coming.next())
                continue
            index = starts.index(start)
            until = arrival - self.frontend_s if arrival < _FOREVER else _FOREVER
            if self.coming.follows:
                ends[index] = _FOREVER
                until = min(until, min(ends))
            engines[index].row(max(until, start))
            self.touched.add(index)
            if engines[index].finished:
                self._after(engines[index])

    def _after(self, engine: AnyEngine) -> None:
        """What the ends of requests bring: the next of a closed loop, and the session's next turn."""
        for request in engine.finished:
            self.coming.follow(request, self.records.finished[request])

    def _send(self, arrival: float, request: int) -> None:
        self.records.arrival[request] = arrival
        index = self._replica(request)
        if self.rejected[request]:
            self.records.reject(request, index)
            self.coming.follow(request, arrival)
            return
        ready = arrival + self.frontend_s
        if self.one_frontend:
            ready = self.frontend_free[index] = max(arrival, self.frontend_free[index]) + self.frontend_s
        self.touched.add(index)
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
