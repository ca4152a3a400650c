"""What predictions are worth where nothing was fitted: every constant refitted without each GPU, family and model in turn.

    python bench/leave_out.py                          all systems and training; minutes to an hour for each
    python bench/leave_out.py vllm tensorrt_llm        these systems' lines, the others stay
    python bench/leave_out.py flexgen --by model       one grouping of them
    python bench/leave_out.py --no-fit                 what needs no fit, for all: as they ship, and --profile none (seconds)

To be run after a change of a system's constants. It writes two files, after each fit:

- ``tests/published/leave_out.csv``: one line per system, what was left out, and accuracy class, with geometric means of
  max(predicted / measured, measured / predicted) with the constants as they ship, with no fitted constant (``no_fit``,
  which is ``--profile none``), with a refit to all rows, and with each row predicted by the refit that never saw its GPU,
  family or model;
- ``calibrate/measurements/left_out.csv``: every row's prediction by that refit, from which prediction intervals come.

``make accuracy`` (seconds) then writes what shows them: ``docs/accuracy.md``, ``docs/accuracy_resident.md`` and
``llm_perf/analysis/left_out``.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from calibrate.validate.left_out import LEFT_OUT_ROWS, LeftOutRow, as_csv, lines_of, parse_left_out  # noqa: E402
from calibrate.validate.snapshot import LEAVE_OUT  # noqa: E402
from llm_perf.errors import SpecError  # noqa: E402
from llm_perf.systems.registry import get_system, system_names  # noqa: E402
from llm_perf.systems.resident import Resident  # noqa: E402

COLUMNS = ("system", "leave_out", "class", "rows", "shipped", "no_fit", "refit", "left_out", "note")
TRAINING, GENERIC = "training", "resident"
LEFT_OUT = ("gpu", "family", "model")
NAMES = (*system_names(), TRAINING)


def main() -> int:
    """Run the systems that are wanted, or all, and write the files after each fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=", ".join(NAMES))
    parser.add_argument("--by", choices=LEFT_OUT, action="append", help="what to leave out; may be repeated")
    parser.add_argument(
        "--no-fit",
        action="store_true",
        help="the columns shipped and no_fit alone, without any fit (seconds)",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.systems) - set(NAMES):
        parser.error(f"no system {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if arguments.no_fit:
        write_without_fits(arguments.systems or NAMES)
        return 0
    for system in arguments.systems or NAMES:
        if system == GENERIC:
            write(system, ("system",), [], generic_lines())
            continue
        for leave in arguments.by or LEFT_OUT:
            try:
                found = fitted(system, leave)
            except SpecError as error:
                write(system, (leave,), [{"system": system, "leave_out": leave, "note": str(error)}], [])
                continue
            write(system, (leave,), class_lines(found), row_lines(found))
            print(f"{system}, each {leave}: {found.seconds:.0f} s", file=sys.stderr, flush=True)
    return 0


def write_without_fits(systems: Sequence[str]) -> None:
    """Write what needs no fit: the constants as they ship, and every fitted one replaced (``--profile none``)."""
    from calibrate.validate.scoreboard import statistics_of, validate
    from calibrate.validate.training_transfer import training_without_fits
    from calibrate.validate.transfer import without_fits

    lines = list(csv.DictReader(io.StringIO((ROOT / LEAVE_OUT).read_text("utf-8"))))
    for system in systems:
        mine = [line for line in lines if line["system"] == system and line["class"]]
        if not mine:
            continue
        shipped = validate(system)
        bare = training_without_fits(shipped) if system == TRAINING else without_fits(shipped)
        chosen = {row.run.row_id for row in bare.rows}
        kept = replace(shipped, rows=tuple(row for row in shipped.rows if row.run.row_id in chosen))
        for column, found in (("shipped", kept), ("no_fit", bare)):
            classes = found.classes() | {"all": statistics_of(found.rows)}
            for line in mine:
                line[column] = f"{classes[line['class']]['gm']:.4f}"
    (ROOT / LEAVE_OUT).write_text(as_text(lines), "utf-8")


def fitted(system: str, leave: str) -> Any:
    """The refits of one system without each group."""
    from calibrate.validate.training_transfer import training_transfer
    from calibrate.validate.transfer import transfer

    return training_transfer(leave) if system == TRAINING else transfer(system, leave)


def class_lines(transfer: Any) -> list[dict[str, Any]]:
    """One line per class of a system."""
    found, lines = transfer.as_dict(), []
    for name, group in found["classes"].items():
        figures = {key: f"{group[key]['gm']:.4f}" for key in ("shipped", "no_fit", "refit", "left_out")}
        rows = group["left_out"]["rows"]
        lines.append(
            {"system": found["system"], "leave_out": found["leave_out"], "class": name, "rows": rows}
            | figures
        )
    return lines


def row_lines(transfer: Any) -> list[LeftOutRow]:
    """One line per row and quantity."""
    from calibrate.validate.training_transfer import training_cases

    systems: Any = transfer.system
    if transfer.system == TRAINING:
        cases = training_cases(transfer.shipped)
        systems = {case.compared.run.row_id: case.scenario.framework for case in cases}
    return [
        line
        for group in transfer.groups
        for line in lines_of(group.rows, [group.group] * len(group.rows), transfer.leave_out, systems)
    ]


def generic_lines() -> list[LeftOutRow]:
    """Rows of every resident stack as the generic system ``resident`` predicts them: what not naming a stack costs.

    Each row is in the class in which a question to ``resident`` is: ``edge`` is one of named systems alone.
    """
    from calibrate.evidence.published import load_measurements
    from calibrate.evidence.settings import run_of
    from calibrate.validate.scoreboard import Compared, accuracy_class, validate
    from llm_perf.config.scenario import Scenario

    stacks = {name for name in system_names() if isinstance(get_system(name), Resident)}

    def generic(scenario: Scenario) -> Scenario:
        return scenario.replace(system=GENERIC) if scenario.system in stacks else scenario

    measured = {row.row_id: row for row in load_measurements()}

    def class_of(row: Compared) -> str | None:
        return accuracy_class(replace(run_of(measured[row.run.row_id]), system=GENERIC))

    rows = [
        replace(row, accuracy_class=class_of(row))
        for row in validate(change=generic).rows
        if row.run.table == "inference" and row.run.system in stacks and row.predicted is not None
    ]
    return lines_of(rows, [row.run.system for row in rows], "system", GENERIC)


def write(
    system: str, leaves: tuple[str, ...], classes: list[dict[str, Any]], rows: list[LeftOutRow]
) -> None:
    """Put a system's lines for what was left out in the place of the ones before, in both files."""
    before = csv.DictReader(io.StringIO((ROOT / LEAVE_OUT).read_text("utf-8")))
    lines: list[dict[str, Any]] = [
        line for line in before if line["system"] != system or line["leave_out"] not in leaves
    ]
    lines = sorted(
        [*lines, *classes],
        key=lambda line: (NAMES.index(line["system"]), LEFT_OUT.index(line["leave_out"])),
    )
    (ROOT / LEAVE_OUT).write_text(as_text(lines), "utf-8")
    table = "training" if system == TRAINING else "inference"
    path = ROOT / LEFT_OUT_ROWS
    kept = [
        row
        for row in (parse_left_out(path.read_text("utf-8")) if path.is_file() else ())
        if row.leave_out not in leaves or row.table != table or system not in (row.system, TRAINING)
    ]
    path.write_text(as_csv([*kept, *rows]), "utf-8")


def as_text(lines: list[dict[str, Any]]) -> str:
    """The CSV of the classes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
