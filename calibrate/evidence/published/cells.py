"""The tables as text: rows, and cells that are reported with file, line, column and value where they are faulty."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from typing import NoReturn, TypeVar

from calibrate.evidence.published.records import Source
from llm_perf.errors import SpecError, bad_value

T = TypeVar("T")

STATUSES = {status: status for status in ("ok", "OOM", "OOM-host", "doubtful", "doubtful-e2e")}
TRUST_GRADES = ("A", "A-", "B", "B-", "C")


class Row:
    """One line of a table. A faulty cell is reported with file, line, column and value."""

    __slots__ = ("_cells", "_columns", "_file", "_line")

    def __init__(self, cells: list[str], columns: Mapping[str, int], file: str, line: int) -> None:
        self._cells = cells
        self._columns = columns
        self._file = file
        self._line = line

    def text(self, column: str) -> str:
        """The cell as printed; a missing column is reported."""
        if column not in self._columns:
            raise SpecError(f"{self._file}:1: column {column!r} is missing")
        return self._cells[self._columns[column]]

    def required(self, column: str) -> str:
        """A cell that must not be empty."""
        return self.text(column) or self.fail(column, "some text")

    def optional(self, column: str) -> str | None:
        """None for an empty cell."""
        return self.text(column) or None

    def choice(self, column: str, accepted: Mapping[str, T]) -> T:
        """What one of the accepted texts stands for."""
        text = self.text(column)
        if text not in accepted:
            self.fail(column, "one of " + ", ".join(map(repr, accepted)))
        return accepted[text]

    def integer(self, column: str) -> int | None:
        """A count, 0 included."""
        text = self.text(column)
        if not text or text == "n/a":
            return None
        if not (text.isascii() and text.isdigit()):
            self.fail(column, "a non-negative integer")
        return int(text)

    def count(self, column: str) -> int:
        """A count that must be stated."""
        number = self.integer(column)
        return self.fail(column, "a number") if number is None else number

    def number(self, column: str) -> float | None:
        """A measured value: positive and finite."""
        text = self.text(column)
        if not text:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        return number if 0 < number < math.inf else self.fail(column, "a positive number")

    def scaled(self, column: str, unit: float) -> float | None:
        """A measured value in another unit, such as GB as bytes."""
        number = self.number(column)
        return None if number is None else number * unit

    def refuse_repetition(self, column: str, seen: set[str]) -> None:
        """Report a value that an earlier row has; remember this one."""
        if self.text(column) in seen:
            self.fail(column, "a value that no line above has")
        seen.add(self.text(column))

    def fail(self, column: str, accepted: str) -> NoReturn:
        """Report the cell: file, line, column, value, and what would be accepted."""
        raise SpecError(f"{self._file}:{self._line}: {bad_value(column, self.text(column), accepted)}")


def rows(text: str, file: str) -> Iterator[Row]:
    """The rows of a table.

    Raises:
        SpecError: it is no table, has no row_id, or repeats one; file and line are named.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    seen: set[str] = set()
    try:
        header = next(reader, [])
        columns = {column: index for index, column in enumerate(header)}
        if "row_id" not in columns:
            raise SpecError(f"{file}:1: column 'row_id' is missing")
        for cells in reader:
            if len(cells) != len(header):
                raise SpecError(f"{file}:{reader.line_num}: {len(cells)} cells under {len(header)} columns")
            row = Row(cells, columns, file, reader.line_num)
            row.refuse_repetition("row_id", seen)
            yield row
    except csv.Error as error:
        raise SpecError(f"{file}:{reader.line_num}: malformed CSV: {error}") from None


def source_of(row: Row) -> Source:
    """Where a row was read."""
    return Source(
        repo=row.required("source_repo"),
        path=row.required("source_path"),
        commit=row.optional("source_commit"),
        table=row.required("source_table"),
    )


def trust_of(row: Row) -> str:
    """Trust mark and reason."""
    if row.text("trust").partition(":")[0] not in TRUST_GRADES:
        row.fail("trust", "a mark (" + ", ".join(TRUST_GRADES) + "), a colon and the reason")
    return row.text("trust")


def cells_of(row: Mapping[str, str]) -> Row:
    """The cells of one row, reported by column where they are faulty."""
    columns = {name: index for index, name in enumerate(row)}
    return Row([str(value or "") for value in row.values()], columns, "row", 1)
