"""Several workloads of one model in one mode, measured in a process of their own: what a calibration is made of.

A process has the level of speed that the machine gives it, so that repeats inside one say less than repeats in
several: the same cases are measured again in a later process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from calibrate.probe.own_process import end_process, exit_code_of, run_python
from calibrate.run.settings import RunSettings


def measure_in_process(
    cases: Sequence[RunSettings], spare_loops: int = 0, timeout_s: float = 900.0
) -> list[dict[str, Any]]:
    """Start a process that loads the model once and measures all cases on one rank.

    Args:
        cases: Settings that differ in batch and lengths only.
        spare_loops: How many more repeats of each may follow where others disturbed some.
        timeout_s: When the process is killed.

    Returns:
        The result objects, in the order of the cases.

    Raises:
        LLMPerfError: what the process said.
        KeyboardInterrupt: the user interrupted.
    """
    ordered = sorted(cases, key=lambda case: -case.batch_size * (case.prompt_len + case.gen_len))
    request = json.dumps({"cases": [case.model_dump() for case in ordered], "spare_loops": spare_loops})
    output = run_python(("-m", "calibrate.run.cases", request), cases[0].model_name, timeout_s)
    return json.loads(output.splitlines()[-1])  # type: ignore[no-any-return]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases of a request; their results are one line of JSON on stdout. Returns the exit code."""
    from calibrate.probe.extras import require_extra
    from calibrate.probe.ranks import this_rank
    from calibrate.run.session import run_cases

    given = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> None:
        require_extra("llm-perf calibrate --all")
        request = json.loads(given[0])
        cases = [RunSettings(**case) for case in request["cases"]]
        results = run_cases(cases, this_rank(), request["spare_loops"])
        sys.stdout.write(json.dumps(results, allow_nan=False) + "\n")

    return exit_code_of(work, interrupted="")


if __name__ == "__main__":
    end_process(main())
