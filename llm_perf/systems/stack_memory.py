"""Memory of a serving stack that sizes everything when it starts, by the rules of `llm_perf.systems.accounting`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, floor, is_array, maximum, minimum
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import linear_rank_weights
from llm_perf.systems.accounting import Budget, MemoryRules, budget_of, context_bytes
from llm_perf.systems.base import Load, MemoryParts
from llm_perf.systems.families import memory_rules
from llm_perf.systems.footprint import (
    fullest_stage,
    layer_weight_bytes,
    stage_kv_bytes,
    step_activation_bytes,
)
from llm_perf.systems.forward import replica_batch
from llm_perf.systems.speculation import draft_scenario

_NEXT_TO_NOTHING = 1e-6
"""Bytes of a sequence that caches nothing, where an array of lengths has some that do."""


def budget_for(scenario: Scenario) -> Budget | None:
    """The memory rule of a scenario's stack; None where it has none and none is asked for."""
    return budget_of(scenario, memory_rules(scenario.system, scenario.system_version))


@dataclass(frozen=True, slots=True)
class SequenceCache:
    """Cache of the fullest GPU: bytes of ``each`` sequence, beside what all of them share and keep ``once``.

    Where recurrent states have a pool of their own, it is ``state_share`` of the room; of each sequence ``state`` bytes are
    its state, for which ``places`` are kept.
    """

    each: Number
    once: Number = 0.0
    state: Number = 0.0
    state_share: float = 0.0
    places: int = 1

    def bytes(self, sequences: Number) -> Number:
        """Bytes of so many sequences."""
        return self.once + sequences * self.each

    def states(self, room_bytes: Number) -> Number:
        """Sequences whose states a pool of their own holds; no limit where they have none."""
        if not self.state_share:
            return math.inf
        return room_bytes * self.state_share / (self.places * self.state)

    def sequences(self, room_bytes: Number) -> Number:
        """Whole sequences that a room holds; infinitely many of a model that caches nothing."""
        return floor(self.room_for(room_bytes))

    def room_for(self, room_bytes: Number) -> Number:
        """The same before it is rounded down."""
        if self.state_share:
            tokens = (room_bytes * (1 - self.state_share) - self.once) / maximum(
                self.each - self.state, _NEXT_TO_NOTHING
            )
            return maximum(minimum(tokens, self.states(room_bytes)), 0.0)
        if not is_array(self.each) and self.each == 0:
            return math.inf
        return maximum((room_bytes - self.once) / maximum(self.each, _NEXT_TO_NOTHING), 0.0)


def sequence_cache(
    scenario: Scenario, load: Load, tokens: Number, budget: Budget | None = None
) -> SequenceCache:
    """Cache of a sequence of so many tokens, in blocks where the stack has these, with that of a draft model.

    Of a cached prefix that all sequences share there is one copy.
    """
    draft = draft_scenario(scenario)
    share = 0.0 if budget is None else budget.rules.window_share

    def of_one(length: Number) -> Number:
        length = length if budget is None else budget.in_blocks(length)
        one = stage_kv_bytes(scenario, 1.0, length, window_share=share)
        return one if draft is None else one + stage_kv_bytes(draft, 1.0, length, window_share=share)

    whole = of_one(tokens)
    pool = _state_pool(scenario, budget)
    if not scenario.workload.shared_prefix:
        return SequenceCache(whole, **pool)
    # Windows that have left the prefix and recurrent states are each sequence's own.
    own = of_one(tokens - scenario.workload.prefix_hit_rate * load.prompt_len)
    return SequenceCache(own, whole - own, **pool)


def _state_pool(scenario: Scenario, budget: Budget | None) -> dict[str, Any]:
    """Of `SequenceCache`, where the stack keeps recurrent states apart and the model has some."""
    recurrent = any(part.recurrent for group in scenario.model.layer_groups for part in group.attention.parts)
    if budget is None or not budget.rules.state_share or not recurrent:
        return {}
    state = float(stage_kv_bytes(scenario, 1.0, 1.0))  # a token beside it is next to nothing
    share, places = budget.rules.state_share, budget.rules.state_places(scenario.gpu)
    return {"state": state, "state_share": share, "places": places}


def stack_memory(scenario: Scenario, load: Load, parts: MemoryParts, budget: Budget) -> MemoryParts:
    """Memory of the fullest GPU as the stack accounts for it, which knows its weights and its cache.

    Activations are those of one full step, and the cache comes in blocks. Sequences beyond those that the scheduler runs
    wait, and where they queue, those that do not fit at once: the cache then holds as many whole sequences as there is room
    for, at least one.
    """
    rules = budget.rules
    tokens = budget.step_tokens(scenario, load.context_len)
    sequences: Number = replica_batch(scenario, load) if budget.max_num_seqs is None else budget.max_num_seqs
    activations = step_activation_bytes(scenario, tokens, sequences, rules)
    others = context_bytes(budget, scenario)
    buffers = minimum(parts.buffers_bytes, others)  # communicators are a part of what it holds
    weights = parts.weights_bytes + padding_bytes(scenario, rules)
    cache = sequence_cache(scenario, load, load.context_len, budget)
    capacity = budget.capacity_bytes(weights, activations, others)
    running = budget.scheduled(replica_batch(scenario, load))
    if rules.queues:
        room = capacity - weights - activations - others
        running = minimum(running, maximum(cache.sequences(room), 1.0))
    held = cache.bytes(running)
    return MemoryParts(
        weights_bytes=weights,
        kv_cache_bytes=held,
        activations_bytes=activations,
        buffers_bytes=buffers,
        reserved_bytes=others - buffers,
        capacity_bytes=capacity,
        waiting_bytes=cache.bytes(replica_batch(scenario, load)) - held,
    )


def padding_bytes(scenario: Scenario, rules: MemoryRules) -> float:
    """What the kernels add to experts in MXFP4 whose width is no multiple of theirs, on the fullest rank."""
    formats, multiple, hidden = (
        scenario.dtype.formats,
        rules.mxfp4_hidden_multiple,
        scenario.model.hidden_size,
    )
    if formats is None or multiple is None or hidden % multiple == 0:
        return 0.0
    p = scenario.parallelism
    added = -(-hidden // multiple) * multiple / hidden - 1
    layers = []
    for group, row in zip(scenario.model.layer_groups, formats.layers, strict=True):
        matrices = zip(layer_linears(group, hidden), row, strict=True)
        layers.append(
            sum(
                linear_rank_weights(linear, p.tp_size, p.ep_size, p.dp_size) * entry.bits / 8
                for linear, entry in matrices
                if entry.name == "mxfp4"
            )
        )
    return added * float(fullest_stage(scenario, layers, layer_weight_bytes(scenario)))
