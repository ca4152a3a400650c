"""How prompts are read: what is cached stays out, and the rest comes at once or in chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import Workload
from llm_perf.counts.arrays import Number, is_array, maximum, minimum, where
from llm_perf.counts.quadrature import context_nodes
from llm_perf.systems.costs import Costs
from llm_perf.systems.families import scheduler_rules
from llm_perf.systems.forward import Forward
from llm_perf.systems.host_time import exposed_host_s
from llm_perf.systems.stack_memory import budget_for


def cached_tokens(workload: Workload, prompt_len: Number) -> Number:
    """Tokens per prompt whose keys and values are there already; the last token is always computed."""
    if workload.prefix_hit_rate == 0:
        return 0.0
    return minimum(workload.prefix_hit_rate * prompt_len, prompt_len - 1)


def tokens_per_pass(workload: Workload, prompt_len: Number) -> Number:
    """Tokens of each prompt that one pass works on at most."""
    new = prompt_len - cached_tokens(workload, prompt_len)
    return new if workload.prefill_chunk is None else minimum(new, workload.prefill_chunk)


def engine_step_tokens(scenario: Scenario) -> int | None:
    """Tokens of one step of an engine that reads what is longer in pieces; None of one that reads prompts whole.

    Where ``prefill_chunk`` is stated, that says how prompts are read.
    """
    if scenario.workload.prefill_chunk is not None or scenario.model.encoder:
        return None
    rules = scheduler_rules(scenario.system, scenario.system_version)
    if rules is None or not rules.chunked:
        return None
    budget = budget_for(scenario)
    return (None if budget is None else budget.batched_tokens) or rules.max_num_batched_tokens


_SHALLOW = 3.0
"""Passes of a prompt that are visited one by one where kernels divide the keys of few queries: what they lose falls with the
inverse of the depth."""


class PromptPasses(NamedTuple):
    """Device seconds of reading prompts, the passes, sequences of each, the longest pass, what the host adds to all."""

    costs: Costs
    passes: Number
    sequences: Number
    longest_s: Number
    exposed_s: Number


def prompt_passes(forward: Forward, batch: Number, prompt_len: Number) -> PromptPasses:
    """What reading ``batch`` prompts takes.

    All at once, or in chunks of ``prefill_chunk`` tokens of each. An engine that reads in steps of a bounded number of tokens
    reads a prompt that is longer than a step by itself, in as many steps as it takes.
    """
    workload = forward.scenario.workload
    new = prompt_len - cached_tokens(workload, prompt_len)
    if workload.prefill_chunk is not None:
        costs, passes, longest_s, exposed_s = _in_chunks(
            forward, batch, prompt_len, minimum(workload.prefill_chunk, new)
        )
        return PromptPasses(costs, passes, batch, longest_s, exposed_s)
    step = engine_step_tokens(forward.scenario)
    if step is None or not np.any(np.asarray(new) > step):
        whole = forward.prefill(batch, new, prompt_len - new)
        return PromptPasses(whole, 1, batch, whole.total_s, _exposed_s(forward, whole))
    together = where(new > step, minimum(batch, 1.0), batch)
    one, passes, longest_s, exposed_s = _in_chunks(forward, together, prompt_len, minimum(step, new))
    turns = batch / together
    costs = Costs()
    costs.add(one, turns)
    return PromptPasses(costs, passes * turns, together, longest_s, exposed_s * turns)


def _exposed_s(forward: Forward, one: Costs) -> Number:
    return exposed_host_s(forward, one.total_s, prefill=True)


def full_passes(
    forward: Forward, cached: Number, chunk: Number, count: Number
) -> Iterator[tuple[Number, Number]]:
    """(tokens of a prompt before a pass, weight) pairs that stand for ``count`` passes over ``chunk`` tokens of it each.

    They are summed without visiting each, as decode steps are; a pass whose layers reach their windows ends a panel.
    """
    if not is_array(count) and count <= 0:
        return
    kinks = [(window - cached) / chunk for window in forward.windows]
    if forward.constants["attention_splits_keys"]:
        kinks.append(_SHALLOW - 1.0)
    for index, weight in context_nodes(0.0, count, kinks):
        yield cached + maximum(index, 0.0) * chunk, weight


def _in_chunks(
    forward: Forward, batch: Number, prompt_len: Number, chunk: Number
) -> tuple[Costs, Number, Number, Number]:
    """Device seconds of prompts read ``chunk`` tokens at a time, passes, the longest pass, what the host adds to all.

    Pass i works on a chunk, with i chunks and the cached prefix as its context; every pass reads the weights again
    (Sarathi, arXiv 2308.16369). Only the last one ends in logits.
    """
    cached = cached_tokens(forward.scenario.workload, prompt_len)
    new = prompt_len - cached
    before_last = maximum(-(-new // chunk) - 1, 0)
    costs = Costs()
    exposed: Number = 0.0
    for start, weight in full_passes(forward, cached, chunk, before_last):
        one = forward.prefill(batch, chunk, start, with_head=False)
        costs.add(one, weight)
        exposed = exposed + weight * _exposed_s(forward, one)
    last = new - before_last * chunk
    final = forward.prefill(batch, last, prompt_len - last)
    costs.add(final, 1.0)
    exposed = exposed + _exposed_s(forward, final)
    longest_s = final.total_s
    if forward.pp > 1 and (
        is_array(before_last) or before_last > 0
    ):  # the last full one has the longest context
        start = cached + maximum(before_last - 1, 0) * chunk
        full = forward.prefill(batch, chunk, start, with_head=False)
        longest_s = maximum(longest_s, full.total_s)
    return costs, before_last + 1, longest_s, exposed
