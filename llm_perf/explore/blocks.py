"""Parts of a report as plain JSON: the same words and tables that the command line prints, without a terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

_ALARM = "red"


def block(part: Text | Table) -> dict[str, Any]:
    """A text (``{"text"}``) or a table (``{"columns", "rows"}``).

    A column is ``{"name", "right"}``, a row ``{"cells", "strong"}``, a cell ``{"text", "alarm"}``; ``alarm`` is what
    the terminal shows in red.
    """
    if isinstance(part, Text):
        return {"text": part.plain}
    columns = [list(column.cells) for column in part.columns]
    return {
        "columns": [
            {"name": str(column.header), "right": column.justify == "right"} for column in part.columns
        ],
        "rows": [
            {"cells": [_cell(cells[number]) for cells in columns], "strong": row.style == "bold"}
            for number, row in enumerate(part.rows)
        ],
    }


def _cell(cell: Any) -> dict[str, Any]:
    if isinstance(cell, Text):
        return {"text": cell.plain, "alarm": _ALARM in str(cell.style)}
    return {"text": str(cell), "alarm": False}
