"""Schedules: work on streams, put together by an overlap rule. All numbers may be arrays over configurations.

A :class:`Step` is what lies between two synchronisations. It has lanes, each a chain of work that one thread, copy
queue or GPU does in order. With overlap a step lasts as long as its longest lane, and no shorter than what any one
stream has to do over all lanes; without, as long as all its work in a row; with a share of overlap, in between. A lane may
contain a step that has lanes of its own. Steps repeat, and blocks of steps repeat (layers), so a pass over a model is a
closed form however many layers and batches there are, with first and last layers as blocks of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm_perf.counts.arrays import Number, any_of, is_array, maximum, where
from llm_perf.counts.quadrature import context_nodes
from llm_perf.hardware.streams import D2H, H2D, STREAMS
from llm_perf.hardware.transfer import Path
from llm_perf.systems.base import PhaseCost
from llm_perf.systems.terms import Factor, Quantity, Term


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds that a stream works on one thing. ``label`` is its part of the breakdown.

    ``of`` are the rates that it follows from, ``path`` is what its bytes take.
    """

    stream: str
    label: str
    seconds: Number
    of: tuple[Quantity, ...] = ()
    path: Path | None = None

    @staticmethod
    def over(path: Path, label: str, moved_bytes: Number, copies: Number = 0.0) -> Work:
        """Bytes that take a path, in so many copies."""
        return Work(path.stream, label, path.seconds(moved_bytes, copies), path=path)

    def works(self) -> Iterator[Work]:
        """Itself: what a lane contains is work, or a step with works."""
        yield self

    def waited(self) -> Iterator[tuple[Work, Number]]:
        """Itself with all its seconds: whoever waits for it waits for all of it."""
        yield self, self.seconds

    def scaled(self, factor: float) -> Work:
        """So many times as much."""
        return replace(self, seconds=factor * self.seconds)


Lane = tuple[Work, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Lanes between two synchronisations, ``repeats`` times in a row. In a lane of another step it runs once.

    ``overlap`` is whether lanes run beside each other, or the share of what overlap could hide that it does hide.
    ``duplex`` is what both directions of the host link reach together over what one reaches alone: 2 where they do
    not disturb each other, 1 where they share one rate.
    """

    name: str
    lanes: Mapping[str, tuple[Work | Step, ...]]
    repeats: Number = 1.0
    overlap: Number = True
    duplex: float = 2.0

    def works(self) -> Iterator[Work]:
        """All work of the step."""
        for lane in self.lanes.values():
            for element in lane:
                yield from element.works()

    @property
    def has_steps(self) -> bool:
        """Whether a lane contains a step with lanes of its own."""
        return any(isinstance(element, Step) for lane in self.lanes.values() for element in lane)

    @property
    def serial_s(self) -> Number:
        """Seconds of all lanes in a row."""
        return total(element.seconds for lane in self.lanes.values() for element in lane)

    def limits(self) -> list[Limit]:
        """What the step cannot be shorter than: each lane, each shared stream, both directions of the link."""
        found = []
        for works, both in self._limiting():
            seconds = total(work.seconds for work in works)
            found.append(Limit(seconds / self.duplex if both else seconds, works, both))
        return found

    def _limiting(self) -> Iterator[tuple[Sequence[Work | Step], bool]]:
        """What makes up each limit, and whether it is that of both directions of the link together."""
        by_stream: dict[str, list[Work | Step]] = {}
        users: dict[str, int] = {}
        for lane in self.lanes.values():
            yield lane, False
            works = [work for element in lane for work in element.works()]
            for work in works:
                by_stream.setdefault(work.stream, []).append(work)
            for stream in {work.stream for work in works}:
                users[stream] = users.get(stream, 0) + 1
        for stream, together in by_stream.items():
            if users[stream] > 1:
                yield together, False
        if self.duplex < 2 and H2D in by_stream and D2H in by_stream:
            yield by_stream[H2D] + by_stream[D2H], True

    @property
    def duration_s(self) -> Number:
        """Seconds of one repetition."""
        return self._duration_s([] if self.overlap is False else self.limits())

    def _duration_s(self, limits: Sequence[Limit]) -> Number:
        if self.overlap is False:
            return self.serial_s
        longest = _longest(limits)
        if self.overlap is True:
            return longest
        serial = self.serial_s
        if _is_share(self.overlap):
            return serial - self.overlap * (serial - longest)
        return where(self.overlap, longest, serial)

    @property
    def seconds(self) -> Number:
        """Its duration: what it takes in a lane."""
        return self.duration_s

    def waited(self) -> Iterator[tuple[Work, Number]]:
        """Its work with the seconds that whoever waits for it waits for."""
        return self.exposed()

    def scaled(self, factor: float) -> Step:
        """With so many times as much work."""
        lanes = {name: tuple(element.scaled(factor) for element in lane) for name, lane in self.lanes.items()}
        return Step(self.name, lanes, self.repeats, self.overlap, self.duplex)

    def exposed(self) -> Iterator[tuple[Work, Number]]:
        """Work with the seconds of one repetition that it is waited for; they sum to the duration.

        With overlap that is the work of the longest limit (the first one where several are equally long).
        """
        for works, waited in self._waits([] if self.overlap is False else self.limits()):
            for element in works:
                for work, seconds in element.waited():
                    yield work, waited * seconds

    def timed(self) -> tuple[Number, dict[str, Number]]:
        """The duration and its parts by label, which sum to it: both from the same limits, the parts added up first."""
        limits = [] if self.overlap is False else self.limits()
        parts: dict[str, Number] = {}
        for works, waited in self._waits(limits):
            of_limit: dict[str, Number] = {}
            for element in works:
                for work, seconds in element.waited():
                    _add(of_limit, work.label, seconds)
            for label, seconds in of_limit.items():
                _add(parts, label, waited * seconds)
        return self._duration_s(limits), parts

    def _waits(self, limits: Sequence[Limit]) -> Iterator[tuple[Sequence[Work | Step], Number]]:
        """Works, and what share of their seconds is waited for."""
        share = self.overlap if _is_share(self.overlap) else where(self.overlap, 1.0, 0.0)
        if self.overlap is not True:
            for lane in self.lanes.values():
                yield lane, 1.0 - share
        if self.overlap is False:
            return
        longest = _longest(limits)
        taken: Number = False
        for limit in limits:
            critical = limit.seconds >= longest
            if taken is not False:
                critical = critical & _not(taken)
            if not any_of(critical):
                continue
            taken = critical | taken
            yield limit.works, critical * (share / self.duplex if limit.both else share)


@dataclass(frozen=True, slots=True)
class Limit:
    """Seconds that a step cannot be shorter than, and the works that take them.

    ``both``: they are those of both directions of the link, which reach more together than one alone.
    """

    seconds: Number
    works: Sequence[Work | Step]
    both: bool


@dataclass(frozen=True, slots=True)
class Block:
    """Steps one after the other, ``repeats`` times: a layer, or whatever comes once."""

    steps: tuple[Step, ...]
    repeats: Number = 1.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """Blocks one after the other, the whole ``repeats`` times: a pass over a model."""

    blocks: tuple[Block, ...]
    repeats: Number = 1.0

    def weighted_steps(self) -> Iterator[tuple[Step, Number]]:
        """Each step with how often it runs in all."""
        for block in self.blocks:
            for step in block.steps:
                yield step, self.repeats * block.repeats * step.repeats

    @property
    def latency_s(self) -> Number:
        """Seconds from the first step's begin to the last one's end."""
        return total(times * step.duration_s for step, times in self.weighted_steps())

    def exposed_by_stream(self) -> dict[str, Number]:
        """Seconds by stream that are waited for; they sum to the latency."""
        parts: dict[str, Number] = {}
        for step, times in self.weighted_steps():
            for work, seconds in step.exposed():
                _add(parts, work.stream, times * seconds)
        return parts

    def busy_s(self) -> dict[str, Number]:
        """Seconds that each stream works, hidden or not."""
        busy: dict[str, Number] = {}
        for step, times in self.weighted_steps():
            _add_busy(busy, step, times)
        return busy

    @property
    def bottleneck(self) -> str:
        """The stream that is waited for longest; for a single configuration."""
        exposed = self.exposed_by_stream()
        return max(exposed, key=lambda stream: float(exposed[stream]))

    def cost(self, parts: bool = True) -> PhaseCost:
        """The pass as a phase's cost; without its parts, which take most of the time, where only latency counts."""
        sums = _Sums(parts)
        for step, times in self.weighted_steps():
            sums.add(step, times)
            sums.add_busy(step, times)
        return sums.cost()


class _Sums:
    """Latency, and unless only that counts exposed seconds by label and busy seconds by stream, added up over steps."""

    def __init__(self, parts: bool) -> None:
        self.parts = parts
        self.latency_s: Number = 0.0
        self.parts_s: dict[str, Number] = {}
        self.busy_s: dict[str, Number] = {}
        self.steps: list[tuple[Step, Number]] = []

    def add(self, step: Step, times: Number) -> None:
        """Latency and what is waited for of a step that runs so many times."""
        if not self.parts:
            self.latency_s = self.latency_s + times * step.duration_s
            return
        duration, parts = step.timed()
        if not is_array(
            duration
        ):  # steps of arrays would keep all of them in memory, and nobody asks for their terms
            self.steps.append((step, times))
        self.latency_s = self.latency_s + times * duration
        for label, seconds in parts.items():
            _add(self.parts_s, label, times * seconds)

    def add_busy(self, step: Step, times: Number) -> None:
        """The work of a step that runs so many times."""
        if self.parts:
            _add_busy(self.busy_s, step, times)

    def cost(self) -> PhaseCost:
        """What was added up."""
        return PhaseCost(self.latency_s, self.parts_s, self.busy_s, terms=self.terms)

    def terms(self) -> Iterator[Term]:
        """What is waited for, by part, stream and rate; for a single configuration."""
        spent: dict[tuple[str, str, tuple[Quantity, ...], Path | None], Number] = {}
        for step, times in self.steps:
            for work, seconds in step.exposed():
                key = (work.label, work.stream, work.of, work.path)
                spent[key] = spent.get(key, 0.0) + times * seconds
        for (label, stream, of, path), seconds in spent.items():
            if seconds:
                name, source = STREAMS.get(stream, stream), path.stated if path is not None else ""
                yield Term(label, name, (Factor(f"seconds waited for {name}", seconds, of, source=source),))


def _add_busy(busy: dict[str, Number], step: Step, times: Number) -> None:
    of_step: dict[str, Number] = {}
    for work in step.works():
        _add(of_step, work.stream, work.seconds)
    for stream, seconds in of_step.items():
        _add(busy, stream, times * seconds)


def _add(parts: dict[str, Number], key: str, seconds: Number) -> None:
    parts[key] = parts[key] + seconds if key in parts else seconds


def sum_costs(costs: Sequence[tuple[PhaseCost, Number]]) -> PhaseCost:
    """The weighted sum of costs: several passes as one phase."""
    parts: dict[str, Number] = {}
    busy: dict[str, Number] = {}
    for cost, weight in costs:
        for name, seconds in cost.parts_s.items():
            parts[name] = parts.get(name, 0.0) + weight * seconds
        for name, seconds in cost.busy_s.items():
            busy[name] = busy.get(name, 0.0) + weight * seconds
    latency = total(weight * cost.latency_s for cost, weight in costs)

    def terms() -> Iterator[Term]:
        """Of the same stream and path together, since passes that differ in their ends are taken off and put on."""
        spent: dict[Term, float] = {}
        for cost, weight in costs:
            for term in cost.explained():
                last = replace(term.factors[-1], value=1.0)
                key = replace(term, factors=(last,))
                spent[key] = spent.get(key, 0.0) + float(weight) * term.value
        for key, seconds in spent.items():
            yield replace(key, factors=(replace(key.factors[0], value=seconds),))

    return PhaseCost(latency, parts, busy, terms=terms)


def sum_linear(first: Schedule, last: Schedule, count: Number, parts: bool = True) -> PhaseCost:
    """The sum over ``count`` passes whose work changes linearly from that of ``first`` to that of ``last``.

    Exact: every step is cut where another of its limits becomes the longest, and is linear in between (steps inside
    lanes are not cut).
    """
    sums = _Sums(parts)
    for (before, times), (after, _) in zip(first.weighted_steps(), last.weighted_steps(), strict=True):
        sums.add_busy(before, times * count / 2)
        sums.add_busy(after, times * count / 2)
        if all(old.seconds is new.seconds for old, new in zip(before.works(), after.works(), strict=True)):
            sums.add(before, times * count)
            continue
        cuts = crossings(before, after, count)
        for index, weight in context_nodes(0.0, count, cuts, affine=not before.has_steps):
            share = index / maximum(count - 1, 1)
            sums.add(_between(before, after, share), times * weight)
    return sums.cost()


def _between(before: Step, after: Step, share: Number) -> Step:
    lanes = {
        name: tuple(_mixed(old, new, share) for old, new in zip(lane, after.lanes[name], strict=True))
        for name, lane in before.lanes.items()
    }
    return Step(before.name, lanes, before.repeats, before.overlap, before.duplex)


def _mixed(old: Work | Step, new: Work | Step, share: Number) -> Work | Step:
    if isinstance(old, Step) or isinstance(new, Step):
        assert isinstance(old, Step)
        assert isinstance(new, Step)
        return _between(old, new, share)
    if old.seconds is new.seconds:
        return old
    return Work(old.stream, old.label, old.seconds + share * (new.seconds - old.seconds), old.of, old.path)


def crossings(before: Step, after: Step, count: Number) -> list[Number]:
    """Positions among ``count`` points from ``before`` to ``after`` where the longest limit gives way to another.

    What lies outside the points is put before them.
    """
    if before.overlap is False:
        return []
    lines = [(one.seconds, other.seconds) for one, other in zip(before.limits(), after.limits(), strict=True)]
    found: list[Number] = []
    for index, (low, high) in enumerate(lines):
        for other_low, other_high in lines[index + 1 :]:
            gap, last_gap = low - other_low, high - other_high
            inside = ((gap > 0) & (last_gap < 0)) | ((gap < 0) & (last_gap > 0))
            if not any_of(inside):
                continue
            share = gap / where(inside, gap - last_gap, 1.0)
            height = (low + share * (high - low)) * (1 + 1e-12)
            for lowest, highest in lines:
                inside = inside & (height >= lowest + share * (highest - lowest))
            if any_of(inside):
                found.append(where(inside, share * (count - 1), -1.0))
    return found


def total(values: Iterator[Number] | Sequence[Number]) -> Number:
    """The sum; 0.0 of nothing."""
    rest = iter(values)
    found: Number = next(rest, 0.0)
    for value in rest:
        found = found + value
    return found


def _longest(limits: Sequence[Limit]) -> Number:
    longest: Number = limits[0].seconds if limits else 0.0
    for limit in limits[1:]:
        longest = maximum(longest, limit.seconds)
    return longest


def _is_share(overlap: Number) -> bool:
    """Whether overlap is a share, rather than a truth value or an array of such."""
    if is_array(overlap):
        return bool(overlap.dtype != bool)
    return not isinstance(overlap, (bool, np.bool_))


def _not(flag: Number) -> Number:
    return ~flag if is_array(flag) else not flag
