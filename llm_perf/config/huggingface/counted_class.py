"""A model of a class that transformers built: every layer as a kind that is known, or else as the tensors that it holds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from llm_perf.config.huggingface.built_class import BuiltClass, LayerCache
from llm_perf.config.huggingface.reader import FieldError
from llm_perf.config.huggingface.recognised import recognised
from llm_perf.config.layers.counted import Counted, KeptTokens, Matrix
from llm_perf.config.layers.feed_forward import NoMLP
from llm_perf.config.model import LayerGroup, ModelConfig

_EXPERT = re.compile(r"experts\.\d+\.")
_PACKED = re.compile(r"(^|\.)(experts|input_linear|output_linear)\b")
BESIDE = re.compile(
    r"(^|\.)(vision\w*|visual\w*|audio\w*|image_\w+|multi_modal\w*|mm_\w+|connector|aligner|qformer|\w*projector|projector\w*|"
    r"speech\w*|sound\w*|embed_vision|embed_audio|vit|patch_embed\w*|vqmodel|vqvae|resampler|perceiver\w*|merger|sam_\w+|"
    r"high_res\w*|low_res\w*|encoder_image|img_\w+|generation_\w+|vae|mtp\w*|pixel\w*)(\.|$)"
)
"""Modules beside the text part, as classes call them."""


def counted_model(built: BuiltClass, name: str, model_type: str) -> ModelConfig:
    """The model of a built class.

    Raises:
        FieldError: its tensors are not those of a language model's layers between two tables.
    """
    # What predicts words is no projector of pictures, though one class calls it so.
    apart = {key for key in built.tensors if BESIDE.search(key) and not key.startswith("vocab_")}
    tensors = {key: shape for key, shape in built.tensors.items() if key not in apart}
    beside = sum(prod(built.tensors[key]) for key in apart)
    if built.table not in tensors or len(tensors[built.table]) != 2:
        raise _fault(model_type, "has no token table")
    stacks = _stacks(tensors)
    if not stacks:
        raise _fault(model_type, "has no list of layers")
    main, encoder = _split(stacks)
    caches = _of_layers(built.caches, len(main))
    groups = _groups(main, caches, built)
    encoder_groups = _groups(encoder, [LayerCache()] * len(encoder), built)
    vocab, width = tensors[built.table]
    head = built.head if built.head in tensors and tensors[built.head] == tensors[built.table] else None
    hidden = built.hidden_size
    elements = sum(map(prod, tensors.values()))
    inside = sum(prod(shape) for layers in (main, encoder) for layer in layers for shape in layer.values())
    tables = vocab * width * (1 if head is None else 2)
    # A table of another width than the hidden states leads to them by matrices that a ModelConfig counts.
    bridge = 0 if width == hidden else 2 * width * hidden
    rest = elements - inside - tables - bridge
    if rest < 0:
        raise _fault(model_type, "has tensors that are shared between its layers")
    known = all(not group.attention.counted_only for group in (*groups, *encoder_groups))
    return ModelConfig(
        name=name,
        family=model_type,
        source=_origin(built),
        hidden_size=hidden,
        vocab_size=vocab,
        embedding_size=None if width == hidden else width,
        max_position_embeddings=built.positions,
        layer_groups=groups,
        encoder_groups=encoder_groups,
        encoder=built.masked,
        tied_embeddings=head is None,
        norm="rmsnorm",
        final_norm=False,  # among the others
        other_params=rest,
        left_out=_said(built, beside, known),
        beside_params=beside,
    )


def _said(built: BuiltClass, beside: int, known: bool) -> str:
    said = f"no row describes this model type: counted from {_origin(built)}"
    if known:
        said += ", of which every layer is of a known kind"
    if built.caches is None and not built.masked:
        said += "; its cache is not counted, since the class's own pass needs more than token ids"
    if beside:
        said += f"; left out: {beside / 1e9:.2f}e9 parameters beside the text, {2 * beside / 1e9:.2f} GB at 16 bit"
    return said


def _origin(built: BuiltClass) -> str:
    return f"{built.class_name} of transformers {built.version}, built on the meta device"


def _fault(model_type: str, what: str) -> FieldError:
    return FieldError(
        ("model_type",),
        f"model_type = {model_type!r}: its class in transformers {what}, so it is not counted",
    )


# -- layers -----------------------------------------------------------------------------------------------

_Layer = Mapping[str, tuple[int, ...]]


def _stacks(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, list[_Layer]]:
    """The tensors of each layer, by the list that it stands in; a list inside of a layer is a part of that layer."""
    found: dict[str, dict[int, dict[str, tuple[int, ...]]]] = {}
    for name, shape in tensors.items():
        at = _outermost(name)
        if at is not None:
            stack, number, inner = at
            found.setdefault(stack, {}).setdefault(number, {})[inner] = shape
    return {stack: [layers[number] for number in sorted(layers)] for stack, layers in found.items()}


def _outermost(name: str) -> tuple[str, int, str] | None:
    """(list, place, rest) of the first numbered part of a name."""
    parts = name.split(".")
    place = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    if not place or place == len(parts) - 1:
        return None
    return ".".join(parts[:place]), int(parts[place]), ".".join(parts[place + 1 :])


def _split(stacks: Mapping[str, list[_Layer]]) -> tuple[list[_Layer], list[_Layer]]:
    """(layers, layers of an encoder beside a decoder): an encoder is one where there is a decoder too."""
    decoders = [stack for stack in stacks if "decoder" in stack]
    encoders = [stack for stack in stacks if decoders and "encoder" in stack and "decoder" not in stack]
    main = [layer for stack, layers in stacks.items() if stack not in encoders for layer in layers]
    return main, [layer for stack in encoders for layer in stacks[stack]]


def _of_layers(caches: tuple[LayerCache, ...] | None, layers: int) -> list[LayerCache]:
    """One per layer, in order; where a class keeps more or fewer than it has layers, their sum stands with the first ones."""
    found = list(caches or ())
    if len(found) > layers:
        parts: Counter[int | None] = Counter()
        for cache in found:
            for rate, window in cache.parts:
                parts[window] += rate  # type: ignore[assignment]
        merged = tuple((float(rate), window) for window, rate in parts.items())
        found = [LayerCache(merged, sum(cache.state for cache in found))]
    return found + [LayerCache()] * (layers - len(found))


def _groups(layers: list[_Layer], caches: list[LayerCache], built: BuiltClass) -> tuple[LayerGroup, ...]:
    found: Counter[LayerGroup] = Counter()
    known: dict[Any, LayerGroup] = {}
    for layer, cache in zip(layers, caches, strict=True):
        key = (tuple(sorted(layer.items())), cache)
        if key not in known:
            known[key] = recognised(layer, cache, built) or _as_tensors(layer, cache, built)
        found[known[key]] += 1
    return tuple(group.replace(count=count) for group, count in found.items())


def _as_tensors(layer: _Layer, cache: LayerCache, built: BuiltClass) -> LayerGroup:
    """A layer as the matrices and other tensors of its class."""
    matrices: Counter[tuple[str, int, int]] = Counter()
    packed: list[Matrix] = []
    vectors = 0
    for name, shape in layer.items():
        module = name.removesuffix(".weight")
        if _EXPERT.search(name) and len(shape) == 2:
            matrices[(_EXPERT.sub("experts.*.", module), *shape)] += 1
        elif _PACKED.search(name) and len(shape) in (2, 3) and not _is_router(module):
            copies, rows, columns = (*shape, 1) if len(shape) == 2 else shape
            packed.append(_matrix(module, rows, columns, copies, built.top_k))
        elif len(shape) == 2 and name.endswith("weight"):
            matrices[(module, *shape)] += 1
        else:
            vectors += prod(shape)
    found = [
        _matrix(
            name,
            rows,
            columns,
            copies,
            built.top_k if "experts.*." in name and "shared" not in name else None,
        )
        for (name, rows, columns), copies in matrices.items()
    ]
    mixer = Counted(
        matrices=(*found, *packed),
        vectors=vectors,
        kept=tuple(KeptTokens(per_token=rate, window=window) for rate, window in cache.parts),
        state=cache.state,
    )
    return LayerGroup(count=1, attention=mixer, mlp=NoMLP(), norms=0)


def _is_router(module: str) -> bool:
    return "router" in module or module.endswith("gate")


def _matrix(module: str, rows: int, columns: int, copies: int, top_k: int | None) -> Matrix:
    active = copies if top_k is None else min(top_k, copies)
    return Matrix(module=module, out_features=rows, in_features=columns, copies=copies, active=active)
