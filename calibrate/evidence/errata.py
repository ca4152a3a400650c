"""What published tables say wrongly of their own rows, put right where rows are read.

Facts with their evidence, as data: ``calibrate/measurements/serving/errata.yaml``. Tables stay as they were printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

import yaml
from pydantic import Field

from llm_perf.config.base import Spec

__all__ = ["as_meant"]

_FILE: Final = "measurements/serving/errata.yaml"


class _For(Spec):
    """Rows that an erratum is of: a system, versions as printed, a phrase of the notes, cells as printed, one or several."""

    system: str
    versions: tuple[str, ...]
    phrase: str
    printed: dict[str, str | tuple[str, ...]]

    def holds(self, row: Mapping[str, str]) -> bool:
        """Whether a row is one of them."""
        return (
            row.get("system") == self.system
            and row.get("system_version") in self.versions
            and self.phrase in row.get("notes", "")
            and all(
                row.get(column) in ((cells,) if isinstance(cells, str) else cells)
                for column, cells in self.printed.items()
            )
        )


class _Erratum(Spec):
    for_: _For = Field(alias="for")
    reads: dict[str, str]
    source: str = Field(min_length=1)


@cache
def _errata() -> tuple[_Erratum, ...]:
    text = (resources.files("calibrate") / _FILE).read_text("utf-8")
    return tuple(_Erratum.model_validate(one) for one in yaml.safe_load(text))


def as_meant(row: Mapping[str, str]) -> Mapping[str, str]:
    """The row with the cells that its table prints wrongly put right; the row itself where there are none."""
    for one in _errata():
        if one.for_.holds(row):
            return dict(row) | one.reads
    return row
