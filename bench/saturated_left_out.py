"""What a fit to queues that never end is worth on a model and on a GPU that it never saw; some minutes per group.

    python bench/saturated_left_out.py [--resume]

It refits every version with such runs (``saturated`` in bench/stack_plans.yaml) without each model and without each GPU in
turn, simulates what was left out, and writes calibrate/measurements/requests/saturated_left_out.csv, of which ``make
accuracy`` makes a table of docs/accuracy_requests.md.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from fit_stacks import PLANS, fit_once  # noqa: E402

from calibrate.evidence.ratios import gm  # noqa: E402
from calibrate.evidence.saturated_rows import load_saturated  # noqa: E402
from calibrate.evidence.serving_rows import Case, Cases  # noqa: E402
from calibrate.validate.request_left_out import COLUMNS, LEFT_OUT, read_left_out  # noqa: E402

KINDS: dict[str, Callable[[Case], str]] = {
    "model": lambda case: case.run.model,
    "GPU": lambda case: case.run.gpu,
}


def main() -> int:
    """Refit, simulate, write after each group; groups that are there already stay with --resume."""
    lines = read_left_out() if "--resume" in sys.argv else []
    done = {(line["release"], line["group"]) for line in lines}
    for release in (name for name, plan in PLANS.items() if plan.saturated):
        cases = [case for case in load_saturated() if case.release == release]
        for kind, of in KINDS.items():
            for group in sorted({of(case) for case in cases}):
                if (release, group) in done:
                    continue
                constants = fit_once(release, Cases([case for case in cases if of(case) != group]))
                lines += lines_of(
                    release, kind, group, [case for case in cases if of(case) == group], constants
                )
                write(lines)
    return 0


def lines_of(
    release: str, kind: str, group: str, left: list[Case], constants: dict[str, float]
) -> list[dict[str, str]]:
    """Rows of a group, simulated under constants that never saw it."""
    ratios = -Cases(left).simulated(constants)  # of rates: predicted over measured
    print(f"{release} without {group}: {gm(ratios):.3f}", flush=True)
    print("   ", {name: round(value, 4) for name, value in constants.items()}, flush=True)
    return [
        dict(zip(COLUMNS, (release, kind, group, case.row_id, f"{np.exp(ratio):.4f}"), strict=True))
        for case, ratio in zip(left, ratios, strict=True)
    ]


def write(lines: list[dict[str, str]]) -> None:
    """The table as it stands."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    (ROOT / LEFT_OUT).write_text(text.getvalue(), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
