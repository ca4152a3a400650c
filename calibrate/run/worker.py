"""One rank of a run: ``python -m calibrate.run.worker``, started by our launcher or by DeepSpeed's."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from calibrate.run.generation import measure
from calibrate.run.launch import hand_back, settings_from_environment
from calibrate.run.report import print_result
from calibrate.run.settings import RunSettings
from llm_perf.errors import LLMPerfError

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; errors are one line on stderr. Returns the exit code."""
    try:
        settings = _settings(list(sys.argv[1:] if arguments is None else arguments))
        result = measure(settings)
        if not hand_back(result) and result is not None and settings.verbose:
            print_result(result, settings.verbose)
    except LLMPerfError as error:
        return _fail(" ".join(str(error).split()), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    return 0


def _settings(arguments: list[str]) -> RunSettings:
    if arguments[:1] == ["--settings"]:
        return RunSettings(**json.loads(arguments[1]))
    found = settings_from_environment()
    return found if found is not None else RunSettings(model_name="tiny-opt")


def _fail(message: str, code: int) -> int:
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
