"""One rank of a run: ``torchrun … -m calibrate.run.worker FLAGS`` or ``deepspeed … --module calibrate.run.worker FLAGS``.

The flags are those of ``llm-perf calibrate --run``; torchrun takes ``--run`` itself for one of its own. Our launcher
starts it without flags.
"""

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
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings = settings_from_environment()
    if settings is None and "--settings" not in given:
        from llm_perf.cli.main import run

        return run(["calibrate", "--run", *given])
    try:
        if settings is None:
            settings = RunSettings(**json.loads(given[given.index("--settings") + 1]))
        result = measure(settings)
        if not hand_back(result) and result is not None and settings.verbose:
            print_result(result, settings.verbose)
    except LLMPerfError as error:
        return _fail(" ".join(str(error).split()), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    return 0


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
