"""Names of products as drivers, tables and people write them, and the spellings under which a spec may be known."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from llm_perf.config.names import normalise

_MAKERS = frozenset(("nvidia", "geforce", "tesla", "amd", "radeon", "instinct", "intel"))
"""Words that drivers put before a product's name and people leave out; one is taken away at a time."""

_TRADE_MARK = re.compile(r"\((?:r|tm|c)\)|[®™]", re.IGNORECASE)
_UNIT_APART = re.compile(r"(?<=\d)-gb(?=-|$)")
_MEMORY = re.compile(r"-\d+gb$")
_GENERATION = re.compile(r"^\d+(?:st|nd|rd|th)-gen-")
_TRAILING = re.compile(
    r"-(?:(?:\d+x)?\d+-(?:p-)?cores?(?:-.*)?|cpu(?:-.*)?|\d+\.\d+ghz(?:-.*)?|processor|w-radeon.*|with-radeon.*|graphics|generation)$"
)
"""What follows a product's name in /proc/cpuinfo, in drivers' names and in tables: cores, clock, kind of thing."""


def product_names(name: str) -> Iterator[str]:
    """The spellings under which a device may be known, as written first: ``AMD EPYC 7742 64-Core Processor``, ``epyc-7742``.

    What nvidia-smi, rocm-smi and /proc/cpuinfo put around a product's name goes, one word at a time.
    """
    whole = _UNIT_APART.sub("gb", normalise(_TRADE_MARK.sub(" ", name)).replace("--", "-"))
    seen = dict.fromkeys((normalise(name), whole))
    shorter = whole
    while shorter:
        trimmed = _TRAILING.sub("", shorter)
        while trimmed != _TRAILING.sub("", trimmed):
            trimmed = _TRAILING.sub("", trimmed)
        seen.update(dict.fromkeys((shorter, trimmed)))
        without = _GENERATION.sub("", shorter)
        seen.update(dict.fromkeys(_as_makers_write(trimmed)))
        first, _, rest = without.partition("-")
        if without == shorter and first not in _MAKERS:
            break
        shorter = without if without != shorter else rest
    return iter(form for form in seen if form)


def _as_makers_write(name: str) -> Iterator[str]:
    """What people leave out of a product's name: Xeon's tier, which its first digit says, RTX before a GeForce's number.

    Apple before its chips, too, for which the Mac that they are in may stand; a Ryzen's tier, a Core's; the hyphen between
    a line's name and a number. An EPYC with a P behind its number is the same for machines of one socket.
    """
    xeon = re.fullmatch(r"xeon-(\d)(\d{3}\D*)", name)
    if xeon is not None and xeon[1] in _XEON_TIERS:
        yield f"xeon-{_XEON_TIERS[xeon[1]]}-{xeon[1]}{xeon[2]}"
    if re.match(r"[2-5]0[5-9]0(?:-|$)", name):
        yield f"rtx-{name}"
    if re.fullmatch(r"epyc-\d\w\d\dp", name):
        yield name[:-1]
    chip = _OF_A_MAC.sub("", name)
    if re.match(r"m[1-9](?:-|$)", chip):
        yield f"apple-{chip}"
    apart = _GLUED_LINE.sub(r"\1-\2", name)
    if apart != name:
        yield apart
        yield from _as_makers_write(apart)
    elif (split := _GLUED_SUFFIX.sub(r"\1-\2", name)) != name:
        yield split
    ryzen = re.fullmatch(r"(?:ryzen-|r(\d)-)?(\d{4}(?:x3d|xt|x|g|f|hs|hx)?(?:-\d+gb)?)", name)
    if ryzen is not None and (name != ryzen[2] or "x" in ryzen[2]):
        yield from (f"ryzen-{tier}-{ryzen[2]}" for tier in (ryzen[1] or "9753"))
    core = re.fullmatch(r"(\d{4,5}(?:kf|ks|k|f)(?:-\d+gb)?)", name)
    if core is not None:
        yield from (f"core-i{tier}-{core[1]}" for tier in "9753")
    if re.match(r"ultra-\d-", name):
        yield f"core-{name}"


_OF_A_MAC = re.compile(
    r"^(?:apple-)?(?:macbook|imac|mac)(?:-(?:pro|air|studio|mini))?(?:-20\d\d)?(?:-1[3-6]|-24)?(?:-?in(?:ch)?)?(?:-20\d\d)?-(?:apple-)?"
)
"""The Mac that a chip is in, with its screen's size and its year."""

_GLUED_LINE = re.compile(r"^(rtx|gtx|rx|epyc|ryzen|xeon|threadripper)(\d)")
_GLUED_SUFFIX = re.compile(r"(?<=-)(\d{4})(xtx|xt|ti|super)(?=-|$)")
"""Names whose line, or whose word behind the number, was typed without a hyphen."""


_XEON_TIERS = {"8": "platinum", "9": "platinum", "6": "gold", "5": "gold", "4": "silver", "3": "bronze"}
"""Intel's names of Xeon Scalable processors: the tier by the first of four digits."""


def of_the_same_words(
    forms: tuple[str, ...], names: tuple[str, ...], aliases: Mapping[str, str]
) -> list[str]:
    """Names whose words are those of a spelling with its numbers elsewhere: ``RTX 6000 Pro``, ``6000 Pro Blackwell``.

    How much memory a name ends with may be left out, as where the order is the name's: ``4500 Pro``.
    """
    wanted = [_words(form) for form in forms if form.count("-")]
    full = {**aliases, **{normalise(name): name for name in names}}
    short = [(_MEMORY.sub("", normalise(name)), name) for name in names]
    for spelled in (list(full.items()), short):
        found = list(dict.fromkeys(name for form, name in spelled if _words(form) in wanted))
        if found:
            return found
    return []


def with_memory(
    forms: tuple[str, ...], names: tuple[str, ...], aliases: Mapping[str, str]
) -> tuple[list[str], str]:
    """Names that differ from a spelling with its memory in board and cores only, and that spelling without its memory.

    ``H200 141GB`` is H200 on a board of its own; ``M4 Max 64GB`` the one of its numbers of cores that is had with so much.
    """
    full = {**aliases, **{normalise(name): name for name in names}}
    # All spellings are asked for together: a chip may be known by one of them and its sibling by another.
    sized = [form for form in forms if _MEMORY.search(form)]
    wanted = {_BOARD.sub("", form): _MEMORY.sub("", form) for form in sized}
    found = {
        name: wanted[known]
        for known, name in ((_BOARD.sub("", known), name) for known, name in full.items())
        if known in wanted
    }
    for form in sized:  # a machine's name with the one memory that it has: DGX Spark 128GB
        plain, size = _MEMORY.sub("", form), form.rpartition("-")[2]
        if plain in full and normalise(full[plain]).endswith(f"-{size}"):
            found.setdefault(full[plain], plain)
    return list(found), next(iter(found.values()), "")


_BOARD = re.compile(r"-(?:sxm\d?|pcie|nvl|\d+c)(?=-)")
"""Words between a product's name and its memory that people leave out."""


def _words(form: str) -> tuple[list[str], list[str]]:
    """Words with a digit, which may stand anywhere, and the others in their order: a Super Ti is no Ti Super."""
    words = [word for word in form.split("-") if word not in _MAKERS and word != "rtx"]
    numbers = [word for word in words if any(map(str.isdigit, word))]
    return sorted(numbers), [word for word in words if word not in numbers]
