"""A model type that has no row: its class in transformers, built on PyTorch's meta device, which has shapes and no memory.

Nothing here is imported before such a config is met, and both libraries only then: building takes seconds. Only classes
that transformers itself has are built; code of a repository is never run.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

from llm_perf.config.huggingface.reader import LARGEST_SIZE, FieldError

_LIBRARY = "transformers"
_MAPPINGS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
)  # fmt: skip
"""Tables of transformers that name the class of a model type, those of language models first."""
_MASKED = _MAPPINGS[4]
_TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts",
    "num_selected_experts", "moe_router_topk", "moe_num_active_experts", "num_experts_per_layer_tok",
)  # fmt: skip
_LENGTHS = ((1152, 2304), (56, 112))
"""Tokens of the two passes whose caches are compared: what differs grows with the context, compressed keys in steps of up to
128. No tensor is as wide as one of them. The shorter ones are for a class that has few positions."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """What one layer keeps of a sequence: (elements per token, kept tokens or None for all), and what does not grow."""

    parts: tuple[tuple[float, int | None], ...] = ()
    state: float = 0.0


@dataclass(frozen=True, slots=True)
class BuiltClass:
    """What a built class says of itself, in plain data.

    ``tensors`` are the shapes of its parameters by name, shared ones once; ``table`` and ``head`` the names of the
    token table and of the output matrix, ``head`` None where the table is it. ``caches`` are those of the layers
    that keep something, in their order, None where the class's own pass could not be followed.
    """

    class_name: str
    version: str
    tensors: Mapping[str, tuple[int, ...]]
    table: str
    head: str | None
    hidden_size: int
    heads: int | None
    positions: int | None
    top_k: int | None
    caches: tuple[LayerCache, ...] | None
    masked: bool


def can_build() -> bool:
    """Whether transformers and PyTorch are installed."""
    return None not in (find_spec("torch"), find_spec(_LIBRARY))


def build_class(model_type: str, config: Mapping[str, Any]) -> BuiltClass | None:
    """The class of a model type as its config describes it; None where transformers has none.

    Raises:
        FieldError: the class refuses the config, or it has more layers than are worth building.
    """
    if not _has_type(model_type):
        return None
    _refuse_huge(config, ())
    with _quiet():
        from transformers.models.auto import configuration_auto, modeling_auto

        if model_type not in configuration_auto.CONFIG_MAPPING:
            return None
        named = [(table, getattr(modeling_auto, table, {}).get(model_type)) for table in _MAPPINGS]
        classes = [(table, name if isinstance(name, str) else name[0]) for table, name in named if name]
        if not classes:
            return None
        said = ""
        for table, name in classes:
            try:
                described = configuration_auto.CONFIG_MAPPING[model_type].from_dict(_infinite(config))
                return _read(described, name, table)
            except Exception as error:  # noqa: BLE001 - every class refuses what it cannot be built from in its own way
                said = said or " ".join(str(error).split())[:160]
        message = (
            f"model_type = {model_type!r}: its class in transformers cannot be built from this config: {said}"
        )
        raise FieldError(("model_type",), message)


def _has_type(model_type: str) -> bool:
    """Whether transformers names a type anywhere in its tables: these are read, since importing them takes seconds."""
    found = find_spec(_LIBRARY)
    if found is None or found.origin is None or not re.fullmatch(r"[\w.-]{1,64}", model_type):
        return False
    tables = (Path(found.origin).parent / "models" / "auto").glob("*auto*.py")
    return any(f'"{model_type}"' in table.read_text("utf-8", "replace") for table in tables)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, and no word to the hub: the config is all there is."""
    import transformers

    said = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(said)


def class_defaults_of(model_type: str) -> Mapping[str, Any]:
    """The keys that a type's config class knows, with their defaults."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        found: Mapping[str, Any] = CONFIG_MAPPING[model_type]().to_dict()
    except Exception:  # noqa: BLE001 - a class without a default config
        return {}
    return found


def _infinite(value: Any) -> Any:
    """A config whose infinite numbers, which JSON has no word for, are numbers again."""
    if isinstance(value, Mapping):
        return (
            float(value["__float__"])
            if "__float__" in value
            else {name: _infinite(each) for name, each in value.items()}
        )
    return [_infinite(each) for each in value] if isinstance(value, list) else value


def _refuse_huge(config: Mapping[str, Any], path: tuple[str, ...]) -> None:
    """Building takes time by module, so that a number which is a mistake is refused before."""
    for name, value in config.items():
        where = (*path, str(name))
        if isinstance(value, Mapping) and len(path) < _MOST_NESTED:
            _refuse_huge(value, where)
            continue
        most = next((most for words, most in _MOST if words.search(str(name))), LARGEST_SIZE)
        long = isinstance(value, (list, str)) and len(value) > _LONGEST
        if long or (type(value) is int and value > most):
            shown = f"{len(value)} entries" if isinstance(value, (list, str)) else str(value)[:30]
            raise FieldError(
                where, f"{'.'.join(where)} = {shown}: expected at most {_LONGEST if long else most}"
            )


_MOST = (
    (re.compile(r"layers|depth|blocks"), 1000),
    (re.compile(r"num_.*experts|n_.*experts|experts_num"), 2048),
)
"""Numbers of things of which classes build one module each."""
_MOST_NESTED, _LONGEST = 8, 10_000


def _read(config: Any, class_name: str, table: str) -> BuiltClass:
    import torch
    import transformers

    cls = getattr(transformers, class_name)
    with torch.device("meta"), torch.no_grad(), _no_initial_values():
        model = cls._from_config(config)
    model.tie_weights()
    model.eval()
    text = _text_config(config)
    names = {
        id(tensor): name for name, tensor in reversed(list(model.named_parameters(remove_duplicate=False)))
    }
    tensors = {names[id(tensor)]: tuple(tensor.shape) for tensor in model.parameters()}
    table_weight, head_weight = _tables(model, text)
    head = None if head_weight is None or head_weight is table_weight else names.get(id(head_weight))
    return BuiltClass(
        class_name=class_name,
        version=transformers.__version__,
        tensors=tensors,
        table=names[id(table_weight)],
        head=head,
        hidden_size=int(_of(text, "hidden_size") or table_weight.shape[1]),
        heads=_number(_of(text, "num_attention_heads")),
        positions=_number(_of(text, "max_position_embeddings")),
        top_k=_top_k(text),
        caches=None if table == _MASKED else _caches(model, config, text),
        masked=table == _MASKED,
    )


def _tables(model: Any, text: Any) -> tuple[Any, Any]:
    """(token table, output matrix or None), as the class says, or else the largest matrix that is called an embedding."""
    table = head = None
    with contextlib.suppress(AttributeError, NotImplementedError):
        table = model.get_input_embeddings().weight
    with contextlib.suppress(AttributeError, NotImplementedError):
        head = model.get_output_embeddings().weight
    if table is None or table.dim() != 2:
        named = [
            tensor
            for name, tensor in model.named_parameters()
            if "embed" in name and tensor.dim() == 2 and tensor is not head
        ]
        rows = [tensor for tensor in named if tensor.shape[0] == _of(text, "vocab_size")]
        table = max(rows or named, key=lambda tensor: tensor.numel())
    return table, head


def _of(text: Any, name: str) -> Any:
    """A key of a config under any of its names; None where it has none, or one per layer."""
    try:
        return getattr(text, name, None)
    except Exception:  # noqa: BLE001 - a key that differs between layers is an error of transformers' own
        return None


def _number(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _no_initial_values() -> Any:
    try:
        from transformers.initialization import no_init_weights
    except ImportError:
        from transformers.modeling_utils import no_init_weights
    return no_init_weights()


def _text_config(config: Any) -> Any:
    inner = getattr(config, "thinker_config", config)
    try:
        return inner.get_text_config()
    except (AttributeError, ValueError):
        return inner


def _top_k(text: Any) -> int | None:
    value = next((found for name in _TOP_K if (found := _of(text, name)) is not None), None)
    return _number(value[0] if isinstance(value, (list, tuple)) and value else value)


# -- the cache of the class's own pass --------------------------------------------------------------------


def _caches(model: Any, config: Any, text: Any) -> tuple[LayerCache, ...] | None:
    """What each layer keeps: two passes of different lengths, compared. None where the class cannot be run so."""
    for each in (config, text):
        # Loops over the experts that tokens chose need values, which the meta device has none of.
        for name, value in (("_experts_implementation", "batched_mm"), ("_attn_implementation", "eager")):
            with contextlib.suppress(Exception):
                setattr(each, name, value)
    for few, many in _LENGTHS:
        try:
            short, long = _kept(model, few), _kept(model, many)
        except Exception:  # noqa: BLE001 - a class that wants pictures or sound, or fewer tokens, fails in its own way
            continue
        if len(short) == len(long):
            return tuple(_layer_cache(one, other, few, many) for one, other in zip(short, long, strict=True))
    return None


def _layer_cache(short: _Kept, long: _Kept, few_tokens: int, many_tokens: int) -> LayerCache:
    """What grew between a short and a long context, per token; a window that is full does not."""
    window = short.window
    grown: dict[int | None, float] = {}
    state = 0.0
    # transformers keeps one token fewer than a window, since the newest one is on its way
    full = (
        ()
        if window is None
        else (window - 1,)
        if any(window - 1 in shape for shape in short.shapes)
        else (window,)
    )
    for few, many in itertools.zip_longest(short.shapes, long.shapes, fillvalue=()):
        before, after = (prod(shape) if shape else 0 for shape in (few, many))
        if window is not None and window > few_tokens and few_tokens in few and few != many:
            grown[window] = grown.get(window, 0.0) + before / few_tokens
        elif after > before:  # beside a window that is full, compressed keys may grow
            rate = (after - before) / (many_tokens - few_tokens)
            grown[None] = grown.get(None, 0.0) + rate
            state += max(before - rate * few_tokens, 0.0)
        elif full and full[0] > 0 and full[0] in few[1:]:
            grown[window] = grown.get(window, 0.0) + before / full[0]
        else:
            state += before
    return LayerCache(tuple((rate, kept) for kept, rate in grown.items()), state)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Shapes of the tensors that one layer keeps, and its window."""

    shapes: tuple[tuple[int, ...], ...]
    window: int | None = None


def _kept(model: Any, tokens: int) -> list[_Kept]:
    """What each layer of the cache holds after a pass of so many tokens."""
    import torch

    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    given = {"input_ids": ids, "use_cache": True}
    if getattr(model.config, "is_encoder_decoder", False):
        given["decoder_input_ids"] = ids
    with torch.no_grad(), torch.device("meta"):
        out = model(**given)
    fields = ("past_key_values", "cache_params", "state")
    cache = next((found for name in fields if (found := getattr(out, name, None)) is not None), None)
    if cache is None:
        raise ValueError("no cache")
    cache = getattr(cache, "self_attention_cache", cache)
    layers = getattr(cache, "layers", None)
    if layers is None:
        return [_Kept(_shapes(cache))]
    kept = []
    for layer in layers:
        window = getattr(layer, "sliding_window", None) or getattr(layer, "attention_chunk_size", None)
        kept.append(_Kept(_shapes(layer), window if type(window) is int and window > 0 else None))
    return kept


def _shapes(found: Any) -> tuple[tuple[int, ...], ...]:
    """Shapes of what is kept; single numbers count positions and are no cache."""
    return tuple(tuple(tensor.shape) for tensor in _tensors(found) if tensor.numel() > 1)


def _tensors(found: Any, depth: int = 0) -> Iterator[Any]:
    """Tensors of an object's fields, lists and mappings."""
    import torch

    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, dict):
        for value in found.values():
            yield from _tensors(value, depth + 1)
    elif isinstance(found, (list, tuple)):
        for value in found:
            yield from _tensors(value, depth + 1)
    elif depth == 0 and hasattr(found, "__dict__"):
        for value in vars(found).values():
            yield from _tensors(value, 1)
