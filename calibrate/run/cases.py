"""Several workloads of one model in one mode, measured in a process of their own: what a calibration is made of.

A process has the level of speed that the machine gives it, so that repeats inside one say less than repeats in
several: the same cases are measured again in a later process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from calibrate.run.settings import RunSettings
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, LLMPerfError, SpecError

EXIT_INTERRUPTED = 130
_ERRORS: dict[int, type[LLMPerfError]] = {2: SpecError, 3: DoesNotFitError, 4: EnvironmentFailure}


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
    process = subprocess.Popen(
        [sys.executable, "-m", "calibrate.run.cases", request],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise EnvironmentFailure(f"{cases[0].model_name}: no end after {timeout_s:g} s") from None
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if process.returncode:
        last = (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        kind = _ERRORS.get(process.returncode, EnvironmentFailure)
        raise kind(f"{cases[0].model_name}: {last.removeprefix('llm-perf: ')}")
    return json.loads(output.splitlines()[-1])  # type: ignore[no-any-return]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the cases of a request; their results are one line of JSON on stdout. Returns the exit code."""
    from calibrate.probe.extras import require_extra
    from calibrate.probe.ranks import this_rank
    from calibrate.run.session import run_cases

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        require_extra("llm-perf calibrate --all")
        request = json.loads(given[0])
        cases = [RunSettings(**case) for case in request["cases"]]
        results = run_cases(cases, this_rank(), request["spare_loops"])
    except LLMPerfError as error:
        sys.stderr.write(f"llm-perf: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    sys.stdout.write(json.dumps(results, allow_nan=False) + "\n")
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    if code:
        os._exit(code)
    sys.exit(0)
