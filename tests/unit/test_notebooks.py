"""The class's notebook: what its cells print is what they print today, and a notebook program can read it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def _maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "bench" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKER = _maker()


def test_each_text_has_its_notebook() -> None:
    assert [path.stem for path in NOTEBOOKS] == [path.stem for path in sorted(MAKER.FOLDER.glob("*.md"))]
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_what_its_text_makes_today(path: Path) -> None:
    """Where this fails: python bench/notebook.py."""
    assert json.loads(path.read_text("utf-8")) == MAKER.notebook(path.with_suffix(".md").read_text("utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_program_can_read_it(path: Path) -> None:
    """The fields that nbformat 4.5 asks for, checked without it."""
    found = json.loads(path.read_text("utf-8"))
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in found["cells"]]
    assert len(set(names)) == len(names)
    for cell in found["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        assert all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "code":
            assert {"execution_count", "outputs"} <= cell.keys()
            assert cell["outputs"][0]["text"], "a cell of a class says something"
    assert sum(cell["cell_type"] == "code" for cell in found["cells"]) >= 8
