"""The table of architectures, continued: delta rules, linear attention, convolutions, RWKV, xLSTM, RG-LRU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface.derived import Derived, attention_at, head_apart, listed_types
from llm_perf.config.huggingface.facts import FLAGGED, LAYERNORM, all_heads, both_heads
from llm_perf.config.huggingface.family import FULL, LINEAR, SLIDING, Experts, Family
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.gated_recurrence import GatedRecurrence
from llm_perf.config.layers.kimi_delta import KimiDelta
from llm_perf.config.layers.latent_attention import LatentAttention
from llm_perf.config.layers.linear_attention import LinearAttention
from llm_perf.config.layers.matrix_lstm import MatrixLSTM
from llm_perf.config.layers.rwkv import ChannelMixing, TimeMixing
from llm_perf.config.layers.short_convolution import ShortConvolution
from llm_perf.config.layers.state_space import StateSpace

_CONVOLUTION = "conv"

# -- delta rules, lightning attention, convolutions ------------------------------------------------------------------


def _kimi_layers(c: Config) -> dict[str, Any]:
    """Files of the makers have the linear layers' sizes and both lists, by position from 1, in a mapping of their own."""
    listed = listed_types(c, "layer_types")
    otherwise = {"layer_types": listed} if listed else attention_at(c, lambda i: i > 0 and i % 4 == 0)
    if c.plain("linear_attn_config") is None:
        return otherwise
    linear = c.sub("linear_attn_config")
    found = {
        "linear_num_heads": linear.optional("num_heads"),
        "linear_head_dim": linear.optional("head_dim"),
        "linear_conv_kernel_dim": linear.optional("short_conv_kernel_size"),
    }
    otherwise |= {"linear_whole_gate": linear.flag("use_full_rank_gate")}
    positions = linear.items("full_attn_layers", int)
    if listed is None and positions is not None:
        otherwise |= attention_at(c, lambda layer: layer + 1 in positions)
    return {**otherwise, **{name: value for name, value in found.items() if value is not None}}


def _kimi_sparse(c: Config) -> Callable[[int], bool]:
    types = c.items("mlp_layer_types", str)
    if types is None:
        first = c.count("first_k_dense_replace") or 0
        return lambda layer: layer >= first
    if len(types) != c.layers or set(types) - {"dense", "sparse"}:
        raise c.fault("mlp_layer_types", types, f"{c.layers} entries, each dense or sparse")
    return lambda layer: types[layer] == "sparse"


_DELTA: Mapping[str, Any] = {
    "num_heads": lambda c: c.size("linear_num_heads"),
    "head_dim": lambda c: c.size("linear_head_dim"),
    "conv_width": lambda c: c.size("linear_conv_kernel_dim"),
}
_KIMI_EXPERTS = Experts(
    ffn=("moe_intermediate_size",),
    facts={
        "shared_ffn_size": lambda c: (
            (c.count("num_shared_experts", "n_shared_experts") or 0) * c.size("moe_intermediate_size")
        ),
        "router_bias": True,
        "latent_size": lambda c: c.optional("routed_expert_hidden_size"),
        "latent_norm": "latent_moe_use_norm",
    },
    layers=_kimi_sparse,
)
_LATENT_DEFAULTS: Mapping[str, Any] = {
    "tie_word_embeddings": False,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_shared_experts": 1,
    "num_experts_per_token": 8,
}
_LONG: Mapping[str, Any] = {
    "max_position_embeddings": lambda c: c.optional("model_max_length", "max_position_embeddings"),
    "tied_embeddings": head_apart,
}


def _earlier_blocks(c: Config) -> int:
    """A vector before both blocks, and before the head, that weighs what earlier blocks of layers returned (Kimi K3)."""
    return 2 * c.hidden if c.optional("attn_res_block_size") else 0


def _norms_of_residuals(c: Config) -> int:
    """One more before both blocks where these weigh what earlier layers returned."""
    return 4 if c.optional("attn_res_block_size") else 2


def _bailing_layers(c: Config) -> dict[str, Any]:
    """Linear heads are as many as attention's, as wide as ``head_dim``, unless the config says otherwise."""
    listed, period = listed_types(c, "layer_types"), c.size("layer_group_size")
    return {
        **({"layer_types": listed} if listed else attention_at(c, lambda i: (i + 1) % period == 0)),
        "linear_num_heads": c.optional("linear_num_heads") or c.heads,
        "linear_head_dim": c.optional("linear_head_dim") or c.size("head_dim"),
        "linear_conv_kernel_dim": c.optional("linear_conv_kernel_dim") or c.size("short_conv_kernel_size"),
    }


def _minimax_layers(c: Config) -> dict[str, Any]:
    return {
        "layer_types": listed_types(c, "layer_types") or [LINEAR if i % 2 else FULL for i in range(c.layers)]
    }


def _shared_width(c: Config) -> int:
    return c.count("shared_intermediate_size") or 0


def _minimax_01_layers(c: Config) -> dict[str, Any]:
    kinds = c.items("attn_type_list", int)
    if kinds is None or set(kinds) - {0, 1}:
        raise c.fault(
            "attn_type_list", kinds, "a list of 0 (lightning) and 1 (full attention), one per layer"
        )
    return {"layer_types": [FULL if kind else LINEAR for kind in kinds]}


def _lfm2_layers(c: Config) -> dict[str, Any]:
    listed = listed_types(c, "layer_types")
    if listed is None:
        chosen = c.items("full_attn_idxs", int)
        attends = set(range(c.layers) if chosen is None else chosen)
        listed = [FULL if layer in attends else _CONVOLUTION for layer in range(c.layers)]
    return {"layer_types": listed, **_flag_of(c, "tie_embedding", "tie_word_embeddings")}


def _flag_of(c: Config, older: str, newer: str) -> dict[str, Any]:
    return {newer: c.flag(older)} if c.plain(older) is not None else {}


def _lfm2_width(c: Config) -> int:
    """Two thirds of what the config says, times a factor, up to a multiple; or what it says."""
    width = c.size("block_ff_dim", "intermediate_size")
    if not c.flag("block_auto_adjust_ff_dim"):
        return width
    factor, multiple = c.plain("block_ffn_dim_multiplier"), c.size("block_multiple_of")
    width = int(2 * width / 3)
    if factor is not None:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1000:
            raise c.fault("block_ffn_dim_multiplier", factor, "a positive number")
        width = multiple * -(-int(factor * width) // multiple)
    return width


def _first_dense_of(c: Config) -> Callable[[int], bool]:
    dense = c.count("num_dense_layers") or 0
    return lambda layer: layer >= dense


def _griffin_layers(c: Config) -> dict[str, Any]:
    blocks = c.items("block_types", str) or []
    names = {"recurrent": LINEAR, "attention": SLIDING}
    if not blocks or set(blocks) - names.keys():
        raise c.fault("block_types", blocks, "a list of recurrent and attention")
    return {"layer_types": [names[blocks[layer % len(blocks)]] for layer in range(c.layers)]}


_MINIMAX_01 = Derived(  # as released: the same layers, listed by number
    defaults={"tie_word_embeddings": False},
    derive=_minimax_01_layers,
    mixers={LINEAR: (LinearAttention, {})},
    experts=Experts(facts={"shared_ffn_size": _shared_width}),
)


def _lfm3_layers(c: Config) -> dict[str, Any]:
    def of(layer: int) -> str:
        return FULL if layer % 4 == 2 else SLIDING if layer % 4 == 0 and layer else _CONVOLUTION

    return {"layer_types": listed_types(c, "layer_types") or [of(layer) for layer in range(c.layers)]}


def _must_list_layers(c: Config) -> dict[str, Any]:
    listed = listed_types(c, "layer_types")
    if listed is None:
        raise c.fault("layer_types", None, "a list of layer types, one per layer")
    return {"layer_types": listed, **_flag_of(c, "tie_embedding", "tie_word_embeddings")}


# -- RWKV-4 and xLSTM ------------------------------------------------------------------------------------------------


def _channel_mixing(c: Config) -> list[FeedForward]:
    width = c.optional("intermediate_size") or 4 * c.hidden
    return [ChannelMixing(ffn_size=width, hidden_size=c.hidden)] * c.layers


def _xlstm_names(c: Config) -> dict[str, Any]:
    """Width and number of layers have a second name each."""
    if c.flag("use_bias"):
        raise c.fault("use_bias", True, "false: biases of norms and gates are not counted")
    return {
        "hidden_size": _one_of(c, "hidden_size", "embedding_dim"),
        "num_hidden_layers": _one_of(c, "num_hidden_layers", "num_blocks"),
    }


def _one_of(c: Config, name: str, second: str) -> int:
    first, other = c.optional(name), c.optional(second)
    if None not in (first, other) and first != other:
        raise c.fault(second, other, f"{first}, as {name} says")
    return c.size(name, second)


def _share_of_hidden(c: Config, name: str, multiple: int) -> int:
    """A share of the hidden size, rounded up."""
    share = c.plain(name)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1000:
        raise c.fault(name, share, "a positive number")
    return int((c.hidden * share + multiple - 1) // multiple * multiple)


def _of_each_head(name: str) -> Callable[[Config], int]:
    def width(c: Config) -> int:
        whole, heads = _share_of_hidden(c, name, 64), c.size("num_heads")
        if whole % heads:
            raise c.fault(name, c.plain(name), f"a multiple of the {heads} heads over the hidden size")
        return whole // heads

    return width


LINEAR_STATES: Mapping[str, Family] = {
    "olmo_hybrid": Family(
        defaults={
            "tie_word_embeddings": False,
            "linear_num_value_heads": 30,
            "linear_num_key_heads": 30,
            "linear_value_head_dim": 192,
            "linear_key_head_dim": 96,
            "linear_conv_kernel_dim": 4,
            "max_position_embeddings": 65536,
        },
        facts={**FLAGGED, "qk_norm": all_heads},
        mixers={LINEAR: (StateSpace, {"delta_rule": True})},
        pattern=lambda _: lambda layer: LINEAR if (layer + 1) % 4 else FULL,
    ),
    "kimi_linear": Derived(  # arXiv 2510.26692
        defaults={
            **_LATENT_DEFAULTS,
            "first_k_dense_replace": 1,
            "model_max_length": 1_048_576,
            "linear_num_heads": 32,
            "linear_head_dim": 128,
            "linear_conv_kernel_dim": 4,
        },
        derive=_kimi_layers,
        mixer=LatentAttention,
        facts={"output_gate": "mla_use_output_gate"},
        mixers={
            LINEAR: (
                KimiDelta,
                {
                    **_DELTA,
                    "gate_rank": lambda c: c.size("linear_head_dim"),
                    "whole_gate": "linear_whole_gate",
                },
            ),
        },
        experts=_KIMI_EXPERTS,
        norms=_norms_of_residuals,
        other_params=_earlier_blocks,
        model={**_LONG, "other_params": _earlier_blocks},
        shapeless=("attn_res_block_size",),
    ),
    "bailing_hybrid": Derived(
        defaults={
            **_LATENT_DEFAULTS,
            "model_max_length": 262_144,
            "layer_group_size": 6,
            "first_k_dense_replace": 2,
            "head_dim": 128,
            "short_conv_kernel_size": 4,
        },
        derive=_bailing_layers,
        mixer=LatentAttention,
        facts={"head_gate": True},
        mixers={LINEAR: (KimiDelta, _DELTA)},
        experts=_KIMI_EXPERTS,
        model=_LONG,
    ),
    "minimax": Derived(  # arXiv 2501.08313
        defaults={
            "tie_word_embeddings": False,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 131_072,
        },
        derive=_minimax_layers,
        mixers={LINEAR: (LinearAttention, {})},
        experts=Experts(),
    ),
    "minimax_text_01": _MINIMAX_01,
    "minimax_m1": _MINIMAX_01,
    "lfm2": Derived(
        defaults={
            "tie_word_embeddings": True,
            "num_key_value_heads": 8,
            "intermediate_size": 12288,
            "max_position_embeddings": 128_000,
            "conv_L_cache": 3,
            "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
        },
        derive=_lfm2_layers,
        facts={"qk_norm": both_heads},
        mixers={_CONVOLUTION: (ShortConvolution, {})},
        ffn_size=_lfm2_width,
    ),
    "lfm2_moe": Derived(
        defaults={
            "tie_word_embeddings": True,
            "num_key_value_heads": 8,
            "max_position_embeddings": 128_000,
            "conv_L_cache": 3,
            "num_dense_layers": 2,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "use_expert_bias": True,
        },
        derive=_must_list_layers,
        facts={"qk_norm": both_heads},
        mixers={_CONVOLUTION: (ShortConvolution, {})},
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"router_bias": "use_expert_bias"}, layers=_first_dense_of
        ),
    ),
    "lfm3": Derived(
        defaults={
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "max_position_embeddings": 128_000,
            "sliding_window": 256,
            "conv_L_cache": 7,
            "use_sandwich_norm": True,
            "use_attention_gate": True,
        },
        derive=_lfm3_layers,
        facts={**FLAGGED, "qk_norm": both_heads, "head_gate": "use_attention_gate"},
        mixers={_CONVOLUTION: (ShortConvolution, {})},
        norms=lambda c: 4 if c.flag("use_sandwich_norm") else 2,
    ),
    "rwkv": Family(  # arXiv 2305.13048
        defaults={"tie_word_embeddings": False},
        mixer=TimeMixing,
        facts={
            "size": lambda c: c.optional("attention_hidden_size") or c.hidden,
            "hidden_size": lambda c: c.hidden,
        },
        mlps=_channel_mixing,
        model={**LAYERNORM, "embedding_norm": True},
    ),
    "xlstm": Derived(  # arXiv 2503.13427
        defaults={
            "tie_word_embeddings": False,
            "num_heads": 8,
            "qk_dim_factor": 0.5,
            "v_dim_factor": 1.0,
            "ffn_proj_factor": 2.667,
            "ffn_round_up_to_multiple_of": 64,
        },
        derive=_xlstm_names,
        mixer=MatrixLSTM,
        facts={
            "num_heads": lambda c: c.size("num_heads"),
            "head_dim": _of_each_head("v_dim_factor"),
            "key_dim": _of_each_head("qk_dim_factor"),
            "bias": False,
        },
        ffn_size=lambda c: _share_of_hidden(c, "ffn_proj_factor", c.size("ffn_round_up_to_multiple_of")),
        model={"tied_embeddings": head_apart},
    ),
    "recurrent_gemma": Derived(  # arXiv 2402.19427
        defaults={
            "tie_word_embeddings": True,
            "block_types": ["recurrent", "recurrent", "attention"],
            "attention_window_size": 2048,
            "conv1d_width": 4,
        },
        derive=_griffin_layers,
        mixers={
            LINEAR: (
                GatedRecurrence,
                {
                    "width": lambda c: c.optional("lru_width") or c.hidden,
                    "num_heads": lambda c: c.heads,
                    "conv_width": lambda c: c.size("conv1d_width"),
                },
            ),
            SLIDING: (
                Attention,
                {
                    "qkv_bias": "attention_bias",
                    "output_bias": True,
                    "window": lambda c: c.size("attention_window_size"),
                },
            ),
        },
        mlp_bias=True,
        ffn_size=lambda c: c.size("intermediate_size") // 2,
    ),
}
