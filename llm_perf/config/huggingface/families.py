"""The table of architectures: one row each, of parts that `family` knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llm_perf.config.huggingface import defaults
from llm_perf.config.huggingface.facts import (
    BIASES,
    FLAGGED,
    LAYERNORM,
    all_heads,
    both_heads,
    early_alternating,
    first_dense,
    has_shared,
    late_sliding,
    one_shared,
    positions,
    router_groups,
    shared,
    sparse_steps,
)
from llm_perf.config.huggingface.families_decoders import DECODERS
from llm_perf.config.huggingface.families_encoder_decoders import ENCODER_DECODERS
from llm_perf.config.huggingface.families_encoders import ENCODERS
from llm_perf.config.huggingface.families_gated import GATED
from llm_perf.config.huggingface.families_gemma import GEMMA
from llm_perf.config.huggingface.families_recurrent import RECURRENT
from llm_perf.config.huggingface.families_remote import REMOTE
from llm_perf.config.huggingface.families_streams import STREAMS
from llm_perf.config.huggingface.families_text_parts import TEXT_PARTS
from llm_perf.config.huggingface.family import (
    CHUNKED,
    FULL,
    SLIDING,
    Experts,
    Family,
    alternating,
    always,
    last_of,
)
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.latent_attention import LatentAttention

# -- facts of one family -----------------------------------------------------------------------------------


def _falcon_kv_heads(c: Config) -> int | None:
    if c.flag("new_decoder_architecture"):
        return None
    return 1 if c.flag("multi_query") else c.heads


def _falcon_norms(c: Config) -> int:
    """7B has one norm before both blocks, the new architecture two (arXiv 2311.16867)."""
    new = c.flag("new_decoder_architecture")
    return (c.optional("num_ln_in_parallel_attn") or (2 if new else 1)) if c.flag("parallel_attn") else 2


def _opt_embedding(c: Config) -> int | None:
    width = c.optional("word_embed_proj_dim")
    return width if width != c.hidden else None


def _llama4_experts(c: Config) -> Callable[[int], bool]:
    step, listed = c.size("interleave_moe_layer_step"), c.items("moe_layers", int)
    sparse = set(range(step - 1, c.layers, step) if listed is None else listed)
    return lambda layer: layer in sparse


def _llama4_attention(c: Config) -> Callable[[int], str]:
    """Chunked, but in the layers without RoPE."""
    interval = c.size("no_rope_layer_interval")
    rope = c.items("no_rope_layers", int) or [int((i + 1) % interval != 0) for i in range(c.layers)]
    if len(rope) != c.layers:
        raise c.fault("no_rope_layers", rope, f"{c.layers} entries, one per layer")
    return lambda layer: CHUNKED if rope[layer] else FULL


def _dbrx_experts(c: Config) -> MoEMLP:
    ffn = c.sub("ffn_config", moe_num_experts=4, moe_top_k=1)
    return MoEMLP(
        num_experts=ffn.size("moe_num_experts"),
        top_k=ffn.size("moe_top_k"),
        ffn_size=ffn.size("ffn_hidden_size"),
    )


def _mpt_kv_heads(c: Config) -> int:
    """MHA, or what ``attn_config`` says of grouped heads (MPT's own code, Replit's 1.5)."""
    if c.plain("attn_config") is None:
        return c.heads
    attention = c.sub("attn_config")
    grouped = attention.text("attn_type") == "grouped_query_attention"
    return (attention.optional("kv_n_heads") if grouped else None) or c.heads


_GPT2_ROW = Family(
    defaults=defaults.GPT2,
    facts=BIASES,
    gated=False,
    mlp_bias=True,
    model={**LAYERNORM, "learned_positions": positions},
)
_FALCON_FACTS: Mapping[str, Any] = {
    "facts": {"qkv_bias": "bias", "output_bias": "bias", "num_kv_heads": _falcon_kv_heads},
    "gated": False,
    "mlp_bias": "bias",
    "norms": _falcon_norms,
    "shapeless": (
        "ff_factor",
        "multi_query",
    ),  # the one is ffn_hidden_size in words, the other where heads are grouped
    "parallel": lambda c: c.flag("parallel_attn") or c.flag("new_decoder_architecture"),
    "model": LAYERNORM,
}
_DEEPSEEK_FACTS: Mapping[str, Any] = {"down_bias": "attention_bias", "output_bias": "attention_bias"}
_KIMI = Family(
    defaults=defaults.DEEPSEEK_V3,
    mixer=LatentAttention,
    facts=_DEEPSEEK_FACTS,
    experts=Experts(
        ffn=("moe_intermediate_size",),
        facts={"shared_ffn_size": shared, "router_bias": True, "router_groups": router_groups},
        layers=first_dense,
    ),
)
FAMILIES: dict[str, Family] = {
    # LayerNorm, plain feed-forward
    "opt": Family(  # arXiv 2205.01068. Two rows of the position table are for padding; OPT-350m is post-norm
        defaults={"enable_bias": True, "do_layer_norm_before": True, "max_position_embeddings": 2048},
        facts={"qkv_bias": "enable_bias", "output_bias": "enable_bias"},
        gated=False,
        mlp_bias="enable_bias",
        model={
            **LAYERNORM,
            "learned_positions": lambda c: positions(c) + 2,
            "embedding_size": _opt_embedding,
            "final_norm": lambda c: c.flag("do_layer_norm_before") and not c.flag("_remove_final_layer_norm"),
        },
    ),
    "gpt2": _GPT2_ROW,
    "gpt-sw3": _GPT2_ROW,
    "gpt_bigcode": replace(
        _GPT2_ROW,
        defaults={**defaults.GPT2, "multi_query": True},
        facts={**BIASES, "num_kv_heads": lambda c: 1 if c.flag("multi_query") else None},
    ),
    "gptj": Family(
        defaults={**defaults.UNTIED, "max_position_embeddings": 2048},
        gated=False,
        mlp_bias=True,
        norms=1,
        parallel=True,
        model={**LAYERNORM, "lm_head_bias": True},
    ),
    "gpt_neox": Family(  # arXiv 2204.06745: parallel residual, but a norm each
        defaults={
            **defaults.UNTIED,
            "use_parallel_residual": True,
            "attention_bias": True,
            "max_position_embeddings": 2048,
        },
        facts=FLAGGED,
        gated=False,
        mlp_bias=True,
        parallel="use_parallel_residual",
        model=LAYERNORM,
    ),
    "bloom": Family(
        facts=BIASES,
        gated=False,
        mlp_bias=True,
        ffn_size=lambda c: 4 * c.hidden,
        model={**LAYERNORM, "embedding_norm": True},
    ),
    "falcon": Family(defaults=defaults.FALCON, **_FALCON_FACTS),
    "RefinedWebModel": Family(
        defaults=defaults.FALCON, **_FALCON_FACTS
    ),  # Falcon-7B before transformers knew it
    "RefinedWeb": Family(
        defaults={**defaults.FALCON, "new_decoder_architecture": True}, **_FALCON_FACTS
    ),  # 40B, likewise
    "mpt": Family(  # as released: ALiBi, and no bias anywhere
        defaults={"max_seq_len": 2048},
        facts={"num_kv_heads": _mpt_kv_heads},
        gated=False,
        ffn_size=lambda c: (c.optional("expansion_ratio") or 4) * c.hidden,
        model={**LAYERNORM, "norm_bias": False},
    ),
    "starcoder2": Family(
        defaults={"use_bias": True, "max_position_embeddings": 4096, "num_key_value_heads": 2},
        facts={"qkv_bias": "use_bias", "output_bias": "use_bias"},
        pattern=always(SLIDING),
        gated=False,
        mlp_bias="use_bias",
        model=LAYERNORM,
    ),
    "phi": Family(  # Phi-1, 1.5 and 2: attention and feed-forward behind one norm, biases everywhere
        defaults={**defaults.UNTIED, "max_position_embeddings": 2048},
        facts={**BIASES, "qk_norm": lambda c: 4 * c.head_dim if c.flag("qk_layernorm") else 0},
        gated=False,
        mlp_bias=True,
        norms=1,
        parallel=True,
        model={**LAYERNORM, "lm_head_bias": True},
    ),
    # RMSNorm, gated feed-forward
    "llama": Family(
        defaults={**defaults.UNTIED, "max_position_embeddings": 2048}, facts=FLAGGED, mlp_bias="mlp_bias"
    ),
    "internlm2": Family(
        defaults={**defaults.UNTIED, "bias": True, "max_position_embeddings": 2048},
        facts={"qkv_bias": "bias", "output_bias": "bias"},
        mlp_bias="mlp_bias",
    ),
    "mistral": Family(  # arXiv 2310.06825: a sliding window in every layer, where there is one
        defaults={
            **defaults.UNTIED,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
            "max_position_embeddings": 131_072,
        },
        pattern=always(SLIDING),
    ),
    "phi3": Family(defaults={**defaults.UNTIED, "max_position_embeddings": 4096}, pattern=always(SLIDING)),
    "qwen2": Family(
        defaults={**defaults.QWEN, "num_key_value_heads": 32}, facts={"qkv_bias": True}, pattern=late_sliding
    ),
    "qwen3": Family(
        defaults={**defaults.QWEN, "head_dim": 128, "num_key_value_heads": 32},
        facts={**FLAGGED, "qk_norm": both_heads},
        pattern=late_sliding,
    ),
    "gemma": Family(
        defaults={"head_dim": 256, "num_key_value_heads": 16, "max_position_embeddings": 8192},
        facts=FLAGGED,
        shapeless=("use_bidirectional_attention",),
    ),
    "gemma2": Family(  # arXiv 2408.00118: norms before and after both blocks, every other layer local
        defaults={
            "head_dim": 256,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "max_position_embeddings": 8192,
        },
        facts=FLAGGED,
        pattern=alternating(SLIDING, FULL),
        norms=4,
    ),
    "gemma3_text": Family(  # arXiv 2503.19786: five local layers to a global one, norms on queries and keys
        defaults=defaults.GEMMA3_TEXT,
        facts={**FLAGGED, "qk_norm": both_heads},
        pattern=last_of("sliding_window_pattern", FULL, SLIDING),
        norms=4,
    ),
    "olmo": Family(  # arXiv 2402.00838: its norms have no weights
        defaults={**defaults.UNTIED, "max_position_embeddings": 2048},
        facts=FLAGGED,
        norms=0,
        model={**LAYERNORM, "final_norm": False},
    ),
    "olmo2": Family(  # arXiv 2501.00656: queries and keys are normalised over all heads
        defaults={**defaults.UNTIED, "max_position_embeddings": 2048},
        facts={**FLAGGED, "qk_norm": all_heads},
    ),
    # mixtures of experts
    "mixtral": Family(
        defaults={
            **defaults.UNTIED,
            "num_key_value_heads": 8,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 131_072,
        },
        pattern=always(SLIDING),
        experts=Experts(),
    ),
    "phimoe": Family(
        defaults={
            **defaults.UNTIED,
            "num_key_value_heads": 8,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 131_072,
        },
        facts=FLAGGED,
        pattern=always(SLIDING),
        experts=Experts(),
        model={**LAYERNORM, "lm_head_bias": lambda c: c.flag("lm_head_bias")},
    ),
    "qwen2_moe": Family(
        defaults={
            **defaults.QWEN_MOE,
            "num_key_value_heads": 16,
            "qkv_bias": True,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
        facts={"qkv_bias": "qkv_bias"},
        pattern=early_alternating,
        experts=Experts(
            ffn=("moe_intermediate_size",),
            facts={"shared_ffn_size": one_shared, "shared_gate": has_shared},
            layers=sparse_steps,
        ),
    ),
    "qwen3_moe": Family(
        defaults={
            **defaults.QWEN_MOE,
            "num_key_value_heads": 4,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
        facts={**FLAGGED, "qk_norm": both_heads},
        shapeless=("use_qk_norm",),  # it says what the class does
        pattern=always(SLIDING),
        experts=Experts(ffn=("moe_intermediate_size",), layers=sparse_steps),
    ),
    "gpt_oss": Family(  # arXiv 2508.10925: attention sinks, biases in experts and router, every other layer local
        defaults={
            **defaults.UNTIED,
            "attention_bias": True,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "sliding_window": 128,
            "max_position_embeddings": 131_072,
        },
        facts={**FLAGGED, "sinks": True},
        pattern=alternating(SLIDING, FULL),
        experts=Experts(facts={"bias": True, "router_bias": True}),
    ),
    "deepseek_v2": Family(  # arXiv 2405.04434: first layers dense, shared experts beside
        defaults={
            **defaults.LATENT,
            "v_head_dim": 128,
            "n_shared_experts": 2,
            "n_routed_experts": 64,
            "max_position_embeddings": 2048,
        },
        mixer=LatentAttention,
        facts=_DEEPSEEK_FACTS,
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": shared}, layers=first_dense
        ),
    ),
    "deepseek_v3": _KIMI,  # arXiv 2412.19437 balances its experts by a bias in the router
    "kimi_k2": _KIMI,
    "llama4_text": Family(  # chunked attention but in the layers without RoPE, one shared expert
        defaults=defaults.LLAMA4_TEXT,
        facts=FLAGGED,
        pattern=_llama4_attention,
        shapeless=("use_qk_norm",),  # it has no weights
        experts=Experts(
            ffn=("intermediate_size",),
            facts={"shared_ffn_size": lambda c: c.size("intermediate_size")},
            layers=_llama4_experts,
            dense=("intermediate_size_mlp",),
        ),
    ),
    "dbrx": Family(  # its norms have no bias
        defaults={**defaults.UNTIED, "max_seq_len": 2048},
        facts={"num_kv_heads": lambda c: c.sub("attn_config", kv_n_heads=1).size("kv_n_heads")},
        experts=_dbrx_experts,
        model={**LAYERNORM, "norm_bias": False},
    ),
    **DECODERS,
    **ENCODERS,
    **ENCODER_DECODERS,
    **GATED,
    **GEMMA,
    **RECURRENT,
    **REMOTE,
    **STREAMS,
    **TEXT_PARTS,
}
"""By model_type. A row may be added from anywhere."""
