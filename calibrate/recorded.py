"""``python -m calibrate.recorded``: the loop's figures from its recorded runs, without measuring anything.

`calibrate/measurements/cpu_loop` holds what ``make calibrate`` measured on a machine with two CPU cores. Each model is
left out in turn; the others' runs are fitted, and its own are predicted. Takes the folder of other records of that form
as an argument.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.fit.calibrator import Calibrator
from calibrate.fit.report import held_out_object
from calibrate.fit.runs import Inputs, read_runs
from calibrate.probe.own_process import exit_code_of
from llm_perf.errors import SpecError

FOLDER = Path(__file__).parent / "measurements" / "cpu_loop"


def left_out(inputs: Inputs, model: str) -> dict[str, Any]:
    """Fit on the runs of all models but one, predict that one: the object that the loop writes.

    Args:
        inputs: Runs and microbenchmarks of a machine.
        model: Its last part as the runs name it, such as ``opt-1.3b``.

    Raises:
        SpecError: no run is of this model, or the others do not make a fit.
    """
    fit_on = tuple(one for one in inputs.observations if _short(one.group) != model)
    tests = tuple(one for one in inputs.observations if _short(one.group) == model)
    if not tests:
        known = ", ".join(models(inputs))
        raise SpecError(f"no run is of model {model!r}; there are runs of {known}")
    fitted = Calibrator(inputs.microbench, name="recorded").fit(fit_on)
    return held_out_object(
        fitted, replace(inputs, observations=fit_on), replace(inputs, observations=tests, rejected=()), "-"
    )


def models(inputs: Inputs) -> list[str]:
    """Names of the models whose runs there are."""
    return sorted({_short(one.group) for one in inputs.observations})


def table_line(found: dict[str, Any]) -> str:
    """What was left out, what was fitted, and the median errors, as a line of Markdown."""
    held = found["held_out"]
    prefill, decode = (_median(held["rows"], phase) for phase in ("prefill", "decode"))
    return (
        f"| {', '.join(map(_short, held['models']))} | {', '.join(map(_short, found['models']))} | "
        f"{100 * held['median_abs_error']:.1f} % ({prefill}, {decode}) | "
        f"{100 * held['roofline_median_abs_error']:.0f} % | {held['times_closer']:.1f} | "
        f"{100 * held['inside_interval']:.0f} % of {len(held['rows'])} |"
    )


HEADER = (
    "| left out | fitted on | median error of the total (prefill, decode) | roofline | times closer | in the interval |",
    "| --- | --- | --: | --: | --: | --: |",
)


def _median(rows: Sequence[dict[str, Any]], phase: str) -> str:
    errors = [abs(row["errors"][phase]) for row in rows if row["errors"][phase] is not None]
    return f"{100 * median(errors):.1f}" if errors else "-"


def _short(model: str) -> str:
    return model.rpartition("/")[2].rpartition("_")[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Returns an exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> None:
        inputs = read_runs(given or [FOLDER])
        lines = [table_line(left_out(inputs, model)) for model in models(inputs)]
        sys.stdout.write("\n".join((*HEADER, *lines)) + "\n")

    return exit_code_of(work)


if __name__ == "__main__":
    sys.exit(main())
