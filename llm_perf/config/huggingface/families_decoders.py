"""The table of architectures, continued: decoders whose defaults are written from their config classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface.facts import (
    BIASES,
    FLAGGED,
    LAYERNORM,
    both_heads,
    first_dense,
    one_shared,
    positions,
    router_groups,
    shared,
    sparse_steps,
)
from llm_perf.config.huggingface.family import (
    FULL,
    SLIDING,
    Experts,
    Family,
    Pattern,
    alternating,
    last_of,
    one_in,
)
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.latent_attention import LatentAttention

_ROUTED: Mapping[str, Any] = {
    "ffn": ("moe_intermediate_size",),
    "facts": {"shared_ffn_size": shared, "router_bias": True, "router_groups": router_groups},
}
_NUM_SHARED: Mapping[str, str] = {"n_shared_experts": "num_shared_experts"}
_QKV: Mapping[str, Any] = {"qkv_bias": "attention_bias"}
_LATENT_BIASES: Mapping[str, Any] = {"down_bias": "attention_bias", "output_bias": "attention_bias"}


def listed(otherwise: Pattern) -> Pattern:
    """``mlp_layer_types`` names each layer's block; where it is absent, the older keys do."""

    def pattern(c: Config) -> Callable[[int], bool]:
        types = c.items("mlp_layer_types", str)
        if types is None:
            return otherwise(c)
        if len(types) != c.layers or set(types) - {"dense", "sparse"}:
            raise c.fault("mlp_layer_types", types, f"{c.layers} entries, each dense or sparse")
        return lambda layer: types[layer] == "sparse"

    return pattern


def after(first: int) -> Pattern:
    """Dense before a layer that no key names."""
    return lambda _: lambda layer: layer >= first


def _dense_layers(c: Config) -> Callable[[int], bool]:
    first = c.count("num_dense_layers") or 0
    return lambda layer: layer >= first


def _everywhere(_: Config) -> Callable[[int], bool]:
    return lambda _: True


def _ernie_layers(c: Config) -> Callable[[int], bool]:
    first, last, step = (
        c.count("moe_layer_start_index") or 0,
        c.plain("moe_layer_end_index"),
        c.size("moe_layer_interval"),
    )
    end = c.layers - 1 if last in (None, -1) else last
    if not isinstance(end, int):
        raise c.fault("moe_layer_end_index", last, "a layer, or -1 for the last")
    return lambda layer: (layer + 1) % step == 0 and first <= layer <= end


def _ernie_bias(c: Config) -> bool:
    if c.flag("use_bias"):
        raise c.fault("use_bias", True, "false: biases of shared experts alone are not counted")
    return False


def _ernie_shared(c: Config) -> int:
    return (c.count("moe_num_shared_experts") or 0) * c.size("moe_intermediate_size")


def _aria_shared(c: Config) -> int:
    return (c.count("moe_num_shared_experts") or 0) * c.size("intermediate_size")


def _wide_shared(c: Config) -> int:
    return (c.count("num_shared_experts") or 0) * c.size("intermediate_size")


def _granite_shared(c: Config) -> int:
    return c.count("shared_intermediate_size") or 0


def _post_mlp_norm(first: Pattern) -> Callable[[Config], Callable[[int], Mapping[str, Any]]]:
    """A third norm where the block is a mixture."""

    def each(c: Config) -> Callable[[int], Mapping[str, Any]]:
        sparse = first(c)
        return lambda layer: {"norms": 3 if sparse(layer) else 2}

    return each


def _persimmon_norms(c: Config) -> int:
    """Norms with biases over each head of queries and keys."""
    return 4 * c.head_dim if c.flag("qk_layernorm", otherwise=True) else 0


def _diff_lambdas(c: Config) -> int:
    return 4 * c.head_dim


def _doge(c: Config) -> int:
    """Weights of two residuals, a gate per head, and the projection of its mask."""
    if c.flag("is_moe"):
        raise c.fault("is_moe", True, "false: Doge's mixtures are not counted")
    bias = c.kv_heads if c.flag("attention_bias") else 0
    return 2 * c.hidden + c.kv_heads * (1 + c.kv_heads * c.head_dim) + bias


def _bitnet(c: Config) -> int:
    """Norms inside attention and feed-forward."""
    return c.heads * c.head_dim + c.size("intermediate_size")


def _post_norms(c: Config) -> int:
    return 4 if c.flag("use_post_norm") else 2


def _cpm_others(c: Config) -> int:
    """Prompts beside the vocabulary, segments, and relative positions of every head."""
    prompts = c.size("prompt_types") * c.size("prompt_length")
    buckets = c.size("position_bias_num_buckets") + c.size("segment_types") ** 2
    return (prompts + c.size("segment_types")) * c.hidden + buckets * c.heads


def _hyper_shared(c: Config) -> int:
    return c.count("shared_expert_intermediate_size") or 0


def _laguna_gate(c: Config) -> bool:
    """A gate per head of the result."""
    if c.plain("gating") not in (True, "per-head"):
        raise c.fault("gating", c.plain("gating"), "true or 'per-head'")
    return True


def _laguna_heads(c: Config) -> Callable[[int, Mixer], Mixer]:
    """Layers may have query heads of their own number."""
    own = c.items("num_attention_heads_per_layer", int)
    if own is not None and (len(own) != c.layers or min(own) < 1):
        raise c.fault("num_attention_heads_per_layer", own, f"{c.layers} positive numbers, one per layer")
    return lambda layer, mixer: mixer if own is None else mixer.replace(num_heads=own[layer])


def _flint_types(c: Config) -> Callable[[int], str]:
    """The first two layers, the last, and one in four between them are full."""
    return lambda layer: FULL if layer < 2 or layer % 4 == 1 or layer == c.layers - 1 else SLIDING


def _flint_layers(c: Config) -> Callable[[int], bool]:
    if c.plain("mlp_only_layers") is None:
        step = c.size("decoder_sparse_step")
        return lambda layer: layer > 1 and (layer + 1) % step == 0
    return sparse_steps(c)


DECODERS: Mapping[str, Family] = {
    "afmoe": Family(
        defaults=None,
        facts={"qk_norm": both_heads, "output_gate": True},
        pattern=last_of("global_attn_every_n_layers", FULL, SLIDING),
        norms=4,
        names=_NUM_SHARED,
        experts=Experts(**_ROUTED, layers=_dense_layers),
    ),
    "apertus": Family(defaults=None, facts={**FLAGGED, "qk_norm": both_heads}, gated=False, other_params=2),
    "aria_text": Family(
        defaults=None,
        facts=FLAGGED,
        names={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_topk"},
        experts=Experts(facts={"shared_ffn_size": _aria_shared}),
    ),
    "axk1": Family(
        defaults=None,
        mixer=LatentAttention,
        facts=_LATENT_BIASES,
        each=_post_mlp_norm(listed(after(1))),
        experts=Experts(**_ROUTED, layers=listed(after(1))),
    ),
    "beam": Family(
        defaults=None,
        facts={"qk_norm": both_heads, "output_gate": True},
        pattern=one_in(6, ends=True),
        norms=4,
        other_params=lambda c: c.heads,
        experts=Experts(ffn=("moe_intermediate_size",), facts={"router_bias": True}, layers=listed(after(3))),
    ),
    "biogpt": Family(
        defaults=None,
        facts=BIASES,
        gated=False,
        mlp_bias=True,
        model={**LAYERNORM, "learned_positions": lambda c: positions(c) + 2},
    ),
    "bitnet": Family(defaults=None, facts=FLAGGED, other_params=_bitnet),
    "codegen": Family(
        defaults=None,
        gated=False,
        mlp_bias=True,
        norms=1,
        parallel=True,
        model={**LAYERNORM, "lm_head_bias": True},
    ),
    "cohere2_moe": Family(
        defaults=None,
        facts=FLAGGED,
        pattern=last_of("sliding_window_pattern", FULL, SLIDING),
        norms=1,
        parallel=True,
        experts=Experts(
            facts={"shared_ffn_size": _wide_shared},
            layers=listed(_everywhere),
            dense=("prefix_dense_intermediate_size", "intermediate_size"),
        ),
        model={"norm": "layernorm", "norm_bias": False},
    ),
    "cpmant": Family(
        defaults=None,
        names={"head_dim": "dim_head", "intermediate_size": "dim_ff"},
        model={"tied_embeddings": False, "other_params": _cpm_others},
    ),
    "ctrl": Family(
        defaults=None,
        facts=BIASES,
        gated=False,
        mlp_bias=True,
        names={"intermediate_size": "dff"},
        model={**LAYERNORM, "lm_head_bias": True},
    ),
    "cwm": Family(defaults=None, pattern=one_in(4, first=True)),
    "diffllama": Family(defaults=None, facts=FLAGGED, other_params=_diff_lambdas),
    "doge": Family(
        defaults=None,
        facts={**FLAGGED, "qk_norm": both_heads},
        mlp_bias="mlp_bias",
        other_params=_doge,
        model={"tied_embeddings": lambda c: c.flag("tie_word_embeddings")},
    ),
    "dots1": Family(
        defaults=None,
        facts={**FLAGGED, "qk_norm": both_heads},
        experts=Experts(**_ROUTED, layers=first_dense),
    ),
    "exaone_moe": Family(
        defaults=None,
        facts={"qk_norm": both_heads},
        pattern=last_of("sliding_window_pattern", FULL, SLIDING),
        names=_NUM_SHARED,
        experts=Experts(**_ROUTED, layers=listed(first_dense)),
    ),
    "ernie4_5_moe": Family(
        defaults=None,
        facts={"qkv_bias": _ernie_bias},
        names={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
        experts=Experts(
            ffn=("moe_intermediate_size",),
            facts={"shared_ffn_size": _ernie_shared, "router_bias": True},
            layers=_ernie_layers,
        ),
    ),
    "flint": Family(
        defaults=None,
        facts={**FLAGGED, "qk_norm": both_heads, "sinks": True},
        pattern=_flint_types,
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": one_shared}, layers=_flint_layers
        ),
    ),
    "gpt_neo": Family(  # its local layers mask what is far, and keep it all the same
        defaults=None,
        facts={"output_bias": True},
        gated=False,
        mlp_bias=True,
        names={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
        model={**LAYERNORM, "learned_positions": positions},
    ),
    "gpt_neox_japanese": Family(
        defaults=None,
        gated=False,
        ffn_size=lambda c: c.size("intermediate_multiple_size") * c.hidden,
        # The last layer alone has a bias behind its attention.
        model={**LAYERNORM, "other_params": lambda c: c.hidden},
    ),
    "granite_swa": Family(
        defaults=None, facts={**FLAGGED, "sinks": True}, pattern=one_in(4, first=True), mlp_bias="mlp_bias"
    ),
    "granitemoe_swa": Family(
        defaults=None,
        facts={**FLAGGED, "sinks": True},
        pattern=one_in(4, first=True),
        experts=Experts(facts={"shared_ffn_size": _granite_shared}),
    ),
    "granitemoeshared": Family(
        defaults=None, facts=FLAGGED, experts=Experts(facts={"shared_ffn_size": _granite_shared})
    ),
    "hy_v3": Family(
        defaults=None,
        facts={**FLAGGED, "qk_norm": both_heads},
        names=_NUM_SHARED,
        experts=Experts(**_ROUTED, layers=listed(after(1))),
    ),
    "hyperclovax": Family(defaults=None, facts=FLAGGED, norms=_post_norms, mlp_bias="mlp_bias"),
    "internlm3": Family(defaults=None, facts=FLAGGED, mlp_bias="mlp_bias"),
    "iquestcoder": Family(defaults=None, facts=FLAGGED, mlp_bias="mlp_bias"),
    "jais2": Family(defaults=None, facts=FLAGGED, gated=False, mlp_bias="mlp_bias", model=LAYERNORM),
    "kolibri1": Family(
        defaults=None,
        facts={"qk_norm": both_heads},
        pattern=one_in(5),
        norms=4,
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": _hyper_shared, "router_bias": True}
        ),
    ),
    "laguna": Family(
        defaults=None,
        facts={"qk_norm": both_heads, "head_gate": _laguna_gate},
        adapt=_laguna_heads,
        experts=Experts(
            ffn=("moe_intermediate_size",),
            facts={"shared_ffn_size": one_shared, "router_bias": True},
            layers=listed(after(1)),
        ),
    ),
    "mellum": Family(
        defaults=None,
        facts={**FLAGGED, "qk_norm": both_heads},
        experts=Experts(ffn=("moe_intermediate_size",), layers=listed(_everywhere)),
    ),
    "minicpm3": Family(defaults=None, mixer=LatentAttention, facts=_LATENT_BIASES, mlp_bias="mlp_bias"),
    "moshi": Family(  # the table has a row more than the head, for the absence of text
        defaults=None,
        pattern=lambda _: lambda _: SLIDING,
        ffn_size=lambda c: c.size("ffn_dim") // 2,
        model={"tied_embeddings": False, "other_params": lambda c: c.hidden},
    ),
    "openai-gpt": Family(
        defaults=None,
        facts=BIASES,
        gated=False,
        mlp_bias=True,
        model={**LAYERNORM, "learned_positions": positions, "final_norm": False},
    ),
    "persimmon": Family(
        defaults=None,
        facts={**BIASES, "qk_norm": _persimmon_norms},
        gated=False,
        mlp_bias=True,
        model=LAYERNORM,
    ),
    "phi4_multimodal": Family(defaults=None, pattern=lambda _: lambda _: SLIDING),
    "solar_open": Family(defaults=None, facts=_QKV, experts=Experts(**_ROUTED)),
    "vaultgemma": Family(defaults=None, facts=FLAGGED, pattern=alternating(SLIDING, FULL)),
    "xglm": Family(
        defaults=None,
        facts=BIASES,
        gated=False,
        mlp_bias=True,
        names={"num_attention_heads": "attention_heads", "num_hidden_layers": "num_layers"},
        model=LAYERNORM,
    ),
}
