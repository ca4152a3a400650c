"""Models by name: bundled, from a file, by a tag of Ollama's library, from the hub, or in the format that a name ends in."""

from __future__ import annotations

import re
from pathlib import Path

from llm_perf.config import files
from llm_perf.config.bundled import known_names, load_spec, written_aliases
from llm_perf.config.formats import GGUF_MIXTURES, format_of_repository
from llm_perf.config.model import ModelConfig
from llm_perf.config.names import known_in_full, normalise
from llm_perf.config.quantization import named_quantization
from llm_perf.errors import SpecError, UnknownNameError


def get_model_config_by_name(name_or_path: str) -> ModelConfig:
    """A model by name, from a YAML or JSON file, a Hugging Face ``config.json`` or its folder, a GGUF file, or the hub.

    Names match case-insensitively; ``/``, ``_``, ``-`` and blanks are the same; the organisation is optional.

    Raises:
        SpecError: malformed file, unknown or ambiguous name.
    """
    if isinstance(name_or_path, str) and is_model_file(name_or_path):
        if (named := _of_file_name(name_or_path)) is not None:
            return named
        from llm_perf.config import huggingface

        return huggingface.load_model_file(files.expanded(name_or_path))
    try:
        return _stored_as_named(load_spec("model", ModelConfig, name_or_path), name_or_path)
    except UnknownNameError as unknown:
        from llm_perf.config import huggingface
        from llm_perf.config.ollama import tagged_model
        from llm_perf.config.repackaged import model_of_known_words

        if (tagged := tagged_model(name_or_path)) is not None:
            return tagged

        from_hub = huggingface.load_from_hub(name_or_path)
        if from_hub is not None:
            return from_hub
        named = _quantised_name(name_or_path) or _mirrored(name_or_path) or model_of_known_words(name_or_path)
        if named is None:
            raise _with_its_base(unknown) from None
        return named


def _of_file_name(name: str) -> ModelConfig | None:
    """The model and format that the name of a GGUF file says, where there is no such file here; None where it says none."""
    from llm_perf.config.repackaged import file_name_alone

    plain = file_name_alone(name)
    if plain is None or files.is_file(Path(name)):
        return None
    try:
        return get_model_config_by_name(plain).replace(name=name.strip())
    except SpecError:
        return None


def _with_its_base(unknown: UnknownNameError) -> UnknownNameError:
    """The same error, with what to ask for where the name has the words of one known model: it may be a fine-tune of it."""
    from llm_perf.config.repackaged import base_by_words

    if (widths := _EXL_WITHOUT_BITS.search(unknown.name)) is not None:
        return UnknownNameError(unknown.kind, unknown.name, unknown.known, _of_a_branch(unknown.name, widths))
    base = base_by_words(unknown.name)
    if base is None or (unknown.suggestions[:1] and unknown.is_slip):
        return unknown
    instead = f"by its words a copy or fine-tune of {base}; if it has that one's shapes ask --model {base}"
    return UnknownNameError(
        unknown.kind, unknown.name, unknown.known, f"{instead}, else give its config.json"
    )


_EXL_WITHOUT_BITS = re.compile(r"[-_](exl[23])$", re.IGNORECASE)


def _of_a_branch(name: str, widths: re.Match[str]) -> str:
    """What to give for a repository of EXL files, whose branches have as many bits per weight as they are called."""
    model, spelled = name[: widths.start()].rpartition("/")[2], f"{widths[1].lower()}-4.0bpw"
    return (
        f"its branches differ in bits per weight, which are a format here: --model {model} --weight-format {spelled}, "
        "with the bits of your branch"
    )


def _stored_as_named(found: ModelConfig, name: str) -> ModelConfig:
    """A model that an alias with a format's ending means (``-FP8``, ``-NVFP4``) is stored in that format.

    One released in a single format is that already; of one that stores its experts otherwise the ending may mean these.
    """
    ending = format_of_repository(name, _publisher(found))
    if ending is None or normalise(found.name).endswith(normalise(ending[0])):
        return found
    released = found.quantization
    if released is not None:
        return found.replace(quantization=released.with_experts(ending[1]) or released)
    return found.replace(quantization=named_quantization(ending[1]))


def _quantised_name(name: str) -> ModelConfig | None:
    """A model whose name ends in a number format (``-AWQ``, ``-GGUF``): the model before it, stored so."""
    found = format_of_repository(name)
    if found is None:
        return None
    plain = name[: -len(found[0])].rpartition("/")[2]
    try:
        base = load_spec("model", ModelConfig, plain)
    except SpecError:
        from llm_perf.config.repackaged import model_of_known_words

        shorter = model_of_known_words(plain)
        if shorter is None:
            return None
        base = shorter
    _, number_format = format_of_repository(name, _publisher(base)) or found
    released = base.quantization
    own = name.rpartition("/")[0].lower() in ("", _publisher(base).lower())
    formats = [rule.format for rule in released.rules] if released is not None and own else []
    if number_format == "fp8" and formats == ["fp8_block"]:
        return base.replace(name=name)  # its publisher's 8 bits are the release
    if number_format in GGUF_MIXTURES and released is not None and released.kept_by_gguf:
        return base.replace(name=name)
    experts = released and released.with_experts(number_format)
    return base.replace(name=name, quantization=experts or named_quantization(number_format))


_MIRRORS = (
    "unsloth",
    "lmstudio-community",
    "bartowski",
    "ggml-org",
    "mlx-community",
    "redhatai",
    "neuralmagic",
)
"""Who publishes copies of models under the models' own names, by the name on the hub in lower case."""


def _mirrored(name: str) -> ModelConfig | None:
    """A copy of a bundled model, ``unsloth/gpt-oss-20b``; None where its owner publishes others under names like these."""
    owner, slash, plain = name.strip().partition("/")
    if not slash or owner.lower() not in _MIRRORS:
        return None
    try:
        return _stored_as_named(load_spec("model", ModelConfig, plain), name)
    except SpecError:
        return None


def _publisher(model: ModelConfig) -> str:
    return model.name.partition("/")[0]


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WORD = re.compile(r"[a-z]+|\d+(?:\.\d+)*")
_INSTRUCT = "instruct"


def checkpoint_of(asked: str) -> tuple[str, bool]:
    """The checkpoint on the hub that a name of a model means, and whether the name says which one.

    An alias stands for shapes: the checkpoint is that of the name itself, as it is published, not the one whose spec has
    them. Where none is known by that name it is the spec's, and False.

    Raises:
        SpecError: malformed file, unknown or ambiguous name.
    """
    found = get_model_config_by_name(asked).name
    if is_model_file(asked):
        return found, True
    stem = known_in_full(found, known_names("model"))
    same = [name for name, spec in written_aliases("model").items() if "/" in name and spec == stem]
    published, wanted = [found, *same], _glued(asked)
    for ending in ("", _INSTRUCT):
        for name in published:
            if wanted + ending in (_glued(name), _glued(name.partition("/")[2])):
                return name, True
    if _HUB_ID.fullmatch(asked.strip()):
        return asked.strip(), True
    words = _words(asked)
    if words <= _words(found):
        return found, True
    others = [name for name in same if words <= _words(name)]
    return (others[0], True) if len(others) == 1 else (found, False)


def _glued(name: str) -> str:
    """Names that differ in hyphens alone are one: llama3.3-70b, Llama-3.3-70B, llama3.3:70b."""
    return normalise(name).replace("-", "")


def _words(name: str) -> set[str]:
    return set(_WORD.findall(normalise(name)))


def is_model_file(name: str) -> bool:
    """Whether a name is that of a file of a model, or of a folder with one."""
    if name.lower().endswith((".gguf", ".safetensors")):
        return True
    return files.looks_like_path(name) or bool(name.strip() and files.is_file(Path(name) / "config.json"))


def published_models() -> tuple[str, ...]:
    """Bundled models as they are published, organisation/name: their own names and those that stand for the same shapes."""
    own = (name.replace("_", "/", 1) for name in known_names("model"))
    return tuple(
        sorted({*own, *(alias for alias in written_aliases("model") if "/" in alias)}, key=str.lower)
    )
