"""Names of modules as checkpoints list them: plain ones, wildcards and expressions, asked about many modules."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache

from llm_perf.errors import SpecError

MOST_PATTERNS = 20_000
_LONGEST_PATTERN = 400
_REPEATED_GROUP = re.compile(r"\)[+*{]")
"""A repeated group may take exponential time to match; no list of modules needs one."""


@lru_cache(maxsize=65536)
def compiled(pattern: str) -> re.Pattern[str] | None:
    """A pattern that is an expression (``re:…``) or has wildcards; None for a plain name.

    Raises:
        SpecError: an expression that is none, or whose matching may not end.
    """
    if len(pattern) > _LONGEST_PATTERN:
        raise SpecError(f"quantization_config: a module name of {len(pattern)} characters is too long")
    if pattern.startswith("re:"):
        text = pattern[3:]
    elif "*" in pattern:
        text = fnmatch.translate(re.sub(r"\*+", "*", pattern))
    elif pattern.startswith("^") or "(?:" in pattern or ".*" in pattern:
        text = pattern
    else:
        return None
    if _REPEATED_GROUP.search(pattern) or pattern.count("*") + pattern.count("+") > 12:
        raise SpecError(
            f"quantization_config: the expression {pattern[:60]!r} repeats too much: give at most 12 repeats, none of a group"
        )
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise SpecError(f"quantization_config: {pattern[:60]!r} is no regular expression: {error}") from None


class ModuleNames:
    """A set of patterns, ready to be asked about many modules: the time of a question does not grow with names and prefixes.

    Expressions that name one layer are asked about that layer's modules alone.
    """

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._plain: set[str] = set()
        self._begun: set[str] = set()
        self._of_layers: dict[str, list[re.Pattern[str]]] = {}
        self._everywhere: list[re.Pattern[str]] = []
        for pattern in dict.fromkeys(patterns):
            expression = compiled(pattern)
            if expression is None:
                self._plain.add(_bare(pattern))
            elif not pattern.startswith("re:") and _PREFIX.fullmatch(pattern):
                self._begun.add(pattern[:-1])
            else:
                layer = None if "|" in pattern else _ONE_LAYER.search(pattern)
                found = self._everywhere if layer is None else self._of_layers.setdefault(layer[1], [])
                found.append(expression)
        if len(self._everywhere) > _MOST_EXPRESSIONS:
            raise SpecError(
                f"quantization_config: {len(self._everywhere)} expressions about all layers: give at most {_MOST_EXPRESSIONS}"
            )
        self._lengths = sorted({len(begun) for begun in self._begun})
        self.names_layers = any(character.isdigit() for pattern in patterns for character in pattern)

    def match(self, module: str) -> bool:
        """Whether a pattern names a module: an expression, a wildcard, or a run of the module's name between dots."""
        parts = module.split(".")
        runs = (".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1))
        if self._plain and any(run in self._plain for run in runs):
            return True
        names = [prefix + module for prefix in PREFIXES]
        if any(name[:length] in self._begun for name in names for length in self._lengths):
            return True
        own = self._of_layers.get(parts[1], ()) if parts[0] == "layers" and len(parts) > 1 else ()
        return any(expression.match(name) for expression in (*own, *self._everywhere) for name in names)


_PREFIX = re.compile(r"[^*?\[\]]*\*")
"""A wildcard at the end alone."""
_ONE_LAYER = re.compile(r"layers\\?\.(\d+)(?:\\\.|\.(?![*+?{]))")
"""A layer's number between dots, none of them repeated."""
_MOST_EXPRESSIONS = 1000
PREFIXES = ("model.", "", "language_model.model.", "model.language_model.")
"""What stands before ``layers.0`` in the names of modules; a plain name is compared without it."""


def _bare(name: str) -> str:
    name = name.removesuffix(".weight")
    start = name.find("layers.")
    return name[start:] if start > 0 and name[:start] in PREFIXES else name
