"""Pipeline stages that several micro-batches keep busy: each has its sequences, and they follow one another through all.

A step of a micro-batch passes every stage, so it takes the sum of them; another begins as soon as the first stage is free and
its sequences have their last tokens. What all get is bounded by the slowest stage, and by a micro-batch's own way where there
are too few of them (bubbles). A stage that is busy with a long prompt holds up the short steps behind it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from heapq import heappop, heappush

from llm_perf.requests.engine import Engine, Step
from llm_perf.requests.limits import Limits
from llm_perf.requests.step_times import StepTimes
from llm_perf.systems.costs import Costs
from llm_perf.systems.pipeline import stage_layers
from llm_perf.systems.scheduling import SchedulerRules

__all__ = ["Pipelined", "Slot", "limits_of_slots"]

_FOREVER = math.inf


def limits_of_slots(limits: Limits, rules: SchedulerRules, stages: int) -> Limits:
    """What one micro-batch of an engine with so many stages may hold.

    Its cache is a part of the engine's only where each has a queue of its own; else all take from one.
    """
    found = limits
    if rules.micro_batches == "parts":
        found = replace(found, max_sequences=max(limits.max_sequences // stages, 1))
    if rules.micro_batches == "own queues":
        blocks = max(limits.kv_blocks // stages, 1)
        found = replace(found, kv_blocks=blocks, watermark_blocks=limits.watermark_blocks // stages)
    return found


class Slot(Engine):
    """One micro-batch: an engine that shares its queue and its cache with the others, as the scheduler has them."""

    def shares(self, others: list[Slot], rules: SchedulerRules) -> None:
        """Share with the micro-batches before it."""
        if rules.micro_batches == "own queues":
            return
        if others:
            first = others[0]
            self._inbox, self._waiting, self._blocks = first._inbox, first._waiting, first._blocks
        for one in others:
            one.beside.append(self)
            self.beside.append(one)
        self.bounded_together = rules.micro_batches == "together"

    def takes_over(self, other: Slot) -> None:
        """Go on with the prompt that another micro-batch is in the middle of: its next chunk follows the one on its way."""
        request = other._partial
        self._partial, self._partial_read = request, other._partial_read
        other._partial = -1
        del other._running[request]
        self._running[request] = None

    @property
    def partial(self) -> bool:
        """Whether it is in the middle of a prompt."""
        return self._partial >= 0

    @property
    def idle(self) -> bool:
        """Whether it has nothing that runs."""
        return not self._running

    @property
    def reads(self) -> bool:
        """Whether it is in the middle of a prompt, or one waits that might enter."""
        return self._partial >= 0 or (bool(self._waiting) and not self._full)

    @property
    def _full(self) -> bool:
        """Whether nothing enters before something ends."""
        running = len(self._running)
        if self.bounded_together:
            running += sum(len(one._running) for one in self.beside)
        return running >= self.limits.max_sequences

    @property
    def own_load(self) -> int:
        """Requests that run in it."""
        return len(self._running)

    @property
    def step(self) -> Step:
        """What its step holds that is on its way."""
        return self._step

    @property
    def mean_context(self) -> float:
        """Of its decoding sequences, in the next step."""
        return self._decodes.mean_context

    @property
    def decoding(self) -> int:
        """Sequences that decode in it."""
        return self._decodes.count

    @property
    def free_blocks(self) -> int:
        """Blocks of cache that nobody holds."""
        return self._blocks.free


class Pipelined:
    """An engine whose stages work on several micro-batches at once; to whoever sends requests it is one engine.

    Args:
        slots: Engines, one per micro-batch, without anything to do.

    Attributes:
        finished: Requests that ended in the last row.
    """

    def __init__(self, slots: list[Slot], rules: SchedulerRules, times: StepTimes) -> None:
        self.times = times
        self.finished: list[int] = []
        self._own_queues = rules.micro_batches == "own queues"
        self._slots: list[Slot] = []
        for slot in slots:
            slot.shares(list(self._slots), rules)
            self._slots.append(slot)
        self._stages = _Stages(times)
        self._free = [0.0] * len(self._slots)
        self._flying: list[tuple[float, int]] = []
        self._in_flight = [False] * len(self._slots)
        self._stuck = [False] * len(self._slots)
        self._began = [-1.0] * len(self._slots)
        self._now = 0.0
        self._turn = 0

    # -- from outside -------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Requests that it has and that have not ended."""
        if self._own_queues:
            return sum(slot.load for slot in self._slots)
        others = sum(slot.own_load for slot in self._slots[1:])
        return self._slots[0].load + others

    def submit(self, request: int, ready_s: float) -> None:
        """A request arrives.

        Where each micro-batch has a queue, it goes to the one with the fewest, in turn where several have as many.
        """
        count, index = len(self._slots), 0
        if self._own_queues:
            index = min(range(count), key=lambda one: (self._slots[one].load, (one - self._turn) % count))
            self._turn = index + 1
        self._slots[index].submit(request, ready_s)

    @property
    def next_step_s(self) -> float:
        """When a micro-batch begins a step, or has done one, next."""
        return min(self._next_start()[0], self._flying[0][0] if self._flying else _FOREVER)

    @property
    def next_end_s(self) -> float:
        """A time before which no request ends."""
        return self.next_step_s

    def row(self, until: float = _FOREVER) -> None:
        """The next event: a step begins, or it ends."""
        self.finished = []
        start, index = self._next_start()
        if self._flying and self._flying[0][0] <= start:
            self._end()
            return
        self._now = start
        self._begin(index, until)

    # -- events -------------------------------------------------------------------------------------------------

    def _next_start(self) -> tuple[float, int]:
        """When the next step can begin, and of which micro-batch: of several the one that began longest ago."""
        best = (_FOREVER, _FOREVER, 0)
        for index, slot in enumerate(self._slots):
            if self._in_flight[index]:
                continue
            ready = slot.next_arrival_s if self._stuck[index] else slot.next_step_s
            if ready == _FOREVER and not self._own_queues and any(one.partial for one in self._slots):
                ready = self._now
            if ready < _FOREVER:
                best = min(best, (max(ready, self._free[0], self._now), self._began[index], index))
        return best[0], best[2]

    def _end(self) -> None:
        end, index = heappop(self._flying)
        slot = self._slots[index]
        slot.end(1, end - slot.now)
        self._in_flight[index] = False
        self._stuck = [False] * len(self._slots)
        self._now, self.finished = end, slot.finished

    def _begin(self, index: int, until: float) -> None:
        slot, start = self._slots[index], self._now
        slot.now = start
        half_read = next((one for one in self._slots if one.partial), None)
        if half_read is not None and half_read is not slot and not self._own_queues:
            slot.takes_over(half_read)
        step = slot.begin()
        self._stuck[index] = not step.tokens
        if not step.tokens:
            return
        self._began[index] = start
        if not step.chunks and self._together(index, min(until, slot.next_arrival_s)):
            return
        at = start
        for stage, seconds in enumerate(self._stages.of(step, slot.step_s(step))):
            self._free[stage] = at = max(at, self._free[stage]) + seconds
        self._in_flight[index] = True
        heappush(self._flying, (at, index))

    # -- many steps at once -----------------------------------------------------------------------------------------

    def _together(self, index: int, until: float) -> bool:
        """Take rounds in which every micro-batch decodes once, and nothing enters or leaves, in one go.

        In the long run a round takes as long as the busiest stage works on all of them, or as the longest way of one. Whether
        any round was taken.
        """
        slots = self._slots
        if any(slot.reads for slot in slots):
            return False
        flying = [other for _, other in self._flying]
        if any(
            not self._in_flight[one] and one != index and not slots[one].idle for one in range(len(slots))
        ):
            return False
        if any(slots[other].step.chunks for other in flying):
            return False
        active = [index, *flying]
        # The steps on their way end no sequence, nor do the rounds.
        count = min(slots[one].first_end - (one != index) for one in active) - 1
        decoding = sum(slots[one].decoding for one in active)
        block = slots[index].limits.block_tokens
        for one in active:  # virtual engines have a part of the cache each, others share all of it
            writing = slots[one].decoding if self._own_queues else decoding
            count = min(count, (slots[one].free_blocks // max(writing, 1) - 1) * block)
        room = until - max([self._now, *(end for end, _ in self._flying)])
        while count > 1:
            seconds = self._rounds_s(active, count)
            if seconds <= room:
                break
            count = min(int(count * room / seconds), count - 1) if room > 0 else 0
        if count <= 1:
            return False
        ends = {other: end for end, other in self._flying}
        self._flying = []
        for one in flying:
            slots[one].end(1, ends[one] - slots[one].now)
            self._in_flight[one] = False
            slots[one].begin()
        for one in active:
            slots[one].end(count, seconds)
        self._free = [free + seconds for free in self._free]
        return True

    def _rounds_s(self, active: list[int], count: int) -> float:
        longest, busiest = 0.0, [0.0] * len(self._free)
        for one in active:
            slot = self._slots[one]
            batch, context = slot.decoding, slot.mean_context
            way = self.times.decode_steps_s(batch, context, count)
            longest = max(longest, way)
            stages = self._stages.of(Step([], [], batch, context), way, count)
            busiest = [busy + seconds for busy, seconds in zip(busiest, stages, strict=True)]
        return max(longest, *busiest)


class _Stages:
    """How long a step is in each stage."""

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        forward = times.forward
        stages = forward.pp
        self._layers = stage_layers(forward.model.num_layers, stages)
        costs = Costs()
        forward.pipeline_transfer(costs, 1.0)
        once = costs.parts_s["pipeline_transfer"]
        costs = Costs()
        forward.pipeline_transfer(costs, 1025.0)
        self._hop_token = (costs.parts_s["pipeline_transfer"] - once) / 1024 / (stages - 1)
        self._hop = once / (stages - 1) - self._hop_token

    def of(self, step: Step, way_s: float, count: int = 1) -> list[float]:
        """Seconds of each stage, whose sum is that of ``count`` equal steps, ``way_s``."""
        tokens = step.tokens
        last = count * self._times.after_layers_s(step.batch, step.read, len(step.chunks), len(step.ends))
        hop = count * (self._hop + self._hop_token * tokens)
        per_layer = (way_s - last - hop * (len(self._layers) - 1)) / sum(self._layers)
        stages = [layers * per_layer + hop for layers in self._layers]
        stages[-1] += last - hop
        return stages
