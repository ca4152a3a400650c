"""A model from a file, whichever of the schemas it is in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_perf.config import files
from llm_perf.config.huggingface.convert import convert
from llm_perf.config.huggingface.reader import FieldError
from llm_perf.config.model import ModelConfig, SeedArguments
from llm_perf.errors import SpecError


def load_model_file(path: Path) -> ModelConfig:
    """A model from a YAML or JSON file.

    Args:
        path: A file in our own schema, in seed 002's flat one (``num_layers``, ``n_head``, ``hidden_dim``, …)
            or a Hugging Face ``config.json``; or a folder that holds the latter.

    Raises:
        SpecError: the file cannot be read, is malformed, or describes no model that is supported; the message
            names file, line and field.
    """
    inside = path / "config.json"
    file = inside if files.is_file(inside) else path
    text = files.read_text(file)
    data = files.parse_mapping(text, str(file))
    if not _is_hf_config(data):
        return _own_model(data, text, str(file))
    try:
        return convert(data, _name_of(data, file))
    except FieldError as error:
        line = files.line_of(text, error.location)
        raise SpecError(f"{file}:{line}: {error}") from None
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None


def from_hf_config(config: dict[str, Any], name: str) -> ModelConfig:
    """A model from the content of a Hugging Face ``config.json``.

    Of a multimodal model (Gemma 3, Llama 4) this is the text part. Multi-token prediction modules, BERT's
    pooler and segment table, and whatever else a generation does not run, are left out.

    Args:
        config: The parsed file. ``model_type``, or else ``architectures``, selects the family.
        name: What the model shall be called; errors start with it.

    Raises:
        SpecError: an unsupported ``model_type`` (the supported ones are listed), a required field that is
            missing, or a value that cannot be.
    """
    try:
        return convert(config, name)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None


def _own_model(data: dict[str, Any], text: str, where: str) -> ModelConfig:
    """A model in our own schema, or in seed 002's, its fields checked first: a fault then has its line."""
    if "layer_groups" not in data and ("num_layers" in data or "n_head" in data):
        flat = {key: value for key, value in data.items() if key in SeedArguments.model_fields}
        files.build(SeedArguments, flat, text, where)
    return files.build(ModelConfig, data, text, where)


def _is_hf_config(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is a config.json. Seed 002's flat files have a ``model_type`` too, but a name."""
    if "layer_groups" in data or "hidden_dim" in data:
        return False
    return "architectures" in data or ("model_type" in data and "name" not in data)


def _name_of(data: Mapping[str, Any], file: Path) -> str:
    """The name that the config gives itself, unless that is a path; else the name of its folder or file."""
    given = data.get("_name_or_path")
    if isinstance(given, str) and re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", given):
        return given
    if file.stem == "config":
        return file.resolve().parent.name or file.stem
    return file.stem
