"""How prompts are read: what is cached stays out, and the rest comes at once or in chunks."""

from __future__ import annotations

from llm_perf.config.workload import Workload
from llm_perf.counts.arrays import Number, is_array, maximum, minimum
from llm_perf.counts.quadrature import context_nodes
from llm_perf.systems.costs import Costs
from llm_perf.systems.forward import Forward


def cached_tokens(workload: Workload, prompt_len: Number) -> Number:
    """Tokens per prompt whose keys and values are there already; the last token is always computed."""
    if workload.prefix_hit_rate == 0:
        return 0.0
    return minimum(workload.prefix_hit_rate * prompt_len, prompt_len - 1)


def tokens_per_pass(workload: Workload, prompt_len: Number) -> Number:
    """Tokens of each prompt that one pass works on at most."""
    new = prompt_len - cached_tokens(workload, prompt_len)
    return new if workload.prefill_chunk is None else minimum(new, workload.prefill_chunk)


def prompt_passes(forward: Forward, batch: Number, prompt_len: Number) -> tuple[Costs, Number]:
    """Device seconds of reading ``batch`` prompts, and the number of passes that takes.

    Pass i of a chunked prefill works on a chunk, with i chunks and the cached prefix as its context; every pass reads
    the weights again (Sarathi, arXiv 2308.16369). Only the last one ends in logits. The full chunks are summed without
    visiting each, as decode steps are.
    """
    workload = forward.scenario.workload
    cached = cached_tokens(workload, prompt_len)
    if workload.prefill_chunk is None:
        return forward.prefill(batch, prompt_len - cached, cached), 1
    new = prompt_len - cached
    chunk = minimum(workload.prefill_chunk, new)
    before_last = maximum(-(-new // chunk) - 1, 0)
    costs = Costs()
    if is_array(before_last) or before_last > 0:
        kinks = [(window - cached) / chunk for window in forward.windows]
        for index, weight in context_nodes(0.0, before_last, kinks):
            start = cached + maximum(index, 0.0) * chunk
            costs.add(forward.prefill(batch, chunk, start, with_head=False), weight)
    last = new - before_last * chunk
    costs.add(forward.prefill(batch, last, prompt_len - last), 1.0)
    return costs, before_last + 1
