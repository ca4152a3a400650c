"""Facts that several families share: functions of a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface.family import FULL, SLIDING
from llm_perf.config.huggingface.reader import Config

BIASES: Mapping[str, Any] = {"qkv_bias": True, "output_bias": True}
FLAGGED: Mapping[str, Any] = {"qkv_bias": "attention_bias", "output_bias": "attention_bias"}
LAYERNORM: Mapping[str, Any] = {"norm": "layernorm"}


def both_heads(c: Config) -> int:
    """Norms over each head of the queries and of the keys."""
    return 2 * c.head_dim


def all_heads(c: Config) -> int:
    """Norms over all heads of the queries and of the keys together."""
    return (c.heads + c.kv_heads) * c.head_dim


def positions(c: Config) -> int:
    """Rows of a learned position table."""
    return c.context or 0


def late_sliding(c: Config) -> Callable[[int], str]:
    """Qwen 2: layers from ``max_window_layers`` on slide."""
    first = c.count("max_window_layers") or 0
    return lambda layer: SLIDING if layer >= first else FULL


def early_alternating(c: Config) -> Callable[[int], str]:
    """Qwen 2 mixtures: every other of the first layers slides."""
    first = c.count("max_window_layers") or 0
    return lambda layer: SLIDING if layer % 2 == 0 and layer < first else FULL


def sparse_steps(c: Config) -> Callable[[int], bool]:
    """Qwen: every ``decoder_sparse_step``-th layer is a mixture, but those listed as dense."""
    step, dense = c.size("decoder_sparse_step"), set(c.items("mlp_only_layers", int) or ())
    return lambda layer: layer not in dense and (layer + 1) % step == 0


def first_dense(c: Config) -> Callable[[int], bool]:
    """DeepSeek: the first layers are dense, and of the others every ``moe_layer_freq``-th has experts."""
    first, step = c.count("first_k_dense_replace") or 0, c.optional("moe_layer_freq") or 1
    return lambda layer: layer >= first and layer % step == 0


def shared(c: Config) -> int:
    """Width of DeepSeek's shared experts together."""
    return (c.count("n_shared_experts") or 0) * c.size("moe_intermediate_size")


def router_groups(c: Config) -> int | None:
    """Groups of experts of which a token takes some first (DeepSeek-V3); None where the config knows none."""
    return c.count("n_group") or None


def one_shared(c: Config) -> int:
    """Width of the shared expert."""
    return c.count("shared_expert_intermediate_size") or 0


def has_shared(c: Config) -> bool:
    """Whether there is a shared expert."""
    return one_shared(c) > 0
