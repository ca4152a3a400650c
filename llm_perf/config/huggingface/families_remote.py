"""The table of architectures, continued: models whose code lies beside their weights, from that code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llm_perf.config.huggingface.defaults import LATENT, UNTIED
from llm_perf.config.huggingface.derived import Derived
from llm_perf.config.huggingface.facts import BIASES, LAYERNORM, first_dense, router_groups, shared
from llm_perf.config.huggingface.family import Experts, Family
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP
from llm_perf.config.layers.latent_attention import LatentAttention

_LLAMA = Family(defaults=UNTIED)


def _chatglm_heads(c: Config) -> int | None:
    return c.size("multi_query_group_num") if c.flag("multi_query_attention") else None


def _chatglm_norm(c: Config) -> str:
    return "rmsnorm" if c.flag("rmsnorm", otherwise=True) else "layernorm"


def _half(c: Config) -> int:
    """Qwen's first config gives the width of both gated halves together."""
    return c.size("intermediate_size") // 2


def _bailing_shared(c: Config) -> int:
    return (c.count("num_shared_experts") or 0) * c.size("moe_intermediate_size")


def _bailing_layers(c: Config) -> Callable[[int], bool]:
    first = c.count("first_k_dense_replace") or 0
    return lambda layer: layer >= first


def _longcat_layers(c: Config) -> dict[str, Any]:
    """A layer is two halves with an attention each: transformers counts halves, the makers' files layers."""
    halves = 2 * c.size("num_layers") if c.plain("num_layers") is not None else c.layers
    if halves % 2:
        raise c.fault("num_hidden_layers", halves, "an even number: two for each layer")
    return {"num_hidden_layers": halves}


def _longcat_blocks(c: Config) -> list[FeedForward]:
    """Each half has a dense block. A mixture reads what the first of them reads, and is added behind the second."""
    dense = c.size("ffn_hidden_size")
    mixture = MoEMLP(
        num_experts=c.experts,
        top_k=c.size("moe_topk"),
        ffn_size=c.size("expert_ffn_hidden_size"),
        shared_ffn_size=dense,
        router_bias=True,
        zero_experts=c.count("zero_expert_num") or 0,
    )
    blocks: list[FeedForward] = [mixture, DenseMLP(ffn_size=dense, gated=True)]
    return blocks * (c.layers // 2)


_LONGCAT = Derived(  # arXiv 2509.01322
    defaults={
        **LATENT,
        "vocab_size": 131_072,
        "hidden_size": 6144,
        "num_attention_heads": 64,
        "v_head_dim": 128,
        "ffn_hidden_size": 12_288,
        "expert_ffn_hidden_size": 2048,
        "n_routed_experts": 512,
        "moe_topk": 12,
        "zero_expert_num": 256,
        "max_position_embeddings": 131_072,
    },
    derive=_longcat_layers,
    mixer=LatentAttention,
    facts={"down_bias": "attention_bias", "output_bias": "attention_bias"},
    mlps=_longcat_blocks,
    shapeless=(
        "zero_expert_type",
        "attention_method",
        "mla_scale_q_lora",
        "mla_scale_kv_lora",
        "num_hidden_layers",
    ),
)


def _longcat_tables(c: Config) -> int:
    """Tables of the n-grams of up to so many tokens, several of each, which together are as wide as the hidden states."""
    tables = (c.size("emb_neighbor_num") - 1) * c.size("emb_split_num")
    if c.hidden % tables:
        raise c.fault(
            "emb_split_num", c.size("emb_split_num"), f"{tables} tables to divide the width {c.hidden}"
        )
    return c.size("ngram_vocab_size_ratio") * c.size("vocab_size") * c.hidden


def _longcat_joined(c: Config) -> int:
    """The matrices that take a row of each table to the hidden size."""
    return c.hidden * c.hidden


def _bailing_v2_shared(c: Config) -> int:
    width = c.optional("moe_shared_expert_intermediate_size") or c.size("moe_intermediate_size")
    return (c.count("num_shared_experts") or 0) * width


def _step_3_experts(c: Config) -> Callable[[int], bool]:
    """Layers with experts, as a list or as text; all but the first where nothing names them."""
    named = c.plain("moe_layers_enum")
    if named is None:
        return lambda layer: layer >= 1
    entries = named.split(",") if isinstance(named, str) else named
    if not isinstance(entries, (list, tuple)) or not all(str(entry).strip().isdigit() for entry in entries):
        raise c.fault("moe_layers_enum", named, "layers' numbers with commas between them")
    sparse = {int(entry) for entry in entries}
    return lambda layer: layer in sparse


_STEP_3 = Family(  # arXiv 2507.19427: one key and value for all heads, queries through a narrow product
    defaults={
        **UNTIED,
        "hidden_size": 7168,
        "intermediate_size": 18_432,
        "num_attention_heads": 64,
        "num_attention_groups": 1,
        "num_hidden_layers": 61,
        "vocab_size": 128_815,
        "moe_intermediate_size": 5120,
        "moe_num_experts": 48,
        "moe_top_k": 3,
        "max_position_embedding": 65_536,
        "share_expert_dim": 5120,
        "share_q_dim": 2048,
        "head_dim": 256,
        "moe_layers_enum": ",".join(str(layer) for layer in range(4, 60)),
    },
    names={
        "max_position_embeddings": "max_position_embedding",
        "num_experts": "moe_num_experts",
        "num_experts_per_tok": "moe_top_k",
        "num_key_value_heads": "num_attention_groups",
    },
    facts={"query_rank": lambda c: c.size("share_q_dim")},
    experts=Experts(
        ffn=("moe_intermediate_size",),
        facts={"shared_ffn_size": lambda c: c.count("share_expert_dim") or 0},
        layers=_step_3_experts,
    ),
    shapeless=("max_seq_len", "norm_expert_weight"),
)


def _grok_mixture(c: Config) -> Experts:
    """Beside its mixture, Grok-2 has a dense block that reads the same."""
    if not c.flag("residual_moe"):
        return Experts(ffn=("intermediate_size",))
    return Experts(
        ffn=("moe_intermediate_size",), facts={"shared_ffn_size": lambda c: c.size("intermediate_size")}
    )


_GROK = Family(
    defaults={**UNTIED, "max_position_embeddings": 8192, "num_local_experts": 8, "num_experts_per_tok": 2},
    norms=4,
    experts=_grok_mixture,
    shapeless=(
        "attn_factor",
        "attn_logit_softcapping",
        "attn_output_multiplier",
        "attn_temperature_len",
        "beta_fast",
        "beta_slow",
        "extrapolation_factor",
        "global_attn_every_n",
        "max_attn_value",
        "max_attn_val",
        "scaling_factor",
    ),
)


REMOTE: Mapping[str, Family] = {
    "aquila": _LLAMA,
    "baichuan": _LLAMA,
    "xverse": _LLAMA,
    "exaone": _LLAMA,
    "grok-1": _GROK,
    "longcat_flash": _LONGCAT,
    "longcat_flash_ngram": replace(
        _LONGCAT, model={"ngram_params": _longcat_tables, "other_params": _longcat_joined}
    ),
    "bailing_moe_v2": Family(  # arXiv 2510.22115: DeepSeek-V3's routing, norms on queries and keys
        defaults={**UNTIED, "max_position_embeddings": 32_768, "num_shared_experts": 1, "use_qk_norm": True},
        facts={
            "qkv_bias": "use_qkv_bias",
            "output_bias": "use_bias",
            "qk_norm": lambda c: 2 * c.head_dim if c.flag("use_qk_norm") else 0,
        },
        experts=Experts(
            ffn=("moe_intermediate_size",),
            facts={
                "shared_ffn_size": _bailing_v2_shared,
                "router_bias": True,
                "router_groups": router_groups,
            },
            layers=_bailing_layers,
        ),
        shapeless=("moe_shared_expert_intermediate_size", "embedding_dropout", "use_rmsnorm"),
    ),
    "minicpm": Family(defaults={"tie_word_embeddings": True}),
    "internlm": Family(defaults={**UNTIED, "bias": True}, facts={"qkv_bias": "bias", "output_bias": "bias"}),
    "orion": Family(defaults=UNTIED, model=LAYERNORM),
    "qwen": Family(
        defaults=UNTIED,
        facts={"qkv_bias": True},
        names={"head_dim": "kv_channels"},
        ffn_size=_half,
        shapeless=("no_bias",),
    ),
    "chatglm": Family(
        defaults={**UNTIED, "add_qkv_bias": True},
        facts={
            "qkv_bias": "add_qkv_bias",
            "output_bias": "add_bias_linear",
            "num_kv_heads": _chatglm_heads,
        },
        mlp_bias="add_bias_linear",
        names={
            "head_dim": "kv_channels",
            "vocab_size": "padded_vocab_size",
            "intermediate_size": "ffn_hidden_size",
        },
        shapeless=("post_layer_norm",),
        model={"norm": _chatglm_norm, "norm_bias": lambda c: _chatglm_norm(c) == "layernorm"},
    ),
    "phi3small": Family(
        defaults={},
        facts=BIASES,
        mlp_bias=True,
        names={"intermediate_size": "ff_intermediate_size"},
        shapeless=("gegelu_limit", "dense_attention_every_n_layers", "blocksparse_block_size"),
        model=LAYERNORM,
    ),
    "step3_text": _STEP_3,
    "stablelm_epoch": Family(defaults=UNTIED, facts={"qkv_bias": "use_qkv_bias"}, model=LAYERNORM),
    "deepseek": Family(  # DeepSeekMoE (arXiv 2401.06066)
        defaults={**UNTIED, "first_k_dense_replace": 0},
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": shared}, layers=first_dense
        ),
    ),
    "bailing_moe": Family(
        defaults=UNTIED,
        facts={"qkv_bias": "use_qkv_bias", "output_bias": "use_bias"},
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": _bailing_shared}, layers=_bailing_layers
        ),
    ),
}
