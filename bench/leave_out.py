"""What predictions are worth where nothing was fitted: every constant refitted without each GPU, and each model family.

    python bench/leave_out.py                     writes tests/published/leave_out.csv; minutes to many for each system
    python bench/leave_out.py vllm tensorrt_llm   these systems' lines, the others stay

To be run after a change of a system's constants. ``docs/accuracy.md`` and ``docs/accuracy_resident.md`` show it (`make
accuracy`, which takes seconds, reads the file). One line per system, what was left out, and accuracy class: geometric
means of max(predicted / measured, measured / predicted) with the constants as they ship, with a refit to all rows, and
with each row predicted by the refit that never saw its GPU, family or model.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from calibrate.validation.snapshot import LEAVE_OUT  # noqa: E402
from llm_perf.errors import SpecError  # noqa: E402
from llm_perf.systems.registry import SYSTEM_NAMES  # noqa: E402

COLUMNS = ("system", "leave_out", "class", "rows", "shipped", "no_fit", "refit", "left_out", "note")
LEFT_OUT = ("gpu", "family", "model")


def main(wanted: list[str]) -> int:
    """Run the systems that are wanted, or all, and write the file."""
    from calibrate.transfer import transfer

    if unknown := set(wanted) - set(SYSTEM_NAMES):
        sys.exit(f"leave_out: no system {', '.join(sorted(unknown))}; there are {', '.join(SYSTEM_NAMES)}")
    before = csv.DictReader(io.StringIO((ROOT / LEAVE_OUT).read_text("utf-8")))
    lines: list[dict[str, Any]] = [line for line in before if wanted and line["system"] not in wanted]
    for system in wanted or SYSTEM_NAMES:
        for leave in LEFT_OUT:
            try:
                found = transfer(system, leave).as_dict()
            except SpecError as error:
                lines.append({"system": system, "leave_out": leave, "note": str(error)})
                continue
            lines += lines_of(found)
            print(f"{system}, each {leave}: {found['seconds']:.0f} s", file=sys.stderr)
    lines.sort(key=lambda line: SYSTEM_NAMES.index(line["system"]))
    (ROOT / LEAVE_OUT).write_text(as_text(lines), "utf-8")
    return 0


def lines_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per class of a system."""
    lines = []
    for name, group in found["classes"].items():
        figures = {key: f"{group[key]['gm']:.4f}" for key in ("shipped", "no_fit", "refit", "left_out")}
        rows = group["left_out"]["rows"]
        lines.append(
            {"system": found["system"], "leave_out": found["leave_out"], "class": name, "rows": rows}
            | figures
        )
    return lines


def as_text(lines: list[dict[str, Any]]) -> str:
    """The CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
