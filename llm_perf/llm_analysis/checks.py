"""Checks of single arguments; each returns the value or raises one line that names it."""

from __future__ import annotations

import math
from typing import Any

from llm_perf.errors import bad_value


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


def _python_number(value: Any) -> Any:
    """NumPy scalars as Python numbers; what is no number stays as it is."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value


def within_range(val: float, target: float, tolerance: float) -> bool:
    """Whether a value differs from a target by less than a share of it; a target of 0 has to be met."""
    return val == target or abs(val - target) < tolerance * abs(target)
