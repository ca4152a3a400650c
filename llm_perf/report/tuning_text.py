"""Fine-tuning and memory in training, predicted beside measured, as tables. Reads ``validate --tuning``'s JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

_WIDTH: Final = 80
_TITLES: Final = {"finetuning": "Fine-tuning", "b200": "Megatron-LM on eight B200"}
_QUANTITIES: Final = {"memory": "peak GPU memory", "time": "time of an iteration"}


def tuning_report(found: Mapping[str, Any]) -> str:
    """Each table with its quantities by framework and GPU, then what intervals hold."""
    parts = []
    for name, table in found["tables"].items():
        for quantity, title in _QUANTITIES.items():
            parts.append("\n".join(_rows(f"{_TITLES[name]}: {title}", table[quantity])))
        parts.append("\n".join(_rest(table)))
    parts.append("\n".join(_intervals(found["intervals"])))
    return "\n\n".join(parts)


def _rows(title: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield title
    yield f"{'':<20}{'rows':>5}{'median':>9}{'in 15 %':>9}{'gm':>7}{'left out:':>12}{'in 15 %':>9}{'gm':>7}"
    groups = {"all": table["all"]} | table["framework"] | table["gpu"]
    for name, one in groups.items():
        yield (
            f"{name:<20}{one['rows']:>5}{one['median_error']:>9.1%}{one['near_share']:>9.0%}{one['gm']:>7.2f}"
            f"{one['left_out_median_error']:>12.1%}{one['left_out_near_share']:>9.0%}{one['left_out_gm']:>7.2f}"
        )


def _rest(table: Mapping[str, Any]) -> Iterator[str]:
    for reason, count in table["refused"].items():
        yield textwrap.fill(f"not predicted, {count}: {reason}", _WIDTH, subsequent_indent="  ")
    for name, count in table["verdicts"].items():
        yield f"{name}: {count}"


def _intervals(widths: Mapping[str, Any]) -> Iterator[str]:
    for name, one in widths.items():
        by_rows = one["held"] / one["tested"]
        evenly = one["share"] != round(by_rows, 4)
        said = f"90 % interval of {name}: a factor of {math.exp(one['width']):.2f} either way; of the others' width "
        yield textwrap.fill(
            f"{said}{by_rows:.0%} of {one['tested']} rows were held"
            + (f", and {one['share']:.0%} of a framework's in the mean of these" if evenly else ""),
            _WIDTH,
            subsequent_indent="  ",
        )
