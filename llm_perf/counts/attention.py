"""Attention over the true context: pairs of query and key, score FLOPs, KV cache bytes."""

from __future__ import annotations

from llm_perf.config.model import Attention, LatentAttention, LayerGroup, ModelConfig
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
    if isinstance(attention, LatentAttention):
        if absorbed:
            return 2 * heads * (2 * attention.kv_lora_rank + attention.qk_rope_head_dim)
        return 2 * heads * (attention.head_dim + attention.v_head_dim)
    return 2 * heads * 2 * attention.head_dim


def kv_elements_per_token(attention: Attention | LatentAttention, tp: int = 1) -> float:
    """Cache elements of one token and layer on one rank. Heads are replicated once tp exceeds their number."""
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
