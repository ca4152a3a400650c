"""One rank of a training run: ``python -m calibrate.run.train.worker``, started by `calibrate.run.launch.launch_ranks`."""

from __future__ import annotations

from typing import Any

from calibrate.probe.own_process import end_process
from calibrate.probe.process import end_with_parent
from calibrate.run.launch import hand_back, run_rank, settings_from_environment
from calibrate.run.train.settings import TrainRunSettings
from calibrate.run.train.training import measure_training
from llm_perf.errors import SpecError


def main() -> int:
    """Run one rank; errors are one line on stderr. Returns the exit code."""

    def work() -> dict[str, Any] | None:
        settings = settings_from_environment(TrainRunSettings)
        if settings is None:
            raise SpecError("started without settings: use llm-perf calibrate --run --train")
        end_with_parent()
        return measure_training(settings)

    return run_rank(work, hand_back)


if __name__ == "__main__":
    end_process(main())
