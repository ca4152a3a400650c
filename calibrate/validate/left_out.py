"""Published rows as predicted by fits that never saw their group: ``measurements/left_out.csv``.

``bench/leave_out.py`` writes it (minutes to hours of fitting); prediction intervals and their coverage are read from it in
milliseconds. One line per row, per what was left out, and per quantity of time that the row states.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from importlib import resources
from typing import Final

from calibrate.evidence.published import GPU_ALIASES
from calibrate.validate.row import Compared
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.errors import SpecError

LEFT_OUT_ROWS: Final = "calibrate/measurements/left_out.csv"
PHASES: Final = ("prefill_latency_s", "latency_per_token_s")
"""Quantities of one phase, which rows may state beside their main quantity."""

_DIGITS: Final = 4


@dataclass(frozen=True)
class LeftOutRow:
    """One quantity of one published row, predicted without its group.

    Attributes:
        table: Which table of `calibrate.measurements`.
        row_id: Number of the row.
        system: System whose constants were refitted, for training the framework.
        accuracy_class: The row's class.
        vendor: Who made the row's GPU.
        leave_out: What a group is: ``gpu``, ``family``, ``model``, or ``system`` where the constants are a generic
            system's, which no fit to the row's stack touches.
        group: The group that was left out.
        quantity: Name of the quantity.
        predicted: Its prediction.
        log_ratio: log(predicted / measured), of a value printed with one digit from the nearest end of what it stands for.
    """

    table: str
    row_id: int
    system: str
    accuracy_class: str
    vendor: str
    leave_out: str
    group: str
    quantity: str
    predicted: float
    log_ratio: float

    @property
    def row(self) -> tuple[str, int]:
        """What names the row: its table and number."""
        return self.table, self.row_id


_COLUMNS: Final = tuple(field.name for field in fields(LeftOutRow))


def lines_of(
    rows: Iterable[Compared], groups: Sequence[str], leave_out: str, systems: Mapping[int, str] | str
) -> list[LeftOutRow]:
    """Lines of rows that were predicted without their groups; rows without a class or a prediction have none.

    Args:
        rows: The main quantity, and in ``others`` further ones, by the fit without the row's group.
        groups: The group of each row.
        leave_out: What a group is.
        systems: The system of all of them, or by row.
    """
    found = []
    for row, group in zip(rows, groups, strict=True):
        if row.predicted is None or row.accuracy_class is None:
            continue
        system = systems if isinstance(systems, str) else systems[row.run.row_id]
        ratios = {row.quantity: (row.predicted, row.predicted / row.bound)} | {
            name: (predicted, predicted / measured)
            for name, (measured, predicted) in row.others.items()
            if name in PHASES
        }
        found += [
            LeftOutRow(
                row.run.table, row.run.row_id, system, row.accuracy_class, vendor_of(row), leave_out, group, name,
                predicted, math.log(ratio),
            )
            for name, (predicted, ratio) in ratios.items()
        ]  # fmt: skip
    return found


def vendor_of(row: Compared) -> str:
    """Who made a row's GPU, in lower case."""
    return get_gpu_config_by_name(GPU_ALIASES.get(row.run.gpu, row.run.gpu)).maker


def as_csv(lines: Iterable[LeftOutRow]) -> str:
    """The file, sorted so that a new fit of one system changes its lines alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    ordered = sorted(lines, key=lambda x: (x.table, x.system, x.leave_out, x.row_id, x.quantity))
    for line in ordered:
        *names, predicted, log_ratio = astuple(line)
        writer.writerow([*names, f"{predicted:.{_DIGITS}g}", f"{log_ratio:.{_DIGITS}f}"])
    return text.getvalue()


def parse_left_out(text: str) -> tuple[LeftOutRow, ...]:
    """The lines of the file.

    Raises:
        SpecError: a column is missing or a number is none.
    """
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise SpecError(f"{LEFT_OUT_ROWS}: column {missing[0]!r} is missing")
    try:
        return tuple(_row(cells) for cells in reader)
    except ValueError as error:
        raise SpecError(f"{LEFT_OUT_ROWS}:{reader.line_num}: {error}") from None


def _row(cells: Mapping[str, str]) -> LeftOutRow:
    texts = {name: cells[name] for name in _COLUMNS if name not in ("row_id", "predicted", "log_ratio")}
    return LeftOutRow(
        row_id=int(cells["row_id"]),
        predicted=float(cells["predicted"]),
        log_ratio=float(cells["log_ratio"]),
        **texts,
    )


def load_left_out() -> tuple[LeftOutRow, ...]:
    """The lines that ship."""
    name = LEFT_OUT_ROWS.partition("/")[2]
    return parse_left_out(resources.files("calibrate").joinpath(name).read_text("utf-8"))
