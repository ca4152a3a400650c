"""Attention over the true context: pairs of query and key, score FLOPs, KV cache bytes."""

from __future__ import annotations

from llm_perf.config.model import Attention, LatentAttention, LayerGroup, ModelConfig, StateSpace
from llm_perf.counts.arrays import Number, minimum, where


def attended(attention: Attention | LatentAttention, context: Number) -> Number:
    """Keys that one query sees when ``context`` tokens, itself included, have come so far.

    A chunk (Llama 4) holds half its length on average once the context is longer; a window holds all of it.
    """
    if attention.window is not None:
        return minimum(context, attention.window)
    if attention.chunk is not None:
        return where(context <= attention.chunk, context, (attention.chunk + 1) / 2)
    return context


def prefill_pairs(attention: Attention | LatentAttention, tokens: Number, causal: bool = True) -> Number:
    """(query, key) pairs of a prompt of ``tokens``: t(t+1)/2 if causal, t^2 if not; bounded by window or chunk."""
    limit = attention.window or attention.chunk
    if not causal:
        return tokens * tokens
    full = tokens * (tokens + 1) / 2
    if limit is None:
        return full
    if attention.window is not None:
        head = minimum(tokens, limit)
        return head * (head + 1) / 2 + (tokens - head) * limit
    chunks, rest = tokens // limit, tokens % limit
    return chunks * (limit * (limit + 1) / 2) + rest * (rest + 1) / 2


def score_flops_per_pair(
    attention: Attention | LatentAttention, tp: int = 1, absorbed: bool = False
) -> float:
    """FLOPs of QK^T and of the weighted sum of V for one pair, over one rank's heads.

    ``absorbed``: latent attention at decode works on the latents directly (arXiv 2405.04434, section 2.1.2).
    """
    heads = attention.num_heads / tp
    if isinstance(attention, StateSpace):
        return heads * _state_flops(attention, step=absorbed)
    if isinstance(attention, LatentAttention):
        if absorbed:
            return 2 * heads * (2 * attention.kv_lora_rank + attention.qk_rope_head_dim)
        return 2 * heads * (attention.head_dim + attention.v_head_dim)
    return 2 * heads * 2 * attention.head_dim


SCAN_CHUNK = 256
"""Tokens that a scan over a prompt works on at once (Mamba-2's kernels, arXiv 2405.21060, section 6)."""


def _state_flops(layer: StateSpace, step: bool) -> float:
    """FLOPs of one head for one token: through the state itself, or in a scan of chunks.

    A step decays the state, adds the outer product of key and value, and reads it with the query: 5 per element; the
    delta rule reads it with the key first, 2 more. A scan has 4 per element, and attention inside its chunk, of which
    half is causal, twice with the delta rule's inverse.
    """
    state = layer.key_dim * layer.head_dim
    if step:
        return (7 if layer.delta_rule else 5) * state
    inside = SCAN_CHUNK * (layer.key_dim + layer.head_dim)
    return 4 * state + (2 if layer.delta_rule else 1) * inside


def keys_read(attention: Attention | LatentAttention, new_tokens: Number, cached: Number) -> Number:
    """Times that the cache of one token is moved in a pass: keys in reach, or the state once per chunk of a scan."""
    if isinstance(attention, StateSpace):
        return -(-new_tokens // SCAN_CHUNK)
    limit = attention.window or attention.chunk
    return new_tokens + (cached if limit is None else minimum(cached, limit))


def live_elements_per_token(attention: Attention | LatentAttention, tp: int = 1) -> float:
    """Elements of one token that attention keeps beside the hidden states, on one rank: queries, a copy, keys, values."""
    if isinstance(attention, StateSpace):
        return (attention.conv_channels + attention.num_heads * attention.head_dim) / tp
    return 2 * attention.num_heads * attention.head_dim / tp + kv_elements_per_token(attention, tp)


def kv_elements_per_token(attention: Attention | LatentAttention, tp: int = 1) -> float:
    """Cache elements of one token and layer on one rank. Heads are replicated once tp exceeds their number.

    A state-space layer keeps its state as that of a single token.
    """
    if isinstance(attention, StateSpace):
        return attention.state_elements / tp
    if isinstance(attention, LatentAttention):
        return attention.kv_lora_rank + attention.qk_rope_head_dim
    return 2 * attention.num_kv_heads / min(tp, attention.num_kv_heads) * attention.head_dim


def cached_tokens(group: LayerGroup, context: Number) -> Number:
    """Tokens that the cache of one layer keeps: all of them, or the latest window or chunk."""
    limit = group.attention.window or group.attention.chunk
    return context if limit is None else minimum(context, limit)


def kv_cache_elements(model: ModelConfig, context: Number, tp: int = 1) -> Number:
    """Cache elements of one sequence of ``context`` tokens, all layers, on one rank."""
    total: Number = 0.0
    for group in model.layer_groups:
        total = total + group.count * kv_elements_per_token(group.attention, tp) * cached_tokens(
            group, context
        )
    return total


def kv_cache_bytes(
    model: ModelConfig, batch: Number, context: Number, kv_bits: float = 16, tp: int = 1
) -> Number:
    """Cache bytes of ``batch`` sequences of ``context`` tokens on one rank."""
    return batch * kv_cache_elements(model, context, tp) * (kv_bits / 8)
