"""The table of architectures, continued: recurrent layers alone or beside attention, by what their configs derive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_perf.config.huggingface.facts import FLAGGED, LAYERNORM, all_heads, both_heads
from llm_perf.config.huggingface.family import FULL, LINEAR, SLIDING, Experts, Family, facts
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.combined import Combined
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP, NoMLP
from llm_perf.config.layers.gated_recurrence import GatedRecurrence
from llm_perf.config.layers.kimi_delta import KimiDelta
from llm_perf.config.layers.latent_attention import LatentAttention
from llm_perf.config.layers.linear_attention import LinearAttention
from llm_perf.config.layers.mamba import Mamba
from llm_perf.config.layers.matrix_lstm import MatrixLSTM
from llm_perf.config.layers.no_mixer import NoMixer
from llm_perf.config.layers.rwkv import ChannelMixing, TimeMixing
from llm_perf.config.layers.shared_transformer import SharedTransformer
from llm_perf.config.layers.short_convolution import ShortConvolution
from llm_perf.config.layers.state_space import StateSpace

_FIRST_USE, _LATER_USE, _CONVOLUTION = "hybrid_first", "hybrid", "conv"
_NEW_NAMES = {"mamba": LINEAR, "attention": FULL}
"""What older files call a layer type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(Family):
    """A row whose config class computes some keys from others: ``derive`` gives them, and they count as the config's own."""

    derive: Callable[[Config], Mapping[str, Any]]

    def build(self, c: Config) -> dict[str, Any]:
        """The fields of a ModelConfig."""
        fields = {**c.fields, **self.derive(c)}
        return Family.build(self, Config(c.family, fields, c.defaults, c.path, c.read))


def _listed(c: Config, name: str) -> list[str] | None:
    """Layer types as a config lists them, under today's names."""
    types = c.items(name, str)
    return None if types is None else [_NEW_NAMES.get(each, each) for each in types]


def _attention_at(c: Config, where: Callable[[int], bool]) -> dict[str, Any]:
    """Attention in some layers, recurrent ones elsewhere."""
    return {"layer_types": [FULL if where(layer) else LINEAR for layer in range(c.layers)]}


def _given_or(c: Config, name: str, otherwise: Callable[[], int]) -> int:
    """A number that may be written as auto, which stands for one that follows from others."""
    return otherwise() if c.plain(name) in ("auto", None) else c.size(name)


# -- Mamba 1 -----------------------------------------------------------------------------------------------


def _mamba_inner(c: Config) -> int:
    return c.size("expand") * c.hidden


def _step_rank(name: str) -> Callable[[Config], int]:
    return lambda c: _given_or(c, name, lambda: -(-c.hidden // 16))


_MAMBA = Family(
    defaults={
        "tie_word_embeddings": True,
        "expand": 2,
        "state_size": 16,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "time_step_rank": "auto",
    },
    mixer=Mamba,
    facts={
        "inner_size": _mamba_inner,
        "state_size": lambda c: c.size("state_size"),
        "step_rank": _step_rank("time_step_rank"),
        "conv_width": lambda c: c.size("conv_kernel"),
        "conv_bias": "use_conv_bias",
        "proj_bias": "use_bias",
        "inner_norms": False,  # Falcon-Mamba's have no weights
    },
    no_mlp=True,
    norms=1,
)
_HYBRID_MAMBA: Mapping[str, Any] = {
    "inner_size": lambda c: c.size("mamba_expand") * c.hidden,
    "state_size": lambda c: c.size("mamba_d_state"),
    "step_rank": _step_rank("mamba_dt_rank"),
    "conv_width": lambda c: c.size("mamba_d_conv"),
    "conv_bias": "mamba_conv_bias",
    "proj_bias": "mamba_proj_bias",
}


def _periodic(c: Config, what: str) -> Callable[[int], bool]:
    period, offset = c.size(f"{what}_layer_period"), c.count(f"{what}_layer_offset") or 0
    return lambda layer: layer % period == offset


def _jamba_experts(c: Config) -> Experts | MoEMLP:
    if c.experts == 1:
        return Experts(layers=lambda _: lambda _: False)
    return Experts(layers=lambda c: _periodic(c, "expert"))


# -- Mamba 2 -----------------------------------------------------------------------------------------------


def _mamba2_heads(c: Config) -> int:
    return c.size("mamba_n_heads")


def _inner(c: Config) -> int:
    return c.optional("mamba_d_ssm") or c.size("mamba_expand") * c.hidden


def _mamba2_head_dim(c: Config) -> int:
    heads, inner = _mamba2_heads(c), _inner(c)
    width = _given_or(c, "mamba_d_head", lambda: max(inner // heads, 1))
    if heads * width != inner:
        raise c.fault("mamba_n_heads", heads, f"{inner} / mamba_d_head: the width over that of a head")
    return width


_MAMBA2: Mapping[str, Any] = {
    "num_heads": _mamba2_heads,
    "head_dim": _mamba2_head_dim,
    "key_heads": lambda c: c.size("mamba_n_groups"),
    "key_dim": lambda c: c.size("mamba_d_state"),
    "conv_width": lambda c: c.size("mamba_d_conv"),
    "conv_bias": "mamba_conv_bias",
    "proj_bias": "mamba_proj_bias",
}
_MAMBA2_DEFAULTS: Mapping[str, Any] = {
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_head": "auto",
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "tie_word_embeddings": False,
}


def _bamba_layers(c: Config) -> dict[str, Any]:
    chosen = set(c.items("attn_layer_indices", int) or ())
    return _attention_at(c, lambda layer: layer in chosen)


def _granite_layers(c: Config) -> dict[str, Any]:
    return {"layer_types": _listed(c, "layer_types") or [LINEAR] * c.layers}


def _granite_mlps(c: Config) -> list[FeedForward]:
    """Experts beside a dense block, or that block alone."""
    width = c.size("shared_intermediate_size")
    if not c.count("num_local_experts"):
        return [DenseMLP(ffn_size=width, gated=True)] * c.layers
    experts = MoEMLP.from_config(c, ffn_size=c.size("intermediate_size"), shared_ffn_size=width)
    return [experts] * c.layers


def _falcon_h1_attention(c: Config) -> tuple[Attention, StateSpace]:
    """Both read one norm, and their results are added."""
    if c.flag("projectors_bias") != c.flag("mamba_proj_bias"):
        raise c.fault("projectors_bias", c.flag("projectors_bias"), "the value of mamba_proj_bias")
    return (
        Attention.from_config(c, **facts(c, FLAGGED)),
        StateSpace.from_config(c, **facts(c, _MAMBA2), gated_norm=c.flag("mamba_rms_norm")),
    )


# -- Nemotron-H: every block is a layer ------------------------------------------------------------------------

_NEMOTRON_LETTERS = {"M": LINEAR, "*": FULL, "-": "mlp", "E": "moe"}


def _nemotron_layers(c: Config) -> dict[str, Any]:
    types = _listed(c, "layers_block_type") or _listed(c, "layer_types")
    letters = c.text("hybrid_override_pattern")
    if types is None and letters is not None:
        if set(letters) - _NEMOTRON_LETTERS.keys():
            raise c.fault("hybrid_override_pattern", letters, "the letters M, *, - and E")
        types = [_NEMOTRON_LETTERS[letter] for letter in letters]
    types = types or list(_NEMOTRON_DEFAULT)
    return {"layer_types": types, "num_hidden_layers": len(types)}


_NEMOTRON_DEFAULT = (LINEAR, "moe", FULL, "mlp")


def _nemotron_mlps(c: Config) -> list[FeedForward]:
    blocks: dict[str, FeedForward] = {}
    types = c.items("layer_types", str) or []
    if "mlp" in types:
        blocks["mlp"] = DenseMLP(ffn_size=c.size("intermediate_size"), bias=c.flag("mlp_bias"))
    if "moe" in types:
        if c.optional("moe_latent_size") is not None:
            raise c.fault(
                "moe_latent_size",
                c.plain("moe_latent_size"),
                "null: experts in a latent space are not counted yet",
            )
        blocks["moe"] = MoEMLP.from_config(
            c,
            ffn_size=c.size("moe_intermediate_size"),
            shared_ffn_size=(c.count("n_shared_experts") or 0)
            * c.size("moe_shared_expert_intermediate_size"),
            gated=False,
            bias=c.flag("mlp_bias"),
            router_bias=True,
        )
    return [blocks.get(each, NoMLP()) for each in types]


_NEMOTRON_STATE: Mapping[str, Any] = {
    "num_heads": lambda c: c.size("mamba_num_heads"),
    "head_dim": lambda c: c.size("mamba_head_dim"),
    "key_heads": lambda c: c.size("mamba_n_groups", "n_groups"),
    "key_dim": lambda c: c.size("ssm_state_size"),
    "conv_width": lambda c: c.size("mamba_d_conv", "conv_kernel"),
    "conv_bias": "use_conv_bias",
    "proj_bias": "use_bias",
}


# -- Zamba: one transformer that several layers share ------------------------------------------------------------


def _first_and_later(types: list[str], blocks: int) -> dict[str, Any]:
    """The first use of each shared block stores it."""
    found, uses = [], 0
    for each in types:
        first = each == _LATER_USE and uses < blocks
        uses += each == _LATER_USE
        found.append(_FIRST_USE if first else each)
    return {"layer_types": found}


def _zamba_layers(c: Config) -> dict[str, Any]:
    types = _listed(c, "layers_block_type")
    if types is None:
        attends = _periodic(c, "attn")
        later = [_LATER_USE if attends(layer) else LINEAR for layer in range(max(c.layers - 3, 0))]
        types = [LINEAR, LINEAR, _LATER_USE, *later][: c.layers]
    return _first_and_later(types, 1)


def _zamba2_layers(c: Config) -> dict[str, Any]:
    types = _listed(c, "layers_block_type")
    if types is None:
        period = [*[LINEAR] * 5, _LATER_USE]
        types = [LINEAR, *period * 7, *[LINEAR] * 4, _LATER_USE, *[LINEAR] * 3, _LATER_USE, *[LINEAR] * 2]
    return _first_and_later(types, c.size("num_mem_blocks"))


def _shared(c: Config, stored: bool, **facts: Any) -> SharedTransformer:
    heads = c.heads
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
    return Mamba.from_config(c, **facts(c, _HYBRID_MAMBA))


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


# -- delta rules, lightning attention, convolutions ------------------------------------------------------------------


def _kimi_layers(c: Config) -> dict[str, Any]:
    """Files of the makers have the linear layers' sizes and both lists, by position from 1, in a mapping of their own."""
    listed = _listed(c, "layer_types")
    otherwise = {"layer_types": listed} if listed else _attention_at(c, lambda i: i > 0 and i % 4 == 0)
    if c.plain("linear_attn_config") is None:
        return otherwise
    linear = c.sub("linear_attn_config")
    found = {
        "linear_num_heads": linear.optional("num_heads"),
        "linear_head_dim": linear.optional("head_dim"),
        "linear_conv_kernel_dim": linear.optional("short_conv_kernel_size"),
    }
    positions = linear.items("full_attn_layers", int)
    if listed is None and positions is not None:
        otherwise = _attention_at(c, lambda layer: layer + 1 in positions)
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
_POSITIONS = ("model_max_length", "max_position_embeddings")


def _bailing_layers(c: Config) -> dict[str, Any]:
    """Linear heads are as many as attention's, as wide as ``head_dim``, unless the config says otherwise."""
    listed, period = _listed(c, "layer_types"), c.size("layer_group_size")
    return {
        **({"layer_types": listed} if listed else _attention_at(c, lambda i: (i + 1) % period == 0)),
        "linear_num_heads": c.optional("linear_num_heads") or c.heads,
        "linear_head_dim": c.optional("linear_head_dim") or c.size("head_dim"),
        "linear_conv_kernel_dim": c.optional("linear_conv_kernel_dim") or c.size("short_conv_kernel_size"),
    }


def _minimax_layers(c: Config) -> dict[str, Any]:
    return {"layer_types": _listed(c, "layer_types") or [LINEAR if i % 2 else FULL for i in range(c.layers)]}


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
    listed = _listed(c, "layer_types")
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
    if isinstance(factor, bool) or not isinstance(factor, (int, float, type(None))) or (factor or 1) <= 0:
        raise c.fault("block_ffn_dim_multiplier", factor, "a positive number")
    width = int(2 * width / 3)
    if factor is not None:
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

    return {"layer_types": _listed(c, "layer_types") or [of(layer) for layer in range(c.layers)]}


def _must_list_layers(c: Config) -> dict[str, Any]:
    listed = _listed(c, "layer_types")
    if listed is None:
        raise c.fault("layer_types", None, "a list of layer types, one per layer")
    return {"layer_types": listed, **_flag_of(c, "tie_embedding", "tie_word_embeddings")}


# -- RWKV-4 and xLSTM ------------------------------------------------------------------------------------------------


def _channel_mixing(c: Config) -> list[FeedForward]:
    width = c.optional("intermediate_size") or 4 * c.hidden
    return [ChannelMixing(ffn_size=width, hidden_size=c.hidden)] * c.layers


def _xlstm_names(c: Config) -> dict[str, Any]:
    """Width and number of layers have a second name each."""
    hidden, layers = c.optional("hidden_size", "embedding_dim"), c.optional("num_hidden_layers", "num_blocks")
    return {"hidden_size": hidden, "num_hidden_layers": layers}


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


HYBRID: Mapping[str, Family] = {
    "mamba": _MAMBA,
    "falcon_mamba": _MAMBA,
    "jamba": Derived(  # arXiv 2403.19887
        defaults={
            "tie_word_embeddings": False,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "num_key_value_heads": 8,
            "max_position_embeddings": 262_144,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": "auto",
            "mamba_conv_bias": True,
        },
        derive=lambda c: _attention_at(c, _periodic(c, "attn")),
        mixers={LINEAR: (Mamba, {**_HYBRID_MAMBA, "inner_norms": True})},
        experts=_jamba_experts,
    ),
    "bamba": Derived(
        defaults={**_MAMBA2_DEFAULTS, "num_key_value_heads": 8, "max_position_embeddings": 262_144},
        derive=_bamba_layers,
        facts=FLAGGED,
        mlp_bias="mlp_bias",
        mixers={LINEAR: (StateSpace, _MAMBA2)},
    ),
    "granitemoehybrid": Derived(  # Granite 4.0: an empty list of experts leaves the shared block
        defaults={
            **_MAMBA2_DEFAULTS,
            "max_position_embeddings": 2048,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 1024,
        },
        derive=_granite_layers,
        facts=FLAGGED,
        mixers={LINEAR: (StateSpace, _MAMBA2)},
        mlps=_granite_mlps,
    ),
    "falcon_h1": Family(  # arXiv 2507.22448
        defaults={
            **_MAMBA2_DEFAULTS,
            "num_key_value_heads": 8,
            "max_position_embeddings": 8192,
            "mamba_d_ssm": 1024,
        },
        mixer=Combined,
        facts={"mixers": _falcon_h1_attention},
        mlp_bias="mlp_bias",
    ),
    "nemotron_h": Derived(  # arXiv 2504.03624
        defaults={
            "tie_word_embeddings": False,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "intermediate_size": 21504,
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "n_groups": 8,
            "ssm_state_size": 128,
            "conv_kernel": 4,
            "use_conv_bias": True,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 7688,
            "moe_shared_expert_intermediate_size": 7688,
        },
        derive=_nemotron_layers,
        facts=FLAGGED,
        mixers={LINEAR: (StateSpace, _NEMOTRON_STATE), "mlp": (NoMixer, {}), "moe": (NoMixer, {})},
        mlps=_nemotron_mlps,
        norms=1,
    ),
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
            LINEAR: (Mamba, _HYBRID_MAMBA),
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
            "linear_num_heads": 32,
            "linear_head_dim": 128,
            "linear_conv_kernel_dim": 4,
        },
        derive=_kimi_layers,
        mixer=LatentAttention,
        mixers={
            LINEAR: (KimiDelta, {**_DELTA, "gate_rank": lambda c: c.size("linear_head_dim")}),
        },
        experts=_KIMI_EXPERTS,
        model={"max_position_embeddings": lambda c: c.optional(*_POSITIONS)},
    ),
    "bailing_hybrid": Derived(
        defaults={
            **_LATENT_DEFAULTS,
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
        model={"max_position_embeddings": lambda c: c.optional(*_POSITIONS)},
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
            "add_out_norm": True,
        },
        derive=_xlstm_names,
        mixer=MatrixLSTM,
        facts={
            "num_heads": lambda c: c.size("num_heads"),
            "head_dim": _of_each_head("v_dim_factor"),
            "key_dim": _of_each_head("qk_dim_factor"),
            "bias": "use_bias",
        },
        mlp_bias="use_bias",
        ffn_size=lambda c: _share_of_hidden(c, "ffn_proj_factor", c.size("ffn_round_up_to_multiple_of")),
        model={"final_norm": lambda c: c.flag("add_out_norm")},
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
