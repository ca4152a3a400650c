"""The arithmetic of `llm_perf.config.arrays` under the name by which the rooms after config use it."""

from llm_perf.config.arrays import (
    Number,
    any_of,
    ceil,
    expm1,
    floor,
    is_array,
    log,
    log1p,
    maximum,
    minimum,
    power,
    root,
    sqrt,
    where,
)

__all__ = [
    "Number",
    "any_of",
    "ceil",
    "expm1",
    "floor",
    "is_array",
    "log",
    "log1p",
    "maximum",
    "minimum",
    "power",
    "root",
    "sqrt",
    "where",
]
