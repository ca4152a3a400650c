"""One rank of a run: ``torchrun … -m calibrate.run.worker FLAGS`` or ``deepspeed … --module calibrate.run.worker FLAGS``.

The flags are those of ``llm-perf calibrate --run``; torchrun takes ``--run`` itself for one of its own. Our launchers
give it the settings in a variable (one machine) or as one packed argument (several), and take the result back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from calibrate.probe.process import end_with_parent
from calibrate.run.generation import measure
from calibrate.run.hosts import SETTINGS_FLAG, result_lines, unpack_settings
from calibrate.run.launch import EXIT_INTERRUPTED, hand_back, hand_back_error, settings_from_environment
from calibrate.run.settings import RunSettings
from llm_perf.errors import DoesNotFitError, LLMPerfError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; errors are one line on stderr. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings = settings_from_environment(RunSettings)
    if settings is None and SETTINGS_FLAG not in given:
        from llm_perf.cli.main import run

        return run(["calibrate", "--run", *given])
    try:
        if settings is not None:
            end_with_parent()
        else:
            settings = unpack_settings(given[given.index(SETTINGS_FLAG) + 1])
        result = measure(settings)
        _give(result)
    except LLMPerfError as error:
        if isinstance(error, DoesNotFitError) and error.report is not None:
            _give({"status": "does not fit", "predicted": error.report})
        return _fail(" ".join(str(error).split()), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    return 0


def _give(result: dict[str, Any] | None) -> None:
    """Hand a result to whoever launched this rank."""
    if not hand_back(result) and result is not None:
        sys.stdout.write("\n".join(result_lines(result)) + "\n")
        sys.stdout.flush()


def _fail(message: str, code: int) -> int:
    if not hand_back_error(message):
        sys.stderr.write(f"llm-perf: {message}\n")
        sys.stderr.flush()
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads of libraries whose peer is gone may keep a failed process from ending.
    if code:
        os._exit(code)
    sys.exit(0)
