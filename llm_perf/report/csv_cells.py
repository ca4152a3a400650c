"""Cells of CSV files as spreadsheets read them: a text that begins like a formula would be computed."""

from __future__ import annotations

from typing import Any, Final

FORMULA: Final = r"^[=+\-@\t\r]"
"""How such a text begins."""


def plain_cell(value: Any) -> Any:
    """A value, with a ' before it where it is a text that a spreadsheet would compute."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
