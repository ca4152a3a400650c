"""A model from a file, whichever of the schemas it is in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_perf.config import files
from llm_perf.config.gguf import load_gguf
from llm_perf.config.huggingface.convert import convert
from llm_perf.config.huggingface.reader import FieldError
from llm_perf.config.model import ModelConfig, SeedArguments
from llm_perf.config.tensor_files import checkpoint_size_bytes, read_safetensors
from llm_perf.errors import SpecError


def load_model_file(path: Path) -> ModelConfig:
    """A model from a YAML or JSON file, or a GGUF file.

    Args:
        path: A file in our own schema, in seed 002's flat one (``num_layers``, ``n_head``, ``hidden_dim``, …)
            or a Hugging Face ``config.json``; or a folder that holds the latter; or a GGUF file, of which the header is
            read, or a safetensors file with a ``config.json`` beside it.

    Raises:
        SpecError: the file cannot be read, is malformed, or describes no model that is supported; the message
            names file, line and field.
    """
    if path.suffix.lower() == ".gguf":
        return load_gguf(path)
    if path.suffix.lower() == ".safetensors":
        read_safetensors(path)
        path = path.parent
        if not files.is_file(path / "config.json"):
            raise SpecError(
                f"{path}: a safetensors file says nothing of the model's shapes; it needs config.json beside it"
            )
    inside = path / "config.json"
    file = inside if files.is_file(inside) else path
    text = files.read_text(file)
    data = files.parse_mapping(text, str(file))
    if not _is_hf_config(data):
        return _own_model(data, text, str(file))
    try:
        return released(convert(data, _name_of(data, file), modelopt_quantization(file.parent)), file.parent)
    except FieldError as error:
        line = files.line_of(text, error.location)
        raise SpecError(f"{file}:{line}: {error}") from None
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None


def modelopt_quantization(folder: Path) -> dict[str, Any] | None:
    """``quantization`` of the hf_quant_config.json in a folder (NVIDIA ModelOpt); None where there is none.

    Raises:
        SpecError: the file is there, and malformed.
    """
    file = folder / "hf_quant_config.json"
    if not files.is_file(file):
        return None
    with files.open_regular(file) as opened:
        text = opened.read(_LARGEST_SIDECAR).decode("utf-8", "replace")
    found = files.parse_mapping(text, str(file)).get("quantization")
    if not isinstance(found, dict):
        raise SpecError(f"{file}: field 'quantization' must be a mapping")
    return found if found.get("quant_algo") else None


_LARGEST_SIDECAR = 50_000_000


def released(model: ModelConfig, folder: Path) -> ModelConfig:
    """The model with what the checkpoint in its folder takes, where that can be read."""
    size = checkpoint_size_bytes(folder)
    return model if size is None else model.replace(checkpoint_bytes=size)


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
