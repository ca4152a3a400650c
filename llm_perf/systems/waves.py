"""A batch whose cache does not fit runs in waves: what an engine's scheduler does with sequences that it cannot hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, minimum
from llm_perf.systems.base import Load, PhaseCost
from llm_perf.systems.footprint import stage_kv_bytes
from llm_perf.systems.forward import replica_batch
from llm_perf.systems.terms import scaled

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Waves:
    """How a replica's batch runs: ``running`` sequences at a time, ``count`` times that."""

    running: Number
    count: Number

    @property
    def note(self) -> str | None:
        """What a reader should know; None where all sequences run at once, or for arrays."""
        if is_array(self.running, self.count) or self.count == 1:
            return None
        return (
            f"{self.running:.0f} sequences of these lengths run at a time while they grow: times are those of "
            f"{self.count:.3g} waves"
        )

    def whole(self, phase: PhaseCost) -> PhaseCost:
        """The phase of one wave as that of all."""
        if not is_array(self.count) and self.count == 1:
            return phase
        return PhaseCost(
            phase.latency_s * self.count,
            {name: self.count * seconds for name, seconds in phase.parts_s.items()},
            {name: self.count * seconds for name, seconds in phase.busy_s.items()},
            phase.stages_busy,
            None if phase.slowest_stage_s is None else phase.slowest_stage_s * self.count,
            scaled(phase.terms, "waves", self.count),
        )


def waves_of(
    scenario: Scenario, load: Load, constants: dict[str, float], weight_bytes: float, buffer_bytes: float
) -> Waves:
    """Waves of a stack that reserves ``kv_reserved_share`` of the tokens to generate for each running sequence.

    A stack that takes pages as it needs them holds half of them on average, one that reserves all holds all. A share of
    0 means that a batch is never cut. What is asked of the stack's memory and scheduler (``gpu_memory_utilization``,
    ``max_num_seqs``) bounds the running sequences as it bounds those that the memory account holds.

    ``weight_bytes`` and ``buffer_bytes`` are held on the fullest GPU whatever the batch.
    """
    batch = replica_batch(scenario, load)
    running = (
        batch
        if scenario.model.encoder
        else minimum(batch, _held(scenario, load, constants, weight_bytes + buffer_bytes))
    )
    if scenario.workload.max_num_seqs is not None:
        running = minimum(running, scenario.workload.max_num_seqs)
    return Waves(running, batch / running)


def _held(scenario: Scenario, load: Load, constants: dict[str, float], other_bytes: float) -> Number:
    """Sequences that the cache holds while they grow, at least one; infinite where a batch is never cut."""
    asked, share = scenario.workload, constants["kv_reserved_share"]
    if share <= 0:
        return math.inf
    utilization = asked.gpu_memory_utilization or constants["gpu_memory_utilization"]
    held = utilization * scenario.gpu.usable_memory_bytes
    free = held - other_bytes - constants["process_reserve_gib"] * _GIB
    of_one = stage_kv_bytes(scenario, 1.0, load.prompt_len + share * load.gen_len)
    if asked.shared_prefix:  # one copy of what all sequences share
        once = stage_kv_bytes(scenario, 1.0, asked.prefix_hit_rate * load.prompt_len)
        free, of_one = free - once, maximum(of_one - once, 1.0)
    if not is_array(of_one) and of_one == 0:
        return math.inf
    return maximum(free / of_one // 1, 1.0)
