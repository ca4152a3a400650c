"""``llm-perf systems list|show NAME``."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import click

from llm_perf.cli.inputs import say_versions
from llm_perf.config.names import normalise
from llm_perf.errors import UnknownNameError
from llm_perf.report import systems_text
from llm_perf.systems.constants import ConstantsFile, load_constants
from llm_perf.systems.families import Family, declaration, family_names, folder_of
from llm_perf.systems.training.framework import FRAMEWORKS, get_framework


@click.group("systems")
def systems() -> None:
    """List systems and frameworks with their versions, or show the constants of one and what they rest on."""


@systems.command("list", help="List systems and training frameworks, every version that ships.")
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(pattern: str | None, as_json: bool) -> None:
    """One line per version, the newest of a system first."""
    wanted = normalise(pattern or "")
    rows = [systems_text.summary(*_described(file)) for file in _all()]
    rows = [row for row in rows if wanted in normalise(f"{row['name']} {row['title']}")]
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "systems": rows}, allow_nan=False))
    else:
        click.echo("\n".join(systems_text.list_lines(rows)))


@systems.command("show", help="Show one: NAME or NAME@VERSION.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, as_json: bool) -> None:
    """Its constants with value, range, provenance, rows behind them and source; what published runs say of it."""
    file = _given(name)
    if file.name not in FRAMEWORKS:
        say_versions([name])
    found = systems_text.whole(*_described(file))
    if as_json:
        click.echo(json.dumps({"schema_version": 1} | found, allow_nan=False))
    else:
        click.echo("\n".join(systems_text.show_lines(found)))


def _all() -> list[ConstantsFile]:
    versions = [
        f"{family}@{release}"
        for family in family_names()
        for release in reversed(folder_of(family).all_releases)
    ]
    return [*(load_constants(name) for name in versions), *(get_framework(name) for name in FRAMEWORKS)]


def _given(name: str) -> ConstantsFile:
    """A system or a framework by any of its names.

    Raises:
        SpecError: it is neither; the nearest names are listed.
    """
    if name in FRAMEWORKS:
        return get_framework(name)
    try:
        return load_constants(name)
    except UnknownNameError as error:
        try:
            return get_framework(name)
        except UnknownNameError:
            raise UnknownNameError("system", name, dict.fromkeys((*error.known, *FRAMEWORKS))) from None


def _described(file: ConstantsFile) -> tuple[ConstantsFile, Family | None, dict[str, Any]]:
    found = _backing(file) | {"of_version": _of_version().get(f"{file.name}@{file.release}")}
    return file, None if file.name in FRAMEWORKS else declaration(file.name), found


def _backing(file: ConstantsFile) -> dict[str, Any]:
    """Published rows of a system, how far it is off on them, and without each GPU, family and model."""
    left_out, committed = _published()
    # A table of training says whose run it was, the refits which version of the framework predicts it.
    trained = {one.row_id: one.system for one in left_out if one.table == "training"}
    rows = {
        (row["table"], row["row_id"]): row
        for row in committed
        if (trained.get(row["row_id"]) if row["table"] == "training" else row["system"]) == file.name
    }
    left: dict[str, list[float]] = {}
    for one in left_out:
        row = rows.get((one.table, one.row_id))
        if row is not None and row["quantity"] == one.quantity and one.leave_out != "system":
            left.setdefault(one.leave_out, []).append(one.log_ratio)
    if not rows:
        return _hybrid_backing(file)
    return {
        "rows": len(rows),
        "gm": _gm([math.log(row["predicted"] / row["measured"]) for row in rows.values()]),
        "left_out": {what: _gm(ratios) for what, ratios in left.items()},
    }


def _hybrid_backing(file: ConstantsFile) -> dict[str, Any]:
    """Published rates of machines whose CPU computes, likewise: without each host."""
    from calibrate.evidence.hybrid_rows import left_out_ratios

    found = left_out_ratios(file.name)
    left_out = {"host": _gm([left for _, left in found])} if found else {}
    return {"rows": len(found), "gm": _gm([shipped for shipped, _ in found]), "left_out": left_out}


@cache
def _published() -> tuple[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows predicted without their GPU, family or model, and as it ships; read once for all that a list names."""
    from calibrate.validate.committed import committed_rows
    from calibrate.validate.left_out import load_left_out

    return load_left_out(), committed_rows()


@cache
def _of_version() -> dict[str, dict[str, Any]]:
    """Rows of the tables of serving stacks, each under the version that predicts it, and without each model and GPU."""
    from calibrate.validate.stacks import read_left_out

    ratios: dict[str, dict[str, list[float]]] = {}
    for line in read_left_out():
        ratios.setdefault(line["release"], {}).setdefault(line["how"], []).append(float(line["log_ratio"]))
    return {
        release: {
            "rows": len(found.get("shipped", ())),
            "gm": _gm(found.get("shipped", [])),
            "left_out": {how: _gm(found[how]) for how in ("model", "gpu") if how in found},
        }
        for release, found in ratios.items()
    }


def _gm(log_ratios: list[float]) -> float | None:
    """Geometric mean of max(predicted / measured, measured / predicted)."""
    return math.exp(sum(map(abs, log_ratios)) / len(log_ratios)) if log_ratios else None
