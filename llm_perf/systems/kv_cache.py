"""How many tokens the cache of one engine holds, and what bounds the sequences that run at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_perf.config.scenario import Scenario
from llm_perf.counts.attention import state_bytes
from llm_perf.systems.base import Load, MemoryParts
from llm_perf.systems.registry import system_of
from llm_perf.systems.resident import Resident
from llm_perf.systems.stack_memory import budget_for, sequence_cache


@dataclass(frozen=True, slots=True)
class KVCapacity:
    """The cache of one engine, which is one replica of the model.

    Attributes:
        tokens: Tokens that it holds, in whole blocks.
        max_concurrency: Sequences of the lengths that are asked for which it holds at once; not rounded.
        state_bytes_per_sequence: Bytes of one sequence's recurrent states on one rank, which do not grow with its length.
        utilization: Share of the GPU's memory that the stack may use, as it counts it; None where it has no such rule.
    """

    tokens: int
    max_concurrency: float
    state_bytes_per_sequence: float
    utilization: float | None


def kv_capacity(scenario: Scenario, load: Load, parts: MemoryParts) -> KVCapacity | None:
    """What the cache holds beside everything else that ``parts`` says of the GPU.

    Models whose layers keep windows or states hold as many tokens as their sequences of these lengths have.
    None for encoders, and for systems whose cache is not on the GPUs alone.
    """
    if scenario.model.encoder or not isinstance(system_of(scenario), Resident):
        return None
    budget = budget_for(scenario)
    cache = sequence_cache(scenario, load, load.context_len, budget)
    alone, each = float(cache.bytes(1.0)), float(cache.each)
    if alone <= 0:
        return None
    block = 1 if budget is None else budget.rules.block_tokens
    context = -(-float(load.context_len) // block) * block
    room = max(float(parts.kv_room_bytes), 0.0)
    return KVCapacity(
        tokens=math.floor(room / alone * context / block * (1 + 1e-12)) * block,
        max_concurrency=max(room - float(cache.once), 0.0) / each if each else math.inf,
        state_bytes_per_sequence=float(
            state_bytes(scenario.model, 1.0, scenario.dtype.stored_kv_bits, scenario.parallelism.tp_size)
        ),
        utilization=None if budget is None else budget.utilization,
    )


def kv_capacity_tokens(scenario: Scenario) -> int | None:
    """Tokens that the cache of one engine holds; None where `kv_capacity` is None."""
    system, load = system_of(scenario), Load.of(scenario.workload)
    found = kv_capacity(scenario, load, system.memory(scenario, load, system.place(scenario, load)).gpu)
    return None if found is None else found.tokens


def scheduler_limit(scenario: Scenario) -> int | None:
    """Sequences that the deployment's schedulers let run at once; None for no limit."""
    budget = budget_for(scenario)
    if budget is None or budget.max_num_seqs is None:
        return None
    return budget.max_num_seqs * scenario.parallelism.dp_size
