"""Many predictions as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

import numpy as np

from llm_perf.errors import LLMPerfError, MissingExtraError, SpecError
from llm_perf.search.executors import get_executor
from llm_perf.search.summary import Summary
from llm_perf.search.sweep import Array, Coded, Sweep, joined

MOST_POINTS: Final = 50_000_000
"""Points that are held in memory, at some 120 bytes each; ``llm-perf sweep --out`` has no such limit."""


def sweep(*, points: Sequence[Mapping[str, Any]] = (), executor: str = "local", **axes: Any) -> SweepTable:
    """Predict every combination of the values of every input.

    Args:
        points: Combinations of further inputs, each of which goes with all values of the axes.
        executor: ``local``, ``processes``, ``processes:N`` or ``dask://HOST:PORT``. Processes import the script that
            starts them: its calls stand below ``if __name__ == "__main__":``.
        axes: Inputs by name, each a value or a collection of values: ``model``, ``gpu``, ``batch_size`` … (fields of
            `InferenceInputs`).

    Raises:
        SpecError: an unknown input or name, a value that no prediction can take, no model or gpu, or too many points to
            hold. A combination that cannot be is no error but a point with its reason.
    """
    listed = _values(points)
    if not all(isinstance(point, Mapping) for point in listed):
        raise SpecError("points must be a sequence of mappings of inputs")
    question = Sweep({name: _values(value) for name, value in axes.items()}, listed)
    if len(question) > MOST_POINTS:
        raise SpecError(f"{len(question):,} points are more than the {MOST_POINTS:,} that are held in memory")
    summary = Summary(question, top=10)
    parts: dict[int, Mapping[str, Array | Coded]] = {}
    for chunk, columns in get_executor(executor)(question, range(question.chunks)):
        summary.add(chunk, columns)
        parts[chunk] = columns
    ordered = [parts[chunk] for chunk in sorted(parts)]
    return SweepTable(
        question, summary, {name: joined([part[name] for part in ordered]) for name in question.columns}
    )


def _values(value: Any) -> tuple[Any, ...]:
    """A single value is an axis of one; arrays and other collections give theirs in their order."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return (_plain(value),)
    return tuple(_plain(item) for item in value)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True, repr=False, eq=False)  # arrays have no one answer to ==
class SweepTable:
    """Predictions by column; the order of rows is that of the combinations, the last input running fastest.

    Attributes:
        sweep: What was asked.
        summary: How many points fit, why others do not, and the best.
        columns_: The columns as they are stored, text as codes.
    """

    sweep: Sweep
    summary: Summary
    columns_: Mapping[str, Array | Coded]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, inputs first; units stand in the names."""
        return tuple(self.columns_)

    def __len__(self) -> int:
        return len(self.sweep)

    def __getitem__(self, name: str) -> Array:
        """A column as an array."""
        if name not in self.columns_:
            raise KeyError(f"{name!r} is no column; columns are: {', '.join(self.columns)}")
        column = self.columns_[name]
        return column.decoded() if isinstance(column, Coded) else column

    @property
    def best(self) -> list[dict[str, Any]]:
        """The ten points of the largest throughput among what fits."""
        return self.summary.best

    def to_arrow(self) -> Any:
        """A pyarrow Table.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        try:
            import pyarrow  # noqa: F401 - is it there?
        except ImportError:
            raise MissingExtraError("explore", "a pyarrow Table") from None
        from llm_perf.report.sweep_files import table_of

        return table_of(self.sweep, self.columns_)

    def to_pandas(self) -> Any:
        """A pandas DataFrame; text columns are categories.

        Raises:
            MissingExtraError: pyarrow is not installed.
            LLMPerfError: pandas is not installed, which no extra brings.
        """
        table = self.to_arrow()
        if find_spec("pandas") is None:
            raise LLMPerfError("a DataFrame needs pandas: pip install pandas")
        return table.to_pandas()

    def __repr__(self) -> str:
        return f"<SweepTable of {len(self):,} points, {self.summary.feasible:,} fit>"

    def _repr_html_(self) -> str:
        from llm_perf.api.html import html_of
        from llm_perf.report.sweep_text import sweep_report

        return html_of(sweep_report(self.summary, None))
