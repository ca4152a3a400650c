"""Layers of a built class that are of a known kind: attention and a dense or expert block, by the names of their tensors.

A layer counts as known where every tensor has a place in the kind and the counts agree to the element, cache included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod

from llm_perf.config.huggingface.built_class import BuiltClass, LayerCache
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP
from llm_perf.config.model import LayerGroup

_Layer = Mapping[str, tuple[int, ...]]
_ATTENTION = re.compile(r"(?:self_attn|self_attention|attention|attn)\.(?P<part>[\w.]+)")
_FFN = re.compile(r"(?:mlp|feed_forward|ffn)\.(?P<part>[\w.]+)")
_EXPERTS = re.compile(r"(?:mlp|feed_forward|ffn|block_sparse_moe|moe)\.(?P<part>[\w.]+)")
_QUERY, _KEY, _VALUE = ("q_proj",), ("k_proj",), ("v_proj",)
_OUTPUT = ("o_proj", "out_proj", "dense")
_GATE, _UP, _DOWN = (
    ("gate_proj", "w1"),
    ("up_proj", "w3", "fc1", "fc_in", "c_fc"),
    ("down_proj", "w2", "fc2", "fc_out", "c_proj"),
)


def recognised(layer: _Layer, cache: LayerCache, built: BuiltClass) -> LayerGroup | None:
    """The layer as known blocks; None where a tensor has no place in them, or the cache is another."""
    hidden = built.hidden_size
    inner = {name: shape for name, shape in layer.items() if _ATTENTION.fullmatch(name)}
    attention = _attention(inner, cache, built)
    if attention is None:
        return None
    rest = {name: shape for name, shape in layer.items() if name not in inner}
    norms = {
        name: shape for name, shape in rest.items() if name.endswith("norm.weight") and shape == (hidden,)
    }
    block = _block({name: shape for name, shape in rest.items() if name not in norms}, built)
    if block is None:
        return None
    group = LayerGroup(count=1, attention=attention, mlp=block, norms=len(norms))
    linears = (*attention.linears(hidden), *block.linears(hidden))
    counted = sum(linear.params for linear in linears) + attention.vector_elements + block.vector_elements
    return group if counted + len(norms) * hidden == sum(map(prod, layer.values())) else None


def _parts(found: _Layer, pattern: re.Pattern[str]) -> dict[str, tuple[int, ...]]:
    return {match["part"]: shape for name, shape in found.items() if (match := pattern.fullmatch(name))}


def _one(
    parts: Mapping[str, tuple[int, ...]], names: tuple[str, ...], ending: str = ".weight"
) -> tuple[int, ...] | None:
    return next((parts[name + ending] for name in names if name + ending in parts), None)


def _attention(found: _Layer, cache: LayerCache, built: BuiltClass) -> Attention | None:
    parts, heads = _parts(found, _ATTENTION), built.heads
    query, key, value = (_one(parts, names) for names in (_QUERY, _KEY, _VALUE))
    if heads is None or query is None or key is None or value is None or query[0] % heads:
        return None
    width = query[0] // heads
    parts_of_cache = cache.parts or ((0.0, None),)
    if key != value or key[0] % width or heads % (key[0] // width) or cache.state or len(parts_of_cache) > 1:
        return None
    rate, window = parts_of_cache[0]
    attention = Attention(
        num_heads=heads,
        num_kv_heads=key[0] // width,
        head_dim=width,
        qkv_bias=_one(parts, _QUERY, ".bias") is not None,
        output_bias=_one(parts, _OUTPUT, ".bias") is not None,
        qk_norm=sum(
            prod(shape) for part, shape in parts.items() if re.fullmatch(r"[qk]_(layer)?norm\.weight", part)
        ),
        window=window,
    )
    return attention if built.masked or attention.cache_elements_per_token() == rate else None


def _block(found: _Layer, built: BuiltClass) -> FeedForward | None:
    hidden, parts = built.hidden_size, _parts(found, _FFN)
    down = _one(parts, _DOWN)
    if down is not None and len(down) == 2 and down[0] == hidden:
        fused = "gate_up_proj.weight" in parts
        gated = fused or _one(parts, _GATE) is not None
        return DenseMLP(ffn_size=down[1], gated=gated, bias=_one(parts, _DOWN, ".bias") is not None)
    parts = _parts(found, _EXPERTS)
    packed, router = parts.get("experts.down_proj"), _one(parts, ("gate", "router"))
    if (
        packed is None
        or len(packed) != 3
        or packed[1] != hidden
        or router != (packed[0], hidden)
        or not built.top_k
    ):
        return None
    shared = next(
        (shape for part, shape in parts.items() if re.fullmatch(r"shared_experts?\.down_proj\.weight", part)),
        None,
    )
    return MoEMLP(
        num_experts=packed[0],
        top_k=min(built.top_k, packed[0]),
        ffn_size=packed[2],
        shared_ffn_size=0 if shared is None else shared[1],
        router_bias="gate.e_score_correction_bias" in parts,
    )
