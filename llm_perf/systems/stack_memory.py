"""Memory of a serving stack that sizes everything when it starts, by the rules of `llm_perf.systems.accounting`."""

from __future__ import annotations

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import linear_rank_weights
from llm_perf.systems.accounting import Budget, MemoryRules, context_bytes
from llm_perf.systems.base import Load, MemoryParts
from llm_perf.systems.footprint import (
    fullest_stage,
    layer_weight_bytes,
    stage_kv_bytes,
    step_activation_bytes,
)
from llm_perf.systems.forward import replica_batch
from llm_perf.systems.speculation import draft_scenario


def stack_memory(scenario: Scenario, load: Load, parts: MemoryParts, budget: Budget) -> MemoryParts:
    """Memory of the fullest GPU as the stack accounts for it, which knows its weights and its cache.

    Activations are those of one full step, and the cache comes in blocks. Where sequences queue, those that do not fit at
    once wait: the cache then holds as many whole sequences as there is room for, at least one.
    """
    rules = budget.rules
    context = budget.in_blocks(load.context_len)
    tokens = budget.step_tokens(scenario, load.context_len)
    sequences: Number = replica_batch(scenario, load) if budget.max_num_seqs is None else budget.max_num_seqs
    activations = step_activation_bytes(scenario, tokens, sequences, rules)
    others = context_bytes(budget, scenario)
    buffers = minimum(parts.buffers_bytes, others)  # communicators are a part of what it holds
    weights = parts.weights_bytes + padding_bytes(scenario, rules)
    one = stage_kv_bytes(scenario, 1.0, context)
    draft = draft_scenario(scenario)
    if draft is not None:
        one = one + stage_kv_bytes(draft, 1.0, context)
    wanted = replica_batch(scenario, load) * one
    capacity = budget.capacity_bytes(weights, activations, others)
    held = wanted
    if rules.queues:
        room = capacity - weights - activations - others
        most = maximum(room // one, 1.0)
        if budget.max_num_seqs is not None:
            most = minimum(most, budget.max_num_seqs)
        held = minimum(wanted, most * one)
    return MemoryParts(
        weights_bytes=weights,
        kv_cache_bytes=held,
        activations_bytes=activations,
        buffers_bytes=buffers,
        reserved_bytes=others - buffers,
        capacity_bytes=capacity,
        waiting_bytes=wanted - held,
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
