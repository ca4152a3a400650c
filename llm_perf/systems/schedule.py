"""Schedules: work on streams, put together by an overlap rule. All numbers may be arrays over configurations.

A :class:`Step` is what lies between two synchronisations. It has lanes, each a chain of work that one thread, copy
queue or GPU does in order. With overlap a step lasts as long as its longest lane, and no shorter than what any one
stream has to do over all lanes; without, as long as all its work in a row. Steps repeat, and blocks of steps repeat
(layers), so a pass over a model is a closed form however many layers and batches there are, with first and last
layers as blocks of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llm_perf.counts.arrays import Number, is_array, maximum, where
from llm_perf.hardware.streams import D2H, H2D
from llm_perf.systems.base import PhaseCost


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds that a stream works on one thing. ``label`` is its part of the breakdown."""

    stream: str
    label: str
    seconds: Number


Lane = tuple[Work, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Lanes between two synchronisations, ``repeats`` times in a row.

    ``duplex`` is what both directions of the host link reach together over what one reaches alone: 2 where they do
    not disturb each other, 1 where they share one rate.
    """

    name: str
    lanes: Mapping[str, Lane]
    repeats: Number = 1.0
    overlap: Number = True
    duplex: float = 2.0

    def works(self) -> Iterator[Work]:
        """All work of the step."""
        for lane in self.lanes.values():
            yield from lane

    @property
    def serial_s(self) -> Number:
        """Seconds of all work in a row."""
        return total(work.seconds for work in self.works())

    def limits(self) -> list[tuple[Number, list[tuple[Work, float]]]]:
        """What the step cannot be faster than: each lane, each shared stream, both directions of the link.

        Each limit comes with the work that makes it up and the share of that work's seconds that counts.
        """
        found: list[tuple[Number, list[tuple[Work, float]]]] = []
        by_stream: dict[str, list[Work]] = {}
        users: dict[str, set[str]] = {}
        for name, lane in self.lanes.items():
            found.append((total(work.seconds for work in lane), [(work, 1.0) for work in lane]))
            for work in lane:
                by_stream.setdefault(work.stream, []).append(work)
                users.setdefault(work.stream, set()).add(name)
        for stream, works in by_stream.items():
            if len(users[stream]) > 1:
                found.append((total(work.seconds for work in works), [(work, 1.0) for work in works]))
        both = by_stream.get(H2D, []) + by_stream.get(D2H, [])
        if self.duplex < 2 and H2D in by_stream and D2H in by_stream:
            found.append(
                (total(work.seconds for work in both) / self.duplex, [(w, 1 / self.duplex) for w in both])
            )
        return found

    @property
    def duration_s(self) -> Number:
        """Seconds of one repetition."""
        longest: Number = 0.0
        for seconds, _ in self.limits():
            longest = maximum(longest, seconds)
        return where(self.overlap, longest, self.serial_s)

    def exposed(self) -> Iterator[tuple[Work, Number]]:
        """Work with the seconds of one repetition that it is waited for; they sum to the duration.

        With overlap that is the work of the longest limit (the first one where several are equally long).
        """
        limits = self.limits()
        longest: Number = 0.0
        for seconds, _ in limits:
            longest = maximum(longest, seconds)
        found: Number = False
        for seconds, works in limits:
            critical = (seconds >= longest) & _not(found)
            found = critical | found
            for work, share in works:
                yield work, where(self.overlap & critical, share * work.seconds, 0.0)
        for work in self.works():
            yield work, where(self.overlap, 0.0, work.seconds)


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
    _cache: dict[str, Number] = field(default_factory=dict, compare=False, repr=False)

    def weighted_steps(self) -> Iterator[tuple[Step, Number]]:
        """Each step with how often it runs in all."""
        for block in self.blocks:
            for step in block.steps:
                yield step, self.repeats * block.repeats * step.repeats

    @property
    def latency_s(self) -> Number:
        """Seconds from the first step's begin to the last one's end."""
        if "latency" not in self._cache:
            self._cache["latency"] = total(times * step.duration_s for step, times in self.weighted_steps())
        return self._cache["latency"]

    def exposed_by_label(self) -> dict[str, Number]:
        """Seconds by part of the breakdown that are waited for; they sum to the latency."""
        return self._exposed(lambda work: work.label)

    def exposed_by_stream(self) -> dict[str, Number]:
        """Seconds by stream that are waited for; they sum to the latency."""
        return self._exposed(lambda work: work.stream)

    def _exposed(self, key) -> dict[str, Number]:  # type: ignore[no-untyped-def]
        parts: dict[str, Number] = {}
        for step, times in self.weighted_steps():
            for work, seconds in step.exposed():
                parts[key(work)] = parts.get(key(work), 0.0) + times * seconds
        return parts

    def busy_s(self) -> dict[str, Number]:
        """Seconds that each stream works, hidden or not."""
        busy: dict[str, Number] = {}
        for step, times in self.weighted_steps():
            for work in step.works():
                busy[work.stream] = busy.get(work.stream, 0.0) + times * work.seconds
        return busy

    def labelled_busy_s(self) -> dict[tuple[str, str], Number]:
        """Seconds of work by (stream, label), hidden or not."""
        busy: dict[tuple[str, str], Number] = {}
        for step, times in self.weighted_steps():
            for work in step.works():
                key = (work.stream, work.label)
                busy[key] = busy.get(key, 0.0) + times * work.seconds
        return busy

    @property
    def bottleneck(self) -> str:
        """The stream that is waited for longest; for a single configuration."""
        exposed = self.exposed_by_stream()
        return max(exposed, key=lambda stream: float(exposed[stream]))

    def cost(self, parts: bool = True) -> PhaseCost:
        """The pass as a phase's cost; without its parts, which take most of the time, where only latency counts."""
        if not parts:
            return PhaseCost(self.latency_s, {}, {})
        return PhaseCost(self.latency_s, self.exposed_by_label(), self.busy_s())


def sum_costs(costs: Sequence[tuple[PhaseCost, Number]]) -> PhaseCost:
    """The weighted sum of costs: several passes as one phase."""
    parts: dict[str, Number] = {}
    busy: dict[str, Number] = {}
    for cost, weight in costs:
        for name, seconds in cost.parts_s.items():
            parts[name] = parts.get(name, 0.0) + weight * seconds
        for name, seconds in cost.busy_s.items():
            busy[name] = busy.get(name, 0.0) + weight * seconds
    return PhaseCost(total(weight * cost.latency_s for cost, weight in costs), parts, busy)


def crossings(first: Schedule, last: Schedule, start: Number, end: Number) -> list[Number]:
    """Values between ``start`` and ``end`` at which another limit of a step becomes the longest.

    ``first`` and ``last`` are one schedule at the two ends of a quantity (the context) on which all work depends
    linearly: a sum over the quantity is exact when it is cut there.
    """
    found: list[Number] = []
    span = end - start
    for (before, _), (after, _) in zip(first.weighted_steps(), last.weighted_steps(), strict=True):
        lines = list(zip(before.limits(), after.limits(), strict=True))
        for index, ((low, _), (high, _)) in enumerate(lines):
            for (other_low, _), (other_high, _) in lines[index + 1 :]:
                gap, closed = low - other_low, (low - other_low) - (high - other_high)
                share = where(closed != 0, gap / where(closed != 0, closed, 1.0), -1.0)
                inside = (share > 0) & (share < 1)
                if inside.any() if is_array(inside) else inside:
                    found.append(where(inside, start + share * span, start - 1))
    return found


def total(values: Iterator[Number] | Sequence[Number]) -> Number:
    """The sum; 0.0 of nothing."""
    found: Number = 0.0
    for value in values:
        found = found + value
    return found


def _not(flag: Number) -> Number:
    return ~flag if is_array(flag) else not flag
