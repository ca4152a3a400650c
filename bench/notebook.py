"""Write the class's notebook anew: docs/notebooks/*.md are its text and cells, the .ipynb beside it has what they print.

python bench/notebook.py
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

FOLDER: Final = ROOT / "docs" / "notebooks"
_CELL: Final = re.compile(r"^```python\n(?P<code>.*?)^```\n?", re.MULTILINE | re.DOTALL)


def cells_of(text: str) -> list[tuple[str, str]]:
    """(kind, source) of each cell: what stands between blocks of Python is text."""
    found: list[tuple[str, str]] = []
    end = 0
    for match in _CELL.finditer(text):
        found += [("markdown", text[end : match.start()].strip()), ("code", match["code"].rstrip("\n"))]
        end = match.end()
    return [cell for cell in (*found, ("markdown", text[end:].strip())) if cell[1]]


def printed(code: str) -> str:
    """What a cell prints by itself."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "a cell", "exec"), {})
    return said.getvalue()


def notebook(text: str) -> dict[str, Any]:
    """The notebook (nbformat 4.5) with its outputs."""
    cells: list[dict[str, Any]] = []
    for number, (kind, source) in enumerate(cells_of(text), start=1):
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": _lines(source),
        }
        if kind == "code":
            output = {"output_type": "stream", "name": "stdout", "text": _lines(printed(source))}
            cell |= {"execution_count": None, "outputs": [output]}
        cells.append(cell)
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> int:
    """Write each of them."""
    for source in sorted(FOLDER.glob("*.md")):
        target = source.with_suffix(".ipynb")
        target.write_text(
            json.dumps(notebook(source.read_text("utf-8")), indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        print(target.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
