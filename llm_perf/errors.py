"""The project's own exceptions.

Whatever a user can cause ends in one of these, with a message of one line that can be printed as it is. A
command exits with the ``exit_code`` of what it caught; any other exception that reaches the user is a defect.

Every class can be pickled, because sweeps run in worker processes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cached_property
from typing import Any, ClassVar

__all__ = [
    "AmbiguousNameError",
    "DoesNotFitError",
    "EnvironmentFailure",
    "LLMPerfError",
    "MissingExtraError",
    "OutputError",
    "SpecError",
    "UnknownNameError",
    "bad_value",
    "first_line",
]

_MAX_SUGGESTIONS = 5
_FEW = 3  # so few names are all said
_SOME = 14  # as many are said where no command lists them
_CLOSE_ENOUGH = 0.6  # difflib's own default: lower values suggest names that share nothing but a suffix


class LLMPerfError(Exception):
    """Base of every error that llm-perf raises on purpose.

    Attributes:
        exit_code: What a command returns after printing the message (0 done, 2 bad input, 3 does not fit,
            4 the environment or the run failed).
    """

    exit_code: ClassVar[int] = 2


class SpecError(LLMPerfError, ValueError):
    """An input is wrong: the message names the field, its value and what is accepted (see `bad_value`)."""


_LISTED = {"model": "models", "GPU": "gpus", "host": "hosts", "system": "systems", "framework": "systems"}
"""Kinds of names and the command that lists them."""


class UnknownNameError(SpecError, KeyError):
    """A spec was asked for by a name that nothing has.

    It is a `KeyError` too, so that a registry can be used like a mapping, but prints without its quotes.

    Args:
        kind: What was looked for, in the singular: ``"model"``, ``"GPU"``.
        name: The name that was given.
        known: All names that exist; at most five of the nearest are suggested.
        instead: What the name is and where it goes, if something of another kind has it; no name is suggested then.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], instead: str | None = None) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(known)
        self.instead = instead
        super().__init__(kind, name, self.known, instead)

    @cached_property
    def suggestions(self) -> tuple[str, ...]:
        """The nearest known names, best first."""
        # Not before they are read: who tries several spellings catches an error for each and reads none.
        return () if self.instead else _nearest(self.name, self.known)

    @property
    def is_slip(self) -> bool:
        """Whether the nearest known name is one slip of the hand away."""
        wanted = _plain(self.name)
        return any(_slip(wanted, form) > 0 for one in self.suggestions[:1] for form in _forms(one))

    def __str__(self) -> str:
        """Return the one-line message."""
        if self.instead:
            return f"unknown {self.kind} {self.name!r}: {self.instead}"
        if self.suggestions:
            return f"unknown {self.kind} {self.name!r}; the nearest known: {', '.join(self.suggestions)}"
        if not self.known:
            return f"unknown {self.kind} {self.name!r}; there is none"
        if len(self.known) <= (_FEW if self.kind in _LISTED else _SOME):
            return f"unknown {self.kind} {self.name!r}; known: {', '.join(self.known)}"
        shown = f" (llm-perf {_LISTED[self.kind]} list shows them)" if self.kind in _LISTED else ""
        return f"unknown {self.kind} {self.name!r}; none of the {len(self.known)} known is close to it{shown}"


class AmbiguousNameError(SpecError):
    """A name stands for more than one spec.

    Args:
        kind: What was looked for, in the singular.
        name: The name that was given.
        candidates: Every spec that the name may mean.
    """

    def __init__(self, kind: str, name: str, candidates: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.candidates = tuple(sorted(candidates))
        super().__init__(kind, name, self.candidates)

    def __str__(self) -> str:
        """Return the one-line message: all candidates, or the first where a line does not hold them."""
        told, said = ", ".join(self.candidates), f"{self.kind} {self.name!r} is ambiguous; give one of"
        rest = len(self.candidates) - _SOME
        if rest <= _SOME or self.kind not in _LISTED:
            return f"{said}: {told}"
        some = ", ".join(self.candidates[:_SOME])
        return f"{said} {len(self.candidates)}: {some} and {rest} more (llm-perf {_LISTED[self.kind]} list shows them)"


class DoesNotFitError(LLMPerfError):
    """The model does not fit in the memory there is, or no configuration meets the target.

    Attributes:
        report: The prediction that says so, as JSON has it, where there is one.
    """

    exit_code: ClassVar[int] = 3
    report: dict[str, Any] | None = None


class MissingExtraError(LLMPerfError, ImportError):
    """Something needs an optional dependency that is not installed.

    Args:
        extra: The extra of the ``llm-perf`` distribution that brings it, such as ``"plot"``.
        purpose: What needs it, as the subject of a sentence: ``"drawing a plot"``.
    """

    def __init__(self, extra: str, purpose: str = "this") -> None:
        self.extra = extra
        self.purpose = purpose
        super().__init__(extra, purpose)

    def __str__(self) -> str:
        """Return the one-line message with the command that installs the extra."""
        return f"{self.purpose} needs the extra {self.extra!r}: pip install 'llm-perf[{self.extra}]'"


class OutputError(LLMPerfError):
    """A result could not be written where it was asked for."""


class EnvironmentFailure(LLMPerfError):  # noqa: N818 - "EnvironmentError" is Python's old name of OSError
    """The machine or the real run failed: a device, a library, the network or a time limit, not the input."""

    exit_code: ClassVar[int] = 4


def bad_value(field: str, value: object, accepted: str) -> SpecError:
    """Build the usual `SpecError`, to be raised by the caller.

    Args:
        field: The name that the user knows it by: ``"batch_size"``, ``"--gpu"``.
        value: What was given.
        accepted: What would be accepted, in words: ``"a positive integer"``.

    Returns:
        An error that reads ``batch_size = -1: expected a positive integer``.
    """
    return SpecError(f"{field} = {value!r}: expected {accepted}")


def _nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known names that look most like `name`, best first."""
    wanted = _plain(name)
    scored = [(max(_score(wanted, form) for form in _forms(candidate)), candidate) for candidate in known]
    close = sorted((-score, candidate) for score, candidate in scored if score >= _CLOSE_ENOUGH)
    return tuple(candidate for _, candidate in close[:_MAX_SUGGESTIONS])


def _score(wanted: str, candidate: str) -> float:
    # People write as many parts as they need, "t4" for "t4-16gb"; a candidate that is alike as a whole goes first.
    head = "-".join(candidate.split("-")[: wanted.count("-") + 1])
    slip = max(_slip(wanted, candidate), 0.95 * _slip(wanted, head))
    return slip or max(_likeness(wanted, candidate), 0.95 * _likeness(wanted, head))


_SLIP, _SWAP = 1.5, 2.0
"""More than any likeness: a name that one slip of the hand makes of another is what was meant."""


def _slip(wanted: str, candidate: str) -> float:
    """More than 1 where one letter too many, too few or another, or two swapped, makes one name of the other; else 0."""
    if wanted == candidate or abs(len(wanted) - len(candidate)) > 1 or len(wanted) < _SHORTEST:
        return 0.0
    most = min(len(wanted), len(candidate))
    head = next((i for i in range(most) if wanted[i] != candidate[i]), most)
    tail = next((i for i in range(most - head) if wanted[-1 - i] != candidate[-1 - i]), most - head)
    left, right = wanted[head : len(wanted) - tail], candidate[head : len(candidate) - tail]
    if len(left) == 2 and left == right[::-1]:
        return _SWAP
    return _SLIP if max(len(left), len(right)) <= 1 else 0.0


_SHORTEST = 4
"""Of shorter names one letter is too much of the whole."""


def _likeness(wanted: str, candidate: str) -> float:
    # For difflib "llama" is not close to "llama-2-13b-chat", but it is what one types who wants one of them.
    if wanted and wanted in candidate:
        return 1.0
    if _likeness_at_most(wanted, candidate) < _CLOSE_ENOUGH:
        return 0.0  # not suggested whatever it is; looking at hundreds of names closely takes half a second
    return difflib.SequenceMatcher(None, wanted, candidate).ratio()


def _likeness_at_most(wanted: str, candidate: str) -> float:
    """What difflib's ratio cannot exceed: twice the characters that both have, in any order, over all of theirs."""
    both = sum(min(wanted.count(one), candidate.count(one)) for one in set(wanted))
    return 2 * both / max(1, len(wanted) + len(candidate))


def first_line(error: BaseException, unsaid: str | None = None) -> str:
    """What an error says, without the lines that follow; ``unsaid``, or its kind, where it says nothing."""
    return (str(error).strip().splitlines() or [unsaid or type(error).__name__])[0]


def _forms(name: str) -> tuple[str, str]:
    """Return what a name is compared by: the whole, and without its organisation, since people write both."""
    return _plain(name), _plain(name.replace("_", "/", 1).rpartition("/")[2])


def _plain(name: str) -> str:
    return name.casefold().translate(str.maketrans("/_ ", "---"))
