"""What every spec shares: frozen, checked when built, one clear line when something is wrong."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import CoreSchema, core_schema

from llm_perf.errors import SpecError

GIB = 2**30
"""Bytes of one GiB; memory sizes of specs are in GiB (design: memory is counted in 2**30)."""
GB = 10**9
"""Bytes of one GB; bandwidths of specs are in GB/s = 1e9 bytes/s, as data sheets print them."""

LARGEST_COUNT = 10**12
"""No count of an input is larger."""


_LONGEST_NAME = 200  # a log file is named after its model, and most file systems end a name at 255 bytes


def _plain_number(value: Any) -> Any:
    """NumPy scalars become Python numbers, so that a count from an array is as good as a literal."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 0) == 0 else value


class _Within:
    """Marks a number that is checked strictly, as NumPy has it too: ``BeforeValidator`` and ``Field`` in one.

    Specs have some 300 such fields, and pydantic's own walk over both takes a tenth of the time that a command takes.

    Args:
        then: Limits that are held to once those of ``limits`` are.
        limits: ``gt``, ``ge``, ``le`` as of ``pydantic.Field``.
    """

    def __init__(self, then: Mapping[str, float] | None = None, **limits: float) -> None:
        self.steps: list[dict[str, Any]] = [limits] if then is None else [limits, dict(then)]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        steps: list[CoreSchema] = [
            core_schema.int_schema(strict=True, **limits)
            if source is int
            else core_schema.float_schema(strict=True, allow_inf_nan=False, **limits)
            for limits in self.steps
        ]
        number = steps[0] if len(steps) == 1 else core_schema.chain_schema(steps)
        return core_schema.no_info_before_validator_function(_plain_number, number)


PositiveInt = Annotated[int, _Within(gt=0, le=LARGEST_COUNT)]
NonNegativeInt = Annotated[int, _Within(ge=0, le=LARGEST_COUNT)]
PositiveFloat = Annotated[float, _Within(gt=0)]
NonNegativeFloat = Annotated[float, _Within(ge=0)]
Fraction = Annotated[float, _Within(ge=0, le=1)]
Flag = Annotated[bool, Field(strict=True)]
LEAST_EFFICIENCY = 1e-9
"""No software reaches less of a peak: it is a slip, and the times that follow overflow."""
Efficiency = Annotated[float, _Within(ge=LEAST_EFFICIENCY, le=1)]
LARGEST_QUANTITY = 1e12
"""No size, rate or time of a machine is larger in its unit: more is a slip, and would overflow later."""
LEAST_QUANTITY = 1e-9
"""None that exists is smaller either: times would overflow."""
Quantity = Annotated[float, _Within({"ge": LEAST_QUANTITY, "le": LARGEST_QUANTITY}, gt=0)]
NonNegativeQuantity = Annotated[float, _Within({"le": LARGEST_QUANTITY}, ge=0)]


def _on_one_line(name: str) -> str:
    """A name stands in a line of a report and in file names: no line breaks, escape codes or null bytes."""
    if not name.strip() or not name.isprintable():
        raise ValueError(f"must be printable text on one line, got {_short(name)}")
    return name


Name = Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME), AfterValidator(_on_one_line)]

SpecT = TypeVar("SpecT", bound="Spec")


class Spec(BaseModel):
    """Base of all specs: immutable, no unknown fields, validated on construction.

    Files of specs that a prediction builds do not postpone annotations (no ``from __future__ import annotations``): pydantic
    would compile the text of each again at every start.

    Positional arguments are accepted in the order of ``_positional`` (the order of seed 002's dataclasses).

    Raises:
        SpecError: a field is missing, unknown, of the wrong type or out of range. The message names the
            spec, the field, the value and what would be accepted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, defer_build=True)

    _positional: ClassVar[tuple[str, ...]] = ()
    _label: ClassVar[str | None] = None
    """What error messages call the spec; None for its class's name in plain words, "" for nothing."""

    @classmethod
    def label(cls) -> str:
        """What error messages call the spec."""
        return plain_words(cls.__name__) if cls._label is None else cls._label

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if len(args) > len(self._positional):
            raise SpecError(
                f"{self.label() or 'this'} takes at most {len(self._positional)} positional arguments, got {len(args)}"
            )
        for field, value in zip(self._positional, args, strict=False):
            if field in kwargs:
                raise SpecError(f"{self.label() or 'a call'}: {field} is given twice")
            kwargs[field] = value
        try:
            super().__init__(**kwargs)
        except ValidationError as error:
            raise SpecError(describe_validation_error(error, self.label(), kwargs.get("name"))) from None

    def replace(self: SpecT, **changes: Any) -> SpecT:
        """Return a copy with some fields changed, validated again."""
        fields = {field: getattr(self, field) for field in type(self).model_fields}
        return type(self)(**(fields | changes))


_SUFFIX = re.compile("(?<=.)(?:Config|Spec|Inputs|Question|File)$")
_WORDS = re.compile("[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def plain_words(name: str) -> str:
    """A class's name as people say it: ``GPUConfig`` is "GPU", ``LayerGroup`` "layer group"."""
    words = _WORDS.findall(_SUFFIX.sub("", name)) or [name]
    return " ".join(word if word.isupper() else word.lower() for word in words)


class ServingOption:
    """Marks a field that is an option of serving stacks, off at its default: other systems refuse it by its flag."""


class Refused:
    """Marks words that a field has and every system refuses with a reason: no shell offers them.

    Args:
        words: These words.
    """

    def __init__(self, *words: str) -> None:
        self.words = frozenset(words)


class AsText:
    """Marks a field whose flag takes text, names or numbers, although its value is a number."""


class MeanOfMany:
    """Marks a length that people know as a mean over requests: its flag takes a fraction, if a whole number is as good."""


@cache
def serving_defaults(spec: type[Spec]) -> dict[str, Any]:
    """The marked fields, and what each is where nobody gives it."""
    return {
        name: field.default for name, field in spec.model_fields.items() if ServingOption in field.metadata
    }


def describe_validation_error(error: ValidationError, spec: str, name: Any = None) -> str:
    """One line for the first fault of a pydantic error: ``spec name: field: message (got value)``."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    named = isinstance(name, str) and name.isprintable() and len(name) <= _LONGEST_NAME
    head = f"{spec} {name}" if named else spec
    lead = f"{head}: " if head else ""
    if first["type"] == "extra_forbidden":
        return f"{lead}unknown field {where!r}"
    if first["type"] == "missing":
        return f"{lead}field {where!r} is required"
    if first["type"] in ("value_error", "assertion_error"):
        return f"{lead}{where}: {message}" if where and not message.startswith(where) else f"{lead}{message}"
    if first["type"] == "int_parsing_size":
        message = "must be a whole number of a usual size"
    return f"{lead}{where} {re.sub('^[A-Za-z]+ should', 'must', message)}, got {_short(first['input'])}"


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def _short(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    text = _REPR.repr(value)  # not repr: a few nested YAML aliases can stand for gigabytes
    return text if len(text) <= 60 else text[:57] + "..."
