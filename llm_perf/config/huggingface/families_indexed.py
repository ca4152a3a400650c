"""The table of architectures, continued: latent attention to tokens that an indexer selects (DeepSeek sparse attention)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface import defaults
from llm_perf.config.huggingface.derived import Derived
from llm_perf.config.huggingface.facts import both_heads, first_dense, router_groups, shared
from llm_perf.config.huggingface.families_decoders import after, listed
from llm_perf.config.huggingface.family import FULL, Experts, Family
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.combined import Combined
from llm_perf.config.layers.indexer import Indexer
from llm_perf.config.layers.latent_attention import LatentAttention
from llm_perf.config.layers.streams import Streams

_INDEXED, REUSES_INDEX = "indexed_attention", "reuses_index"
_LETTERS = {"F": "full", "S": "shared"}


def of_selected(c: Config, **facts: Any) -> LatentAttention:
    """Latent attention to the tokens that an indexer selects."""
    bias, most = c.flag("attention_bias"), c.size("index_topk")
    return LatentAttention.from_config(c, down_bias=bias, output_bias=bias, selected=most, **facts)


def _indexed(c: Config) -> tuple[LatentAttention, Indexer]:
    return of_selected(c), Indexer.from_config(c)


def _sparse(c: Config) -> Callable[[int], bool]:
    """As listed, or all but the first layers."""
    types = c.items("mlp_layer_types", str)
    if types is None:
        return first_dense(c)
    if len(types) != c.layers or set(types) - {"dense", "sparse"}:
        raise c.fault("mlp_layer_types", types, f"{c.layers} entries, each dense or sparse")
    return lambda layer: types[layer] == "sparse"


def _every_layer_indexed(c: Config) -> dict[str, Any]:
    return {"layer_types": c.items("layer_types", str) or [_INDEXED] * c.layers}


def indexer_modes(c: Config) -> list[str]:
    """Of each layer whether it has an indexer (full) or takes what one before it selected (shared), as GLM's configs say it.

    Raises:
        SpecError: of another length, or with another word.
    """
    types, pattern = c.items("indexer_types", str), c.plain("index_topk_pattern")
    if types is None and isinstance(pattern, str):
        types = [_LETTERS.get(letter, letter) for letter in pattern]
    elif types is None:
        types = c.items("index_topk_pattern", str)
    if types is None:
        period, offset = c.optional("index_topk_freq") or 1, c.count("index_skip_topk_offset")
        start = (2 if offset is None else offset) - 1
        types = ["shared" if max(layer - start, 0) % period else "full" for layer in range(c.layers)]
    return _checked(c, types)


def _checked(c: Config, types: list[str]) -> list[str]:
    if len(types) != c.layers or set(types) - {"full", "shared"}:
        raise c.fault("indexer_types", types, f"{c.layers} entries, each full or shared")
    return types


def _by_indexer(modes: list[str]) -> dict[str, Any]:
    return {"layer_types": [_INDEXED if each == "full" else REUSES_INDEX for each in modes]}


def _hunyuan_types(c: Config) -> dict[str, Any]:
    """As listed, else an indexer in the first layer and then in every fourth."""
    types = c.items("indexer_types", str)
    if types is None:
        types = ["shared" if layer and (layer - 1) % 4 else "full" for layer in range(c.layers)]
    return _by_indexer(_checked(c, types))


_MINIMAX_SPARSE = "minimax_m3_sparse"
_MINIMAX_NAMES: Mapping[str, str] = {
    "index_n_heads": "sparse_num_index_heads",
    "index_head_dim": "sparse_index_dim",
    "index_block_size": "sparse_block_size",
    "index_topk_blocks": "sparse_topk_blocks",
}
_MINIMAX_INDEX: Mapping[str, int] = {
    "index_n_heads": 4,
    "index_head_dim": 128,
    "index_block_size": 128,
    "index_topk_blocks": 16,
}


def _minimax_layers(c: Config) -> dict[str, Any]:
    """Which layers select blocks of keys and which have experts; the makers' file has lists of 0 and 1."""
    found: dict[str, Any] = {name: c.optional(name) or size for name, size in _MINIMAX_INDEX.items()}
    types = c.items("layer_types", str)
    if c.plain("sparse_attention_config") is not None:
        sparse = c.sub("sparse_attention_config")
        found |= {name: sparse.optional(old) or found[name] for name, old in _MINIMAX_NAMES.items()}
        selects = sparse.items("sparse_attention_freq", int)
        if types is None and selects is not None:
            types = [_MINIMAX_SPARSE if each else FULL for each in selects]
    routed = c.items("moe_layer_freq", int)
    if routed is not None and c.plain("mlp_layer_types") is None:
        found["mlp_layer_types"] = ["sparse" if each else "dense" for each in routed]
    return {**found, "layer_types": types or [FULL] * c.layers}


def _minimax_selecting(c: Config) -> tuple[Attention, Indexer]:
    """Each head of keys has an indexer's head, which scores single keys and takes the best of each block."""
    selected = c.size("index_topk_blocks") * c.size("index_block_size")
    indexer = Indexer.from_config(c, query_rank=None, head_weights=False)
    return Attention.from_config(c, qk_norm=both_heads(c), selected=selected), indexer


def _minimax_shared(c: Config) -> int:
    width = c.count("shared_intermediate_size") or 0
    given = c.count("n_shared_experts")
    return width * (1 if given is None else given)


def _hunyuan_streams(c: Config) -> Streams:
    return Streams(count=c.size("hc_mult"), mixes=False)


_GATED = {"output_gate": True, "sinks": True}
REUSING: Mapping[str, Any] = {
    "down_bias": "attention_bias",
    "output_bias": "attention_bias",
    "selected": lambda c: c.size("index_topk"),
}
"""Latent attention of a layer without an indexer of its own."""
_EXPERTS = Experts(
    ffn=("moe_intermediate_size",),
    facts={"shared_ffn_size": shared, "router_bias": True, "router_groups": router_groups},
    layers=_sparse,
)
_INDEX = {"index_topk": 2048, "index_head_dim": 128}

INDEXED: Mapping[str, Family] = {
    "deepseek_v32": Derived(  # arXiv 2512.02556
        defaults={**defaults.DEEPSEEK_V3, **_INDEX, "index_n_heads": 64, "max_position_embeddings": 163_840},
        derive=_every_layer_indexed,
        mixers={_INDEXED: (Combined, {"mixers": _indexed})},
        experts=_EXPERTS,
    ),
    "glm_moe_dsa": Derived(
        defaults={
            **defaults.DEEPSEEK_V3,
            **_INDEX,
            "n_group": 1,
            "index_n_heads": 32,
            "q_lora_rank": 2048,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "max_position_embeddings": 202_752,
        },
        derive=lambda c: _by_indexer(indexer_modes(c)),
        mixers={
            _INDEXED: (Combined, {"mixers": _indexed}),
            REUSES_INDEX: (LatentAttention, REUSING),
        },
        experts=_EXPERTS,
    ),
    "hy_v4": Derived(  # beside the layers' blocks stand hyper-connections of several streams of hidden states
        defaults={
            **defaults.DEEPSEEK_V3,
            **_INDEX,
            "n_group": 1,
            "index_n_heads": 16,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "first_k_dense_replace": 1,
            "hc_mult": 4,
            "max_position_embeddings": 262_144,
        },
        derive=_hunyuan_types,
        mixers={
            _INDEXED: (Combined, {"mixers": lambda c: (of_selected(c, **_GATED), Indexer.from_config(c))}),
            REUSES_INDEX: (LatentAttention, {**REUSING, **_GATED}),
        },
        experts=_EXPERTS,
        streams=_hunyuan_streams,
        model={"other_params": lambda c: _hunyuan_streams(c).last_params(c.hidden)},
        shapeless=(
            "hc_magnitude",
            "head_dim",
            "num_key_value_heads",
            "qk_head_dim",
        ),  # the latter follow from others
    ),
    "minimax_m3_vl_text": Derived(  # arXiv 2606.13392
        defaults=None,
        derive=_minimax_layers,
        facts={"qk_norm": both_heads},
        mixers={_MINIMAX_SPARSE: (Combined, {"mixers": _minimax_selecting})},
        shapeless=(
            "use_qk_norm",
            "use_routing_bias",
            "qk_norm_type",
            "use_gemma_norm",
            "index_local_blocks",
        ),  # they say what the class does
        experts=Experts(
            facts={"shared_ffn_size": _minimax_shared, "router_bias": True},
            layers=listed(after(0)),
            dense=("dense_intermediate_size",),
        ),
    ),
}
