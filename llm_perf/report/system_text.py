"""Systems as tables: their versions in a list, everything that one says in a detailed view."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from llm_perf.config.base import Spec
from llm_perf.report.spec_tables import fields_text, plain
from llm_perf.systems.constants import load_constants, own_constants
from llm_perf.systems.families import families, folder_of, release_of
from llm_perf.systems.registry import family_of


def system_rows() -> list[dict[str, Any]]:
    """One row per family and version, the newest version of each family first."""
    return [
        {
            "name": f"{family.name}@{release}",
            "title": family.title,
            "version": own_constants(family.name, release).version,
            "newest": release == release_of(family.name, None)[0],
        }
        for family in families()
        for release in reversed(folder_of(family.name).releases)
    ]


def systems_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """The rows for people."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("--system", "title", "versions"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row["name"], row["title"], row["version"])
    return table


def system_object(name: str) -> dict[str, Any]:
    """What a system says about itself, with all constants; ``own`` names those that its version states itself.

    Raises:
        SpecError: unknown.
    """
    file = load_constants(name)
    own = own_constants(file.name, file.release)
    return {"family": plain(family_of(name))} | plain(file) | {"own": list(own.constants)}


def system_text(name: str) -> str:
    """A system's own files as YAML, and what its version inherits.

    Raises:
        SpecError: unknown.
    """
    whole = load_constants(name)
    own = own_constants(whole.name, whole.release)
    said = [f"# {whole.name}/system.yaml", fields_text(_stated(family_of(name)))]
    said += [f"# {whole.name}/{whole.release}.yaml", fields_text(_stated(own))]
    inherited = len(whole.constants) - len(own.constants)
    if own.extends is not None:
        note = f"{inherited} further constants as in {own.extends} (llm-perf systems show {own.extends})"
        said += [f"# {line}" for line in textwrap.wrap(note, 78)]
    return "\n".join(said)


def _stated(spec: Spec) -> dict[str, Any]:
    """What a file says, without the defaults and without what its own name says."""
    fields = spec.model_dump(mode="json", exclude_defaults=True, exclude={"name", "release"})
    return {key: value for key, value in fields.items() if value is not None}
