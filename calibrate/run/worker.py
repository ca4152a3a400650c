"""One rank of a run: ``torchrun … -m calibrate.run.worker FLAGS`` or ``deepspeed … --module calibrate.run.worker FLAGS``.

The flags are those of ``llm-perf calibrate --run``; torchrun takes ``--run`` itself for one of its own. Our launchers
give it the settings in a variable (one machine: of a generation or of a training) or as one packed argument (several), and
take the result back.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from calibrate.probe.own_process import end_process
from calibrate.probe.process import end_with_parent
from calibrate.run.generation import measure
from calibrate.run.hosts import SETTINGS_FLAG, result_lines, unpack_settings
from calibrate.run.launch import hand_back, run_rank, settings_from_environment
from calibrate.run.train import measure_training
from calibrate.run.train.settings import TrainRunSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank; errors are one line on stderr. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings = settings_from_environment()
    if settings is None and SETTINGS_FLAG not in given:
        from llm_perf.cli.main import run

        return run(["calibrate", "--run", *given])

    def work() -> dict[str, Any] | None:
        if settings is None:
            return measure(unpack_settings(given[given.index(SETTINGS_FLAG) + 1]))
        end_with_parent()
        return measure_training(settings) if isinstance(settings, TrainRunSettings) else measure(settings)

    return run_rank(work, _give)


def _give(result: dict[str, Any] | None) -> None:
    """Hand a result to whoever launched this rank."""
    if not hand_back(result) and result is not None:
        sys.stdout.write("\n".join(result_lines(result)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    end_process(main())
