"""The command that asks what a prediction, or a simulation, was asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from llm_perf.analysis.request import ALL_LAYERS, InferenceInputs

_WIDTH: Final = 77
"""Characters of a line before the space and the backslash that end it: 79 in all."""


def infer_command(inputs: InferenceInputs, other_gpus: Iterable[str] = ()) -> str:
    """The command in one line, without what is default; ``other_gpus`` are compared with the first."""
    words = _words("llm-perf infer", inputs.model_dump(exclude_defaults=True))
    return " ".join([*words, *(f"--gpu {shlex.quote(gpu)}" for gpu in other_gpus)])


def infer_command_in_lines(inputs: InferenceInputs) -> str:
    """The command in lines of less than 80 characters that a shell takes for one command."""
    return command_in_lines("llm-perf infer", inputs.model_dump(exclude_defaults=True))


def command_of(command: str, inputs: Mapping[str, Any]) -> str:
    """A command with inputs as its flags, in one line."""
    return " ".join(_words(command, inputs))


def command_in_lines(command: str, inputs: Mapping[str, Any]) -> str:
    """A command with inputs as its flags, in lines of less than 80 characters that a shell takes for one command."""
    return in_lines(_words(command, inputs))


def in_lines(words: Sequence[str]) -> str:
    """Words of a command in lines of less than 80 characters, all but the last ended by a backslash."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}")
    return " \\\n".join(lines)


def _words(command: str, inputs: Mapping[str, Any]) -> list[str]:
    words = [command]
    for name, value in inputs.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif (name, value) != ("quant_bits", 16):  # unquantised, as without the flag
            words.append(f"--{flag} {shlex.quote(_shown(name, value))}")
    return words


def _shown(name: str, value: Any) -> str:
    """A value as one would write it: ``all`` for the number that stands for it where layers are counted."""
    return "all" if name in ("n_gpu_layers", "n_cpu_moe") and value == ALL_LAYERS else str(value)
