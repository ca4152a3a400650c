"""Names of specs: one spelling rule, the nearest names when none fits, the candidates when several do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from llm_perf.errors import AmbiguousNameError, UnknownNameError

_SAME_AS_HYPHEN, _DROPPED = re.compile(r"[/_\s-]+"), re.compile(r"[^a-z0-9.+-]")


@lru_cache(maxsize=4096)  # searches resolve the same few names thousands of times
def normalise(name: str) -> str:
    """Lower case; ``/``, ``_``, blanks and ``-`` are the same; other punctuation but dots is dropped."""
    return _DROPPED.sub("", _SAME_AS_HYPHEN.sub("-", name.strip().lower())).strip("-")


def has_words(name: str, wanted: str) -> bool:
    """Whether a name has all words of another in it, in any order."""
    known = normalise(name)
    return all(word in known for word in normalise(wanted).split("-"))


_LONGEST_NAME = 200
"""No spec has a longer name; looking for names near to a longer one takes seconds."""

_COUNTED = re.compile(r"^(?:([1-8])-?x|(dual|quad)(?:-socket)?)-")
_COUNTED_BEHIND = re.compile(r"-(?:x-?([2-8])|([2-8])-?x)$")
_IN_WORDS = {"dual": 2, "quad": 4}
_WITH_MEMORY = re.compile(r"(.+?)-(\d{1,12})-?([gt])i?b(?:-ram)?")
_MEMORY_ALONE = re.compile(r"[\d.]+-?[gt]i?b(?:-ram)?")
_SIBLINGS = frozenset(("flash", "air", "lite"))
"""Words after a model's name that make a smaller one of it: GLM-5.3 is not GLM-5.3-Flash."""

_CONFIGURATION = re.compile(
    r"(?:\d+gb|\d+c|sxm\d?|pcie|nvl|server|workstation|node|host)(?:-(?:\d+gb|\d+c))*"
)
"""What may follow a product's name in the name of its spec: how much memory, how many cores, which board. Any other word,
such as ``ti`` or ``super``, makes another product of it."""


def sockets_and_name(name: str) -> tuple[int, str]:
    """``2x EPYC 9654``, ``dual EPYC 9654``, ``EPYC 9654 x2`` are two sockets of an EPYC 9654; one where there is no count."""
    plain = normalise(name)
    before, behind = _COUNTED.match(plain), _COUNTED_BEHIND.search(plain)
    counted = name.strip().lstrip("(")[:1].isalnum()  # -2x is no count, though normalise drops its sign
    if before is not None and counted and behind is None:
        return int(before[1] or _IN_WORDS[before[2]]), plain[before.end() :]
    if behind is not None and before is None and counted:
        return int(behind[1] or behind[2]), plain[: behind.start()]
    return 1, name


def memory_and_name(name: str) -> tuple[str, int | None]:
    """``Ryzen 9 9950X 256 GB`` is a Ryzen 9 9950X with so many GiB; None where no memory stands behind the name."""
    found = _WITH_MEMORY.fullmatch(normalise(name))
    return (found[1], int(found[2]) * (1024 if found[3] == "t" else 1)) if found else (name, None)


def is_memory_alone(name: str) -> bool:
    """Whether a name says how much memory, and of nothing: ``-256gb``."""
    return _MEMORY_ALONE.fullmatch(normalise(name)) is not None


def resolve(
    kind: str,
    name: str,
    known: Iterable[str],
    aliases: Mapping[str, str],
    more_aliases: Callable[[], Mapping[str, str]] | None = None,
) -> str:
    """The known name that ``name`` means.

    In this order: a known name; an alias; a known name without its organisation (what stands before the
    first ``_``); the only known name that begins with ``name`` up to a ``-``. With ``more_aliases`` the names are those of
    devices: makers' words are left out, a name that begins with ``name`` may differ in memory, cores and board only, since
    another word is another product, these aliases are asked for after the others, and last of all numbers may stand
    among the words where they do not in the name, and board and cores may be left out before a size of memory.

    Raises:
        AmbiguousNameError: several names fit; they are listed.
        UnknownNameError: none fits; the nearest ones are listed.
    """
    names = tuple(known)
    devices = more_aliases is not None
    by_full = _by_spelling(names)
    forms: tuple[str, ...] = (normalise(name),)
    if devices:
        as_written = _fits(normalise(name[:_LONGEST_NAME]), names, by_full, aliases, devices)
        if len(as_written) == 1:
            return as_written[0]
        # Its patterns take a hundredth of a prediction to compile, and few names need them.
        from llm_perf.config.product_names import of_the_same_words, product_names, with_memory

        forms = tuple(product_names(name[:_LONGEST_NAME]))
    several: list[str] = []
    for wanted in forms:
        fits = _fits(wanted, names, by_full, aliases, devices)
        if len(fits) == 1:
            return fits[0]
        several = several or fits
    if more_aliases is not None:
        written = more_aliases()
        for wanted in forms:
            if wanted in written:
                return written[wanted]
        several = several or next(
            filter(None, ([n for n in names if _begins(n, form)] for form in forms)), []
        )
        several = several if len(several) > 1 else []
        if not several:
            several = of_the_same_words(forms, names, {**aliases, **written})
            if len(several) == 1:
                return several[0]
        if not several:
            several, plain = with_memory(forms, names, {**aliases, **written})
            usual = _fits(plain, names, by_full, {**aliases, **written}, devices)
            if len(several) > 1 and len(usual) == 1:
                # Of chips with so much memory the one that the name alone means, or that one's other size.
                near = [full for full in several if full == usual[0] or _begins(full, normalise(usual[0]))]
                several = near if len(near) == 1 else several
            if len(several) == 1:
                return several[0]
    if several:
        raise AmbiguousNameError(kind, name, sorted(several))
    if len(name) > _LONGEST_NAME:
        raise UnknownNameError(kind, f"{name[:40]}… ({len(name)} characters)", ())
    # Not without their organisations as well: the error compares both forms, and would suggest both.
    raise UnknownNameError(kind, name, [*names, *aliases])


def known_in_full(name: str, known: tuple[str, ...]) -> str | None:
    """The known name that is spelled as ``name`` is, to its end; `resolve` looks for it first."""
    return _by_spelling(known).get(normalise(name[:_LONGEST_NAME]))


@lru_cache(maxsize=32)  # the names of a kind are the same whenever one of them is asked for
def _by_spelling(names: tuple[str, ...]) -> dict[str, str]:
    return {normalise(name): name for name in names}


def _fits(
    wanted: str, names: tuple[str, ...], by_full: Mapping[str, str], aliases: Mapping[str, str], devices: bool
) -> list[str]:
    """The names that one spelling may mean, by the first rule under which there is any."""
    if wanted in by_full:
        return [by_full[wanted]]
    if wanted in aliases:
        return [aliases[wanted]]
    if not wanted:
        return []
    if devices:
        return [full for full in names if _is_configuration_of(full, wanted)]
    same = [full for full in names if normalise(full.split("_", 1)[-1]) == wanted]
    if same:
        return same
    longer = [
        (full, form) for full in names for form in (full, full.split("_", 1)[-1]) if _begins(form, wanted)
    ]
    # The only one that begins so may be a smaller sibling of what is meant.
    rest = [normalise(form)[len(wanted) + 1 :].partition("-")[0] for _, form in longer]
    return [] if set(rest) <= _SIBLINGS else list(dict.fromkeys(full for full, _ in longer))


def _begins(full: str, wanted: str) -> bool:
    """Whether a name goes on after this one: not by the rest of a version, as Llama-3_3 after llama-3."""
    rest = normalise(full)[len(wanted) :]
    within = wanted[-1:].isdigit() and re.match(r"-\d(?:-|$)", rest)
    return bool(wanted) and normalise(full).startswith(wanted + "-") and not within


def _is_configuration_of(full: str, wanted: str) -> bool:
    return _begins(full, wanted) and bool(_CONFIGURATION.fullmatch(normalise(full)[len(wanted) + 1 :]))
