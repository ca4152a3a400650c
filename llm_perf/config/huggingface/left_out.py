"""What a count leaves out, in words: towers beside the text, and multi-token prediction layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm_perf.config.huggingface.reader import LARGEST_SIZE
from llm_perf.config.model import LayerGroup

PARTS = {
    "audio_config",
    "audio_encoder_config",
    "codec_config",
    "code2wav_config",
    "generation_config",
    "perceiver_config",
    "projector_config",
    "qformer_config",
    "speech_config",
    "talker_config",
    "token2wav_config",
    "vision_config",
    "vq_config",
}
_WIDTH = ("hidden_size", "embed_dim", "d_model", "width")
_LAYERS = ("num_hidden_layers", "depth", "encoder_layers", "num_layers", "layers")
_FFN = ("intermediate_size", "encoder_ffn_dim", "ffn_dim")
_GATED = {"silu", "swish", "swiglu"}
_GIGA = 1e9


def describe(outer: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    """The note about the parts beside the text that ``path`` leads to, None where there are none."""
    said = list(_beside(outer, path))
    return f"text part only; left out: {', '.join(said)}" if said else None


def prediction_layers(given: Any, hidden: int, last: LayerGroup) -> str | None:
    """The note about multi-token prediction layers: each is a layer like the last, and a projection of two states to one."""
    if not isinstance(given, int) or isinstance(given, bool) or not 0 < given <= LARGEST_SIZE:
        return None
    linears = (*last.attention.linears(hidden), *last.mlp.linears(hidden))
    params = given * (sum(linear.params for linear in linears) + 2 * hidden * hidden)
    layers = f"{given} multi-token prediction layer" + ("s" if given > 1 else "")
    return (
        f"left out: {layers} (about {params / _GIGA:.2f}e9 parameters, {2 * params / _GIGA:.2f} GB at 16 bit)"
    )


def _beside(outer: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for name in sorted(PARTS & outer.keys()):
        yield name + _size(outer[name])
    inner = outer.get(path[0]) if len(path) > 1 else None
    if isinstance(inner, Mapping):
        yield from _beside(inner, path[1:])


def _size(part: Any) -> str:
    """About how large a tower is, where its config says how wide and deep it is."""
    params = tower_params(part) if isinstance(part, Mapping) else None
    if params is None:
        return ""
    return f" (about {params / _GIGA:.2f}e9 parameters, {2 * params / _GIGA:.2f} GB at 16 bit)"


def tower_params(part: Mapping[str, Any]) -> int | None:
    """Elements of a transformer encoder: four projections and a feed-forward block per layer, and its patches."""
    width, layers = _first(part, _WIDTH), _first(part, _LAYERS)
    if width is None or layers is None:
        return None
    ratio = part.get("mlp_ratio", 4)
    wide = _first(part, _FFN) or (int(ratio * width) if isinstance(ratio, int | float) else 4 * width)
    blocks = 3 if part.get("hidden_act") in _GATED else 2
    patch = _first(part, ("patch_size",)) or 0
    pixels = (_first(part, ("num_channels", "in_channels")) or 3) * patch * patch
    pixels *= _first(part, ("temporal_patch_size",)) or 1
    params = layers * (4 * width * width + blocks * width * wide) + pixels * width
    return params if params <= LARGEST_SIZE else None


def _first(part: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of several keys, if it is a size."""
    given = next((part[name] for name in names if name in part), None)
    size = isinstance(given, int) and not isinstance(given, bool) and 0 < given <= LARGEST_SIZE
    return given if size else None
