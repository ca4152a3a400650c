"""Lengths of prompts and outputs as users state them: a number, a distribution, or a file of lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from llm_perf.config import files
from llm_perf.errors import SpecError
from llm_perf.requests.workload import Floats, Ints

__all__ = ["LONGEST", "Lengths", "parse_lengths"]

LONGEST: Final = 10**9
"""No request has more tokens; what is longer is a slip."""

_ACCEPTED: Final = (
    "a number or mean, uniform:LEAST:MOST, lognormal:MEAN:SD or a file with one number per line"
)

Kind = Literal["fixed", "mean", "uniform", "lognormal", "file"]


@dataclass(frozen=True)
class Lengths:
    """A distribution of positive numbers: tokens of a prompt, or seconds of thinking.

    Attributes:
        kind: fixed: ``first`` always. mean: the whole numbers next to ``first``, in turn, so that it is their mean.
            uniform: from ``first`` to ``second``, both included. lognormal: of mean ``first`` and standard deviation
            ``second``, both of the lengths themselves and not of their logarithms. file: drawn from ``values``, each
            as likely.
    """

    kind: Kind
    first: float = 0.0
    second: float = 0.0
    values: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """The expected length."""
        if self.kind == "uniform":
            return (self.first + self.second) / 2
        return float(np.mean(self.values)) if self.kind == "file" else self.first

    def draw(self, generator: np.random.Generator, count: int) -> Floats:
        """So many lengths."""
        if self.kind in ("fixed", "mean"):
            return np.full(count, self.first)
        if self.kind == "uniform":
            return generator.uniform(self.first, self.second, count)
        if self.kind == "file":
            return generator.choice(np.array(self.values), count)
        # Moments of the lengths give those of their logarithms.
        variance = math.log1p((self.second / self.first) ** 2)
        drawn = generator.lognormal(math.log(self.first) - variance / 2, math.sqrt(variance), count)
        return np.asarray(drawn, np.float64)

    def tokens(self, generator: np.random.Generator, count: int) -> Ints:
        """So many whole lengths of 1 or more."""
        if self.kind == "mean":
            upto: Ints = np.floor(np.arange(count + 1) * self.first + 0.5).astype(np.int64)
            return np.diff(upto)
        if self.kind == "uniform":
            return generator.integers(int(self.first), int(self.second), count, endpoint=True)
        return np.clip(np.rint(self.draw(generator, count)), 1, LONGEST).astype(np.int64)


def parse_lengths(flag: str, text: str, *, whole: bool = True) -> Lengths:
    """What a flag says of lengths.

    Args:
        flag: Its name, for messages.
        text: Its value.
        whole: Tokens, 1 or more; otherwise seconds, 0 or more.

    Raises:
        SpecError: it is none of what is accepted, or a number is out of range.
    """
    head, _, rest = text.partition(":")
    name = head.strip().lower()
    if name == "uniform":
        least, most = _numbers(flag, text, rest, "uniform:LEAST:MOST, such as uniform:100:200")
        _check(flag, text, least, whole)
        _check(flag, text, most, whole)
        if least > most:
            raise SpecError(
                f"{flag} {text!r}: {least:g} is more than {most:g}; write the smaller number first"
            )
        return Lengths("uniform", least, most)
    if name == "lognormal":
        mean, deviation = _numbers(flag, text, rest, "lognormal:MEAN:SD, such as lognormal:512:200")
        _check(flag, text, mean, whole=False)
        if mean <= 0 or deviation < 0 or deviation > 100 * mean:
            raise SpecError(
                f"{flag} {text!r}: the mean must be positive, and SD from 0 to 100 times the mean"
            )
        return Lengths("lognormal", mean, deviation)
    number = _number(text)
    if number is not None:
        mean = whole and number != int(number) and 1 <= number <= LONGEST
        _check(flag, text, number, whole=whole and not mean)
        return Lengths("mean" if mean else "fixed", number)
    path = files.expanded(text)
    if files.is_file(path):
        return Lengths("file", values=_read(flag, path, whole))
    raise SpecError(f"{flag} {text!r}: expected {_ACCEPTED}")


def _numbers(flag: str, text: str, rest: str, accepted: str) -> tuple[float, float]:
    parts = [_number(part) for part in rest.split(":")]
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        raise SpecError(f"{flag} {text!r}: expected {accepted}")
    return parts[0], parts[1]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _check(flag: str, text: str, value: float, whole: bool) -> None:
    if whole and not (value == int(value) and 1 <= value <= LONGEST):
        raise SpecError(f"{flag} {text!r}: expected whole numbers of tokens from 1 to {LONGEST:,}")
    if not whole and not 0 <= value <= LONGEST:
        raise SpecError(f"{flag} {text!r}: expected numbers from 0 to {LONGEST:,}")


def _read(flag: str, path: Path, whole: bool) -> tuple[float, ...]:
    """Numbers of a file, one per line; blank lines are skipped."""
    found: list[float] = []
    for line, text in enumerate(files.read_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        value = _number(text)
        if value is None:
            raise SpecError(
                f"{flag} {path}:{line}: {text.strip()[:40]!r} is no number; a file of lengths has one per line (a table of "
                "requests goes to --requests)"
            )
        _check(flag, f"{path}:{line}: {text.strip()[:40]}", value, whole)
        found.append(value)
    if not found:
        raise SpecError(f"{flag} {path}: is empty; a file of lengths has one number per line")
    return tuple(found)
