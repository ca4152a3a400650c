"""What a sweep found, gathered chunk by chunk in little memory: how many points fit, why not, and the best."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from llm_perf.errors import SpecError
from llm_perf.search.sweep import MEASURES, Array, Coded, Sweep

SCHEMA_VERSION: Final = 1
MORE_IS_BETTER: Final = ("throughput_tokens_per_s",)


class Summary:
    """Counts and the best points of a sweep.

    Args:
        sweep: The sweep.
        top: How many of the best points to keep.
        by: The measure that they are the best of: the largest throughput, the smallest of anything else.

    Raises:
        SpecError: there is no such measure.
    """

    def __init__(self, sweep: Sweep, top: int, by: str = "throughput_tokens_per_s") -> None:
        if by not in MEASURES:
            raise SpecError(f"--best {by!r}: expected one of {', '.join(MEASURES)}")
        self.sweep, self.top, self.by = sweep, top, by
        self.evaluated = self.feasible = self.computed = 0
        self.reasons: Counter[str] = Counter()
        self._sign = -1.0 if by in MORE_IS_BETTER else 1.0
        self._best: list[tuple[float, int, dict[str, Any]]] = []
        self._started = time.perf_counter()
        self.seconds = 0.0

    def add(self, chunk: int, columns: Mapping[str, Array | Coded]) -> None:
        """Count the points of a chunk that was evaluated now."""
        reasons = columns["reason"]
        assert isinstance(reasons, Coded)
        found = np.bincount(reasons.codes[reasons.codes >= 0], minlength=len(reasons.values))
        counted = {value: int(number) for value, number in zip(reasons.values, found, strict=True) if number}

        def row(position: int) -> dict[str, Any]:
            return {name: _cell(column, position) for name, column in columns.items()}

        self.computed += len(reasons)
        self.count(chunk, np.asarray(columns["feasible"]), counted, np.asarray(columns[self.by]), row)

    def count(
        self,
        chunk: int,
        feasible: Array,
        reasons: Mapping[str, int],
        measure: Array,
        row: Callable[[int], dict[str, Any]],
    ) -> None:
        """Count the points of a chunk: which fit, how many have which reason, the measure, and a point by position."""
        self.evaluated += len(feasible)
        self.feasible += int(feasible.sum())
        self.reasons.update(reasons)
        first, _ = self.sweep.chunk_range(chunk)
        wanted = np.where(feasible & np.isfinite(measure), self._sign * measure, np.inf)
        for position in np.argsort(wanted, kind="stable")[: self.top]:
            if np.isfinite(wanted[position]):
                self._best.append((float(wanted[position]), first + int(position), row(int(position))))
        # By number where equal: the order in which chunks arrive must not matter.
        self._best = sorted(self._best, key=lambda entry: entry[:2])[: self.top]
        self.seconds = time.perf_counter() - self._started

    @property
    def best(self) -> list[dict[str, Any]]:
        """The best points that fit, the best first."""
        return [row for _, _, row in self._best]

    def inputs_of(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """What ``llm-perf infer`` is to be asked for a point; what has its default is left out."""
        names = self.sweep.columns[: self.sweep.columns.index("feasible")]
        return {name: point[name] for name in names if point[name] is not None}

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain JSON types. The ``inputs`` of a point can be fed to ``llm-perf infer --config``."""
        return {
            "schema_version": SCHEMA_VERSION,
            "points": len(self.sweep),
            "evaluated": self.evaluated,
            "feasible": self.feasible,
            "infeasible": dict(self.reasons.most_common()),
            "best_by": self.by,
            "best": [point | {"inputs": self.inputs_of(point)} for point in self.best],
            "seconds": self.seconds,
            "points_per_s": self.computed / self.seconds if self.seconds else None,
        }


def _cell(column: Array | Coded, position: int) -> Any:
    """A value as a plain Python one; None where there is none."""
    if isinstance(column, Coded):
        code = int(column.codes[position])
        return column.values[code] if code >= 0 else None
    value = column[position].item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
