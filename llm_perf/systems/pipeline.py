"""Pipeline stages: what one batch waits for, what the slowest stage takes, how many stages work at once.

A request passes every stage, so stages never shorten its way. Cut into micro-batches, a batch keeps several stages busy:
a prefill of m micro-batches takes one way through and m - 1 turns of the slowest stage (Huang et al., GPipe, arXiv
1811.06965, section 2.3); a decode step of all of them takes m turns of the slowest stage, or one way through where that
is longer, since a micro-batch's next token needs its last one. An engine whose stages meet after every step pays for the way
in and out in each of them as a prefill does, and schedules the micro-batches of a step together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, minimum, where
from llm_perf.systems.base import PhaseCost, added
from llm_perf.systems.terms import Terms, joined, scaled

_TINY_S = 1e-30
_LAST_STAGE = ("lm_head", "all_gather")


def stage_layers(layers: int, stages: int) -> tuple[int, ...]:
    """Layers per stage: as even as they go, the first ones take what does not divide, since the last has the head."""
    each, more = divmod(layers, stages)
    return tuple(each + (stage < more) for stage in range(stages))


def cuts_batches(constants: Mapping[str, float]) -> bool:
    """Whether a stack cuts batches for its pipeline stages by a rule of its own."""
    return constants.get("micro_batch_tokens", 0.0) > 0


def engine_micro_batches(batch: Number, tokens: Number, stages: int, most_tokens: float) -> Number:
    """Micro-batches of an engine that cuts a batch by itself: one per stage where the batch divides, and halves of these.

    A micro-batch of more than ``most_tokens`` new tokens is halved as long as it is even (FasterTransformer's
    ``getLocalBatchSize``, src/fastertransformer/utils/nccl_utils.cc).
    """
    part = where(batch % stages == 0, batch / stages, batch)
    while True:
        halved = (part * tokens > most_tokens) & (part % 2 == 0)
        if not np.any(halved):
            return batch / part
        part = where(halved, part / 2, part)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of one replica and the micro-batches of its batch. ``meets``: all stages wait for one another in a step."""

    stages: int
    micro_batches: Number
    layers: tuple[int, ...]
    meets: bool = False

    @staticmethod
    def of(scenario: Scenario, constants: Mapping[str, float], batch: Number, tokens: Number) -> Pipeline:
        """The pipeline of a phase in which each of ``batch`` sequences has ``tokens`` new tokens.

        The question's micro-batches, else those that the stack cuts by a rule of its own.
        """
        stages, asked = scenario.parallelism.pp_size, scenario.offload.micro_batches
        own = cuts_batches(constants) and stages > 1 and asked == 1
        most = constants["micro_batch_tokens"]
        return Pipeline(
            stages,
            engine_micro_batches(batch, tokens, stages, most) if own else asked,
            stage_layers(scenario.model.num_layers, stages),
            own,
        )

    @property
    def in_one(self) -> bool:
        """Whether the batch is not cut, whatever its size."""
        return not is_array(self.micro_batches) and self.micro_batches == 1

    def slowest_stage_s(self, way_s: Number, transfers_s: Number, last_s: Number) -> Number:
        """Seconds that the slowest stage takes for one micro-batch, its hop to the next included.

        ``way_s`` is the way through all stages with ``transfers_s`` between them and ``last_s`` after the last layer.
        """
        if self.stages == 1:
            return way_s
        per_layer = (way_s - transfers_s - last_s) / sum(self.layers)
        slowest = maximum(self.layers[0] * per_layer, self.layers[-1] * per_layer + last_s)
        return slowest + transfers_s / (self.stages - 1)

    def wait_s(self, way_s: Number, slowest_s: Number, first_pass: bool) -> Number:
        """Seconds beyond one way through until all micro-batches are done."""
        if self.in_one:
            return 0.0
        if first_pass or self.meets:
            return (self.micro_batches - 1) * slowest_s
        return maximum(self.micro_batches * slowest_s - way_s, 0.0)

    def stretched(self, phase: PhaseCost, wait_s: Number, slowest_s: Number) -> PhaseCost:
        """The phase of one micro-batch as that of all of them: parts and busy times in proportion."""
        if self.stages == 1:
            return phase
        if self.in_one:
            return replace(phase, stages_busy=1.0, slowest_stage_s=slowest_s)
        latency = phase.latency_s + wait_s
        way = maximum(phase.latency_s, _TINY_S)  # there may be no steps at all
        factor = latency / way
        return PhaseCost(
            latency,
            {name: factor * seconds for name, seconds in phase.parts_s.items()},
            {name: factor * seconds for name, seconds in phase.busy_s.items()},
            stages_busy=self.micro_batches * way / maximum(latency, way),
            slowest_stage_s=self.micro_batches * slowest_s,
            micro_batches=self.micro_batches,
            terms=scaled(phase.terms, "all micro-batches over one way through the stages", factor),
        )

    @staticmethod
    def met(phase: PhaseCost, once_s: Number, terms: Terms) -> PhaseCost:
        """The phase of all micro-batches, and what the host does ``once_s`` for all of them while the stages wait."""
        latency, slowest = phase.latency_s + once_s, phase.slowest_stage_s
        return replace(
            phase,
            latency_s=latency,
            parts_s=added(phase.parts_s, {"framework": once_s}, 1.0),
            busy_s=added(phase.busy_s, {"host": once_s}, 1.0),
            stages_busy=1.0 + (phase.stages_busy - 1.0) * phase.latency_s / maximum(latency, _TINY_S),
            slowest_stage_s=None if slowest is None else slowest + once_s,
            terms=joined(phase.terms, terms),
        )

    def followed(
        self, phase: PhaseCost, passes: Number, slowest_s: Number, longest_s: Number, once_s: Number
    ) -> PhaseCost:
        """The phase of so many passes one after the other as that of passes of which each begins behind the one before.

        The slowest stage works on all of them, and the longest has the rest of its way to go beside that: the others are
        behind it, or ahead of it.

        Args:
            phase: Of passes one by one.
            passes: How many they are.
            slowest_s: What the slowest stage takes for one of them on average.
            longest_s: The way of the longest one.
            once_s: What comes before all.
        """
        way = maximum((phase.latency_s - once_s) / passes, _TINY_S)
        share = minimum(slowest_s / way, 1.0)
        latency = once_s + share * passes * way + (1.0 - share) * longest_s
        factor = latency / (once_s + passes * way)
        return PhaseCost(
            latency,
            {name: factor * seconds for name, seconds in phase.parts_s.items()},
            {name: factor * seconds for name, seconds in phase.busy_s.items()},
            stages_busy=1.0 / factor,
            slowest_stage_s=passes * slowest_s,
            terms=scaled(phase.terms, "passes behind one another over passes one by one", factor),
        )


def last_stage_s(parts_s: dict[str, Number]) -> Number:
    """Seconds of what only the last stage does: the head and the gathering of its logits."""
    total: Number = 0.0
    for name in _LAST_STAGE:
        total = total + parts_s.get(name, 0.0)
    return total
