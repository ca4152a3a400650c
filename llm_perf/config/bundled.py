"""Bundled specs: their names, aliases and files, and specs from a file of one's own. Only what is asked for is parsed."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from llm_perf.config import files
from llm_perf.config.base import Spec
from llm_perf.config.gpu import GPUEfficiency
from llm_perf.config.names import has_words, known_in_full, normalise, resolve
from llm_perf.errors import SpecError, UnknownNameError

S = TypeVar("S", bound=Spec)

_FOLDERS = {
    "model": ("model_specs", ""),
    "GPU": ("hardware_specs", "gpus"),
    "host": ("hardware_specs", "hosts"),
    "efficiency": ("hardware_specs", "efficiency"),
    "profile": ("hardware_specs", "profiles"),
}
_ALIASES = "aliases.yaml"
_DEVICES = ("GPU", "host")
_ALIASES_FIELD = re.compile(r"^aliases:.*\n(?:[ -].*\n)*", re.MULTILINE)
HERE = "here"
"""The name of the machine that asks, where a GPU or a host is wanted."""


def _folder(kind: str) -> Path:
    package, subfolder = _FOLDERS[kind]
    root = files.package_folder(package)
    return root / subfolder if subfolder else root


@cache
def known_names(kind: str) -> tuple[str, ...]:
    """Names of the bundled specs of a kind ("model", "GPU", "host", "efficiency", "profile"), sorted."""
    folder = _folder(kind)
    if not folder.is_dir():
        return ()
    found = (entry.name for entry in folder.iterdir())
    stems = (name.removesuffix(".yaml") for name in found if name.endswith(".yaml") and name != _ALIASES)
    return tuple(sorted(stems))


@cache
def written_aliases(kind: str) -> dict[str, str]:
    """What ``aliases.yaml`` of a kind says, as it is written there: other names and the bundled specs that they mean."""
    file = _folder(kind) / _ALIASES
    return files.parse_mapping(file.read_text("utf-8"), file.name) if file.is_file() else {}


@cache
def _aliases(kind: str) -> dict[str, str]:
    written = written_aliases(kind)
    aliases = {normalise(alias): name for alias, name in written.items()}
    if kind != "model":
        return aliases
    # A model's alias is known without its organisation too, as its name is.
    return {
        normalise(alias.partition("/")[2]): name for alias, name in written.items() if "/" in alias
    } | aliases


def other_names(kind: str, part: str) -> dict[str, str]:
    """Bundled specs that ``aliases.yaml`` knows under a name with these words in it, each with the shortest such name."""
    found: dict[str, str] = {}
    for alias, name in sorted(_aliases(kind).items(), key=lambda item: (len(item[0]), item[0])):
        if part and has_words(alias, part):
            found.setdefault(name, alias)
    return found


@lru_cache(maxsize=4096)  # searches ask for the same few names thousands of times
def resolve_name(kind: str, name: str) -> str:
    """The bundled spec that a name means.

    Raises:
        UnknownNameError: no such spec; the nearest names are listed.
        AmbiguousNameError: several; they are listed.
    """
    exact = known_in_full(name, known_names(kind))
    if exact is not None:  # reading the aliases takes a fiftieth of a prediction
        return exact
    own = (lambda: _own_aliases(kind)) if kind in _DEVICES else None
    return resolve(kind, name, known_names(kind), _aliases(kind), own)


@cache
def _own_aliases(kind: str) -> dict[str, str]:
    """The aliases that the specs' own files give, as written and in shorter spellings that keep a number.

    Only that part of each file is parsed: a name that is found by its aliases alone stays quick.
    """
    from llm_perf.config.product_names import product_names

    found: dict[str, str] = {}
    for stem in known_names(kind):
        written = _ALIASES_FIELD.search((_folder(kind) / f"{stem}.yaml").read_text("utf-8"))
        if written:
            names = files.parse_mapping(written[0], f"{stem}.yaml")["aliases"]
            for name in names:
                spelled = (form for form in product_names(name) if any(map(str.isdigit, form)))
                found |= dict.fromkeys((normalise(name), *spelled), stem)
    return found


@lru_cache(maxsize=256)
def _bundled(kind: str, spec: type[S], stem: str) -> S:
    text, data = _written(kind, stem)
    where = f"{stem}.yaml"
    return files.build(spec, _completed(kind, data, where, (stem,)), text, where)


@lru_cache(maxsize=256)
def _written(kind: str, stem: str) -> tuple[str, dict[str, Any]]:
    """Text and fields of a bundled spec's file, which those that extend it need as well."""
    text = (_folder(kind) / f"{stem}.yaml").read_text("utf-8")
    return text, files.parse_mapping(text, f"{stem}.yaml")


def _completed(kind: str, data: dict[str, Any], where: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A device's file with what it extends filled in, and the efficiency family that a GPU file names.

    ``extends`` names a bundled spec: fields that the file gives replace that one's, others stay; ``aliases`` are never
    inherited. ``above`` are the bundled specs that lead here.

    Raises:
        SpecError: no such spec, or one that extends itself.
    """
    if kind not in (*_DEVICES, "efficiency"):
        return data
    if "extends" in data:
        name = data["extends"]
        if not isinstance(name, str) or files.looks_like_path(name):
            raise SpecError(f"{where}: extends must be the name of a bundled {kind}, got {name!r}")
        try:
            stem = resolve_name(kind, name)
        except SpecError as error:
            raise SpecError(f"{where}: extends: {error}") from None
        if stem in above:
            raise SpecError(f"{where}: extends {name!r} leads back to itself: {' -> '.join((*above, stem))}")
        base = _completed(kind, _written(kind, stem)[1], f"{stem}.yaml", (*above, stem))
        own = {field: value for field, value in data.items() if field != "extends"}
        data = (
            {field: value for field, value in base.items() if field != "aliases"} | _usable(base, own) | own
        )
    return _with_efficiency(data) if kind == "GPU" else data


def _usable(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What programs can have of another amount of memory: the same share, where a file gives the amount alone."""
    now, before, usable = own.get("memory_gib"), base.get("memory_gib"), base.get("usable_memory_gib")
    if (
        isinstance(now, (int, float))
        and isinstance(before, (int, float))
        and isinstance(usable, (int, float))
    ):
        return {"usable_memory_gib": usable * now / before}
    return {}


def _with_efficiency(data: dict[str, Any]) -> dict[str, Any]:
    """A GPU file may name the efficiency family that it belongs to, or, with ``efficiency`` among ``assumed``, resembles."""
    if not isinstance(data.get("efficiency"), str):
        return data
    family = load_spec("efficiency", GPUEfficiency, data["efficiency"])
    assumed = data.get("assumed")  # as the file has it: nothing has looked at it yet
    if isinstance(assumed, list) and "efficiency" in assumed:
        family = _borrowed(family)
    return data | {"efficiency": family}


def _borrowed(family: GPUEfficiency) -> GPUEfficiency:
    """The numbers of a family for a GPU that is none of it: whatever stands behind them, here they are assumed."""
    training = family.training and family.training.replace(evidence="assumed")
    source = f"assumed as those of {family.name}: {family.source}"
    return family.replace(evidence="assumed", provenance="assumed", training=training, source=source)


def load_spec(kind: str, spec: type[S], name: str) -> S:
    """A spec by its name, or from the file that the name is.

    Raises:
        SpecError: malformed file, unknown or ambiguous name.
    """
    if not isinstance(name, str) or not name.strip():
        raise SpecError(f"{kind} name must be text, got {name!r}")
    if files.looks_like_path(name):
        return _from_file(kind, spec, files.expanded(name))
    try:
        return cast("S", _bundled(kind, spec, resolve_name(kind, name)))  # lru_cache forgets the type
    except UnknownNameError:
        if files.is_file(Path(name)):
            return _from_file(kind, spec, Path(name))
        raise


def _from_file(kind: str, spec: type[S], path: Path) -> S:
    text = files.read_text(path)
    data = files.parse_mapping(text, str(path))
    return files.build(spec, _completed(kind, data, str(path)), text, str(path))
