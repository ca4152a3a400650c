"""Laws have numbers and a page, and the faults that tests have to find can still be made."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_program", ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


laws, mutations = program("laws"), program("mutations")
REGISTER = yaml.safe_load(laws.REGISTER.read_text("utf-8"))
FAULTS = mutations.mutations()


def test_every_law_has_a_number_and_every_number_a_law() -> None:
    named = {file: set(tests) for file, tests in REGISTER.items()}
    assert named == {file: {law.test for law in own} for file, (_, own) in laws.laws().items()}
    numbers = Counter(laws.entry_of(stated)[0] for tests in REGISTER.values() for stated in tests.values())
    assert set(numbers.values()) == {1}


def test_a_new_law_gets_the_next_number_and_the_others_keep_theirs() -> None:
    file, tests = next(iter(REGISTER.items()))
    fewer = {**REGISTER, file: dict(list(tests.items())[1:])}
    found, last = (
        laws.numbered(fewer),
        max(laws.entry_of(n)[0] for t in REGISTER.values() for n in t.values()),
    )
    assert found[file][next(iter(tests))] == last + 1
    assert {**found, file: None} == {**REGISTER, file: None}


def test_the_page_is_what_the_register_and_the_tests_say() -> None:
    assert laws.PAGE.read_text("utf-8") == laws.page(REGISTER)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["says"])
def test_a_fault_can_be_made_and_has_a_test_that_is_there(fault: dict[str, Any]) -> None:
    whole = (ROOT / fault["file"]).read_text("utf-8")
    faulty = mutations.mutated(fault, whole)
    assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(whole))
    for test in fault["tests"]:
        name, _, function = test.partition("::")
        tree = ast.parse((ROOT / "tests" / name).read_text("utf-8"))
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not function or function in names, test


def test_a_fault_without_its_place_is_told() -> None:
    with pytest.raises(ValueError, match="stands there 0 times, not once"):
        mutations.mutated({**FAULTS[0], "find": "what is not there"}, "x = 1\n")
    with pytest.raises(ValueError, match="2 times"):
        mutations.mutated({**FAULTS[0], "find": "x"}, "x = x\n")


def test_a_fault_is_made_in_a_copy_and_found_there(tmp_path: Path) -> None:
    """The way of `make mutations` over a project of one module: a test that notices, one that does not, none at all."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "double.py").write_text("def double(x):\n    return 2 * x\n")
    for name, value in (("sees", 3), ("blind", 0)):
        text = f"from double import double\n\ndef test_it():\n    assert double({value}) == {2 * value}\n"
        (tmp_path / "tests" / f"test_{name}.py").write_text(text)
    fault = {"says": "once", "file": "double.py", "find": "2 * x", "put": "1 * x"}
    outcomes = {
        name: mutations.caught(tmp_path, {**fault, "tests": [f"test_{name}.py"]})
        for name in ("sees", "blind", "none")
    }
    assert outcomes == {"sees": "caught", "blind": "NOT CAUGHT", "none": "pytest could not run: exit code 4"}
    assert (tmp_path / "double.py").read_text() == "def double(x):\n    return 2 * x\n"
