"""Which trainer a file is of, and its reading."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llm_perf.analysis.trainer_files.huggingface import axolotl, hf_arguments, llama_factory
from llm_perf.analysis.trainer_files.keys import Keys
from llm_perf.analysis.trainer_files.native import deepspeed, megatron, torchtune
from llm_perf.config import files
from llm_perf.errors import SpecError


@dataclass(frozen=True)
class TrainerFile:
    """What a file says.

    Attributes:
        kind: The trainer.
        inputs: Fields of `TrainingInputs`.
        unused: Keys that say nothing of memory or time here, or that are not modelled.
    """

    kind: str
    inputs: dict[str, Any]
    unused: tuple[str, ...]

    @property
    def note(self) -> str:
        """What was read and what was not, for a report."""
        used = f"read as a file of {self.kind}"
        return used if not self.unused else f"{used}; not used: {', '.join(self.unused)}"


_READERS: Final[dict[str, Callable[[Keys], dict[str, Any]]]] = {
    "DeepSpeed": deepspeed,
    "Megatron-LM": megatron,
    "torchtune": torchtune,
    "axolotl": axolotl,
    "LLaMA-Factory": llama_factory,
    "Hugging Face Trainer": hf_arguments,
}
KINDS: Final = tuple(_READERS)

_SIGNS: Final[dict[str, frozenset[str]]] = {
    "axolotl": frozenset({"base_model", "sequence_len"}),
    "LLaMA-Factory": frozenset({"finetuning_type", "cutoff_len"}),
    "DeepSpeed": frozenset({"zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size"}),
    "Hugging Face Trainer": frozenset({"per_device_train_batch_size", "gradient_checkpointing"}),
}
"""Keys of which any one tells whose file it is, in this order."""


def read_trainer_file(name: str) -> TrainerFile:
    """Read a trainer's file.

    Raises:
        SpecError: it cannot be read, is of no trainer that is known, or a value in it is wrong.
    """
    if not name:
        raise SpecError("--trainer-config '' is no file")
    text = files.read_text(files.expanded(name))
    keys, kind = _parsed(text, name)
    inputs = {field: value for field, value in _READERS[kind](keys).items() if value is not None}
    if not inputs:
        raise SpecError(f"{name}: says nothing that decides memory or time")
    return TrainerFile(kind, inputs, tuple(keys.unused()))


def _parsed(text: str, name: str) -> tuple[Keys, str]:
    """The file's keys and whose it is.

    Raises:
        SpecError: it is of no trainer that is known.
    """
    if re.search(r"(?m)^\s*(?:[\w.]+=\(?\s*)?[\"']?--[a-z][\w-]+", text) or Path(name).suffix in (
        ".sh",
        ".args",
    ):
        return Keys(_arguments(text, name), name), "Megatron-LM"
    data = files.parse_mapping(text, name)
    if any(isinstance(value, dict) and "_component_" in value for value in data.values()):
        return Keys(data, name), "torchtune"
    if any("tensor_model_parallel_size" in str(key).replace("-", "_") for key in data):
        plain = {str(key).replace("-", "_"): value for key, value in data.items()}
        return Keys(plain, name), "Megatron-LM"
    for kind, signs in _SIGNS.items():
        if signs & data.keys():
            return Keys(data, name), kind
    known = ", ".join(KINDS)
    raise SpecError(f"{name}: is no trainer's file that is known ({known})")


def _arguments(text: str, name: str) -> dict[str, Any]:
    """Arguments of a command or of a shell script: ``--name value`` pairs, and flags alone as true.

    Raises:
        SpecError: quotes that are not closed, or there are none.
    """
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assigned = dict(re.findall(r"(?m)^\s*(?:export\s+)?([A-Za-z_]\w*)=[\"']?([^\s\"'()]+)[\"']?\s*$", code))
    try:
        words = shlex.split(code.replace("\\\n", " ").replace("(", " ").replace(")", " "), comments=True)
    except ValueError as error:
        raise SpecError(f"{name}: malformed arguments: {error}") from None
    # Quoted groups of arguments, as scripts keep them in variables, are words that hold several.
    words = [part for word in words for part in (word.partition("=")[2] if "=--" in word else word).split()]
    found: dict[str, Any] = {}
    for place, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, _, value = word[2:].partition("=")
        following = words[place + 1] if place + 1 < len(words) else "--"
        given = value or (True if following.startswith("--") or not _is_value(following) else following)
        found[key.replace("-", "_")] = _filled(given, assigned)
    if not found:
        raise SpecError(f"{name}: has no arguments")
    return found


def _is_value(word: str) -> bool:
    return not re.match(r"[A-Za-z_]\w*\+?=", word) and word not in ("&&", "||", ";", "|", "&")


def _filled(value: Any, assigned: dict[str, str]) -> Any:
    """A value with the shell variables that the script assigns."""
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{?([A-Za-z_]\w*)(?::-([^}]*))?\}?", lambda m: assigned.get(m[1], m[2] or m[0]), value)
