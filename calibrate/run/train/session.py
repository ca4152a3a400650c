"""One rank's training run from an empty process to the result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrate.probe.progress import Progress
from calibrate.probe.ranks import Rank
from calibrate.probe.records import RunRecord, measuring
from calibrate.run.session import plain_errors
from calibrate.run.train.settings import TrainRunSettings
from llm_perf.errors import DoesNotFitError, OutputError


@dataclass
class TrainSession:
    """What the steps of a run hand on."""

    settings: TrainRunSettings
    rank: Rank
    device: Any
    dtype: str
    config: Any
    model: Any  # llm-perf's ModelConfig
    machine: Any
    record: RunRecord
    progress: Progress
    adam_s_per_param: float | None = None
    baseline_bytes: int = 0
    warnings: list[str] = field(default_factory=list)


def run_session(settings: TrainRunSettings, rank: Rank) -> dict[str, Any] | None:
    """Measure as one rank; the first returns the result, the others None.

    Raises:
        LLMPerfError: something is wrong with the input, the machine, or the run.
    """
    from calibrate.probe.clock import choose_clock
    from calibrate.probe.process import prepare_process, quiet_libraries

    prepare_process(rank.local_world_size, settings.clock == "cpu")
    choose_clock(settings.clock)
    lock = measuring(settings.allow_concurrent or rank.local_rank != 0)
    progress = Progress(None if rank.first else False)
    with (
        lock,
        quiet_libraries(bool(os.environ.get("LLM_PERF_DEBUG"))) as warned,
        progress.shown(),
        plain_errors(),
    ):
        progress.say("importing torch and deepspeed")
        session = prepare(settings, rank, progress)
        session.warnings = warned
        with _recorded(session):
            from calibrate.run.train.measurement import measure

            return measure(session)


@contextlib.contextmanager
def _recorded(session: TrainSession) -> Iterator[None]:
    """Leave a record of how it ended, if it was begun."""
    try:
        yield
    except KeyboardInterrupt:
        _save(session, status="interrupted")
        raise
    except Exception as error:
        _save(session, status="failed", reason=f"{type(error).__name__}: {error}")
        raise


def _save(session: TrainSession, **changes: Any) -> None:
    if session.rank.first and session.record.path.exists():
        with contextlib.suppress(OutputError):
            session.record.save(**changes)


def prepare(settings: TrainRunSettings, rank: Rank, progress: Progress) -> TrainSession:
    """Everything that can be found out, and refused, before the model is made.

    Raises:
        LLMPerfError: it will not work, with the reason.
    """
    from calibrate.probe.devices import choose_device
    from calibrate.probe.local_machine import describe_local_machine
    from calibrate.probe.usage import rss_bytes
    from calibrate.run.model_config import get_model_config, spec_of
    from calibrate.run.train.prediction import build_train_scenario, check_fit, predict_run
    from calibrate.run.train.probes import TrainProbe, adam_s_per_param

    device = choose_device(settings.device, rank.local_rank, rank.local_world_size)
    dtype = training_dtype(settings.dtype, device)
    config = get_model_config(settings.model_name)
    model = spec_of(config)
    progress.say("measuring this machine")
    folder = Path(settings.runs_dir)
    machine = describe_local_machine(device, dtype, rank.local_world_size, existing(folder), False)
    on_cpu = device.kind == "cpu" or settings.optimizer_offload
    adam = adam_s_per_param(fresh=settings.updates_partition) if on_cpu else None
    probe = TrainProbe(adam_s_per_param=adam)
    scenario = build_train_scenario(settings, model, machine, dtype, device.kind, probe)
    prediction = predict_run(scenario, device.kind, rss_bytes())
    try:
        check_fit(prediction, device.kind)
    except DoesNotFitError as error:
        error.report = prediction.as_json(settings)
        raise
    record = RunRecord(folder, settings.replace(model_name=model.name).stem)
    if rank.first:
        record.save(run=settings.model_dump())  # what cannot be written is told before anything is loaded
    return TrainSession(settings, rank, device, dtype, config, model, machine, record, progress, adam)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    path = folder.expanduser().absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def training_dtype(asked: str, device: Any) -> str:
    """The number format of a training: bf16 needs no loss scale, so it is what "auto" takes where the device has it.

    Raises:
        EnvironmentFailure: the device refuses what was asked for.
    """
    from calibrate.probe.devices import choose_dtype

    if asked != "auto":
        return choose_dtype(asked, device)
    import torch
    from deepspeed.accelerator import get_accelerator

    return "bf16" if torch.bfloat16 in get_accelerator().supported_dtypes() else "fp16"
