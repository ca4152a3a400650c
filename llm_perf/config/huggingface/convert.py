"""A model from the content of a config.json, by its family's row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from llm_perf.config.huggingface.class_defaults import class_defaults, unread_defaults
from llm_perf.config.huggingface.families import FAMILIES
from llm_perf.config.huggingface.family import Family
from llm_perf.config.huggingface.left_out import beside_text, prediction_layers
from llm_perf.config.huggingface.reader import Config, FieldError
from llm_perf.config.huggingface.unread import describe_unknown, describe_unread, refuse_unread
from llm_perf.config.huggingface.wrappers import WRAPPERS
from llm_perf.config.model import ModelConfig, ReleasedDtype
from llm_perf.config.quantization import Quantization, read_quantization
from llm_perf.errors import SpecError


def from_hf_config(
    config: dict[str, Any], name: str, quantization: dict[str, Any] | None = None
) -> ModelConfig:
    """A model from the content of a Hugging Face ``config.json``.

    Of a multimodal model this is the text part (`llm_perf.config.huggingface.wrappers`). What stands beside it, multi-token
    prediction layers, and keys that the family's row does not know are said in ``left_out``.

    Args:
        config: The parsed file. ``model_type``, or else ``architectures``, selects the family.
        name: What the model shall be called; errors start with it.
        quantization: ``quantization`` of a hf_quant_config.json beside it, which counts where the config is silent.

    Raises:
        SpecError: an unsupported ``model_type`` (the supported ones are listed), a required field that is
            missing, or a value that cannot be, or a key that changes the model and that its family does not count.
    """
    try:
        return convert(config, name, quantization)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None


def convert(config: Any, name: str, quantization: dict[str, Any] | None = None) -> ModelConfig:
    """Build a model, or raise a SpecError whose message does not say yet where."""
    if not isinstance(config, dict):
        raise SpecError(f"expected a mapping of fields, found {type(config).__name__}")
    family = _family_of(config)
    if family is None:
        return _of_its_class(config, name, quantization)
    row, reader = _row_and_reader(family, config)
    source = f"Hugging Face config.json, model_type {family}"
    found = row.build(reader)
    refuse_unread(reader)
    decoder = (
        "the decoder alone; its encoder is counted where architectures name it"
        if _alone(row, found)
        else None
    )
    predicted = reader.fields.get("num_nextn_predict_layers")
    ahead = prediction_layers(predicted, found["hidden_size"], found["layer_groups"][-1])
    beside = beside_text(config, reader.path, found["hidden_size"])
    said = (beside.said, ahead, decoder, describe_unread(reader, family))
    left_out = "; ".join(filter(None, said)) or None
    return ModelConfig(
        name=name,
        family=family.removesuffix("_text"),
        source=source,
        left_out=left_out,
        beside_params=beside.params,
        quantization=_quantization(config, reader.fields, quantization),
        released_dtype=_released_dtype(config, reader.fields),
        mtp_layers=_mtp_layers(reader.fields),
        state_bits=_state_bits({**unread_defaults(family), **reader.fields}),
        **found,
    )


def _alone(row: Family, found: Mapping[str, Any]) -> bool:
    return row.encoder is not None and not found.get("encoder_groups")


def _row_and_reader(family: str, config: Mapping[str, Any]) -> tuple[Family, Config]:
    """The row of a config, or of its text part, and the fields that it reads."""
    wrapper = WRAPPERS.get(family)
    if wrapper is None or wrapper.path[0] not in config:
        named = family if wrapper is None else wrapper.text
        row = FAMILIES[named]
        return row, Config(family, config, _defaults(row, named))
    inner = Config("", config, {})
    outer: Mapping[str, Any] = {}
    for name in wrapper.path:
        outer = {key: inner.fields[key] for key in ("tie_word_embeddings",) if key in inner.fields}
        inner = inner.sub(name)
    given = inner.text("model_type") or wrapper.text
    if given not in FAMILIES:
        raise inner.fault("model_type", given, f"one of {', '.join(sorted(FAMILIES))}")
    row = FAMILIES[given]
    # The head's matrix belongs to the outer model, and so does the flag that ties it.
    dropped = () if wrapper.ties_inside else ("tie_word_embeddings",)
    content = {key: value for key, value in inner.fields.items() if key not in dropped}
    content.update(wrapper.given)
    tied = {} if wrapper.tied is None else {"tie_word_embeddings": wrapper.tied}
    return row, Config(family, content, {**_defaults(row, given), **tied, **outer}, inner.path)


def _defaults(row: Family, model_type: str) -> Mapping[str, Any]:
    return class_defaults(model_type) if row.defaults is None else row.defaults


def _quantization(
    config: Mapping[str, Any], text: Mapping[str, Any], extra: dict[str, Any] | None
) -> Quantization | None:
    """How the checkpoint is quantised: the outer config says it, or the text part does."""
    found = config.get("quantization_config") or text.get("quantization_config")
    if found is not None and not isinstance(found, dict):
        raise FieldError(("quantization_config",), f"quantization_config = {found!r:.60}: expected a mapping")
    if found and text.get("expert_dtype") is not None:  # DeepSeek-V4 says beside it what its experts are
        found = {"expert_dtype": text["expert_dtype"]} | found
    try:
        return read_quantization(found or {}, extra)
    except FieldError:
        raise
    except SpecError as error:
        raise FieldError(("quantization_config",), str(error)) from None


def _released_dtype(config: Mapping[str, Any], text: Mapping[str, Any]) -> ReleasedDtype | None:
    """``dtype`` or its older name, where it is one of the three that checkpoints have; "auto" and the like say nothing."""
    for fields in (config, text):
        for name in ("dtype", "torch_dtype"):
            value = fields.get(name)
            plain = value.removeprefix("torch.") if isinstance(value, str) else None
            for known in get_args(ReleasedDtype):
                if plain == known:
                    return known  # type: ignore[no-any-return]
    return None


def _mtp_layers(text: Mapping[str, Any]) -> int:
    """Multi-token prediction modules that the checkpoint holds beside the model."""
    value = text.get("num_nextn_predict_layers")
    return value if type(value) is int and 0 < value < 100 else 0


def _state_bits(text: Mapping[str, Any]) -> Literal[16, 32]:
    """Recurrent states in 32 bits where the config asks engines for them (Qwen3.5, Nemotron)."""
    return 32 if "float32" in (text.get("mamba_ssm_dtype"), text.get("mamba_ssm_cache_dtype")) else 16


_MISNAMED: Mapping[str, str] = {"Grok1ForCausalLM": "grok-1", "Grok1ModelForCausalLM": "grok-1"}
"""Rows of classes whose released files name another model's type: Grok-2's says git, which reads pictures."""


def _family_of(config: Mapping[str, Any]) -> str | None:
    """The model type of a row or wrapper; None where there is none."""
    classes = config.get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    if isinstance(first, str) and first in _MISNAMED:
        return _MISNAMED[first]
    given = config.get("model_type")
    if given is None:
        given = _type_of_architecture(config.get("architectures"))
    return given if isinstance(given, str) and (given in FAMILIES or given in WRAPPERS) else None


def _of_its_class(config: Mapping[str, Any], name: str, quantization: dict[str, Any] | None) -> ModelConfig:
    """A model type without a row: as its class in transformers says, where that is installed.

    Raises:
        FieldError: it is not, or has no such class, or the class refuses the config.
    """
    from llm_perf.config.huggingface.built_class import build_class, can_build, class_defaults_of

    given, known = config.get("model_type"), can_build()
    built = build_class(given, config) if known and isinstance(given, str) else None
    if built is not None:
        from llm_perf.config.huggingface.counted_class import counted_model

        model = counted_model(built, name, str(given))
        unknown = describe_unknown(config, class_defaults_of(str(given)))
        return model.replace(
            left_out="; ".join(filter(None, (model.left_out, unknown))),
            quantization=_quantization(config, {}, quantization),
            released_dtype=_released_dtype(config, {}),
        )
    named = "model_type" if "model_type" in config else "architectures"
    supported = ", ".join(sorted(FAMILIES.keys() | WRAPPERS.keys()))
    unbuilt = (
        ""
        if known
        else " (where transformers and torch are installed, a type that transformers has is counted from its class)"
    )
    shown = repr(config.get(named))
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise FieldError(
        (named,), f"{named} = {shown}: not supported{unbuilt}; supported model types: {supported}"
    )


def _type_of_architecture(architectures: Any) -> str | None:
    """The model type of a class name: ``GPTNeoXForCausalLM`` is ``gpt_neox``."""
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        return None
    plain = re.sub(r"(For\w+|LMHeadModel|Model)$", "", architectures[0]).lower()
    return next((family for family in FAMILIES if family.replace("_", "") == plain), None)
