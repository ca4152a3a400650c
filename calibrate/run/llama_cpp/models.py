"""Shapes that are run where no model is named: small enough to make in seconds, larger than any cache."""

from __future__ import annotations

from typing import Any

from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.model import ModelConfig

AUTO = "sample-gqa"

_COMMON = {"vocab_size": 32000, "max_position_embeddings": 4096, "hidden_act": "silu"}
_CONFIGS: dict[str, dict[str, Any]] = {
    "sample-dense": {
        "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12,
        "num_attention_heads": 16, "num_key_value_heads": 16, "tie_word_embeddings": False,
    },
    "sample-gqa": {
        "model_type": "qwen3", "hidden_size": 1280, "intermediate_size": 3840, "num_hidden_layers": 9,
        "num_attention_heads": 20, "num_key_value_heads": 4, "head_dim": 64, "tie_word_embeddings": True,
    },
    "sample-moe": {
        "model_type": "qwen3_moe", "hidden_size": 1280, "intermediate_size": 2304, "num_hidden_layers": 8,
        "num_attention_heads": 20, "num_key_value_heads": 4, "head_dim": 64, "num_experts": 12,
        "num_experts_per_tok": 4, "moe_intermediate_size": 768, "tie_word_embeddings": True,
    },
}  # fmt: skip

SAMPLES = tuple(_CONFIGS)
"""A dense Llama, a Qwen3 with grouped queries and a tied head, a Qwen3-MoE: 209 to 358 million parameters, of which a token
reads at least 80 MB in any format."""


def sample(name: str) -> ModelConfig:
    """One of ``SAMPLES``."""
    return from_hf_config(_COMMON | _CONFIGS[name], name)
