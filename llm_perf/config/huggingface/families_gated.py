"""The table of architectures, continued: gated feed-forward blocks of the last years, dense and mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface import defaults
from llm_perf.config.huggingface.facts import (
    FLAGGED,
    all_heads,
    both_heads,
    first_dense,
    late_sliding,
    router_groups,
    shared,
    sparse_steps,
)
from llm_perf.config.huggingface.family import FULL, SLIDING, Experts, Family, always, last_of
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.latent_attention import LatentAttention

_UNTIED = defaults.UNTIED
_QKV_FLAGGED: Mapping[str, Any] = {"qkv_bias": "attention_bias"}
_ROUTED: Mapping[str, Any] = {
    "ffn": ("moe_intermediate_size",),
    "facts": {"shared_ffn_size": shared, "router_bias": True, "router_groups": router_groups},
    "layers": first_dense,
}
"""DeepSeek-V3's mixture: a bias per expert in the router, shared experts, first layers dense."""


def _whole_heads(c: Config) -> int:
    """Elements of a head where all of them together are the hidden size, as the output's projection takes for granted."""
    if c.heads * c.head_dim != c.hidden:
        raise c.fault("head_dim", c.head_dim, f"{c.hidden} / {c.heads}: the hidden size over the heads")
    return c.head_dim


def rounded_head(c: Config) -> int:
    """Elements of a head where the hidden size need not be a multiple of the heads."""
    return c.optional("head_dim") or c.hidden // c.heads


def _norm_if_asked(c: Config) -> int:
    return 2 * rounded_head(c) if c.flag("use_qk_norm") else 0


def _cohere_norm(c: Config) -> int:
    """A norm with a weight per head and element."""
    return all_heads(c) if c.flag("use_qk_norm") else 0


def _listed_dense(c: Config) -> Any:
    """``mlp_layer_types`` names each layer's block."""
    types = c.items("mlp_layer_types", str)
    if types is None or len(types) != c.layers or set(types) - {"dense", "sparse"}:
        raise c.fault("mlp_layer_types", types, f"{c.layers} entries, each dense or sparse")
    return lambda layer: types[layer] == "sparse"


def _letters(c: Config) -> Callable[[int], str]:
    """EXAONE 4's files write a period in letters: L for a layer with a window, G for one without."""
    written = c.plain("sliding_window_pattern")
    if not isinstance(written, str):
        return last_of("sliding_window_pattern", FULL, SLIDING)(c)
    if not written or set(written) - {"L", "G"}:
        raise c.fault("sliding_window_pattern", written, "a number, or letters L and G")
    return lambda layer: FULL if written[layer % len(written)] == "G" else SLIDING


GATED: Mapping[str, Family] = {
    "smollm3": Family(
        defaults={"num_key_value_heads": 4, "max_position_embeddings": 32768},
        facts=FLAGGED,
        pattern=late_sliding,
        mlp_bias="mlp_bias",
    ),
    "arcee": Family(
        defaults={**_UNTIED, "max_position_embeddings": 4096, "intermediate_size": 18432},
        facts=FLAGGED,
        gated=False,
        mlp_bias="mlp_bias",
    ),
    "granite": Family(
        defaults={**_UNTIED, "max_position_embeddings": 2048}, facts=FLAGGED, mlp_bias="mlp_bias"
    ),
    "granitemoe": Family(
        defaults={
            **_UNTIED,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 2048,
        },
        facts=FLAGGED,
        experts=Experts(),
    ),
    "cohere": Family(
        defaults={"max_position_embeddings": 8192},
        facts={**FLAGGED, "qk_norm": _cohere_norm},
        norms=1,
        parallel=True,
        model={"norm": "layernorm", "norm_bias": False},
    ),
    "cohere2": Family(
        defaults={"sliding_window": 4096, "sliding_window_pattern": 4, "max_position_embeddings": 8192},
        facts=FLAGGED,
        norms=1,
        parallel=True,
        pattern=last_of("sliding_window_pattern", FULL, SLIDING),
        model={"norm": "layernorm", "norm_bias": False},
    ),
    "stablelm": Family(
        defaults={**_UNTIED, "max_position_embeddings": 4096, "num_key_value_heads": 32},
        facts={"qkv_bias": "use_qkv_bias"},
        norms=lambda c: 1 if c.flag("use_parallel_residual") else 2,
        parallel="use_parallel_residual",
        model={"norm": "layernorm"},
    ),
    "glm": Family(
        defaults={
            **_UNTIED,
            "attention_bias": True,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131_072,
        },
        facts=_QKV_FLAGGED,
    ),
    "glm4": Family(
        defaults={
            **_UNTIED,
            "attention_bias": True,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131_072,
        },
        facts=_QKV_FLAGGED,
        norms=4,
    ),
    "glm4_moe": Family(
        defaults={
            **_UNTIED,
            "n_group": 1,
            "num_key_value_heads": 8,
            "first_k_dense_replace": 1,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 1408,
            "max_position_embeddings": 131_072,
        },
        facts={**_QKV_FLAGGED, "qk_norm": _norm_if_asked, "head_dim": rounded_head},
        experts=Experts(**_ROUTED),
    ),
    "glm4_moe_lite": Family(
        defaults={
            **defaults.LATENT,
            "n_group": 1,
            "n_shared_experts": 1,
            "max_position_embeddings": 202_752,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 192,
        },
        mixer=LatentAttention,
        facts={"down_bias": "attention_bias", "output_bias": "attention_bias"},
        experts=Experts(
            ffn=("moe_intermediate_size",),
            facts={"shared_ffn_size": shared, "router_bias": True, "router_groups": router_groups},
            layers=_listed_dense,
        ),
    ),
    "dots1": Family(
        defaults={**_UNTIED, "first_k_dense_replace": 0},
        facts={**FLAGGED, "qk_norm": both_heads},
        pattern=late_sliding,
        experts=Experts(**_ROUTED),
    ),
    "ernie4_5": Family(
        defaults={"num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131_072},
        facts={"qkv_bias": "use_bias", "output_bias": "use_bias"},
        mlp_bias="use_bias",
    ),
    "exaone4": Family(
        defaults={
            **_UNTIED,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "max_position_embeddings": 2048,
            "num_key_value_heads": 32,
        },
        facts={"qk_norm": both_heads},
        pattern=_letters,
    ),
    "helium": Family(
        defaults={**_UNTIED, "head_dim": 128, "max_position_embeddings": 4096, "num_key_value_heads": 20},
        facts={**_QKV_FLAGGED, "head_dim": _whole_heads},
        mlp_bias="mlp_bias",
    ),
    "hunyuan_v1_dense": Family(
        defaults={**_UNTIED, "max_position_embeddings": 2048},
        facts={**FLAGGED, "qk_norm": both_heads},
        mlp_bias="mlp_bias",
    ),
    "olmo3": Family(
        defaults={
            **_UNTIED,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "max_position_embeddings": 2048,
        },
        facts={**FLAGGED, "qk_norm": all_heads},
        pattern=last_of("sliding_window_pattern", FULL, SLIDING),
    ),
    "olmoe": Family(
        defaults={**_UNTIED, "num_experts": 64, "num_experts_per_tok": 8, "max_position_embeddings": 4096},
        facts={**FLAGGED, "qk_norm": all_heads},
        experts=Experts(),
    ),
    "flex_olmo": Family(
        defaults={**_UNTIED, "num_experts": 7, "num_experts_per_tok": 5, "max_position_embeddings": 4096},
        facts={**FLAGGED, "qk_norm": all_heads},
        experts=Experts(),
    ),
    "seed_oss": Family(
        defaults={
            **_UNTIED,
            "attention_bias": True,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 524_288,
        },
        facts={"qkv_bias": "attention_bias", "output_bias": "attention_out_bias"},
        mlp_bias="mlp_bias",
    ),
    "nemotron": Family(
        defaults={**_UNTIED, "max_position_embeddings": 4096},
        facts=FLAGGED,
        gated=False,
        mlp_bias="mlp_bias",
        model={"norm": "layernorm"},
    ),
    "ministral": Family(
        defaults={
            **_UNTIED,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
            "max_position_embeddings": 131_072,
        },
        pattern=always(SLIDING),
    ),
    "ministral3": Family(
        defaults={**_UNTIED, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144}
    ),
    "minimax_m2": Family(
        defaults={**_UNTIED, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196_608},
        facts={"qk_norm": all_heads},
        shapeless=("use_qk_norm", "use_routing_bias", "qk_norm_type"),  # they say what the class does
        experts=Experts(facts={"router_bias": True}),
    ),
    "youtu": Family(
        defaults={
            **defaults.LATENT,
            "tie_word_embeddings": True,
            "v_head_dim": 128,
            "max_position_embeddings": 131_072,
        },
        mixer=LatentAttention,
        facts={"down_bias": "attention_bias", "output_bias": "attention_bias"},
    ),
    "qwen2_vl_text": Family(
        defaults={**defaults.QWEN, "num_key_value_heads": 8}, facts={"qkv_bias": True}, pattern=late_sliding
    ),
    "qwen2_5_vl_text": Family(
        defaults={**defaults.QWEN, "num_key_value_heads": 8}, facts={"qkv_bias": True}, pattern=late_sliding
    ),
    "qwen3_vl_text": Family(
        defaults={**_UNTIED, "head_dim": 128, "num_key_value_heads": 32, "max_position_embeddings": 128_000},
        facts={**FLAGGED, "qk_norm": both_heads},
    ),
    "qwen3_vl_moe_text": Family(
        defaults={
            **defaults.QWEN_MOE,
            "num_key_value_heads": 16,
            "max_position_embeddings": 128_000,
            "tie_word_embeddings": True,
        },
        facts={**FLAGGED, "qk_norm": both_heads},
        experts=Experts(ffn=("moe_intermediate_size",), layers=sparse_steps),
    ),
    "nanochat": Family(
        defaults={**_UNTIED, "max_position_embeddings": 2048, "intermediate_size": 8192},
        facts=FLAGGED,
        gated=False,
        norms=0,
        model={"final_norm": False},
    ),
}
