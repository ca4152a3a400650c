"""The query of a request as a question: the flags of ``llm-perf infer``, parsed and refused by the command itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import click

from llm_perf.analysis.request import InferenceInputs, request_limit
from llm_perf.cli.infer import infer
from llm_perf.cli.inputs import questions
from llm_perf.config import files
from llm_perf.config.base import Spec
from llm_perf.config.loading import get_host_config_by_name, resolve_name
from llm_perf.config.ollama import tagged_model
from llm_perf.errors import SpecError, bad_value

if TYPE_CHECKING:
    from llm_perf.analysis.training_request import TrainingInputs

S = TypeVar("S", bound=Spec)
TASK: Final = "task"
"""Parameter that says what is asked about: ``train``; inference without it."""
TASKS: Final = ("infer", "train")
_NAMES: Final = {"model": "model", "gpu": "GPU", "host": "host", "draft_model": "model"}
"""Inputs that are names of specs, with the kind of spec."""
_REFUSED: Final = ("prices", "profile")
"""Inputs that name files."""
KNOWN: Final = tuple(name for name in InferenceInputs.model_fields if name not in _REFUSED)
_SWITCHES: Final = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
_LONGEST: Final = 2048
_GPUS: Final = 8
_LIMITS: Final = {
    name: most for name in InferenceInputs.model_fields if (most := request_limit(name)) is not None
}
"""Largest values that a request may have."""


def questions_of(parameters: Sequence[tuple[str, str]]) -> list[InferenceInputs]:
    """The questions that a query asks: one per ``gpu``, as ``llm-perf infer`` compares those of a repeated ``--gpu``.

    Raises:
        SpecError: as `question_of`; or more GPUs than a request may compare.
    """
    gpus = [value for name, value in parameters if name == "gpu"]
    rest = [(name, value) for name, value in parameters if name != "gpu"]
    if len(gpus) > _GPUS:
        raise SpecError(f"a request compares at most {_GPUS} GPUs, got {len(gpus)}")
    if len(gpus) <= 1:
        return [question_of(parameters)]
    return [question_of([*rest, ("gpu", gpu)]) for gpu in gpus]


def question_of(parameters: Sequence[tuple[str, str]]) -> InferenceInputs:
    """The question that a query asks: names of `InferenceInputs` with values as flags have them.

    Switches are ``on`` or ``off``. Specs are bundled ones: no name of a file or of a hub is looked at.

    Raises:
        SpecError: with the message that ``llm-perf infer`` has for the same flags; or for what only a request can have
            wrong: unknown and doubled parameters, files, sizes beyond the limits.
    """
    given = dict(parameters)
    if len(given) < len(parameters):
        doubled = next(name for name in given if sum(name == other for other, _ in parameters) > 1)
        raise SpecError(f"parameter {doubled[:80]!r} is given twice")
    if sum(len(name) + len(value) for name, value in parameters) > _LONGEST:
        raise SpecError(f"the query is longer than {_LONGEST} characters")
    for name in given:
        if name not in KNOWN:
            raise SpecError(f"unknown parameter {name[:80]!r}; known are {', '.join(KNOWN)}")
    question = _parsed(given, infer, KNOWN, InferenceInputs)
    for name, kind in _NAMES.items():
        if name in given:
            _check_bundled(kind, given[name])
    for name, most in _LIMITS.items():
        value = getattr(question, name)
        if value is not None and value > most:
            raise bad_value(name, value, f"at most {most} in a request")
    return question


def training_question_of(parameters: Sequence[tuple[str, str]]) -> TrainingInputs:
    """The question about training that a query with ``task=train`` asks: names of `TrainingInputs`.

    Raises:
        SpecError: with the message that ``llm-perf train`` has for the same flags; or for what only a request can have
            wrong, as `question_of`.
    """
    from llm_perf.analysis.training_request import TrainingInputs
    from llm_perf.cli.train import train

    given = {name: value for name, value in parameters if name != TASK}
    if len(given) + 1 < len(parameters):
        raise SpecError("each parameter of a question about training is given once")
    if sum(len(name) + len(value) for name, value in parameters) > _LONGEST:
        raise SpecError(f"the query is longer than {_LONGEST} characters")
    known = tuple(name for name in TrainingInputs.model_fields if name not in _REFUSED)
    for name, value in given.items():
        if name not in known:
            raise SpecError(f"unknown parameter {name[:80]!r}; known are {', '.join(known)}")
        if value.isdigit() and name != "total_num_tokens" and int(value) > _MOST:
            raise bad_value(name, value, f"at most {_MOST} in a request")
    question = _parsed(given, train, known, TrainingInputs)
    for name, kind in _NAMES.items():
        if name in given:
            _check_bundled(kind, given[name])
    return question


_MOST: Final = 1_000_000
"""Largest whole number in a question about training: more GPUs, or longer sequences, than anybody has."""


def _check_bundled(kind: str, name: str) -> None:
    """Refuse a name that is no bundled spec's, as the command line does where there is no such file.

    Raises:
        SpecError: it is a file's, unknown or ambiguous.
    """
    if files.looks_like_path(name):
        raise SpecError(f"{kind} {name[:80]!r}: a request takes the names of bundled specs, no files")
    if not name.strip():
        raise SpecError(f"{kind} name must be text, got {name!r}")
    if kind == "host":
        get_host_config_by_name(name)  # with a count of sockets or a memory as well
    elif kind != "model" or tagged_model(name) is None:
        resolve_name(kind, name)


def _parsed(given: dict[str, str], command: click.Command, known: Sequence[str], kind: type[S]) -> S:
    """Inputs of a ``kind`` as the command's own flags are parsed and refused."""
    switches = {
        parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.is_flag
    }
    words = [
        _switch(name, value) if name in switches else f"--{name.replace('_', '-')}={value}"
        for name, value in given.items()
    ]
    try:
        flags = command.make_context(f"llm-perf {command.name}", words).params
    except click.ClickException as error:
        raise SpecError(" ".join(error.format_message().split())) from None
    named = {name: value for name, value in flags.items() if name in known and value is not None}
    return questions(flags["gpus"], None, named, kind)[0]


def _switch(name: str, value: str) -> str:
    if value.lower() not in _SWITCHES:
        raise bad_value(name, value, "on or off")
    return f"--{'' if _SWITCHES[value.lower()] else 'no-'}{name.replace('_', '-')}"
