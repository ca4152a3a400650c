"""The table of architectures, continued: text parts that only multimodal models have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.huggingface.facts import (
    BIASES,
    FLAGGED,
    LAYERNORM,
    both_heads,
    first_dense,
    late_sliding,
    shared,
    sparse_steps,
)
from llm_perf.config.huggingface.families_decoders import after, listed
from llm_perf.config.huggingface.families_encoders import bert, transform
from llm_perf.config.huggingface.families_gated import rounded_head
from llm_perf.config.huggingface.family import FULL, SLIDING, Experts, Family, one_in
from llm_perf.config.huggingface.reader import Config
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.latent_attention import LatentAttention

_KOSMOS_NAMES: Mapping[str, str] = {
    "hidden_size": "embed_dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "attention_heads",
}
_QKV: Mapping[str, Any] = {"qkv_bias": "attention_bias"}
_USE_BIAS: Mapping[str, Any] = {"qkv_bias": "use_bias", "output_bias": "use_bias"}


def _kosmos_inner(c: Config) -> int:
    """Norms inside attention and feed-forward."""
    return 2 * c.hidden + 2 * c.size("ffn_dim")


def _attends_to_image(c: Config) -> Callable[[int], Mapping[str, Any]]:
    """BLIP: cross-attention to an encoder of the same width in every layer."""
    width = c.optional("encoder_hidden_size") or c.hidden
    if width != c.hidden:
        raise c.fault("encoder_hidden_size", width, f"the hidden size, {c.hidden}")
    cross = Attention(
        num_heads=c.heads, num_kv_heads=c.heads, head_dim=c.head_dim, qkv_bias=True, output_bias=True
    )
    return lambda _: {"cross_attention": cross}


def _molmo_rows(c: Config) -> int:
    """Special tokens have a second table; queries and keys are normalised as Qwen 3 does."""
    if c.plain("qk_norm_type") != "qwen3":
        raise c.fault("qk_norm_type", c.plain("qk_norm_type"), "'qwen3'")
    return (c.count("additional_vocab_size") or 0) * c.hidden


def _crossed(c: Config) -> set[int]:
    listed_ = c.items("cross_attention_layers", int)
    return set((3, 8, 13, 18, 23, 28, 33, 38) if listed_ is None else listed_)


def _mllama_layers(c: Config) -> Callable[[int, Mixer], Mixer]:
    """Layers that attend to the image instead of the text."""
    crossed = _crossed(c)

    def adapt(layer: int, mixer: Mixer) -> Mixer:
        return mixer.replace(reads_encoder=True, qk_norm=both_heads(c)) if layer in crossed else mixer

    return adapt


def _mllama_gates(c: Config) -> Callable[[int], Mapping[str, Any]]:
    crossed = _crossed(c)
    return lambda layer: {"other_params": 2 if layer in crossed else 0}


def _mimo_types(_: Config) -> Callable[[int], str]:
    return lambda layer: FULL if layer == 0 or (layer + 1) % 6 == 0 else SLIDING


def _mimo_windows(_: Config) -> Callable[[int, Mixer], Mixer]:
    """Local layers have sinks and twice the heads of keys."""

    def adapt(_: int, mixer: Mixer) -> Mixer:
        local = isinstance(mixer, Attention) and mixer.window is not None
        return mixer.replace(num_kv_heads=2 * mixer.num_kv_heads, sinks=True) if local else mixer

    return adapt


def _step_gate(c: Config) -> bool:
    """A gate per head of the result; layers of other widths are not counted."""
    if c.plain("per_layer_config"):
        raise c.fault("per_layer_config", c.plain("per_layer_config"), "no entry")
    if SLIDING in (c.items("layer_types", str) or ()) and c.plain("num_sliding_attention_heads") != c.heads:
        raise c.fault("num_sliding_attention_heads", c.plain("num_sliding_attention_heads"), str(c.heads))
    return True


_TIME_WIDTH = 32
"""Inner width of Voxtral's norm that is told the time."""


TEXT_PARTS: Mapping[str, Family] = {
    "blip_text_model": bert(transform, norms=3, each=_attends_to_image, shapeless=("add_cross_attention",)),
    "cosmos3_edge_text": Family(defaults=None, facts=FLAGGED, gated=False, mlp_bias="mlp_bias"),
    "glm4v_text": Family(defaults=None, facts={"qkv_bias": True}, norms=4),
    "glm4v_moe_text": Family(
        defaults=None,
        facts={**_QKV, "head_dim": rounded_head},
        experts=Experts(
            ffn=("moe_intermediate_size",),
            facts={"shared_ffn_size": shared, "router_bias": True},
            layers=first_dense,
        ),
    ),
    "glm_ocr_text": Family(defaults=None, norms=4),
    "granite_docling_text": Family(defaults=None, facts=FLAGGED, mlp_bias="mlp_bias"),
    "kosmos_2_text_model": Family(
        defaults=None,
        facts=BIASES,
        gated=False,
        mlp_bias=True,
        names=_KOSMOS_NAMES,
        other_params=_kosmos_inner,
        model=LAYERNORM,
    ),
    "kosmos_2_5_text_model": Family(
        defaults=None,
        facts=BIASES,
        gated=False,
        mlp_bias=True,
        names=_KOSMOS_NAMES,
        other_params=lambda c: 2 * c.size("ffn_dim"),
        model={**LAYERNORM, "other_params": lambda c: 2 * c.hidden},
    ),
    "mimo_v2_flash": Family(
        defaults=None,
        facts={**_QKV, "v_head_dim": lambda c: c.size("v_head_dim")},
        pattern=_mimo_types,
        adapt=_mimo_windows,
        experts=Experts(ffn=("moe_intermediate_size",), facts={"router_bias": True}, layers=listed(after(1))),
    ),
    "mistral4": Family(
        defaults=None,
        mixer=LatentAttention,
        facts={"down_bias": "attention_bias", "output_bias": "attention_bias"},
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": shared}, layers=first_dense
        ),
    ),
    "mllama_text_model": Family(
        defaults=None,
        adapt=_mllama_layers,
        each=_mllama_gates,
        shapeless=("cross_attention_layers",),
        # Eight special rows at the end of the table, which the head does not have.
        model={"other_params": lambda c: 8 * c.hidden},
    ),
    "molmo2_text": Family(
        defaults=None, facts={**_QKV, "qk_norm": both_heads}, model={"other_params": _molmo_rows}
    ),
    "muse_glimmer_text": Family(defaults=None, facts={"output_gate": True}, pattern=one_in(4), norms=4),
    "paddleocr_vl_text": Family(defaults=None, facts=_USE_BIAS, mlp_bias="use_bias"),
    "qwen2_5_omni_text": Family(defaults=None, facts={"qkv_bias": True}, pattern=late_sliding),
    "qwen3_omni_moe_text": Family(
        defaults=None,
        facts={**FLAGGED, "head_dim": rounded_head, "qk_norm": lambda c: 2 * rounded_head(c)},
        experts=Experts(ffn=("moe_intermediate_size",), layers=sparse_steps),
    ),
    "step3p5": Family(
        defaults=None,
        facts={"qk_norm": both_heads, "head_gate": _step_gate},
        experts=Experts(
            ffn=("moe_intermediate_size",),
            facts={"shared_ffn_size": lambda c: c.count("share_expert_dim") or 0, "router_bias": True},
            layers=listed(after(3)),
        ),
    ),
    "unlimited_ocr_text": Family(
        defaults=None,
        facts=FLAGGED,
        mixers={"reference_sliding_attention": (Attention, {**FLAGGED, "window": lambda c: c.window})},
        pattern=lambda _: lambda _: "reference_sliding_attention",
        model={"other_params": lambda c: c.hidden},  # a learned separator of views
        experts=Experts(
            ffn=("moe_intermediate_size",), facts={"shared_ffn_size": shared}, layers=listed(after(1))
        ),
    ),
    "voxtral_realtime_text": Family(
        defaults=None,
        pattern=lambda _: lambda _: SLIDING,
        other_params=lambda c: 2 * _TIME_WIDTH * c.hidden,
    ),
}
