"""One rank of a training run: ``python -m calibrate.run.train.worker``, started by `calibrate.run.launch.launch_ranks`."""

from __future__ import annotations

import os
import sys

from calibrate.probe.process import end_with_parent
from calibrate.run.launch import EXIT_INTERRUPTED, hand_back, hand_back_error, settings_from_environment
from calibrate.run.train.settings import TrainRunSettings
from calibrate.run.train.training import measure_training
from llm_perf.errors import DoesNotFitError, LLMPerfError, SpecError


def main() -> int:
    """Run one rank; errors are one line on stderr. Returns the exit code."""
    try:
        settings = settings_from_environment(TrainRunSettings)
        if settings is None:
            raise SpecError("started without settings: use llm-perf calibrate --run --train")
        end_with_parent()
        hand_back(measure_training(settings))
    except LLMPerfError as error:
        if isinstance(error, DoesNotFitError) and error.report is not None:
            hand_back({"status": "does not fit", "predicted": error.report})
        return _fail(" ".join(str(error).split()), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    return 0


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
