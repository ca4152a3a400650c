"""The table of architectures, continued: Mamba 1 and 2, alone or beside attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface.derived import Derived, attention_at, given_or, head_apart, listed_types
from llm_perf.config.huggingface.facts import FLAGGED, router_groups
from llm_perf.config.huggingface.family import FULL, LINEAR, Experts, Family, facts
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.combined import Combined
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.config.layers.feed_forward import DenseMLP, NoMLP
from llm_perf.config.layers.mamba import Mamba
from llm_perf.config.layers.no_mixer import NoMixer
from llm_perf.config.layers.state_space import StateSpace

# -- Mamba 1 -----------------------------------------------------------------------------------------------


def _mamba_inner(c: Config) -> int:
    return c.optional("intermediate_size") or c.size("expand") * c.hidden


def _step_rank(name: str) -> Callable[[Config], int]:
    return lambda c: given_or(c, name, lambda: -(-c.hidden // 16))


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
HYBRID_MAMBA: Mapping[str, Any] = {
    "inner_size": lambda c: c.size("mamba_expand") * c.hidden,
    "state_size": lambda c: c.size("mamba_d_state"),
    "step_rank": _step_rank("mamba_dt_rank"),
    "conv_width": lambda c: c.size("mamba_d_conv"),
    "conv_bias": "mamba_conv_bias",
    "proj_bias": "mamba_proj_bias",
}


def periodic(c: Config, what: str) -> Callable[[int], bool]:
    """Every so many layers from an offset on."""
    period, offset = c.size(f"{what}_layer_period"), c.count(f"{what}_layer_offset") or 0
    return lambda layer: layer % period == offset


def _jamba_experts(c: Config) -> Experts | MoEMLP:
    if c.experts == 1:
        return Experts(layers=lambda _: lambda _: False)
    return Experts(layers=lambda c: periodic(c, "expert"))


# -- Mamba 2 -----------------------------------------------------------------------------------------------


def _mamba2_heads(c: Config) -> int:
    return c.size("mamba_n_heads")


def _inner(c: Config) -> int:
    return c.optional("mamba_d_ssm") or c.size("mamba_expand") * c.hidden


def _mamba2_head_dim(c: Config) -> int:
    heads, inner = _mamba2_heads(c), _inner(c)
    width = given_or(c, "mamba_d_head", lambda: max(inner // heads, 1))
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
    return attention_at(c, lambda layer: layer in chosen)


def _granite_layers(c: Config) -> dict[str, Any]:
    return {"layer_types": listed_types(c, "layer_types") or [LINEAR] * c.layers}


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
    types = listed_types(c, "layers_block_type") or listed_types(c, "layer_types")
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
        if c.flag("mlp_bias"):
            raise c.fault("mlp_bias", True, "false where a layer has experts")
        blocks["moe"] = MoEMLP.from_config(
            c,
            ffn_size=c.size("moe_intermediate_size"),
            shared_ffn_size=c.size("moe_shared_expert_intermediate_size"),
            gated=False,
            router_bias=True,
            router_groups=router_groups(c),
            latent_size=c.optional("moe_latent_size"),
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


MAMBA: Mapping[str, Family] = {
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
        derive=lambda c: attention_at(c, periodic(c, "attn")),
        mixers={LINEAR: (Mamba, {**HYBRID_MAMBA, "inner_norms": True})},
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
            "n_group": 1,
            "n_groups": 8,
            "ssm_state_size": 128,
            "conv_kernel": 4,
            "use_conv_bias": True,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 7688,
            "moe_shared_expert_intermediate_size": 7688,
        },
        derive=_nemotron_layers,
        mixers={LINEAR: (StateSpace, _NEMOTRON_STATE), "mlp": (NoMixer, {}), "moe": (NoMixer, {})},
        mlps=_nemotron_mlps,
        norms=1,
        model={"tied_embeddings": head_apart},
        # The width of shared experts is that of all together; attention has no biases.
        shapeless=("n_shared_experts", "attention_bias"),
    ),
}
