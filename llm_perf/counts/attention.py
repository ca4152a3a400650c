"""Attention over the true context: pairs of query and key, score FLOPs, KV cache bytes; the kind of a layer answers."""

from __future__ import annotations

from llm_perf.config.layers.recurrent import STATE_BITS
from llm_perf.config.model import LayerGroup, Mixer, ModelConfig
from llm_perf.counts.arrays import Number


def attended(attention: Mixer, context: Number) -> Number:
    """Keys that one query sees when ``context`` tokens, itself included, have come so far."""
    return attention.attended(context)


def prefill_pairs(attention: Mixer, tokens: Number, causal: bool = True) -> Number:
    """(query, key) pairs of a prompt of ``tokens``: t(t+1)/2 if causal, t^2 if not; bounded by window or chunk."""
    return attention.prefill_pairs(tokens, causal)


def score_flops_per_pair(attention: Mixer, tp: int = 1, absorbed: bool = False) -> float:
    """FLOPs of QK^T and of the weighted sum of V for one pair, over one rank's heads; ``absorbed`` at decode."""
    return attention.score_flops_per_pair(tp, absorbed)


def prefill_score_flops(
    attention: Mixer, sequences: Number, tokens: Number, causal: bool = True, tp: int = 1
) -> Number:
    """FLOPs of the scores and scans of ``sequences`` prompts of ``tokens`` in one layer, on one rank."""
    total: Number = 0.0
    for part in attention.parts:
        # A scan has no square: each token meets the one state.
        pairs = prefill_pairs(part, tokens, causal or part.recurrent)
        total = total + sequences * pairs * score_flops_per_pair(part, tp)
    return total


def decode_score_flops(attention: Mixer, sequences: Number, context: Number, tp: int = 1) -> Number:
    """FLOPs of the scores and of the states' steps of one token of each of ``sequences`` in one layer, on one rank."""
    total: Number = 0.0
    for part in attention.parts:
        total = total + sequences * attended(part, context) * score_flops_per_pair(part, tp, absorbed=True)
    return total


def keys_read(attention: Mixer, new_tokens: Number, cached: Number) -> Number:
    """Times that the cache of one token is moved in a pass: keys in reach, or the state once per chunk of a scan."""
    return attention.keys_read(new_tokens, cached)


def live_elements_per_token(attention: Mixer, tp: int = 1) -> float:
    """Elements of one token that attention keeps beside the hidden states, on one rank."""
    return attention.live_elements_per_token(tp)


def kv_elements_per_token(attention: Mixer, tp: int = 1) -> float:
    """Elements of one thing that a query attends to, on one rank: a token's keys and values, or a layer's state."""
    return attention.read_elements(tp)


def cached_tokens(group: LayerGroup, context: Number) -> Number:
    """Tokens that the cache of one layer keeps: all of them, or the latest window or chunk; one state."""
    return group.attention.cached_tokens(context)


def kv_cache_elements(model: ModelConfig, context: Number, tp: int = 1) -> Number:
    """Elements that one sequence of ``context`` tokens keeps, all layers, on one rank: cache and states."""
    total: Number = 0.0
    for group in model.layer_groups:
        total = total + group.count * group.attention.cache_elements(context, tp)
    return total


def cache_elements_per_token(model: ModelConfig, tp: int = 1) -> float:
    """Elements that each token adds to the cache of one rank, all layers, until windows are full; states left out."""
    return float(
        sum(group.count * group.attention.cache_elements_per_token(tp) for group in model.layer_groups)
    )


def state_elements(model: ModelConfig, tp: int = 1) -> float:
    """Elements of one sequence's recurrent states on one rank, all layers."""
    return float(
        sum(group.count * group.attention.state_elements_per_sequence(tp) for group in model.layer_groups)
    )


def state_bytes(model: ModelConfig, batch: Number, state_bits: float = 16, tp: int = 1) -> Number:
    """Bytes of the recurrent states of ``batch`` sequences on one rank, which do not grow with the context."""
    return batch * state_elements(model, tp) * (state_bits / 8)


def kv_cache_bytes(
    model: ModelConfig,
    batch: Number,
    context: Number,
    kv_bits: float = 16,
    tp: int = 1,
    state_bits: float = STATE_BITS,
) -> Number:
    """Bytes of cache and states of ``batch`` sequences of ``context`` tokens on one rank; a state has 16 bits at least."""
    states = state_elements(model, tp)
    cached = batch * (kv_cache_elements(model, context, tp) - states) * (kv_bits / 8)
    return cached + state_bytes(model, batch, max(kv_bits, state_bits), tp)
