"""Arithmetic that means the same for Python numbers and NumPy arrays."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

Number: TypeAlias = Any
"""A float, an int or a NumPy array of them. Scalars stay scalars: a single prediction pays no array overhead."""


def is_array(*values: Number) -> bool:
    """Whether any value is a NumPy array."""
    # A loop takes a third of what any() over a generator takes, and models of time ask this all the time.
    for value in values:  # noqa: SIM110
        if isinstance(value, np.ndarray):
            return True
    return False


def maximum(left: Number, right: Number) -> Number:
    """The larger one, elementwise."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return np.maximum(left, right)
    return max(left, right)


def minimum(left: Number, right: Number) -> Number:
    """The smaller one, elementwise."""
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return np.minimum(left, right)
    return min(left, right)


def any_of(value: Number) -> bool:
    """Whether a number, or any of an array, is true or not zero."""
    return bool(value.any()) if hasattr(value, "any") else bool(value)


def where(condition: Number, yes: Number, no: Number) -> Number:
    """``yes`` where the condition holds, else ``no``."""
    if isinstance(condition, np.ndarray) or isinstance(yes, np.ndarray) or isinstance(no, np.ndarray):
        return np.where(condition, yes, no)
    return yes if condition else no


def floor(value: Number) -> Number:
    """The whole number below; infinity stays."""
    return np.floor(value) if isinstance(value, np.ndarray) or value == math.inf else math.floor(value)


def ceil(value: Number) -> Number:
    """The whole number above, but for what rounding adds to one; infinity stays."""
    return -floor(1e-9 - value)


def log(value: Number) -> Number:
    """Natural logarithm."""
    return np.log(value) if isinstance(value, np.ndarray) else math.log(value)


def sqrt(value: Number) -> Number:
    """Square root."""
    return np.sqrt(value) if isinstance(value, np.ndarray) else math.sqrt(value)


def power(value: Number, exponent: float) -> Number:
    """``value ** exponent``, by squaring for the exponents that the models use most."""
    if exponent == 2:
        return value * value
    if exponent == 4:
        square = value * value
        return square * square
    if exponent == 8:
        square = value * value
        fourth = square * square
        return fourth * fourth
    return value**exponent


def root(value: Number, exponent: float) -> Number:
    """The inverse of :func:`power`."""
    if exponent == 2:
        return sqrt(value)
    if exponent == 4:
        return sqrt(sqrt(value))
    if exponent == 8:
        return sqrt(sqrt(sqrt(value)))
    return value ** (1.0 / exponent)


def log1p(value: Number) -> Number:
    """log(1 + value)."""
    return np.log1p(value) if isinstance(value, np.ndarray) else math.log1p(value)


def expm1(value: Number) -> Number:
    """exp(value) - 1."""
    return np.expm1(value) if isinstance(value, np.ndarray) else math.expm1(value)
