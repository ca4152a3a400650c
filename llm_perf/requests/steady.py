"""The steady state of an engine: what it settles at under a rate of arrivals or a number of requests in flight.

A fixed point instead of a simulation. Between two steps so many requests end as the decoding ones have tokens left on
average, and as many are read. In a closed loop they are read in the next step, all at once; arrivals at a rate are read after
the step in which they came, and the longer that was, the likelier there were any: where prompts go before decodes, those that
come while others are read are read next, and a decode step waits for several steps of prompts. A request's tokens come a
decode step apart, with what is read between two; Little's law closes the loop. All of it works on arrays: a search asks for
tens of thousands of configurations at once.

What it does not know: requests that came at the same time and stay together, queues that build up by chance where the
engine is nearly full, and the prefix cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.requests.limits import Limits
from llm_perf.requests.simulate import of_lengths, rules_of, step_times
from llm_perf.requests.step_times import StepTimes
from llm_perf.requests.workload import Floats
from llm_perf.systems.scheduling import SchedulerRules

_ROUNDS = 9
_ROUNDS_OF_READS = 5
_MANY = 100.0
"""Arrivals in one step beyond which there surely was one."""
_LEAST = 1e-9
_AT_ONCE = 4096
"""Configurations whose arrays are worked on together: as many as a core's cache holds."""
_DENSE = 512
"""Tokens of a step up to which its time is that of just so many: means over steps do not tell counts half a percent apart."""


@dataclass(frozen=True, slots=True)
class Steady:
    """The steady state of each configuration.

    Attributes:
        ttft_s: From arrival to the first token; infinite where arrivals are more than the engine can serve.
        tpot_s: Between two tokens of a request.
        e2e_s: From arrival to the last token.
        requests_per_s, output_tokens_per_s: What one replica serves.
        batch: Decoding sequences on average.
        kv_tokens: Tokens of cache in use on average.
        saturated: Whether arrivals are more than it can serve; the queue then grows by the difference.
        roof_requests_per_s: What no order of arrivals exceeds.
    """

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    requests_per_s: Floats
    output_tokens_per_s: Floats
    batch: Floats
    kv_tokens: Floats
    saturated: np.ndarray
    roof_requests_per_s: Floats


class SteadyState:
    """The closed form of one deployment, whose tables are built once.

    Args:
        deployment: The question of one replica; its batch and lengths mean nothing here.
        longest: The longest prompt and output together that will be asked for.
        scheduler: One of the engine's policies by name; its default if None.
        times: Step times of this deployment for no less, where they are there already.
    """

    def __init__(
        self, deployment: Scenario, longest: int, scheduler: str | None = None, times: StepTimes | None = None
    ) -> None:
        self.rules: SchedulerRules = rules_of(deployment, scheduler)
        if self.rules.batch == "static":
            raise SpecError(
                f"system {deployment.system} runs batches from beginning to end: they have no steady state"
            )
        if deployment.parallelism.pp_size > 1:
            raise SpecError(
                f"pp_size {deployment.parallelism.pp_size}: the steady state of engines with pipeline stages has no closed "
                "form here; simulate them"
            )
        half = max(longest // 2, 1)
        self.limits = Limits.of(of_lengths(deployment, half, half), self.rules, longest)
        self.times = step_times(deployment, self.limits, _DENSE) if times is None else times

    def at(
        self,
        prompt_tokens: ArrayLike,
        output_tokens: ArrayLike,
        *,
        rate: ArrayLike | None = None,
        concurrency: ArrayLike | None = None,
        context: ArrayLike | None = None,
    ) -> Steady:
        """The steady state under ``rate`` requests per second, or with ``concurrency`` in flight; one of the two.

        Args:
            prompt_tokens: Mean of the prompts.
            output_tokens: Mean of the outputs.
            rate: Arrivals per second at this replica, at random (Poisson).
            concurrency: Requests in flight; the next arrives when one ends.
            context: Mean context of a decoding sequence; that of equal requests if None. Where lengths differ, long outputs
                are there longer, so it is more than that of the mean request.

        Raises:
            SpecError: neither or both of rate and concurrency.
        """
        if (rate is None) == (concurrency is None):
            raise SpecError("the steady state is that of a rate or of a concurrency: give one of the two")
        asked = np.asarray(rate if concurrency is None else concurrency, float)
        prompt, output, asked = np.broadcast_arrays(
            np.asarray(prompt_tokens, float), np.asarray(output_tokens, float), asked
        )
        middle = prompt + output / 2 if context is None else np.broadcast_to(context, prompt.shape)
        flat = [np.ravel(one).astype(float) for one in (prompt, output, middle, asked)]
        found = []
        for start in range(0, max(prompt.size, 1), _AT_ONCE):
            *lengths, wanted = (one[start : start + _AT_ONCE] for one in flat)
            loop = _Loop(self, *lengths)
            found.append(loop.open(wanted) if concurrency is None else loop.closed(wanted))
        return Steady(*(np.concatenate(one).reshape(prompt.shape) for one in zip(*found, strict=True)))

    def of_pools(self, prompt_tokens: float, output_tokens: float) -> tuple[float, float]:
        """Requests per second of a replica that reads prompts alone, and of one that generates alone, at the most."""
        lengths = (np.array([prompt_tokens]), np.array([output_tokens]))
        loop = _Loop(self, *lengths, lengths[0] + lengths[1] / 2)
        return loop.read_alone(), loop.written_alone()


def _root(missing: Callable[[Floats], Floats], least: Floats, most: Floats, rounds: int = _ROUNDS) -> Floats:
    """Where a function that falls from above zero crosses it between two bounds: regula falsi (Illinois) on arrays."""
    low, high = least, most
    at_low, at_high = missing(low), missing(high)
    guess = low
    for _ in range(rounds):
        # Nothing missing at the low end, or something still at the high one: that end is the answer.
        across = at_low - at_high
        guess = low + (high - low) * np.clip(at_low / np.where(across > 0, across, 1.0), 0.0, 1.0)
        at_guess = missing(guess)
        more = at_guess > 0
        low, high = np.where(more, guess, low), np.where(more, high, guess)
        at_low, at_high = np.where(more, at_guess, at_low / 2), np.where(more, at_high / 2, at_guess)
    return guess


class _Tokens(NamedTuple):
    """Seconds of a request's tokens on average.

    Attributes:
        apart_s: Between two of them in the engine.
        first_s: From its arrival to its first one.
        first_late_s, last_late_s: What the first and the last wait to be sent.
        reads: Steps that read prompts per decode step.
    """

    apart_s: Floats
    first_s: Floats
    first_late_s: Floats
    last_late_s: Floats
    reads: Floats


class _Reading(NamedTuple):
    """Seconds of a decode step and of what prompts add to it.

    Attributes:
        plain: A decode step with one sequence more.
        base: One beside which prompts are read; 0 where they go before it.
        first, each: What prompts add, of the first of a step more than of each, and of each.
        first_beside, each_beside: The same of a step that was launched while the decode step before it ran.
    """

    plain: Floats
    base: Floats
    first: Floats
    each: Floats
    first_beside: Floats
    each_beside: Floats

    def mean(self, beside: Floats) -> tuple[Floats, Floats]:
        """``first`` and ``each`` where a share of the steps was launched beside a decode step."""
        first = self.first + beside * (self.first_beside - self.first)
        return first, self.each + beside * (self.each_beside - self.each)


class _Loop:
    """The steady state of arrays of lengths; ``others`` are the decoding sequences that a decoding one sees beside it."""

    def __init__(self, state: SteadyState, prompt: Floats, output: Floats, context: Floats) -> None:
        self.times, self.limits, self.rules = state.times, state.limits, state.rules
        self.prompt, self.output, self.context = prompt, output, context
        self.stream_s = self.times.stream_s / self.rules.stream_interval
        self.gaps = np.maximum(output - 1.0, 0.0)
        limits = self.limits
        held = prompt + (output if self.rules.admits == "whole" else output / 2)
        held = np.ceil(held / limits.block_tokens) * limits.block_tokens
        fits = np.floor(limits.kv_tokens / held)
        self.most = np.clip(np.minimum(limits.max_sequences, fits), 1.0, None)
        self.held = held

    # -- one step ---------------------------------------------------------------------------------------------

    def _reading(self, others: Floats) -> _Reading:
        """Seconds of a decode step with one sequence more, of one beside which prompts are read, and what these add."""
        beside = self.rules.prompts == "beside decodes"
        seen = np.minimum(others + 1.0, self.limits.max_sequences)
        plain = self.times.mean_decode_s(seen, self.context)
        batch = others if beside else np.zeros_like(others)
        room = np.maximum(self.limits.step_tokens - batch * self.times.queries, 1.0)
        chunks = np.ceil(self.prompt / room)
        new = self.prompt / chunks
        before = (chunks - 1.0) / 2 * new
        # A straight line through a step with one prompt and one with as many as come: short ones wait for the host alone.
        arrivals = others / np.maximum(self.gaps, _LEAST)
        come = arrivals / np.maximum(-np.expm1(-arrivals), _LEAST)
        fits = np.minimum(np.maximum(come, 2.0), room / new)
        if beside:
            step = self.times.tokens_per_step * self.times.mean_decode_s(
                np.maximum(others, 1.0), self.context
            )
            base = np.where(others > 0, step, 0.0)
        else:
            base = np.zeros_like(plain)

        def added(ahead_s: Floats | float) -> tuple[Floats, Floats]:
            alone = self.times.mean_mixed_s(np.ones_like(others), new, before, batch, self.context, ahead_s)
            several = self.times.mean_mixed_s(fits, new, before, batch, self.context, ahead_s)
            first = alone - base
            # Where no second prompt fits, each takes a step of its own.
            each = np.where(fits > 1.0, (several - alone) / np.maximum(fits - 1.0, _LEAST), first)
            each = np.minimum(each, first)
            return first - each, each

        first, each = added(0.0)
        first_beside, each_beside = added(plain) if self.rules.launches_beside_decodes else (first, each)
        # Of a prompt's chunks the first alone follows a decode step.
        later = chunks - 1.0
        return _Reading(
            plain,
            base,
            first * chunks,
            each * chunks,
            first_beside + later * first,
            each_beside + later * each,
        )

    def _beside(self, reads: Floats) -> Floats:
        """The share of the steps that read prompts that were launched beside a decode step.

        Prompts go before decodes, and steps are scheduled ahead: what a step reads came before the one in front of it began,
        so that it is not likelier to follow a step of prompts, of which there are ``reads`` per decode step.
        """
        return 1.0 / (1.0 + reads) if self.rules.launches_beside_decodes else np.zeros_like(reads)

    def _reads(self, reading: _Reading, arrivals: Floats, follows: bool) -> Floats:
        """Steps that read prompts per decode step, where ``arrivals`` come per decode step and what is read before the next.

        Requests that ``follow`` on ends come all at once, with a decode step. Others come at random: a step reads prompts if
        any came during the one before it, be that a step of prompts or not.
        """
        alike = -np.expm1(-arrivals)
        if follows:
            return alike
        plain = reading.plain

        def none_during(reads: Floats, per_s: Floats, share: Floats | float) -> Floats:
            first, each = reading.mean(np.asarray(share))
            added = first + each * np.maximum(arrivals / np.maximum(reads, _LEAST), 1.0)
            return np.asarray(np.exp(-np.minimum(per_s * added, _MANY)))

        def missing(reads: Floats) -> Floats:
            beside = self._beside(reads)
            first, each = reading.mean(beside)
            per_s = arrivals / np.maximum(plain + reads * first + arrivals * each, _LEAST)
            after_plain = -np.expm1(-per_s * plain)
            if self.rules.prompts == "before decodes":
                # Each decode step is followed by steps of prompts until none came during the last.
                none = beside * none_during(reads, per_s, 1.0) + (1 - beside) * none_during(reads, per_s, 0.0)
                return np.asarray(after_plain / none - reads)
            reading_s = first + each * np.maximum(arrivals / np.maximum(reads, _LEAST), 1.0)
            none_after_reading = np.exp(-per_s * (plain + reading_s))
            return np.asarray(after_plain / np.maximum(after_plain + none_after_reading, _LEAST) - reads)

        if self.rules.prompts == "before decodes":
            return _root(missing, alike, arrivals, _ROUNDS_OF_READS)
        return _root(missing, np.zeros_like(alike), alike, _ROUNDS_OF_READS)

    def _step(self, others: Floats, follows: bool = False) -> _Tokens:
        """What its tokens take with so many others.

        A request that ``follows`` on the end of another arrives where a step ends, if no frontend delays it.
        """
        reading, arrivals = self._reading(others), others / np.maximum(self.gaps, _LEAST)
        plain, base = reading.plain, reading.base
        reads = self._reads(reading, arrivals, follows)
        beside = self._beside(reads)
        first, each = reading.mean(beside)
        mean = np.maximum(plain + reads * first + arrivals * each, others * self.stream_s)
        added = first + each * np.maximum(arrivals / np.maximum(reads, _LEAST), 1.0)
        # A request arrives within a step, the longer the likelier.
        if self.rules.prompts == "beside decodes":
            square, step = (1 - reads) * plain**2 + reads * (plain + added) ** 2, mean
        else:
            square, step = plain**2 + reads * added**2, mean / (1.0 + reads)
        left = square / (2 * mean)
        together = arrivals * np.minimum(2 * left / mean, 1.0)
        if follows and self.times.frontend_s == 0:
            left, together = np.zeros_like(left), arrivals
        busy = np.minimum(others, 1.0)
        first, each = reading.mean(busy * beside)
        own = base + first + each * (1.0 + together)
        # Where steps are scheduled ahead, one more is on its way already.
        waits = left + step if self.rules.ahead else left
        whole = self.times.frontend_s + busy * waits + own
        return _Tokens(mean, whole, *self._late(reads, beside, plain, added), reads)

    def _late(self, reads: Floats, beside: Floats, plain: Floats, added: Floats) -> tuple[Floats, Floats]:
        """What a first token and a last one wait for the host, which first launches the next step.

        It launches the operations of a step that reads prompts one by one, and steps are scheduled ahead: the next one reads
        prompts as often as any does.
        """
        if not (self.rules.ahead and self.rules.sends_after_launch):
            return np.zeros_like(reads), np.zeros_like(reads)
        launch_s, often = self.times.launch_s, reads / (1.0 + reads)
        own_s = launch_s - beside * np.minimum(plain, launch_s)
        first = often * np.maximum(launch_s - np.maximum(added - own_s, 0.0), 0.0)
        return first, np.where(self.gaps > 0, often * np.maximum(launch_s - plain, 0.0), first)

    # -- the loop closed -----------------------------------------------------------------------------------------

    def open(self, rate: Floats) -> tuple[np.ndarray, ...]:
        """Arrivals at a rate, whatever is served."""
        most = self._served(self.most)
        saturated = rate >= most
        none = np.zeros_like(self.most)
        others = _root(lambda others: rate * self.gaps * self._step(others).apart_s - others, none, self.most)
        # Where all slots are taken a request waits for one, and is read where another ended.
        tokens, full = self._step(others), self._step(self.most - 1.0, follows=True)
        tokens = tokens._replace(
            apart_s=np.where(saturated, full.apart_s, np.minimum(tokens.apart_s, full.apart_s))
        )
        waits = np.where(saturated, np.inf, 0.0)
        return self._found(tokens, waits, np.where(saturated, most, rate), saturated)

    def closed(self, concurrency: Floats) -> tuple[np.ndarray, ...]:
        """So many requests in flight; those beyond what runs at once wait."""
        running = np.minimum(concurrency, self.most)

        def missing(others: Floats) -> Floats:
            tokens = self._step(others, follows=True)
            return np.asarray((running - 1.0) * self.gaps * tokens.apart_s / self._whole_s(tokens) - others)

        none = np.zeros_like(running)
        tokens = self._step(_root(missing, none, np.maximum(running - 1.0, 0.0)), follows=True)
        served = running / self._whole_s(tokens)
        waits = concurrency / served - running / served
        return self._found(tokens, waits, served, concurrency > self.most)

    def _whole_s(self, tokens: _Tokens) -> Floats:
        """From arrival to the last token that is sent."""
        return np.asarray(tokens.first_s + self.gaps * tokens.apart_s + tokens.last_late_s)

    def _served(self, running: Floats) -> Floats:
        """Requests per second with so many running all the time: each is there for its prompt's step and its tokens'."""
        others = np.maximum(running - 1.0, 0.0)
        reading, tokens = self._reading(others), self._step(others, follows=True)
        first, each = reading.mean(self._beside(tokens.reads))
        base, mean = reading.base, tokens.apart_s
        # Prompts follow one another, whoever decodes beside them.
        return np.asarray(np.minimum(running / (base + first + each + self.gaps * mean), 1.0 / each))

    def _roof(self) -> Floats:
        """What no order of arrivals exceeds: prompts that share steps perfectly, and every slot always taken."""
        others = np.maximum(self.most - 1.0, 0.0)
        reading = self._reading(others)
        plain, each = reading.plain, np.minimum(reading.each, reading.each_beside)
        arrivals = others / np.maximum(self.gaps, _LEAST)
        return np.asarray(np.minimum(self.most / (each + self.gaps * (plain + arrivals * each)), 1.0 / each))

    def read_alone(self) -> float:
        """Prompts per second of full steps that hold nothing else."""
        return float(1.0 / self._reading(np.zeros_like(self.prompt)).each[0])

    def written_alone(self) -> float:
        """Sequences per second of decode steps that nothing interrupts."""
        if self.gaps[0] <= 0:
            return math.inf
        return float(self.most[0] / (self.gaps[0] * self.times.mean_decode_s(self.most, self.context)[0]))

    def _found(
        self, tokens: _Tokens, waits: Floats, served: Floats, saturated: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        first, whole = tokens.first_s + tokens.first_late_s, self._whole_s(tokens)
        batch = served * self.gaps * tokens.apart_s
        apart = np.where(
            self.gaps > 0, np.maximum(whole - first, 0.0) / np.maximum(self.gaps, _LEAST), tokens.apart_s
        )
        return (
            first + waits, apart, np.maximum(whole, first) + waits, served, served * self.output, batch,
            np.minimum(batch * self.held, self.limits.kv_tokens), saturated, np.maximum(self._roof(), served),
        )  # fmt: skip
