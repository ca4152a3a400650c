"""What is predicted today, as files that are committed: whether a prediction changed is seen in a review.

`accuracy_files` gives the text of each; a test compares them with what is there, ``make accuracy`` writes them.
Predictions have four digits, so that another processor's last bits change nothing.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any, Final

from calibrate.validate import Validation
from calibrate.validation.page import accuracy_page
from calibrate.validation.row import Compared
from llm_perf.errors import SpecError
from llm_perf.report.validation_text import summary_table

__all__ = ["LEAVE_OUT", "PAGE", "PREDICTIONS", "README", "accuracy_files", "predictions_csv", "with_table"]

PREDICTIONS: Final = "calibrate/measurements/predictions.csv"
README: Final = "README.md"
PAGE: Final = "docs/accuracy.md"
LEAVE_OUT: Final = "tests/published/leave_out.csv"
"""What ``bench/leave_out.py`` writes, in minutes; the page shows it."""

_DIGITS: Final = 4
_TABLE = re.compile(r"(?<=^```console\n\$ llm-perf validate\n…\n).*?(?=^```)", re.MULTILINE | re.DOTALL)


def accuracy_files(root: Path, found: Validation) -> dict[str, str]:
    """Path below the checkout -> text, for each file that shows predictions of published runs.

    Raises:
        SpecError: the README has no place for the table.
    """
    readme = (root / README).read_text("utf-8")
    return {
        PREDICTIONS: predictions_csv(found),
        README: with_table(readme, found.classes()),
        PAGE: accuracy_page(found, (root / LEAVE_OUT).read_text("utf-8")),
    }


def predictions_csv(found: Validation) -> str:
    """Every row: measured, predicted, or the reason why not. One line each, in the tables' order."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["table", "row_id", "class", "quantity", "measured", "predicted", "ratio", "reason"])
    lines.writerows(_line(row) for row in found.rows)
    return text.getvalue()


def _line(row: Compared) -> list[Any]:
    return [
        row.run.table,
        row.run.row_id,
        row.accuracy_class or "",
        row.quantity,
        _digits(row.measured),
        _digits(row.predicted),
        "" if row.ratio is None else f"{row.ratio:.3f}",
        row.reason or "",
    ]


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.{_DIGITS}g}"


def with_table(readme: str, classes: dict[str, dict[str, Any]]) -> str:
    """The README with today's table by class.

    Raises:
        SpecError: there is no excerpt of ``llm-perf validate`` in it.
    """
    table = summary_table("class", classes) + "\n"
    changed, places = _TABLE.subn(lambda _: table, readme)
    if places != 1:
        raise SpecError(f"{README}: {places} excerpts of `llm-perf validate` instead of one")
    return changed
