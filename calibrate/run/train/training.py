"""``measure_training``: a real training run as one of a launcher's ranks, or with ranks of its own."""

from __future__ import annotations

from typing import Any

from calibrate.run.train.settings import TrainRunSettings
from llm_perf.errors import SpecError


def measure_training(settings: TrainRunSettings) -> dict[str, Any] | None:
    """Train for a few steps and return what was measured: the object of ``calibrate --run --train --json``.

    Returns:
        The result; None in all ranks but the first.

    Raises:
        LLMPerfError: bad settings, missing packages, a machine that is too small, or a run that failed.
    """
    from calibrate.probe.extras import require_extra
    from calibrate.probe.process import signals_interrupt

    require_extra("llm-perf calibrate train")
    with signals_interrupt():
        return _measure(settings)


def _measure(settings: TrainRunSettings) -> dict[str, Any] | None:
    from calibrate.probe.ranks import launched, this_rank

    if not launched() and settings.ranks > 1:
        from calibrate.run.launch import launch_ranks

        return launch_ranks(settings)
    rank = this_rank()
    if rank.nodes > 1:
        raise SpecError("a training run has all its ranks on one machine: several nodes are not supported")
    if rank.world_size > 1:
        settings = settings.replace(num_gpus_per_node=rank.local_world_size)
    from calibrate.run.train.session import run_session

    return run_session(settings, rank)
