"""Options of a command from the fields of its inputs: name, kind and help stand there and nowhere else."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args, get_origin

import click

from llm_perf.cli.notes import note
from llm_perf.config.base import AsText, MeanOfMany, Refused, Spec
from llm_perf.search.axes import whole_number

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

F = TypeVar("F", bound=Callable[..., Any])

_REPEATED = "gpu"
"""The input that may be given several times, to compare."""
_KINDS = (bool, int, float, str)


class _WholeNumber(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks only
    """Whole numbers as people write large ones: 1e11, 100_000; refused with what is accepted."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = whole_number(str(value))
        if found is None:
            raise click.BadParameter(f"{value!r} is no whole number such as 512 or 1e9", ctx, param)
        return found


WHOLE: Final = _WholeNumber()
"""The type of options that take a whole number."""


class _Mean(_WholeNumber):
    """A length as a whole number, or as benchmarks print the mean of many."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value).strip()
        return float(text) if _FRACTION.fullmatch(text) else super().convert(value, param, ctx)


MEAN: Final = _Mean()
"""The type of options that take a mean length of many requests."""

_AS_GOOD: Final = 0.01
"""A whole length this near to a mean is as good: times of one batch are known less well by far."""


class _MeanLength(_WholeNumber):
    """A length of equal requests; a mean with a fraction, as benchmarks print it, becomes a whole number, with a note."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text, flag = str(value).strip(), "length" if param is None else param.opts[0]
        mean = float(text) if _FRACTION.fullmatch(text) else None
        if mean is None or mean == int(mean):
            return super().convert(value, param, ctx)
        if not _is_as_good(mean):
            many = f"; llm-perf simulate takes {text} as the mean of many" if mean >= 1 else ""
            raise click.BadParameter(f"{text!r} is no whole number such as 512 or 1e9{many}", ctx, param)
        return int(whole_mean(flag, mean))


def _is_as_good(mean: float) -> bool:
    whole = round(mean) if math.isfinite(mean) else 0
    return bool(whole) and abs(whole - mean) <= _AS_GOOD * mean


def whole_mean(said: str, mean: float) -> Any:
    """A mean of many lengths as a whole one, with a note on stderr; one that is too far from any stays, to be refused."""
    if not _is_as_good(mean):
        return mean
    whole = round(mean)
    if whole != mean:
        note(
            f"{said} {mean:g} is taken as {whole}, since requests of a batch are equal; simulate takes it as a mean"
        )
    return whole


_FRACTION: Final = re.compile(r"[0-9]{1,12}\.[0-9]{1,12}")


def with_options(inputs: type[Spec], hidden: Collection[str] = ()) -> Callable[[F], F]:
    """A decorator that gives a command an option for each field; what is not given is None. Some are left out of its help."""

    def decorated(function: F) -> F:
        for option in reversed([_option(name, inputs, name in hidden) for name in inputs.model_fields]):
            function = option(function)
        return function

    return decorated


def _option(name: str, inputs: type[Spec], hidden: bool) -> Callable[[F], F]:
    field = inputs.model_fields[name]
    flag = name.replace("_", "-")
    kind = str if AsText in field.metadata else _kind(field.annotation)
    if name == _REPEATED:
        return click.option(f"--{flag}", f"{name}s", multiple=True, help=field.description, hidden=hidden)
    if kind is bool:
        return click.option(f"--{flag}/--no-{flag}", default=None, help=field.description, hidden=hidden)
    mean = any(isinstance(one, MeanOfMany) for one in field.metadata)
    return click.option(
        f"--{flag}",
        type=_MeanLength() if mean else WHOLE if kind is int else kind,
        help=field.description,
        hidden=hidden,
        shell_complete=partial(_words_begun, field),
    )


def words_of(field: str, inputs: Callable[[], type[Spec]]) -> Callable[..., list[str]]:
    """What TAB offers for a hand-written flag of a field, of inputs that are imported when it is asked."""

    def words(context: click.Context, flag: click.Parameter, begun: str) -> list[str]:
        return _words_begun(inputs().model_fields[field], context, flag, begun)

    return words


def _words_begun(field: FieldInfo, _context: click.Context, _flag: click.Parameter, begun: str) -> list[str]:
    """What TAB offers for a flag that takes one of a few words, behind commas too."""
    before, comma, last = begun.rpartition(",")
    refused = {word for mark in field.metadata if isinstance(mark, Refused) for word in mark.words}
    offered = (word for word in _words(field.annotation) if word not in refused)
    return [f"{before}{comma}{word}" for word in offered if word.startswith(last.lower())]


def _words(annotation: Any) -> Iterator[str]:
    """The words that a field may have as its value."""
    for part in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(part)
        else:
            yield from _words(part)


def _kind(annotation: Any) -> type:
    """What the text of a flag is read as: the first kind of value that the field may have."""
    found = set(_leaves(annotation))
    return next(kind for kind in _KINDS if kind in found)


def _leaves(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
        return
    for part in get_args(annotation):
        yield from _leaves(part if isinstance(part, type) or get_args(part) else type(part))
