"""The arithmetic of `llm_perf.config.arrays` under the name by which the rooms after config use it."""

from llm_perf.config.arrays import (
    Number,
    expm1,
    is_array,
    log1p,
    maximum,
    minimum,
    power,
    root,
    sqrt,
    where,
)

__all__ = ["Number", "expm1", "is_array", "log1p", "maximum", "minimum", "power", "root", "sqrt", "where"]
