"""A batch whose cache does not fit runs in waves: what an engine's scheduler does with sequences that it cannot hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, ceil, floor, is_array, log, maximum, minimum, where
from llm_perf.systems.accounting import Budget
from llm_perf.systems.base import Load, MemoryParts, PhaseCost, added
from llm_perf.systems.forward import replica_batch
from llm_perf.systems.stack_memory import sequence_cache
from llm_perf.systems.terms import joined, scaled

_ROOM_KNOWN_TO = 0.1
"""The room for the cache is known to about so much: activations and what a process holds beside them differ by release."""

_NONE, _NO_LIMIT = 1e-9, 1e15


@dataclass(frozen=True, slots=True)
class Waves:
    """How a replica's batch runs: ``running`` sequences at a time on average, ``count`` times that.

    ``at_once`` of full length fit together. ``again`` is what is computed anew, over the tokens of all prompts.
    """

    running: Number
    count: Number
    at_once: Number
    again: Number = 0.0

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

    def with_computed_anew(self, decode: PhaseCost, prefill: PhaseCost) -> PhaseCost:
        """The decode phase, and in it the passes over sequences that gave way and come again, as the prompts' passes are."""
        if not is_array(self.again) and self.again == 0:
            return decode
        return replace(
            decode,
            latency_s=decode.latency_s + self.again * prefill.latency_s,
            parts_s=added(decode.parts_s, prefill.parts_s, self.again),
            busy_s=added(decode.busy_s, prefill.busy_s, self.again),
            terms=joined(
                decode.terms, scaled(prefill.terms, "tokens computed anew over the prompts'", self.again)
            ),
        )


def waves_of(
    scenario: Scenario, load: Load, budget: Budget | None, used: MemoryParts, kv_reserved_share: float
) -> Waves:
    """Waves of a stack that reserves ``kv_reserved_share`` of the tokens to generate when a sequence starts.

    The room is that of the memory account, ``used``, and the scheduler runs no more sequences than ``budget`` says. What does
    not fit at all, or does not queue, is timed as if it fitted.
    """
    batch = replica_batch(scenario, load)
    if budget is None:
        return Waves(batch, 1.0, batch)
    most = budget.scheduled(batch)
    turns = _turns(batch / most, 0.0)
    if not budget.rules.queues:
        return Waves(batch / turns, turns, most)
    last = _held(scenario, load, budget, used, 1.0)
    at_once = minimum(most, floor(last))
    if kv_reserved_share >= 1:
        turns = _turns(batch / at_once, _ROOM_KNOWN_TO)
        return Waves(batch / turns, turns, at_once)
    first = _held(scenario, load, budget, used, kv_reserved_share)
    count = where(last < most, _of_pages(batch, most, first, last), turns)
    length = (load.prompt_len + load.gen_len) / load.prompt_len
    again = where(last < most, _computed_anew(batch, minimum(first, most), last) * length, 0.0)
    return Waves(batch / count, count, at_once, again)


def _turns(batches: Number, known_to: float) -> Number:
    """Whole turns of a batch that is so many times what runs at once; a room that may be larger by a share needs fewer.

    The mean of the whole number above over rooms up to that share larger: a batch that is a little too large is between.
    """
    least = batches / (1 + known_to)
    if known_to == 0:
        return ceil(batches)
    mean = (_sum_of_ceilings(batches) - _sum_of_ceilings(least)) / (batches - least)
    return maximum(mean, 1.0)


def _sum_of_ceilings(value: Number) -> Number:
    """The integral from 0 of the whole number above."""
    whole = floor(value)
    return whole * (whole + 1) / 2 + (value - whole) * (whole + 1)


def _of_pages(batch: Number, most: Number, first: Number, last: Number) -> Number:
    """Times that a generation takes until a batch is done whose sequences take pages of the cache as they grow.

    The room holds ``first`` of them as they start and ``last`` of full length: the later ones give way, and come again after
    the others. At any time as many run as fit at their lengths, ``most`` at most. Those that give way end a generation after
    the others, less what they had done by then: the first of them, how far all ran ``together``. Where they are more than
    that, they keep the room full in all stages of their growth, but for half a generation at the end.
    """
    grown = maximum(1 / last - 1 / first, _NONE)
    together = minimum(maximum(1 / most - 1 / first, 0.0) / grown, 1.0)
    running = maximum(minimum(first, most), last * (1 + _NONE))
    # The mean of room / length over the rest of the first generation; half a sequence of it is no whole one.
    later = (log(running) - log(last)) / maximum(1 / last - 1 / running, _NONE)
    least = minimum(last, 1.0)
    mean = together * most + (1 - together) * maximum(later - 0.5, least)
    mixed = minimum(maximum(2 / (1 / first + 1 / last) - 0.5, least), most)
    many = 1.5 + maximum(batch - mean, 0.0) / mixed
    return where(batch > minimum(2 * last, most), many, minimum(2 - together, many))


def _computed_anew(batch: Number, starting: Number, last: Number) -> Number:
    """Tokens computed anew over those of all sequences at full length, of which ``starting`` begin and ``last`` end together.

    Each gives way at the length of which the room holds so many: sum of 1 / sequences from last to starting, per generation.
    Of those that begin after the first generation, half are a part of their way already.
    """
    generations = (1 + batch / starting) / 2
    return generations * last * maximum(log(starting) - log(last), 0.0) / batch


def _held(scenario: Scenario, load: Load, budget: Budget, used: MemoryParts, share: float) -> Number:
    """Sequences that the room of the cache holds with so much of what they generate; no limit where it holds none."""
    cache = sequence_cache(scenario, load, load.prompt_len + share * load.gen_len, budget)
    held = cache.room_for(used.kv_room_bytes)
    return where(held >= 1, held, _NO_LIMIT)
