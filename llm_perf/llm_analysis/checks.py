"""Checks of single arguments; each returns the value or raises one line that names it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from llm_perf.config.parallelism import ActivationRecomputation
from llm_perf.errors import bad_value

Number = TypeVar("Number", int, float)


def positive_int(field: str, value: Any) -> int:
    """A whole number above 0; NumPy's integers are as good as Python's.

    Raises:
        SpecError: anything else.
    """
    if type(value) is not int:
        value = _python_number(value)
    if type(value) is not int or value <= 0:
        raise bad_value(field, value, "a positive integer")
    return value


def positive(field: str, value: Any) -> float:
    """A finite number above 0.

    Raises:
        SpecError: anything else.
    """
    number = _python_number(value)
    if type(number) not in (int, float) or not 0 < number < math.inf:
        raise bad_value(field, value, "a positive number")
    return number  # type: ignore[no-any-return]


def not_negative(field: str, value: Any) -> float:
    """A finite number of at least 0.

    Raises:
        SpecError: anything else.
    """
    return 0 if _python_number(value) == 0 and not isinstance(value, bool) else positive(field, value)


def fraction(field: str, value: Any) -> float:
    """A number above 0 and at most 1.

    Raises:
        SpecError: anything else.
    """
    number = _python_number(value)
    if type(number) not in (int, float) or not 0 < number <= 1:
        raise bad_value(field, value, "a number above 0 and at most 1")
    return number  # type: ignore[no-any-return]


def optional(check: Callable[[str, Any], Number], field: str, value: Any) -> Number | None:
    """None, or what a check of a number returns.

    Raises:
        SpecError: as the check does.
    """
    return None if value is None else check(field, value)


def bits(field: str, value: Any) -> int | None:
    """A width in bits, or None.

    Raises:
        SpecError: neither of them.
    """
    return optional(positive_int, field, value)


def flag(field: str, value: Any) -> bool:
    """True or False.

    Raises:
        SpecError: anything else.
    """
    if not isinstance(value, bool):
        raise bad_value(field, value, "True or False")
    return value


def instance(field: str, value: Any, kind: type) -> Any:
    """An object of a class.

    Raises:
        SpecError: anything else.
    """
    if not isinstance(value, kind):
        raise bad_value(field, value, f"a {kind.__name__}")
    return value


def recomputation(level: Any, is_inference: Any) -> ActivationRecomputation:
    """A level of activation recomputation as a member; there is nothing to recompute in inference.

    Raises:
        SpecError: no such level, or one other than NONE in inference.
    """
    found = ActivationRecomputation.of(level)
    if flag("is_inference", is_inference) and found is not ActivationRecomputation.NONE:
        raise bad_value("activation_recomputation", found.name, "NONE with is_inference=True")
    return found


def _python_number(value: Any) -> Any:
    """NumPy scalars as Python numbers; what is no number stays as it is."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value


def within_range(val: float, target: float, tolerance: float) -> bool:
    """Whether a value differs from a target by less than a share of it; a target of 0 has to be met."""
    return val == target or abs(val - target) < tolerance * abs(target)
