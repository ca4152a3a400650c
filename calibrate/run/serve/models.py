"""Shapes that are served where no model is named: two to observe, and one of neither's size to predict."""

from __future__ import annotations

from typing import Any

from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.model import ModelConfig

_COMMON = {
    "model_type": "llama", "vocab_size": 8192, "max_position_embeddings": 4096, "hidden_act": "silu",
    "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
}  # fmt: skip
_CONFIGS: dict[str, dict[str, Any]] = {
    "served-31m": {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 64,
    },
    "served-110m": {
        "hidden_size": 896, "intermediate_size": 2432, "num_hidden_layers": 11, "num_attention_heads": 14,
        "num_key_value_heads": 2, "head_dim": 64,
    },
    "served-260m": {
        "hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 14, "num_attention_heads": 20,
        "num_key_value_heads": 4, "head_dim": 64,
    },
    "served-370m": {
        "hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 15, "num_attention_heads": 24,
        "num_key_value_heads": 4, "head_dim": 64,
    },
}  # fmt: skip

SAMPLES = tuple(_CONFIGS)
"""Llamas with grouped queries: layers, widths and shares of keys differ, so that no size is a multiple of another."""


def hf_config_dict(name: str) -> dict[str, Any]:
    """The ``config.json`` of one of ``SAMPLES``."""
    return _COMMON | _CONFIGS[name]


def sample(name: str) -> ModelConfig:
    """One of ``SAMPLES``."""
    return from_hf_config(hf_config_dict(name), name)
