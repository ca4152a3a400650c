"""Names of specs: one spelling rule, the nearest names when none fits, the candidates when several do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from llm_perf.errors import AmbiguousNameError, UnknownNameError


@lru_cache(maxsize=4096)  # searches resolve the same few names thousands of times
def normalise(name: str) -> str:
    """Lower case; ``/``, ``_``, blanks and ``-`` are the same; other punctuation but dots is dropped."""
    return re.sub(r"[^a-z0-9.+-]", "", re.sub(r"[/_\s-]+", "-", name.strip().lower())).strip("-")


_LONGEST_NAME = 200
"""No spec has a longer name; looking for names near to a longer one takes seconds."""


def resolve(kind: str, name: str, known: Iterable[str], aliases: Mapping[str, str]) -> str:
    """The known name that ``name`` means.

    In this order: a known name; an alias; a known name without its organisation (what stands before the
    first ``_``); the only known name that begins with ``name`` up to a ``-``.

    Raises:
        AmbiguousNameError: several names fit; they are listed.
        UnknownNameError: none fits; the nearest ones are listed.
    """
    names = list(known)
    wanted = normalise(name)
    by_full = {normalise(candidate): candidate for candidate in names}
    if wanted in by_full:
        return by_full[wanted]
    if wanted in aliases:
        return aliases[wanted]
    for fits in (
        [full for full in names if normalise(full.split("_", 1)[-1]) == wanted],
        [full for full in names if _begins(full, wanted) or _begins(full.split("_", 1)[-1], wanted)],
    ):
        if len(fits) == 1:
            return fits[0]
        if fits and wanted:
            raise AmbiguousNameError(kind, name, sorted(fits))
    if len(name) > _LONGEST_NAME:
        raise UnknownNameError(kind, f"{name[:40]}… ({len(name)} characters)", ())
    # Not without their organisations as well: the error compares both forms, and would suggest both.
    raise UnknownNameError(kind, name, [*names, *aliases])


def _begins(full: str, wanted: str) -> bool:
    return bool(wanted) and normalise(full).startswith(wanted + "-")
