"""Provenance is data: every number that ships says how it was found, and no code reads it out of prose."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig, Rate
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name, known_names
from llm_perf.errors import SpecError
from llm_perf.systems.constants import Constant, load_constants
from llm_perf.systems.families import family_names, folder_of
from llm_perf.systems.training.framework import FRAMEWORKS, load_framework

ROOT = Path(__file__).parents[2]
WORDS = {"counted", "documented", "measured", "fitted", "assumed"}
SYSTEMS = [f"{family}@{release}" for family in family_names() for release in folder_of(family).all_releases]
HOSTS, GPUS = known_names("host"), known_names("GPU")
EFFICIENCIES = sorted((ROOT / "hardware_specs" / "efficiency").glob("*.yaml"))


def written(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def every_constant() -> list[tuple[str, Constant]]:
    files = [*(load_constants(name) for name in SYSTEMS), *(load_framework(name) for name in FRAMEWORKS)]
    return [
        (f"{file.name} {name}", constant)
        for file in files
        for stated in (file.constants, *file.hosts.values())
        for name, constant in stated.items()
    ]


def test_a_fitted_constant_says_to_how_much_and_within_what() -> None:
    fitted = [(name, constant) for name, constant in every_constant() if constant.fitted]
    assert len(fitted) > 100
    for name, constant in fitted:
        assert constant.range is not None, name
        assert constant.rows is not None, name
        assert constant.groups is not None, name
        assert 1 <= constant.groups <= constant.rows, name
        assert constant.range[0] <= constant.unfitted <= constant.range[1], name


def test_what_was_not_fitted_is_what_it_is_without_fits() -> None:
    for name, constant in every_constant():
        assert constant.provenance in WORDS
        if not constant.fitted:
            assert constant.unfitted == constant.value, name


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_says_it_of_every_rate_and_of_its_data_sheet(name: str) -> None:
    raw = written(ROOT / "hardware_specs" / "hosts" / f"{name}.yaml")
    assert raw["provenance"] in WORDS
    host = get_host_config_by_name(name)
    disk = () if host.disk is None else (getattr(host.disk, field) for field in type(host.disk).model_fields)
    rates = [*(getattr(host, field) for field in type(host).model_fields), *disk]
    for rate in rates:
        if isinstance(rate, Rate) and rate.fitted:
            assert rate.rows is not None
            assert rate.groups is not None


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_holds_nothing_of_a_system(name: str) -> None:
    """What a version of a system reaches on a machine stands in that version's file."""
    host = get_host_config_by_name(name)
    assert host.copies == {}
    assert host.layer_overhead_ms == {}
    assert host.from_profile == ()


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_says_it(name: str) -> None:
    assert written(ROOT / "hardware_specs" / "gpus" / f"{name}.yaml")["provenance"] in WORDS


@pytest.mark.parametrize("path", EFFICIENCIES, ids=lambda path: path.stem)
def test_an_efficiency_family_says_it(path: Path) -> None:
    raw = written(path)
    assert raw["provenance"] == ("assumed" if raw["evidence"] == "assumed" else "measured")
    assert (raw["evidence"] == "partly measured") <= bool(raw.get("assumed"))
    for fitted in raw.get("training", {}).get("fitted", {}).values():
        assert 1 <= fitted["groups"] <= fitted["rows"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [(HostConfig, "gpus_per_nodes"), (HostConfig, "disk.rate"), (GPUConfig, "peak_tflops.fp3")],
)
def test_an_assumed_field_exists(spec: Any, field: str) -> None:
    get = get_host_config_by_name if spec is HostConfig else get_gpu_config_by_name
    own = get("dgx-a100" if spec is HostConfig else "t4")
    with pytest.raises(SpecError, match=re.escape(f"there is no {field!r}")):
        own.replace(assumed=(field,))


def test_a_version_may_state_what_exists_for_a_host() -> None:
    known = set(HOSTS)
    for name in SYSTEMS:
        file = load_constants(name)
        assert set(file.hosts) <= known, name


def test_old_words_for_a_provenance_still_work() -> None:
    for old, new in (("data sheet", "documented"), ("ratio", "assumed")):
        assert Rate(gb_per_s=1.0, provenance=old, source="a test").provenance == new


PROSE = {"source", "notes", "description"}


def reads_prose(node: ast.AST) -> bool:
    """``x in spec.source``, ``spec.source == x``, ``spec.source.startswith(x)``, ``re.search(x, spec.source)``."""

    def is_prose(part: ast.AST) -> bool:
        return isinstance(part, ast.Attribute) and part.attr in PROSE

    if isinstance(node, ast.Compare):
        return any(map(is_prose, (node.left, *node.comparators))) and not any(
            isinstance(part, ast.Constant) and part.value is None for part in node.comparators
        )
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        method = node.func.attr in ("startswith", "endswith", "find", "index", "split", "partition")
        matched = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
        return (method and is_prose(node.func.value)) or (matched and any(map(is_prose, node.args)))
    return False


@pytest.mark.parametrize(
    "line", ["'fitted' in self.source", "one.source.startswith('T4')", "re.search('x', a.notes)"]
)
def test_the_search_for_prose_finds_it(line: str) -> None:
    assert any(reads_prose(node) for node in ast.walk(ast.parse(line)))


@pytest.mark.parametrize("room", ["llm_perf", "calibrate"])
def test_no_code_reads_prose(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if reads_prose(node) and path.name not in READERS
    ]
    assert not found


READERS = {"compare.py"}
"""Files whose ``source`` is something else; none holds a spec's."""
