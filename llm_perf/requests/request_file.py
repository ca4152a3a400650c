"""Files of requests: CSV with a line of names, or JSONL with an object per line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from llm_perf.config import files
from llm_perf.errors import SpecError
from llm_perf.requests.lengths import LONGEST
from llm_perf.requests.workload import LATEST_S, NONE, Requests

__all__ = ["COLUMNS", "RequestFile", "read_requests"]

COLUMNS: Final = ("arrival_s", "prompt_tokens", "output_tokens", "prefix_id", "prefix_tokens")
_NEEDED: Final = COLUMNS[:3]
_LARGEST_FILE: Final = 2**30


@dataclass(frozen=True)
class RequestFile:
    """What a file holds. ``ignored`` are columns that mean nothing here; ``timed`` whether it states arrivals."""

    requests: Requests
    ignored: tuple[str, ...]
    timed: bool


def read_requests(name: str, *, timed: bool = True) -> RequestFile:
    """Read a file.

    Args:
        name: Its path. A first character ``{`` means JSONL, anything else CSV.
        timed: Arrivals are wanted. Otherwise the column may be missing, and all arrive at 0.

    Raises:
        SpecError: with file, row and field: it cannot be read, is empty, lacks a column, times are negative or not in
            order, or a count is none.
    """
    path = files.expanded(name)
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SpecError(f"--requests {path}: is larger than 1 GiB; give a part of it")
    except (OSError, ValueError):
        pass  # reading says what is wrong
    text = files.read_text(path).removeprefix("\ufeff")
    if not text.strip():
        raise SpecError(f"--requests {path}: is empty; expected CSV or JSONL with {', '.join(_NEEDED)}")
    reader = _Reader(str(path), timed)
    rows = reader.json_rows(text) if text.lstrip().startswith("{") else reader.csv_rows(text)
    return reader.read(rows)


Row = tuple[int, Mapping[str, Any]]
"""Line of the file, and cells by column."""


class _Reader:
    def __init__(self, name: str, timed: bool) -> None:
        self.name, self.timed = name, timed
        self.needed = _NEEDED if timed else _NEEDED[1:]
        self.seen: dict[str, None] = {}

    # -- rows -------------------------------------------------------------------------------------------------------

    def csv_rows(self, text: str) -> Iterator[Row]:
        reader = csv.reader(text.splitlines(), strict=True)
        try:
            names = [name.strip() for name in next(reader)]
            self._check_names(names)
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise self._wrong(
                        reader.line_num, f"has {len(cells)} cells where the first line names {len(names)}"
                    )
                yield reader.line_num, dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise self._wrong(reader.line_num, f"is malformed CSV: {error}") from None

    def json_rows(self, text: str) -> Iterator[Row]:
        for line, content in enumerate(text.splitlines(), start=1):
            if not content.strip():
                continue
            try:
                row = json.loads(content)
            except (ValueError, RecursionError) as error:
                said = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
                raise self._wrong(line, f"is malformed JSON: {said}") from None
            if not isinstance(row, dict):
                raise self._wrong(line, f"is no object but {type(row).__name__}")
            self.seen |= dict.fromkeys(row)
            yield line, row

    def _check_names(self, names: list[str]) -> None:
        missing = [column for column in self.needed if column not in names]
        if missing:
            raise SpecError(
                f"--requests {self.name}: has no column {missing[0]!r}; its first line names "
                f"{', '.join(map(repr, names[:8]))[:120]}, expected are {', '.join(COLUMNS)} (the last two if wanted)"
            )
        twice = [column for column in COLUMNS if names.count(column) > 1]
        if twice:
            raise SpecError(f"--requests {self.name}: names the column {twice[0]!r} twice")
        self.seen |= dict.fromkeys(names)

    # -- columns ----------------------------------------------------------------------------------------------------

    def read(self, rows: Iterator[Row]) -> RequestFile:
        arrival: list[float] = []
        counts: dict[str, list[int]] = {"prompt_tokens": [], "output_tokens": [], "prefix_tokens": []}
        ids: list[int] = []
        known: dict[str, int] = {}
        before = 0.0
        for line, row in rows:
            if self.timed:
                now = self._seconds(line, row)
                if now < before:
                    raise self._wrong(
                        line,
                        f"arrival_s {now:g} is earlier than the row's before it ({before:g}); sort the file by it",
                    )
                before = now
                arrival.append(now)
            prompt = self._count(line, row, "prompt_tokens", 1, LONGEST)
            counts["prompt_tokens"].append(prompt)
            counts["output_tokens"].append(self._count(line, row, "output_tokens", 1, LONGEST))
            stated, named = row.get("prefix_tokens"), row.get("prefix_id")
            shared = 0 if stated in (None, "") else self._count(line, row, "prefix_tokens", 0, prompt)
            if shared and named in (None, ""):
                raise self._wrong(
                    line, f"prefix_tokens {shared} needs a prefix_id, which says with whom they are shared"
                )
            counts["prefix_tokens"].append(shared)
            ids.append(known.setdefault(str(named), len(known)) if shared else NONE)
        if not ids:
            raise SpecError(f"--requests {self.name}: has no requests, only the names of its columns")
        requests = Requests.of(
            np.array(arrival) if self.timed else np.zeros(len(ids)),
            np.array(counts["prompt_tokens"]),
            np.array(counts["output_tokens"]),
            prefix_id=np.array(ids),
            prefix_tokens=np.array(counts["prefix_tokens"]),
        )
        ignored = tuple(name for name in self.seen if name not in COLUMNS)
        return RequestFile(requests, ignored, self.timed)

    def _seconds(self, line: int, row: Mapping[str, Any]) -> float:
        value = self._cell(line, row, "arrival_s")
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if isinstance(value, bool) or not 0 <= found <= LATEST_S:
            raise self._wrong(line, f"arrival_s {_shown(value)}: expected seconds from the start, 0 or more")
        return found

    def _count(self, line: int, row: Mapping[str, Any], column: str, least: int, most: int) -> int:
        value = self._cell(line, row, column)
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if isinstance(value, bool) or not (least <= found <= most and found == int(found)):
            bound = f"at most prompt_tokens, {most:,}" if column == "prefix_tokens" else f"at most {most:,}"
            raise self._wrong(
                line, f"{column} {_shown(value)}: expected a whole number, {least} or more and {bound}"
            )
        return int(found)

    def _cell(self, line: int, row: Mapping[str, Any], column: str) -> Any:
        if column not in row:
            raise self._wrong(
                line, f"has no field {column!r}; expected are {', '.join(COLUMNS)} (the last two if wanted)"
            )
        return row[column]

    def _wrong(self, line: int, message: str) -> SpecError:
        return SpecError(f"--requests {self.name}:{line}: {message}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
