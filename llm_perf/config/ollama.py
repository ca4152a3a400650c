"""Models by names of Ollama's library, ``llama3.1:8b`` or ``qwen3:latest``, and by its names of hub repositories."""

from __future__ import annotations

import re
from functools import cache
from typing import Final, cast

from llm_perf.config import files
from llm_perf.config.formats import GGUF_MIXTURES, nearest_mixture
from llm_perf.config.loading import get_model_config_by_name, load_spec
from llm_perf.config.model import ModelConfig
from llm_perf.config.named_models import is_model_file
from llm_perf.config.quantization import named_quantization
from llm_perf.errors import SpecError

__all__ = ["tagged_model"]

_LIBRARY: Final = "ollama.yaml"
_HUBS: Final = ("hf.co/", "huggingface.co/", "https://huggingface.co/", "https://hf.co/")
"""What stands before a repository of the hub where a name of Ollama's is expected, or in a browser."""

_16_BITS_OF_TAGS: Final = ("fp16", "bf16", "f16")
_KEPT: Final = ("mxfp4",)
"""Formats of releases that the library keeps (gpt-oss); 8 bits of a release become Q4_K_M as 16 do (deepseek-r1:671b)."""
_TAGS_OF_MXFP4: Final = dict.fromkeys(("mxfp4", "mxfp4_moe"), "mxfp4_gguf")
"""What files with experts in MXFP4 are called (llama.cpp's LLAMA_FTYPE_MOSTLY_MXFP4_MOE), beside our own name."""

_MIXED: Final = re.compile(r"ud_(?:tq1_0|iq[1-4]_(?:xxs|xs|s|m|nl)|q[2-8]_(?:0|1|k_(?:xl|l|m|s))|q[2-8]_k)")
"""What unsloth's mixtures are called, whose matrices differ from layer to layer; what is kept is the same in them, too."""

_FORMATS_OF_TAGS: Final = sorted((*GGUF_MIXTURES, *_16_BITS_OF_TAGS), key=len, reverse=True)
_QAT: Final = ("-qat", "q4_0")
"""Weights that were trained for a format, by the word of their tags, and this format."""


@cache
def _library() -> tuple[dict[str, str], dict[str, str]]:
    """The size that a name without one is, and models whose names elsewhere are others."""
    text = (files.package_folder("llm_perf.config") / _LIBRARY).read_text("utf-8")
    found = files.parse_mapping(text, _LIBRARY)
    return cast("dict[str, str]", found["latest"]), cast("dict[str, str]", found["models"])


def tagged_model(name: str) -> ModelConfig | None:
    """A model by its name in Ollama's library, ``llama3.1:8b`` or ``llama3.1:8b-instruct-q8_0``, in the format of the tag.

    A tag that names no format is of Q4_K_M (ollama.com/library), or of the release's format where that is a GGUF's too.
    ``OWNER/NAME:Q8_0`` is a repository of the hub, as llama.cpp's ``-hf`` takes it; for Ollama ``hf.co/`` stands before it.

    Raises:
        SpecError: a repository of a model that is known, in a format that is not.
    """
    plain = name.strip()
    hub = next((prefix for prefix in _HUBS if plain.lower().startswith(prefix)), "")
    head, colon, tag = plain[len(hub) :].lower().rpartition(":")
    head = head.removeprefix("library/")
    if hub or "/" in head:
        return _of_hub(plain[len(hub) :], head, tag)
    if not colon or not tag:
        return None
    latest, others = _library()
    size, number_format = _size_and_format(tag)
    size = size or latest.get(head, "")
    base = _named(others.get(f"{head}:{size}", f"{head}-{size}" if size else head))
    if base is None:
        return None
    released = base.quantization
    if number_format is None and released is not None and released.method in _KEPT:
        return base
    if number_format in _16_BITS_OF_TAGS:
        return base.replace(quantization=None)
    return base.replace(quantization=named_quantization(number_format or "q4_k_m"))


def _size_and_format(tag: str) -> tuple[str, str | None]:
    """What a tag says of size, empty for ``latest``, and of format, None where it says nothing."""
    size = f"-{tag.replace('_', '-')}"
    number_format = next(
        (one for one in _FORMATS_OF_TAGS if size.endswith(f"-{one.replace('_', '-')}")), None
    )
    size = size if number_format is None else size[: -len(number_format) - 1]
    if number_format is None and size.endswith(_QAT[0]):
        size, number_format = size.removesuffix(_QAT[0]), _QAT[1]
    for word in ("-latest", "-instruct", "-it", "-chat", "-text", "-qwen-distill", "-llama-distill"):
        size = size.removesuffix(word)
    return size.removeprefix("-"), number_format


def _named(name: str) -> ModelConfig | None:
    try:
        return load_spec("model", ModelConfig, name)
    except SpecError:
        return None


def _of_hub(whole: str, head: str, tag: str) -> ModelConfig | None:
    """A repository of the hub, in the format of its tag; files of this machine are none."""
    if is_model_file(head or whole):
        return None
    try:
        if not head or tag == "latest":
            return get_model_config_by_name(whole[: len(head)] if head else whole)
        found = get_model_config_by_name(whole[: len(head)])
    except SpecError:
        return None
    number_format = tag.replace("-", "_")
    if number_format in _16_BITS_OF_TAGS:
        base = _named(whole[: len(head)].rpartition("/")[2].lower().removesuffix("-gguf"))
        # What a release stores in fewer bits than 16 a file of 16 leaves as it is: the experts of gpt-oss.
        return (
            base
            if base and base.quantization and base.quantization.method in _KEPT
            else found.replace(quantization=None)
        )
    kept = found.quantization is not None and found.quantization.method in _KEPT
    number_format = _TAGS_OF_MXFP4.get(number_format, number_format)
    if not kept:
        number_format = nearest_mixture(number_format) or number_format
    if number_format not in GGUF_MIXTURES and not (kept and _MIXED.fullmatch(number_format)):
        raise SpecError(
            f"{whole!r}: format {whole[len(head) + 1 :]!r} is not known; give the repository alone and the nearest that "
            "is in --weight-format (llm-perf models formats)"
        )
    if kept:
        return found
    return found.replace(quantization=named_quantization(number_format))
