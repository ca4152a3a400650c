"""The table of architectures, continued: several streams of hidden states, and attention to selected or compressed tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface.derived import Derived, listed_types
from llm_perf.config.huggingface.facts import both_heads, one_shared, shared
from llm_perf.config.huggingface.families_decoders import after, listed
from llm_perf.config.huggingface.families_indexed import REUSES_INDEX, REUSING, indexer_modes, of_selected
from llm_perf.config.huggingface.family import FULL, LINEAR, SLIDING, Experts, Family
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.combined import Combined
from llm_perf.config.layers.compressed_attention import CompressedEntries, SharedKeyAttention
from llm_perf.config.layers.indexer import Indexer
from llm_perf.config.layers.kimi_delta import KimiDelta
from llm_perf.config.layers.latent_attention import LatentAttention
from llm_perf.config.layers.state_space import StateSpace
from llm_perf.config.layers.streams import Streams

_SPARSE, _HEAVY = "compressed_sparse_attention", "heavily_compressed_attention"
_RATES: Mapping[str, int] = {_SPARSE: 4, _HEAVY: 128}
"""Tokens of an entry, by what transformers calls a layer."""


def _hyper_connections(c: Config) -> Streams:
    return Streams(count=c.size("hc_mult"))


def _last_streams(streams: Callable[[Config], Streams]) -> Callable[[Config], int]:
    """Elements of what joins the streams after the last layer."""
    return lambda c: streams(c).last_params(c.hidden)


# -- DeepSeek-V4 -------------------------------------------------------------------------------------------------------


def _deepseek_layers(c: Config) -> dict[str, Any]:
    """Layers by name, else by how many tokens an entry stands for, else as the class has it: two heavy ones, then in turn."""
    types, ratios = c.items("layer_types", str), c.items("compress_ratios", int)
    if types is None and ratios is not None:
        names = {0: SLIDING} | {rate: name for name, rate in _RATES.items()}
        if set(ratios) - names.keys():
            raise c.fault("compress_ratios", ratios, f"a list of {', '.join(map(str, names))}")
        types = [names[ratio] for ratio in ratios[: c.layers]]  # the list goes on to the prediction layers
    if types is None:
        types = [_SPARSE if layer > 2 and layer % 2 else _HEAVY for layer in range(c.layers)]
    return {"layer_types": types}


def _rate(c: Config, name: str) -> int:
    if c.plain("compress_rates") is None:
        return _RATES[name]
    return c.sub("compress_rates", **_RATES).size(name)


def _compressed(c: Config, name: str) -> CompressedEntries:
    sparse = name == _SPARSE
    return CompressedEntries(
        num_heads=c.heads,
        head_dim=c.head_dim,
        ratio=_rate(c, name),
        overlapping=sparse,
        selected=c.size("index_topk") if sparse else None,
    )


def _sparse_parts(c: Config) -> tuple[SharedKeyAttention, CompressedEntries, Indexer]:
    indexer = Indexer.from_config(c, pool=_rate(c, _SPARSE), keys_of="overlapping")
    return SharedKeyAttention.from_config(c), _compressed(c, _SPARSE), indexer


def _heavy_parts(c: Config) -> tuple[SharedKeyAttention, CompressedEntries]:
    return SharedKeyAttention.from_config(c), _compressed(c, _HEAVY)


_DEEPSEEK_V4 = Derived(  # its report, sections 2.1 to 2.3; the first layers pick experts by token, which changes no count
    defaults={
        "tie_word_embeddings": False,
        "vocab_size": 129_280,
        "hidden_size": 4096,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 43,
        "num_attention_heads": 64,
        "head_dim": 512,
        "q_lora_rank": 1024,
        "num_experts_per_tok": 6,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "max_position_embeddings": 1_048_576,
        "hc_mult": 4,
        "sliding_window": 128,
        "o_groups": 8,
        "o_lora_rank": 1024,
        "index_n_heads": 64,
        "index_head_dim": 128,
        "index_topk": 512,
    },
    derive=_deepseek_layers,
    mixers={
        SLIDING: (SharedKeyAttention, {}),
        _SPARSE: (Combined, {"mixers": _sparse_parts}),
        _HEAVY: (Combined, {"mixers": _heavy_parts}),
    },
    experts=Experts(ffn=("moe_intermediate_size",), facts={"shared_ffn_size": shared, "router_bias": True}),
    streams=_hyper_connections,
    model={"other_params": _last_streams(_hyper_connections)},
    shapeless=(
        "compress_rope_theta",
        "compress_ratios",
        "expert_dtype",
        "hc_sinkhorn_iters",
        "mlp_layer_types",
        "num_hash_layers",
        "num_key_value_heads",
        "qk_rope_head_dim",
        "moe_layers",
    ),
)


# -- GLM-5.3-Flash -----------------------------------------------------------------------------------------------------


_WITHOUT_POSITIONS = {"qk_rope_head_dim": 0}


def _glm_layers(c: Config) -> dict[str, Any]:
    """Delta rules but in every fourth layer, which attends; of those, some take what an earlier one selected."""
    types = listed_types(c, "layer_types") or [FULL if i % 4 == 3 else LINEAR for i in range(c.layers)]
    if len(types) != c.layers:
        raise c.fault("layer_types", types, f"{c.layers} entries")
    found: dict[str, Any] = {
        "layer_types": [
            LINEAR if kind == LINEAR else FULL if mode == "full" else REUSES_INDEX
            for kind, mode in zip(types, indexer_modes(c), strict=True)
        ]
    }
    if c.plain("linear_attn_config") is not None:
        linear = c.sub("linear_attn_config")
        given = {
            "linear_num_heads": linear.optional("num_heads"),
            "linear_head_dim": linear.optional("head_dim"),
            "linear_conv_kernel_dim": linear.optional("short_conv_kernel_size"),
        }
        found |= {name: value for name, value in given.items() if value is not None}
    return found


def _glm_parts(c: Config) -> tuple[LatentAttention, Indexer]:
    pool = c.size("index_kpool")
    indexer = Indexer.from_config(c, pool=pool, keys_of="gated" if pool > 1 else "tokens")
    return of_selected(c, **_WITHOUT_POSITIONS), indexer


_GLM_5_NEXT = Derived(
    defaults={
        "tie_word_embeddings": False,
        "vocab_size": 154_880,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 45,
        "num_attention_heads": 64,
        "n_shared_experts": 1,
        "n_routed_experts": 288,
        "num_experts_per_tok": 8,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 256,
        "v_head_dim": 256,
        "max_position_embeddings": 1_048_576,
        "index_topk": 2048,
        "index_head_dim": 128,
        "index_n_heads": 32,
        "index_kpool": 16,
        "linear_head_dim": 128,
        "linear_num_heads": 64,
        "linear_conv_kernel_dim": 4,
        "hc_mult": 4,
    },
    derive=_glm_layers,
    mixers={
        FULL: (Combined, {"mixers": _glm_parts}),
        REUSES_INDEX: (LatentAttention, {**REUSING, **_WITHOUT_POSITIONS}),
        LINEAR: (
            KimiDelta,
            {
                "num_heads": lambda c: c.size("linear_num_heads"),
                "head_dim": lambda c: c.size("linear_head_dim"),
                "conv_width": lambda c: c.size("linear_conv_kernel_dim"),
                "gate_rank": lambda c: c.size("linear_head_dim"),
            },
        ),
    },
    experts=Experts(
        ffn=("moe_intermediate_size",),
        facts={"shared_ffn_size": shared, "router_bias": True},
        layers=listed(after(3)),
    ),
    streams=_hyper_connections,
    shapeless=(
        "first_k_dense_replace",
        "hc_sinkhorn_iters",
        "head_dim",
        "index_kpool_always_select_tail",
        "index_share_for_mtp_iteration",
        "indexer_rope_interleave",
        "linear_lower_bound",
        "mhc",
        "num_key_value_heads",
        "qk_head_dim",
        "qk_rope_head_dim",
    ),
)


# -- Qwen3.8-Flash-Next ------------------------------------------------------------------------------------------------


def _qwen_streams(c: Config) -> Streams:
    return Streams(count=c.size("hc_count"), rank=c.size("hc_lowrank"))


def _qwen_layers(c: Config) -> dict[str, Any]:
    """Gated delta rules but in every fourth layer, which attends to what an indexer selects."""
    listed_ = listed_types(c, "layer_types")
    if listed_ is None:
        period = c.optional("full_attention_interval") or 4
        listed_ = [LINEAR if (layer + 1) % period else FULL for layer in range(c.layers)]
    return {"layer_types": [LINEAR if each == LINEAR else FULL for each in listed_]}


def _qwen_attention(c: Config, **facts: Any) -> Attention:
    bias = c.flag("attention_bias")
    return Attention.from_config(
        c, qkv_bias=bias, output_bias=bias, output_gate=True, qk_norm=both_heads(c), **facts
    )


def _qwen_parts(c: Config) -> tuple[Attention, Indexer]:
    pool = c.size("indexer_compress_ratio")
    indexer = Indexer(
        num_heads=c.size("indexer_n_heads"),
        head_dim=c.size("indexer_head_dim"),
        pool=pool,
        keys_of="means" if pool > 1 else "tokens",
        head_weights=False,
    )
    return _qwen_attention(c, selected=c.size("indexer_budget")), indexer


def _ngram_layers(c: Config) -> set[int]:
    """Layers, from 0, to which embeddings of n-grams are added."""
    return {layer - 1 for layer in c.items("ple_layer_ids", int) or ()}


def _ngram_width(c: Config) -> int:
    return c.optional("ple_embed_dim") or c.hidden


def _ngram_block(c: Config) -> Callable[[int], Mapping[str, Any]]:
    """Key per stream, value, three norms and a convolution over the streams, in the layers that have them."""
    layers, every = _ngram_layers(c), c.size("hc_count") * c.hidden
    own = _ngram_width(c) * (every + c.hidden) + (3 + c.size("ple_conv_kernel_size")) * every
    return lambda layer: {"other_params": own if layer in layers else 0}


def _ngram_tables(c: Config) -> int:
    """Tables of equal width, each as long as the least length says; the primes above it, which they have, differ little."""
    heads = (c.size("ngram_size") - 1) * c.size("heads_per_ngram")
    width, rows = _ngram_width(c), c.size("ngram_vocab_size_base")
    if width % heads:
        raise c.fault("ple_embed_dim", width, f"a multiple of the {heads} tables of a layer")
    padded = math.ceil(heads * rows / 128) * 128
    return len(_ngram_layers(c)) * padded * (width // heads)


_QWEN_4 = Derived(
    defaults={
        "tie_word_embeddings": False,
        "vocab_size": 248_320,
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "head_dim": 256,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts_per_tok": 10,
        "num_experts": 512,
        "hc_count": 4,
        "hc_lowrank": 320,
        "ple_conv_kernel_size": 4,
        "ngram_size": 3,
        "heads_per_ngram": 8,
        "ngram_vocab_size_base": 20_000_000,
    },
    derive=_qwen_layers,
    mixers={
        FULL: (Combined, {"mixers": _qwen_parts}),
        LINEAR: (StateSpace, {"delta_rule": True}),
    },
    experts=Experts(
        ffn=("moe_intermediate_size",), facts={"shared_ffn_size": one_shared, "shared_gate": True}
    ),
    norms=0,
    streams=_qwen_streams,
    each=_ngram_block,
    model={
        "other_params": _last_streams(_qwen_streams),
        "ngram_params": _ngram_tables,
        "final_norm": False,
    },
    shapeless=(
        "full_attention_interval",
        "indexer_kv_heads",
        "make_ngram_vocab_size_divisible_by",
        "mtp",
        "mtp_num_hidden_layers",
        "mtp_use_dedicated_embeddings",
        "output_gate_type",
        "seed",
        "split_ngram_parts",
    ),
)

STREAMS: Mapping[str, Family] = {
    "deepseek_v4": _DEEPSEEK_V4,
    "glm5_next_text": _GLM_5_NEXT,
    "qwen4_exp_text": _QWEN_4,
}
