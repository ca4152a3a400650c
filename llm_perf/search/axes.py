"""Axes of a sweep as they are written: lists, ranges and names."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from llm_perf.errors import SpecError

_RANGE = re.compile(r"(?P<first>[^:]+):(?P<last>[^:]+)(?::(?P<step>[^:]+))?")
_NUMBER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,2})?", re.ASCII)
_MOST = Decimal(10) ** 30
_LONGEST = 10_000_000
_SWITCH = {"on": True, "off": False, "true": True, "false": False, "yes": True, "no": False}

WRITTEN = 'a list such as "1,2,8", a range "first:last" or "first:last:step", or a geometric one "first:last:xfactor"'


def whole_number(text: str) -> int | None:
    """A whole number as people write large ones, ``1e11`` or ``100_000``; None where it is none."""
    found = _NUMBER.fullmatch(text.strip())
    number = _MOST if found is None else Decimal(found[0].replace("_", ""))
    return int(number) if abs(number) < _MOST and number == int(number) else None


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """Whole numbers of an axis: ``"1:512:x2"`` is 1, 2, 4 ... 512, ``"128:1024:128"`` is 128, 256 ... 1024.

    Geometric steps are rounded down, and each number occurs once.

    Raises:
        SpecError: anything else, with what is accepted.
    """
    found: list[int] = []
    for part in _parts(flag, text):
        match = _RANGE.fullmatch(part)
        found += [_whole(flag, part)] if match is None else _ranged(flag, part, match)
        if len(found) > _LONGEST:
            raise SpecError(f"{flag} {text!r} has more than {_LONGEST:,} values")
    return tuple(dict.fromkeys(found))


def real_numbers(flag: str, text: str) -> tuple[float, ...]:
    """Real numbers of an axis, as a list.

    Raises:
        SpecError: one is no finite number.
    """
    found = []
    for part in _parts(flag, text):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise SpecError(f"{flag} {text!r}: {part!r} is no number")
        found.append(value)
    return tuple(dict.fromkeys(found))


def real_range(flag: str, text: str) -> tuple[float, ...]:
    """Real numbers as a list, or ranges of them: ``"0.5:2:0.5"`` is 0.5, 1, 1.5, 2; ``"1:8:x2"`` is 1, 2, 4, 8.

    Raises:
        SpecError: anything else, with what is accepted.
    """
    found: list[float] = []
    for part in _parts(flag, text):
        match = _RANGE.fullmatch(part)
        if match is None:
            found += real_numbers(flag, part)
            continue
        step = (match["step"] or "1").strip()
        geometric = step.startswith("x")
        first, last, by = (
            real_numbers(flag, text)[0] for text in (match["first"], match["last"], step.lstrip("x"))
        )
        if first > last or (geometric and (by <= 1 or first <= 0)) or by <= 0:
            raise SpecError(f"{flag} {part!r} has no values between its ends; expected {WRITTEN}")
        steps = math.log(last / first) / math.log(by) if geometric else (last - first) / by
        if steps >= _LONGEST:
            raise SpecError(f"{flag} {text!r} has more than {_LONGEST:,} values")
        # A step of a decimal fraction may fall short of the end by rounding alone.
        indices = range(math.floor(steps + 1e-9) + 1)
        found += [
            float(f"{first * by**index if geometric else first + by * index:.12g}") for index in indices
        ]
    return tuple(dict.fromkeys(found))


def switches(flag: str, text: str) -> tuple[bool, ...]:
    """On, off or both: ``"on,off"``.

    Raises:
        SpecError: another word.
    """
    parts = _parts(flag, text)
    for part in parts:
        if part.lower() not in _SWITCH:
            raise SpecError(f"{flag} {text!r}: expected on, off or both as on,off")
    return tuple(dict.fromkeys(_SWITCH[part.lower()] for part in parts))


def names(flag: str, text: str) -> tuple[str, ...]:
    """Names of an axis, separated by commas.

    Raises:
        SpecError: one is empty.
    """
    return tuple(dict.fromkeys(_parts(flag, text)))


def _parts(flag: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise SpecError(f"{flag} {text!r} has an empty value; expected {WRITTEN}")
    return parts


def _whole(flag: str, text: str) -> int:
    number = whole_number(text)
    if number is None:
        raise SpecError(f"{flag} {text!r} is no whole number; expected {WRITTEN}")
    return number


def _ranged(flag: str, text: str, match: re.Match[str]) -> list[int]:
    first, last = _whole(flag, match["first"]), _whole(flag, match["last"])
    step = (match["step"] or "1").strip()
    if first > last:
        raise SpecError(f"{flag} {text!r} starts at {first}, beyond its end {last}")
    if not step.startswith("x"):
        width = _whole(flag, step)
        if width < 1:
            raise SpecError(f"{flag} {text!r}: a step must be at least 1")
        if (last - first) // width >= _LONGEST:
            raise SpecError(f"{flag} {text!r} has more than {_LONGEST:,} values")
        return list(range(first, last + 1, width))
    factor = real_numbers(flag, step[1:])[0] if step[1:] else math.nan
    if not factor > 1 or first < 1:
        raise SpecError(f"{flag} {text!r}: a geometric range starts at 1 or more, and its factor is over 1")
    found, value = [], float(first)
    while value <= last * (1 + 1e-12):
        found.append(int(value + 1e-9))
        value *= factor
        if len(found) > _LONGEST:
            raise SpecError(f"{flag} {text!r} has more than {_LONGEST:,} values")
    return found
