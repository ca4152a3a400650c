"""The ``llm-perf infer`` command that asks what a prediction was asked."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Final

from llm_perf.analysis.request import InferenceInputs

_WIDTH: Final = 77
"""Characters of a line before the space and the backslash that end it: 79 in all."""


def infer_command(inputs: InferenceInputs, other_gpus: Iterable[str] = ()) -> str:
    """The command in one line, without what is default; ``other_gpus`` are compared with the first."""
    return " ".join([*_words(inputs), *(f"--gpu {shlex.quote(gpu)}" for gpu in other_gpus)])


def infer_command_in_lines(inputs: InferenceInputs) -> str:
    """The command in lines of less than 80 characters that a shell takes for one command."""
    words = _words(inputs)
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}")
    return " \\\n".join(lines)


def _words(inputs: InferenceInputs) -> list[str]:
    words = ["llm-perf infer"]
    for name, value in inputs.model_dump(exclude_defaults=True).items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif (name, value) != ("quant_bits", 16):  # unquantised, as without the flag
            words.append(f"--{flag} {shlex.quote(str(value))}")
    return words
