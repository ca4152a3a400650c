"""The questions of ``llm-perf infer`` and ``train``: flags and a file of inputs together, one question per GPU."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from llm_perf.cli.notes import note
from llm_perf.config import files
from llm_perf.config.base import MeanOfMany, Spec
from llm_perf.config.loading import known_names
from llm_perf.errors import SpecError

S = TypeVar("S", bound=Spec)

_ELSEWHERE = "-"
"""Stands for a name that a flag gives while the file's own inputs are checked."""


@dataclass(frozen=True)
class _InputsFile:
    """Inputs as a file gives them: a mapping that stands in ``text`` at the keys ``under``."""

    name: str
    text: str
    under: tuple[str | int, ...]
    inputs: dict[str, Any]
    gpus: tuple[Any, ...]

    def check(self, overridden: set[str], kind: type[Spec]) -> None:
        """Refuse a wrong value where it is read, so that the message has the line.

        Raises:
            SpecError: naming file, line and field.
        """
        used = {name: value for name, value in self.inputs.items() if name not in overridden}
        gpus = (_ELSEWHERE,) if "gpu" in overridden or not self.gpus else self.gpus
        for gpu in gpus:
            data = {"model": _ELSEWHERE} | used | {"gpu": gpu}
            files.build(kind, data, self.text, self.name, self.under)


def questions(gpus: tuple[str, ...], file: str | None, flags: dict[str, Any], kind: type[S]) -> list[S]:
    """One set of inputs of a ``kind`` per GPU. Flags win over the file.

    Raises:
        SpecError: the file is malformed, or an input is missing or wrong.
    """
    inputs = dict(flags)
    if file is not None:
        given = _whole_means(_read(file), kind)
        given.check({*flags, "gpu"} if gpus else {*flags}, kind)
        inputs, gpus = given.inputs | flags, gpus or given.gpus
    if "model" not in inputs:
        raise SpecError("--model is required (llm-perf models list shows the bundled ones)")
    if not gpus:
        gpus = _profiled_gpu(inputs.get("profile"))
    if not gpus:
        gpus = _host_alone(inputs, kind)
    return [kind(gpu=gpu, **inputs) for gpu in gpus]


def _host_alone(inputs: dict[str, Any], kind: type[Spec]) -> tuple[str, ...]:
    """No GPU where a host is named whose CPU the system computes on, which is said on stderr.

    Raises:
        SpecError: it needs a GPU.
    """
    from llm_perf.analysis.without_gpu import NO_GPU_NAME, alone_note, missing_gpu, names_host_alone

    may = "system" in kind.model_fields  # training needs a GPU
    if not may or not names_host_alone(inputs):
        raise missing_gpu(inputs if may else {})
    note(alone_note(inputs["host"]))
    return (NO_GPU_NAME,)


def _whole_means(given: _InputsFile, kind: type[Spec]) -> _InputsFile:
    """The inputs with means of many lengths as whole numbers, which is said, as of the flags."""
    from llm_perf.cli.options import whole_mean

    means = [
        name
        for name, field in kind.model_fields.items()
        if any(isinstance(one, MeanOfMany) for one in field.metadata)
        and isinstance(given.inputs.get(name), float)
    ]
    whole = {name: whole_mean(f"{given.name}: {name}", given.inputs[name]) for name in means}
    return replace(given, inputs=given.inputs | whole)


def _profiled_gpu(profile: Any) -> tuple[str, ...]:
    """The machine that a profile was fitted on; nothing without a profile, or where it does not say."""
    if not isinstance(profile, str):
        return ()
    from llm_perf.systems.profiles import checked_profile

    calibration = checked_profile(profile).calibration
    return () if calibration is None else (calibration.machine.gpu,)


def _read(name: str) -> _InputsFile:
    """A YAML or JSON mapping of inputs, or what ``--json`` printed of one GPU or of several.

    Raises:
        SpecError: it is neither.
    """
    if not name:
        raise SpecError("--config '' is no file")
    text = files.read_text(Path(name))
    data = files.parse_mapping(text, name)
    if "comparison" in data:
        answers = data["comparison"]
        if not isinstance(answers, list) or not answers:
            raise SpecError(f"{name}: 'comparison' must be a list of results")
        inputs = [_inputs(answer, name) for answer in answers]
        gpus = [given.get("gpu") for given in inputs]
        return _apart(name, text, ("comparison", 0, "inputs"), inputs[0] | {"gpu": gpus})
    return _apart(name, text, ("inputs",) if "inputs" in data else (), _inputs(data, name))


def _inputs(data: Any, name: str) -> dict[Any, Any]:
    """The inputs of a result, or the mapping itself where it holds nothing else.

    Raises:
        SpecError: they are no mapping.
    """
    inputs = data.get("inputs", data) if isinstance(data, dict) else None
    if not isinstance(inputs, dict):
        raise SpecError(f"{name}: 'inputs' must be a mapping of fields")
    return inputs


def _apart(name: str, text: str, under: tuple[str | int, ...], inputs: dict[str, Any]) -> _InputsFile:
    """``gpu`` may be a list, as the flag may be repeated."""
    rest = {field: value for field, value in inputs.items() if field != "gpu"}
    gpu = inputs.get("gpu", ())
    return _InputsFile(name, text, under, rest, tuple(gpu) if isinstance(gpu, (list, tuple)) else (gpu,))


def matching(flag: str, kind: str, text: str) -> Iterable[str]:
    """A name, or all bundled names that a pattern matches.

    Raises:
        SpecError: it matches none.
    """
    pattern = "*" if text == "all" else text
    if not any(letter in pattern for letter in "*?["):
        return (text,)
    found = [name for name in known_names(kind) if fnmatch.fnmatch(name.lower(), pattern.lower())]
    if not found:
        raise SpecError(f"{flag} {text!r} matches no bundled {kind}")
    return found


def say_versions(systems: Iterable[Any]) -> None:
    """Say on stderr which of these systems are asked for in a version that does not ship, and what stands in for it.

    Once there is an answer: a refusal is one line.

    Raises:
        SpecError: an unknown name.
    """
    from llm_perf.systems.registry import version_note

    for name in dict.fromkeys(systems):
        if isinstance(name, str) and (said := version_note(name)) is not None:
            note(said)
