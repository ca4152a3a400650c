"""The table of architectures, continued: Zamba, whose layers share a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_perf.config.huggingface.derived import Derived, listed_types
from llm_perf.config.huggingface.families_mamba import HYBRID_MAMBA, periodic
from llm_perf.config.huggingface.family import LINEAR, Family, facts
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.combined import Combined
from llm_perf.config.layers.mamba import Mamba
from llm_perf.config.layers.shared_transformer import SharedTransformer
from llm_perf.config.layers.state_space import StateSpace

_FIRST_USE, _LATER_USE = "hybrid_first", "hybrid"


def _first_and_later(types: list[str], blocks: int) -> dict[str, Any]:
    """The first use of each shared block stores it."""
    found, uses = [], 0
    for each in types:
        first = each == _LATER_USE and uses < blocks
        uses += each == _LATER_USE
        found.append(_FIRST_USE if first else each)
    return {"layer_types": found}


def _zamba_layers(c: Config) -> dict[str, Any]:
    types = listed_types(c, "layers_block_type")
    if types is None:
        attends = periodic(c, "attn")
        later = [_LATER_USE if attends(layer) else LINEAR for layer in range(max(c.layers - 3, 0))]
        types = [LINEAR, LINEAR, _LATER_USE, *later][: c.layers]
    return _first_and_later(types, 1)


def _zamba2_layers(c: Config) -> dict[str, Any]:
    types = listed_types(c, "layers_block_type")
    if types is None:
        period = [*[LINEAR] * 5, _LATER_USE]
        types = [LINEAR, *period * 7, *[LINEAR] * 4, _LATER_USE, *[LINEAR] * 3, _LATER_USE, *[LINEAR] * 2]
    return _first_and_later(types, c.size("num_mem_blocks"))


def _shared(c: Config, stored: bool, **facts: Any) -> SharedTransformer:
    heads, read = c.heads, c.optional("attention_hidden_size")
    if read not in (None, 2 * c.hidden):
        raise c.fault("attention_hidden_size", read, f"{2 * c.hidden}, twice the hidden size")
    if not c.flag("tie_word_embeddings"):
        raise c.fault("tie_word_embeddings", False, "true: the class shares its transformer only then")
    width = c.optional("attention_head_dim") or 2 * c.hidden // heads
    return SharedTransformer(
        num_heads=heads,
        num_kv_heads=c.kv_heads,
        head_dim=width,
        ffn_size=c.optional("intermediate_size") or 4 * c.hidden,
        hidden_size=c.hidden,
        stored=stored,
        **facts,
    )


def _zamba_state(c: Config) -> Mamba:
    return Mamba.from_config(c, **facts(c, HYBRID_MAMBA))


def _zamba2_head_dim(c: Config) -> int:
    heads, inner = c.size("n_mamba_heads"), c.size("mamba_expand") * c.hidden
    if inner % heads:
        raise c.fault("n_mamba_heads", heads, f"a divisor of {inner}")
    return inner // heads


_ZAMBA2_STATE: Mapping[str, Any] = {
    "num_heads": lambda c: c.size("n_mamba_heads"),
    "head_dim": _zamba2_head_dim,
    "key_heads": lambda c: c.size("mamba_ngroups"),
    "key_dim": lambda c: c.size("mamba_d_state"),
    "conv_width": lambda c: c.size("mamba_d_conv"),
    "conv_bias": True,
    "proj_bias": "add_bias_linear",
}


def _zamba2_state(c: Config) -> StateSpace:
    return StateSpace.from_config(c, **facts(c, _ZAMBA2_STATE))


def _zamba2_shared(c: Config, stored: bool) -> SharedTransformer:
    return _shared(
        c,
        stored,
        adapter_rank=c.size("adapter_rank"),
        attention_adapters=c.flag("use_shared_attention_adapter"),
        mlp_bias=c.flag("add_bias_linear"),
    )


ZAMBA: Mapping[str, Family] = {
    "zamba": Derived(
        defaults={
            "tie_word_embeddings": True,
            "num_key_value_heads": 16,
            "max_position_embeddings": 4096,
            "intermediate_size": 14848,
            "n_mamba_heads": 2,
            "attn_layer_period": 6,
            "attn_layer_offset": 4,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": "auto",
            "mamba_conv_bias": True,
        },
        derive=_zamba_layers,
        mixers={
            LINEAR: (Mamba, HYBRID_MAMBA),
            _FIRST_USE: (Combined, {"mixers": lambda c: (_shared(c, stored=True), _zamba_state(c))}),
            _LATER_USE: (Combined, {"mixers": lambda c: (_shared(c, stored=False), _zamba_state(c))}),
        },
        no_mlp=True,
        norms=1,
    ),
    "zamba2": Derived(
        defaults={
            "tie_word_embeddings": True,
            "max_position_embeddings": 4096,
            "n_mamba_heads": 8,
            "num_mem_blocks": 1,
            "adapter_rank": 128,
            "mamba_ngroups": 1,
            "mamba_d_state": 64,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
        },
        derive=_zamba2_layers,
        mixers={
            LINEAR: (StateSpace, _ZAMBA2_STATE),
            _FIRST_USE: (Combined, {"mixers": lambda c: (_zamba2_shared(c, stored=True), _zamba2_state(c))}),
            _LATER_USE: (Combined, {"mixers": lambda c: (_zamba2_shared(c, stored=False), _zamba2_state(c))}),
        },
        no_mlp=True,
        norms=1,
    ),
}
