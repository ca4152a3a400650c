"""Systems and what their constants rest on, as plain data and as text at 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from llm_perf.report.spec_tables import plain
from llm_perf.report.units import cut
from llm_perf.systems.constants import Constant, ConstantsFile
from llm_perf.systems.families import Family, release_of

_WIDTH = 80
_GROUPS = {"gpu": "GPU"}
Backing = Mapping[str, Any]
"""What published runs say of a system: ``rows``, ``gm`` as it ships, and ``left_out`` by what was left out."""


def summary(file: ConstantsFile, family: Family | None, backing: Backing) -> dict[str, Any]:
    """What a list says of one version of a system; ``family`` is None for a training framework."""
    return {
        "name": f"{file.name}@{file.release}" if file.release else file.name,
        "title": file.name if family is None else family.title,
        "kind": "training" if family is None else "inference",
        "version": file.version,
        "newest": family is None or file.release == release_of(file.name, None)[0],
        "covers": None if file.covers is None else list(file.covers),
        "aliases": sorted({*(() if family is None else family.aliases), *file.aliases}),
        "constants": len(file.constants),
        "inherited": len(file.inherited),
        "fitted": sum(constant.fitted for constant in file.constants.values()),
        **backing,
    }


def whole(file: ConstantsFile, family: Family | None, backing: Backing) -> dict[str, Any]:
    """Everything about one version: its constants and those for single hosts, each with what stands behind it.

    ``own`` names the constants that the version states itself.
    """
    return summary(file, family, backing) | {
        "family": None if family is None else plain(family),
        "own": [name for name in file.constants if name not in file.inherited],
        "description": file.description,
        "extends": file.extends,
        "caveat": file.caveat,
        "constants": {name: _constant(one, name in file.inherited) for name, one in file.constants.items()},
        "hosts": {
            host: {name: _constant(one, False) for name, one in stated.items()}
            for host, stated in file.hosts.items()
        },
    }


def _constant(one: Constant, inherited: bool) -> dict[str, Any]:
    return one.model_dump(mode="json", exclude_none=True) | {"inherited": inherited}


# -- text -----------------------------------------------------------------------------------------------------


def list_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A table of systems: what published runs say of one stands on its own line, its versions and other names below it."""
    lines = [f"{'system':<31}{'covers':<19}{'rows':>5}{'as shipped':>12}{'left out':>10}"]
    for family, versions in _by_family(rows):
        first = versions[0]
        own = first["of_version"] if len(versions) == 1 else None
        shared = set.intersection(*(set(row["aliases"]) for row in versions))
        head, covers = (first["name"], _covers(first)) if len(versions) == 1 else (family, "")
        lines.append(
            f"{cut(head, 30):<31}{cut(covers, 18):<19}{_figures(first if first['rows'] else own)}".rstrip()
        )
        lines += _wrapped("  also", ", ".join(sorted(shared))) if shared else []
        for row in versions if len(versions) > 1 else ():
            of_version = _figures(row["of_version"])
            lines.append(f"  {cut(row['name'], 28):<29}{cut(_covers(row), 18):<19}{of_version}".rstrip())
            names = sorted({*row["aliases"]} - shared)
            lines += _wrapped("    also", ", ".join(names)) if names else []
    return [
        *lines,
        *_wrapped(
            "", "rows: published runs of all versions together that are predicted, and beside a version its own rows of the "
            "tables of serving stacks (docs/accuracy_stacks.md); the other two: how far these predictions are off, as "
            "a factor (geometric mean), with constants as they ship and with constants that never saw the run's GPU, family "
            "or model, whichever is worst. Fine-tuning: llm-perf validate --tuning.",
        ),
    ]  # fmt: skip


def show_lines(found: dict[str, Any]) -> list[str]:
    """Everything about one version, readable at 80 columns."""
    lines = [*_wrapped(found["name"], found["version"]), *_wrapped("", found["description"])]
    if found["aliases"]:
        lines += _wrapped("also", ", ".join(found["aliases"]))
    if found["extends"] is not None:
        lines.append(f"{found['inherited']} constants are inherited from {found['extends']}")
    lines += _wrapped("backed by", _backing(found))
    if found["caveat"]:
        lines += _wrapped("caveat", found["caveat"])
    own = {name: one for name, one in found["constants"].items() if not one["inherited"]}
    others = {name: one for name, one in found["constants"].items() if one["inherited"]}
    lines += ["", "constants of its own", *_table(own)]
    for host, stated in found["hosts"].items():
        lines += ["", f"on host {host}", *_table(stated)]
    if others:
        lines += ["", f"inherited from {found['extends']}", *_table(others)]
    return lines


def _table(constants: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    for name, one in constants.items():
        span = "" if "range" not in one else f" ({one['range'][0]:g} to {one['range'][1]:g})"
        known = one["provenance"]
        if "rows" in one:
            known += f" on {one['rows']} rows, {one['groups']} condition{'s' * (one['groups'] > 1)}"
        yield f"  {name} = {one['value']:g}{span}"
        yield from textwrap.wrap(
            f"{known}; {one['source']}", _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
        if "prior" in one:
            prior = one["prior"]
            yield from textwrap.wrap(
                f"without fits {prior['value']:g}, {prior['provenance']}; {prior['source']}", _WIDTH,
                initial_indent=" " * 6, subsequent_indent=" " * 6,
            )  # fmt: skip


def _backing(found: Backing) -> str:
    """What published runs say of a version: its own rows first, then those of all its family's versions together."""
    own = found["of_version"]
    said = [
        *([_off(own, "published runs of this version")] if own is not None and own["rows"] else []),
        *([_off(found, "published runs of all its versions")] if found["rows"] else []),
    ]
    other = "; of fine-tuning: llm-perf validate --tuning" if found["kind"] == "training" else ""
    return ". ".join(said) or f"no published run{other}"


def _off(found: Backing, of: str) -> str:
    known = {what: gm for what, gm in found["left_out"].items() if gm is not None}
    left = ", ".join(f"{_factor(gm)} without its {_GROUPS.get(what, what)}" for what, gm in known.items())
    return f"{found['rows']} {of}, off by {_factor(found['gm'])}" + (f"; {left}" if left else "")


def _by_family(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Versions by what they are versions of, in their order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["name"].partition("@")[0], []).append(row)
    return list(found.items())


def _figures(found: Mapping[str, Any] | None) -> str:
    """Rows, how far they are off, and without what they are of; nothing where no row is known."""
    if found is None or not found["rows"]:
        return ""
    worst = max((value for value in found["left_out"].values() if value is not None), default=None)
    return f"{found['rows']:>5}{_factor(found['gm']):>12}{_factor(worst):>10}"


def _covers(row: Mapping[str, Any]) -> str:
    if row["covers"] is None:
        return "training" if row["kind"] == "training" else "-"
    first, last = row["covers"]
    return f"{first or 'any'} to {last or 'now'}"


def _factor(gm: float | None) -> str:
    return "-" if gm is None else f"{gm:.2f}"


def _wrapped(title: str, text: str) -> list[str]:
    head = f"{title}: " if title else ""
    return textwrap.wrap(head + text, _WIDTH, subsequent_indent="  ")
