"""The Hugging Face hub: a model from the config.json of a repository."""

from __future__ import annotations

from pathlib import Path

from llm_perf.config import files
from llm_perf.config.formats import format_of_repository
from llm_perf.config.huggingface.convert import from_hf_config
from llm_perf.config.huggingface.model_files import modelopt_quantization, released
from llm_perf.config.model import ModelConfig
from llm_perf.config.quantization import named_quantization

_HUB_TIMEOUT_S = 5


def load_from_hub(name: str) -> ModelConfig | None:
    """A model from the ``config.json`` of a repository on the Hugging Face hub.

    Args:
        name: ``organisation/model``; anything without a ``/`` is not asked for.

    Returns:
        The model, or None where huggingface_hub is not installed, the hub cannot be reached within seconds,
        or has no such model that may be read: then the caller's own error about the name is the better one.

    Raises:
        SpecError: the repository's config.json is malformed or its ``model_type`` unsupported.
    """
    if "/" not in name:
        return None
    try:
        file = _cached_config(name) or _downloaded_config(name)
    except Exception:  # noqa: BLE001 - whatever the network, the hub or its client raises: no answer from there
        return None
    config = files.parse_mapping(files.read_text(file), "config.json")
    model = released(from_hf_config(config, name, modelopt_quantization(file.parent)), file.parent)
    said = format_of_repository(name)
    if model.quantization is None and said is not None:
        return model.replace(quantization=named_quantization(said[1]))
    return model


def _cached_config(name: str) -> Path | None:
    """The config.json of an earlier download: a model's shapes do not change."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "config.json", local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _downloaded_config(name: str) -> Path:
    """The config.json from the hub. It is asked once whether it has one, since a download tries again and again."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=_HUB_TIMEOUT_S)
    return Path(hf_hub_download(name, "config.json", etag_timeout=_HUB_TIMEOUT_S))
