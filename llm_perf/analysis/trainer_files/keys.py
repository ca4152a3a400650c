"""A mapping that remembers which of its keys were used, with typed ways to read one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_perf.errors import SpecError

AUTO = "auto"
"""What DeepSpeed's files write for a value that Hugging Face's Trainer fills in."""


class Keys:
    """The keys of one mapping of a file; ``prefix`` names the mapping in messages and among what was not used."""

    def __init__(self, data: Mapping[Any, Any], where: str, prefix: str = "") -> None:
        self._data, self.where, self._prefix = (
            {str(name): value for name, value in data.items()},
            where,
            prefix,
        )
        self._used: set[str] = set()
        self._parts: list[Keys] = []

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def raw(self, name: str) -> Any:
        """A value as it stands, counted as used; None where it is missing or ``auto``."""
        self._used.add(name)
        value = self._data.get(name)
        return None if value == AUTO else value

    def integer(self, name: str) -> int | None:
        """A whole number, also one written as 2e8 or "8".

        Raises:
            SpecError: it is no whole number.
        """
        value = self.number(name)
        if value is None:
            return None
        if value != int(value):
            raise self.wrong(name, "a whole number")
        return int(value)

    def number(self, name: str) -> float | None:
        """A number.

        Raises:
            SpecError: it is none.
        """
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise self.wrong(name, "a number")
        try:
            found = float(value)
        except ValueError:
            raise self.wrong(name, "a number") from None
        if found != found or found in (float("inf"), float("-inf")):
            raise self.wrong(name, "a number")
        return found

    def flag(self, name: str) -> bool | None:
        """True or false; None where it is missing.

        Raises:
            SpecError: it is neither.
        """
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        if text in ("true", "1", "yes"):
            return True
        if text in ("false", "0", "no", "none", ""):
            return False
        raise self.wrong(name, "true or false")

    def text(self, name: str) -> str | None:
        """A word.

        Raises:
            SpecError: it is a list or a mapping.
        """
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, (list, dict)):
            raise self.wrong(name, "a word")
        return str(value)

    def words(self, name: str) -> list[str] | None:
        """A list of words, or words with blanks or commas between them."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, list):
            return [str(one) for one in value]
        return str(value).replace(",", " ").split()

    def part(self, name: str) -> Keys:
        """A mapping inside; an empty one where there is none.

        Raises:
            SpecError: it is no mapping.
        """
        self._used.add(name)
        value = self._data.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.wrong(name, "a mapping")
        found = Keys(value, self.where, f"{self._prefix}{name}.")
        self._parts.append(found)
        return found

    def wrong(self, name: str, kind: str) -> SpecError:
        """The error of a value that is not of its kind."""
        return SpecError(f"{self.where}: {self._prefix}{name} must be {kind}, got {self._data.get(name)!r}")

    def unused(self) -> list[str]:
        """Names of the keys that were not read, those of mappings inside with theirs."""
        own = [f"{self._prefix}{name}" for name in self._data if name not in self._used]
        return own + [name for part in self._parts for name in part.unused()]
