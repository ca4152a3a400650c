"""Hugging Face configs of models: from a folder, from llm-perf's own specs with no network, or from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calibrate.run.hf_configs import hf_config_of, opt_175b_config, opt_config
from llm_perf.config import files
from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.model import ModelConfig
from llm_perf.config.names import normalise
from llm_perf.errors import EnvironmentFailure, SpecError, first_line

TINY_MODEL = "tiny-opt"
"""The embedded default: an OPT of four layers that runs anywhere in seconds."""

_TINY = {
    "vocab_size": 50272, "hidden_size": 256, "word_embed_proj_dim": 256, "ffn_dim": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "max_position_embeddings": 2048,
}  # fmt: skip


def get_model_config(model_name: str) -> Any:
    """The transformers config of a model.

    ``opt-175b``, whose weights are not on the hub, is derived from opt-66b's config. A folder or a ``config.json`` is
    read as it is. Bundled models need no network; any other name is asked from the hub.

    Args:
        model_name: As ``--model``.

    Returns:
        A ``transformers.PretrainedConfig`` with the model's name in ``_name_or_path``.

    Raises:
        SpecError: unknown name, malformed file, or an architecture that transformers cannot build from the spec.
    """
    name = normalise(model_name)
    if is_embedded(model_name):
        return _named(opt_config(**_TINY), TINY_MODEL)
    if name.rpartition("/")[2] in ("opt-175b", "facebook-opt-175b"):
        return _named(opt_175b_config(), "facebook/opt-175b")
    folder = model_folder(model_name)
    if folder is not None:
        return _from_folder(folder)
    try:
        spec = get_model_config_by_name(model_name)
    except SpecError as unknown:
        return _from_hub(model_name, unknown)
    return _named(hf_config_of(spec), spec.name)


def is_embedded(model_name: str) -> bool:
    """Whether a name means the embedded model, for which there are only dummy weights."""
    return normalise(model_name) == TINY_MODEL


def model_folder(model_name: str) -> Path | None:
    """The folder that a name is, if it holds a ``config.json``; a path of the file itself means its folder."""
    path = Path(model_name).expanduser()
    if path.name == "config.json" and files.is_file(path):
        return path.parent
    return path if files.is_file(path / "config.json") else None


def spec_of(config: Any) -> ModelConfig:
    """llm-perf's view of a transformers config: the same shapes that run are predicted.

    Raises:
        SpecError: llm-perf does not know this architecture.
    """
    return from_hf_config(config.to_dict(), config.name_or_path or config.model_type)


def _named(config: Any, name: str) -> Any:
    config.name_or_path = name
    return config


def _from_folder(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, OSError) as error:
        raise SpecError(
            f"{folder / 'config.json'}: transformers cannot read it: {first_line(error)}"
        ) from None


def _from_hub(model_name: str, unknown: SpecError) -> Any:
    from transformers import AutoConfig

    from calibrate.run.hub import answers

    if "/" not in model_name:
        raise unknown
    online = answers()
    try:
        return AutoConfig.from_pretrained(model_name)
    except (ValueError, KeyError) as error:
        raise SpecError(f"{model_name}: transformers cannot read its config: {first_line(error)}") from None
    except OSError:
        why = "the hub has no such config" if online else "the hub does not answer"
        raise EnvironmentFailure(f"{model_name} is no bundled model, and {why}") from None
