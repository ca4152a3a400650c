"""A file of results as its readers see it: its text, its JSON, and its fields with their units."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from calibrate.evidence.benchmark_run import Figure, Quantity, Scope, Setting, Statistic, TokenLengths
from llm_perf.errors import SpecError

__all__ = [
    "MS",
    "NS",
    "Fields",
    "Source",
    "figures_of",
    "last_part",
    "printed",
    "stated_lengths",
    "statistics",
]

MS: Final = 1e-3
NS: Final = 1e-9
"""Seconds of a unit that a field's name states."""


_JSON: Final = re.compile(r'\s*(?:\{|\[\s*(?:[\[{"\]]|-?\d+(?:\.\d+)?\s*,|$))')
"""How JSON begins."""


@dataclass(frozen=True)
class Source:
    """The text of a file, under its name without the folder."""

    name: str
    text: str

    @cached_property
    def begins_json(self) -> bool:
        """Whether it is meant as JSON: a log may begin with a time or a name in brackets."""
        return _JSON.match(self.text) is not None

    @cached_property
    def value(self) -> Any:
        """The text as one JSON value; None where it is none."""
        return _json(self.text) if self.begins_json else None

    @cached_property
    def objects(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """The file's JSON objects with where they stand: one, those of a list, or one a line; none where it is no JSON.

        Raises:
            SpecError: it begins as JSON and ends early, or a line of it is no object.
        """
        if not self.begins_json:
            return ()
        if self.value is not None:
            found = self.value if isinstance(self.value, list) else [self.value]
            several = len(found) > 1
            return tuple(
                (f"{self.name}[{number}]" if several else self.name, self._object(one, f"entry {number + 1}"))
                for number, one in enumerate(found)
            )
        lines = [(number, line) for number, line in enumerate(self.text.splitlines(), 1) if line.strip()]
        if _json(lines[0][1]) is None:
            raise SpecError(f"{self.name}: is no whole JSON: it ends early, or is damaged")
        return tuple(
            (f"{self.name}:{number}", self._object(_json(line), f"line {number}")) for number, line in lines
        )

    def _object(self, value: Any, where: str) -> Mapping[str, Any]:
        if value is None:
            raise SpecError(f"{self.name}: {where} is no whole JSON: it ends early, or is damaged")
        if not isinstance(value, dict):
            raise SpecError(f"{self.name}: {where} is no JSON object")
        return value

    def has(self, *names: str) -> bool:
        """Whether the first JSON object has all these fields; of a damaged file, whether its text names them."""
        if not self.begins_json:
            return False
        try:
            first = self.objects[0][1] if self.objects else {}
        except SpecError:
            return all(f'"{name}"' in self.text for name in names)
        return all(name in first for name in names)


def _json(text: str) -> Any:
    """The value; None where the text is no JSON. NaN and infinities, which Python's writers produce, become NaN."""
    try:
        return json.loads(text, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError):
        return None


@dataclass
class Fields:
    """Named values of one object or text, each read by its name; `unread` are those that nobody asked for.

    Attributes:
        values: The values.
        where: The file and line, for messages.
    """

    values: Mapping[str, Any]
    where: str
    _asked: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def number(self, name: str, scale: float = 1.0) -> float | None:
        """A number times ``scale``; None where it is absent, null or NaN.

        Raises:
            SpecError: it is something else, or below 0.
        """
        self._asked.add(name)
        value = self.values.get(name)
        if value is None or value == "":
            return None
        try:
            found = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError):
            found = None
        if found is None:
            raise SpecError(f"{self.where}: {name} is {value!r}, which is no number")
        if math.isnan(found):
            return None
        if found < 0 or math.isinf(found):
            raise SpecError(f"{self.where}: {name} is {found:g}, which no measurement is")
        return found * scale

    def positive(self, name: str, scale: float = 1.0) -> float | None:
        """A number above 0; None where it is absent or 0."""
        return self.number(name, scale) or None

    def integer(self, name: str) -> int | None:
        """A whole number; None where it is absent."""
        found = self.number(name)
        if found is None:
            return None
        if found != round(found):
            raise SpecError(f"{self.where}: {name} is {found:g}, which is no whole number")
        return round(found)

    def count(self, name: str) -> int | None:
        """A whole number above 0; None where it is absent or 0."""
        return self.integer(name) or None

    def text(self, name: str) -> str | None:
        """A text; None where it is absent or empty.

        Raises:
            SpecError: it is something else.
        """
        self._asked.add(name)
        value = self.values.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, (dict, list)):
            raise SpecError(f"{self.where}: {name} is no text")
        return str(value)

    def part(self, name: str) -> Fields:
        """The object under a name, empty where it is absent.

        Raises:
            SpecError: it is something else.
        """
        self._asked.add(name)
        value = self.values.get(name)
        if value is None:
            return Fields({}, self.where)
        if not isinstance(value, dict):
            raise SpecError(f"{self.where}: {name} is no object")
        return Fields(value, self.where)

    def values_of(self, name: str) -> list[Any]:
        """The list under a name, empty where it is absent.

        Raises:
            SpecError: it is something else.
        """
        self._asked.add(name)
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise SpecError(f"{self.where}: {name} is no list")
        return value

    def numbers(self, name: str) -> list[float]:
        """The numbers under a name, empty where it is absent.

        Raises:
            SpecError: one is something else, or below 0.
        """
        found = self.values_of(name)
        return [Fields({name: one}, self.where).number(name) or 0.0 for one in found]

    def signed(self, name: str) -> int | None:
        """A whole number that may be below 0; None where it is absent.

        Raises:
            SpecError: it is something else.
        """
        self._asked.add(name)
        value = self.values.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, (int, str)) or re.fullmatch(r"\s*[+-]?\d{1,12}\s*", str(value)) is None:
            raise SpecError(f"{self.where}: {name} is {value!r}, which is no whole number")
        return int(value)

    def known(self, *names: str) -> Fields:
        """Say of fields that they are known and not kept."""
        self._asked.update(names)
        return self

    def needed(self, *names: str) -> None:
        """Refuse an object that lacks a field.

        Raises:
            SpecError: one is missing: the file was cut off, or is something else.
        """
        missing = [name for name in names if self.values.get(name) is None]
        if missing:
            raise SpecError(f"{self.where}: {missing[0]} is missing: the file was cut off, or is another one")

    @property
    def unread(self) -> tuple[str, ...]:
        """Names of fields that nobody asked for, in order."""
        return tuple(name for name in self.values if name not in self._asked)

    def settings(self, names: Iterable[str]) -> dict[str, Setting]:
        """Plain values as an engine's settings."""
        found: dict[str, Setting] = {}
        for name in names:
            self._asked.add(name)
            value = self.values.get(name)
            if isinstance(value, (str, int, float, bool)):
                found[name] = value
        return found


_STATISTICS: Final[dict[str, Statistic]] = {
    "avg": "mean", "mean": "mean", "average": "mean", "median": "p50", "p50": "p50", "std": "sd", "stddev": "sd",
    "stdev": "sd", "std_dev": "sd", "min": "min", "minimum": "min", "max": "max", "maximum": "max", "p1": "p1",
    "p01": "p1", "p5": "p5", "p05": "p5", "p10": "p10", "p25": "p25", "p75": "p75", "p90": "p90", "p95": "p95",
    "p99": "p99", "p999": "p99.9", "p99.9": "p99.9",
}  # fmt: skip
"""What tools call a statistic."""


def statistics(
    fields: Fields,
    quantity: Quantity,
    scale: float = 1.0,
    scope: Scope | None = None,
    samples: int | None = None,
    label: str = "",
) -> Iterator[Figure]:
    """A figure per statistic of an object such as ``{"mean": 1, "p50": 1}``; a standard deviation goes with the mean."""
    sd = next((fields.number(n, scale) for n in ("std", "stddev", "stdev", "std_dev") if n in fields), None)
    seen: set[Statistic] = set()
    for name in fields.values:
        statistic = _STATISTICS.get(name.lower())
        if statistic is None or statistic in seen or statistic == "sd":
            continue
        value = fields.number(name, scale)
        if value is not None:
            seen.add(statistic)
            yield Figure(
                quantity=quantity,
                statistic=statistic,
                value=value,
                scope=scope,
                samples=samples,
                sd=sd if statistic == "mean" else None,
                stated=printed(f"{label}.{name}" if label else name, fields.values[name]),
            )


def stated_lengths(stated: Fields) -> TokenLengths:
    """Lengths by the statistics that a tool states of them; unknown without a mean."""
    mean = stated.positive("mean" if "mean" in stated else "avg")
    if mean is None:
        return TokenLengths()
    sd = stated.number("std_dev" if "std_dev" in stated else "std")
    low, high = stated.number("min"), stated.number("max")
    fixed = low is not None and low == high
    return TokenLengths(mean=mean, kind="fixed" if fixed else "vary", sd=sd, low=low, high=high)


def figures_of(
    fields: Fields, stated: Iterable[tuple[str, Quantity, Statistic, float]], scope: Scope | None = None
) -> Iterator[Figure]:
    """Figures of fields by (field, quantity, statistic, seconds or tokens per unit); what is absent or 0 is left out."""
    for name, quantity, statistic, scale in stated:
        value = fields.positive(name, scale)
        if value is not None:
            of_rate = quantity.endswith("_per_s")
            yield Figure(
                quantity=quantity,
                statistic=statistic,
                value=value,
                scope=(scope or "system") if of_rate else None,
                stated=printed(name, fields.values[name]),
            )


def printed(name: str, value: Any) -> str:
    """A field as its file states it."""
    return f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"


_FOLDERS: Final = re.compile(r"^(?:[A-Za-z]:\\|[/~.])|\\")


def last_part(name: str | None) -> str | None:
    """A model's name without the folder that it was loaded from: nobody's folders go into a record."""
    if name is None or not _FOLDERS.search(name):
        return name
    parts = [part for part in re.split(r"[/\\]", name) if part]
    hub = next((part for part in parts if part.startswith("models--")), None)
    if hub is not None:  # the hub's cache: models--organisation--name/snapshots/commit
        return hub.removeprefix("models--").replace("--", "/", 1)
    return parts[-1] if parts else None
