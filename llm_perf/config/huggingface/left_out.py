"""What a count leaves out, in words: towers beside the text, and multi-token prediction layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_perf.config.huggingface.reader import LARGEST_SIZE
from llm_perf.config.huggingface.towers import tower_params
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
_GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Beside:
    """What stands beside the text: the note about it, and the elements of the parts whose size is known."""

    said: str | None = None
    params: int = 0


def beside_text(outer: Mapping[str, Any], path: tuple[str, ...], text_hidden: int) -> Beside:
    """The parts beside the text that ``path`` leads to, whose hidden states are ``text_hidden`` wide."""
    parts = list(_beside(outer, path, text_hidden))
    said = ", ".join(name + _size(params) for name, params in parts)
    known = sum(params or 0 for _, params in parts)
    return Beside(
        f"text part only; left out: {said}" if parts else None, known if known <= LARGEST_SIZE else 0
    )


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


def _beside(
    outer: Mapping[str, Any], path: tuple[str, ...], text_hidden: int
) -> Iterator[tuple[str, int | None]]:
    for name in sorted(PARTS & outer.keys()):
        part = outer[name]
        yield name, tower_params(part, outer, text_hidden) if isinstance(part, Mapping) else None
    inner = outer.get(path[0]) if len(path) > 1 else None
    if isinstance(inner, Mapping):
        yield from _beside(inner, path[1:], text_hidden)


def _size(params: int | None) -> str:
    """About how large a tower is with its projector, where its config says how wide and deep it is."""
    if params is None:
        return ""
    return f" (about {params / _GIGA:.2f}e9 parameters, {2 * params / _GIGA:.2f} GB at 16 bit)"
