"""A batch whose cache does not fit runs in waves: what an engine's scheduler does with sequences that it cannot hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, minimum, where
from llm_perf.systems.accounting import Budget
from llm_perf.systems.base import Load, MemoryParts, PhaseCost
from llm_perf.systems.forward import replica_batch
from llm_perf.systems.stack_memory import sequence_cache
from llm_perf.systems.terms import scaled


@dataclass(frozen=True, slots=True)
class Waves:
    """How a replica's batch runs: ``running`` sequences at a time, ``count`` times that; ``at_once`` of full length."""

    running: Number
    count: Number
    at_once: Number

    def note(self, replicas: int) -> str | None:
        """What a reader should know; None where all sequences run at once, or for arrays."""
        batch = self.running * self.count
        if is_array(batch, self.at_once) or self.at_once >= batch:
            return None
        full = f"{self.at_once * replicas:,.0f} of these sequences run at once at their full lengths"
        if self.count == 1:
            return f"{full}; the others wait until there is room for them"
        grow = "" if self.running == self.at_once else f", {self.running * replicas:,.0f} while they grow"
        return f"{full}{grow}; the others wait: times are those of {self.count:.3g} waves"

    def whole(self, phase: PhaseCost) -> PhaseCost:
        """The phase of one wave as that of all."""
        if not is_array(self.count) and self.count == 1:
            return phase
        return replace(
            phase,
            latency_s=phase.latency_s * self.count,
            parts_s={name: self.count * seconds for name, seconds in phase.parts_s.items()},
            busy_s={name: self.count * seconds for name, seconds in phase.busy_s.items()},
            slowest_stage_s=None if phase.slowest_stage_s is None else phase.slowest_stage_s * self.count,
            terms=scaled(phase.terms, "waves", self.count),
        )


def waves_of(
    scenario: Scenario, load: Load, budget: Budget | None, used: MemoryParts, kv_reserved_share: float
) -> Waves:
    """Waves of a stack that reserves ``kv_reserved_share`` of the tokens to generate for each running sequence.

    A stack that takes pages as it needs them holds half of them on average, one that reserves all holds all. The room is
    that of the memory account, ``used``, and the scheduler runs no more sequences than ``budget`` says. What does not fit
    at all, or does not queue, is timed as if it fitted.
    """
    batch = replica_batch(scenario, load)
    if budget is None:
        return Waves(batch, 1.0, batch)
    running = at_once = budget.scheduled(batch)
    if budget.rules.queues:
        at_once = minimum(at_once, _held(scenario, load, budget, used, 1.0))
        running = minimum(running, _held(scenario, load, budget, used, kv_reserved_share))
    return Waves(running, batch / running, at_once)


def _held(scenario: Scenario, load: Load, budget: Budget, used: MemoryParts, share: Number) -> Number:
    """Sequences that the room of the cache holds with so much of what they generate; no limit where it holds none."""
    cache = sequence_cache(scenario, load, load.prompt_len + share * load.gen_len, budget)
    held = cache.sequences(used.kv_room_bytes)
    return where(held >= 1, held, math.inf)
