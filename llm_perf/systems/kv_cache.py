"""How many tokens the cache of one engine holds, and what bounds the sequences that run at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from llm_perf.config.scenario import Scenario
from llm_perf.counts.attention import state_bytes
from llm_perf.systems.accounting import Budget, budget_of
from llm_perf.systems.base import Load, MemoryParts
from llm_perf.systems.families import folder_of, memory_rules
from llm_perf.systems.registry import full_name, system_of
from llm_perf.systems.resident import Resident
from llm_perf.systems.stack_memory import budget_for, sequence_cache, stack_memory


@dataclass(frozen=True, slots=True)
class KVCapacity:
    """The cache of one engine, which is one replica of the model.

    Attributes:
        tokens: Tokens that it holds, in whole blocks.
        max_concurrency: Sequences of the lengths that are asked for which run at once: of an engine that prefills in chunks,
            what the cache holds, not rounded; of a batch that is prefilled whole, the largest one.
        max_states: Sequences that run at once at most where recurrent states have a pool of their own; infinite elsewhere.
        state_bytes_per_sequence: Bytes of one sequence's recurrent states on one rank, which do not grow with its length.
        utilization: Share of the GPU's memory that the stack may use, as it counts it; None where it has no such rule.
        rule_of: The stack whose rule of memory it is.
    """

    tokens: int
    max_concurrency: float
    max_states: float
    state_bytes_per_sequence: float
    utilization: float | None
    rule_of: str


def kv_capacity(
    scenario: Scenario, load: Load, parts: MemoryParts, largest_batch: int | None = None
) -> KVCapacity | None:
    """What the cache holds beside everything else that ``parts`` says of the GPU.

    ``largest_batch`` is that of all replicas, where it is known.

    Models whose layers keep windows or states hold as many tokens as their sequences of these lengths have.
    None for encoders, and for systems whose cache is not on the GPUs alone.
    """
    if scenario.model.encoder or not isinstance(system_of(scenario), Resident):
        return None
    budget = budget_for(scenario)
    found = _capacity(scenario, load, parts, budget, full_name(scenario))
    if found is None or budget is not None or largest_batch is None:
        return found
    return replace(found, max_concurrency=largest_batch / scenario.parallelism.dp_size)


def engine_capacity(scenario: Scenario, load: Load, parts: MemoryParts) -> KVCapacity | None:
    """What a serving engine of today would hold, for a system that stands for them and has no rule of its own.

    Such a system prefills the whole batch at once, which bounds its largest batch long before the cache does. None for
    others, and where an option of engines is given, which is a rule.
    """
    family = system_of(scenario).family
    if family.engine is None or scenario.model.encoder or budget_for(scenario) is not None:
        return None
    version = folder_of(family.engine).releases[-1]
    budget = budget_of(scenario, memory_rules(family.engine, version))
    if budget is None:
        return None
    accounted = stack_memory(scenario, load, parts, budget)
    return _capacity(scenario, load, accounted, budget, f"{family.engine}@{version}")


def _capacity(
    scenario: Scenario, load: Load, parts: MemoryParts, budget: Budget | None, rule_of: str
) -> KVCapacity | None:
    cache = sequence_cache(scenario, load, load.context_len, budget)
    alone, each = float(cache.bytes(1.0)), float(cache.each)
    if alone <= 0:
        return None
    block = 1 if budget is None else budget.rules.block_tokens
    context = -(-float(load.context_len) // block) * block
    room = max(float(parts.kv_room_bytes), 0.0)
    for_tokens, of_tokens = (
        room * (1 - cache.state_share),
        alone - (cache.state if cache.state_share else 0.0),
    )
    return KVCapacity(
        tokens=math.floor(for_tokens / of_tokens * context / block * (1 + 1e-12)) * block,
        max_concurrency=float(cache.room_for(room)) if each else math.inf,
        max_states=float(cache.states(room)),
        state_bytes_per_sequence=float(
            state_bytes(
                scenario.model,
                1.0,
                max(scenario.dtype.stored_kv_bits, scenario.dtype.state_bits),
                scenario.parallelism.tp_size,
            )
        ),
        utilization=None if budget is None else budget.utilization,
        rule_of=rule_of,
    )


def kv_capacity_of(scenario: Scenario) -> KVCapacity | None:
    """What the cache of a scenario's engine holds; None where `kv_capacity` is."""
    system, load = system_of(scenario), Load.of(scenario.workload)
    used = system.memory(scenario, load, system.place(scenario, load))
    return kv_capacity(scenario, load, used.cpu if scenario.gpu.absent else used.gpu)


def scheduler_limit(scenario: Scenario) -> int | None:
    """Sequences that the deployment's schedulers let run at once; None for no limit."""
    budget = budget_for(scenario)
    if budget is None or budget.max_num_seqs is None:
        return None
    return budget.max_num_seqs * scenario.parallelism.dp_size
