"""How large the parts beside a text model are, from their configs: encoders of pictures or sound, and what leads from them.

The sizes are those of the classes of transformers within a few per cent: projections, feed-forward blocks, biases and norms
of every layer, the patches' matrix and the table of positions, and the projector into the text's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_perf.config.huggingface.reader import LARGEST_SIZE

_WIDTH = ("hidden_size", "embed_dim", "d_model", "width")
_LAYERS = ("num_hidden_layers", "depth", "encoder_layers", "num_layers", "layers")
_FFN = ("intermediate_size", "encoder_ffn_dim", "ffn_dim")
_GATED = ("silu", "swish", "swiglu")
_ONE_MATRIX = ("gemma3", "gemma3n", "gemma4", "gemma4_unified", "paligemma", "shieldgemma2", "qwen2_audio")
"""Models whose projector is one matrix; the usual one has two, the second as wide as the text."""
_PIXTRAL, _MLLAMA, _LLAMA4 = "pixtral", "mllama_vision_model", "llama4_vision_model"
_MOST_STACKED = 1000
_ASPECTS = 9
"""Aspect ratios that Llama 3.2 Vision has a table for, none included."""


def tower_params(part: Mapping[str, Any], outer: Mapping[str, Any], text_hidden: int) -> int | None:
    """Elements of a tower with its projector; None where its config does not say how wide and deep it is."""
    out = _size(part, ("out_hidden_size",))
    if "embed_dim" in part and "depth" in part:  # Qwen2-VL calls the text's width hidden_size
        width, out = _size(part, ("embed_dim",)), out or _size(part, ("hidden_size",))
    else:
        width = _size(part, _WIDTH)
    layers = _size(part, _LAYERS)
    if width is None or layers is None:
        return None
    layers += _size(part, ("num_global_layers",)) or 0
    params = layers * _layer(part, width, out) + _patches(part, width)
    params += _projector(part, outer, width, out or text_hidden)
    return params if params <= LARGEST_SIZE else None


def _layer(part: Mapping[str, Any], width: int, out: int | None) -> int:
    ratio = part.get("mlp_ratio", 4)
    scaled = int(ratio * width) if isinstance(ratio, int | float) and 0 < ratio < 100 else 4 * width
    wide = _size(part, _FFN) or scaled
    if _is_glm(part) and out:  # GLM's intermediate_size is that of the merger
        wide = out
    gated = part.get("hidden_act") in _GATED or part.get("model_type") == _PIXTRAL
    return 4 * width * width + (3 if gated else 2) * width * wide + 8 * width + wide


def _patches(part: Mapping[str, Any], width: int) -> int:
    """The patches' matrix, and a row per patch where positions are learned."""
    side = _side(part, "patch_size") or 0
    pixels = (_size(part, ("num_channels", "in_channels")) or 3) * side * side
    pixels *= _size(part, ("temporal_patch_size",)) or 1
    image = _side(part, "image_size")
    rows = _size(part, ("num_position_embeddings",)) or 0
    if not rows and side and image and part.get("model_type") != _PIXTRAL:
        rows = min(image // side, 1000) ** 2
    if part.get("model_type") == _MLLAMA:  # once per tile of each aspect ratio
        rows *= 1 + _ASPECTS * (_size(part, ("max_num_tiles",)) or 1)
    head = 12 * width * width if part.get("vision_use_head") is True else 0
    return (pixels + rows) * width + head


def _projector(part: Mapping[str, Any], outer: Mapping[str, Any], width: int, out: int) -> int:
    """The matrices between a tower's output and the text."""
    kind = part.get("model_type")
    if kind == _MLLAMA:
        return (_size(part, ("vision_output_dim",)) or width) * out
    if kind == _LLAMA4:
        shuffled = width * 4
        first, second = (
            _size(part, (name,)) or width for name in ("projector_input_dim", "projector_output_dim")
        )
        return shuffled * first + first * second + (_size(part, ("vision_output_dim",)) or width) * out
    merged = _size(part, ("spatial_merge_size",))
    if _is_glm(part):
        inner = _size(part, ("intermediate_size",)) or out
        return (merged or 1) ** 2 * width * out + out * out + 3 * out * inner
    if kind == _PIXTRAL:
        squared = (_size(outer, ("spatial_merge_size",)) or 1) ** 2
        return squared * width * width * (squared > 1) + width * out + out * out
    if merged:
        taken = merged * merged * width
        stacked = part.get("deepstack_visual_indexes")
        times = 1 + (len(stacked) if isinstance(stacked, list) and len(stacked) < _MOST_STACKED else 0)
        return (taken * taken + taken * out) * times
    if outer.get("model_type") in _ONE_MATRIX:
        return width * out
    shuffled = 4 * width if outer.get("downsample_ratio") == 0.5 else width
    return shuffled * out + out * out


def _is_glm(part: Mapping[str, Any]) -> bool:
    kind = part.get("model_type")
    return isinstance(kind, str) and kind.startswith(("glm4", "glmga"))


def _size(part: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of several keys, if it is a size."""
    given = next((part[name] for name in names if name in part), None)
    return given if type(given) is int and 0 < given <= LARGEST_SIZE else None


def _side(part: Mapping[str, Any], name: str) -> int | None:
    """A size that may be written once per side."""
    given = part.get(name)
    given = given[0] if isinstance(given, list) and given else given
    return given if type(given) is int and 0 < given <= LARGEST_SIZE else None
