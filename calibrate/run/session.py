"""One rank's run from an empty process to the result, and everything put back at its end."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrate.probe.progress import Progress
from calibrate.probe.ranks import Rank
from calibrate.probe.records import RunRecord, measuring, writable_folder
from calibrate.run.settings import RunSettings
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, LLMPerfError, OutputError, first_line
from llm_perf.report.benchmark_log import get_filename


@dataclass
class Session:
    """What the steps of a run hand on."""

    settings: RunSettings
    rank: Rank
    device: Any
    dtype: str
    config: Any
    model: Any  # llm-perf's ModelConfig
    largest_param: int
    machine: Any
    folder: Path
    baseline_bytes: int
    record: RunRecord
    progress: Progress
    token: str  # equal in all ranks of a run on this machine, and in no other run
    warnings: list[str] = field(default_factory=list)
    spare_loops: int = 0  # how many more may follow where others disturbed some
    first_stem: str = ""  # of the case that the model was loaded for

    def take(self, settings: RunSettings) -> None:
        """Go on with another workload of the same model in the same mode, under a record of its own."""
        self.first_stem = self.first_stem or self.stem
        self.settings = settings
        self.record = RunRecord(Path(settings.runs_dir), self.stem)

    @property
    def swap_folder(self) -> Path:
        """Folder of this run's swap files."""
        return self.folder / f"swap-{self.token}-{self.first_stem or self.stem}"

    @property
    def stem(self) -> str:
        """Name of the configuration: of the log, and part of the run file's name."""
        s = self.settings
        return get_filename(
            self.model.name, s.batch_size, s.prompt_len, s.gen_len, s.cpu_offload, s.disk_offload, s.num_nodes,
            s.num_gpus_per_node, s.kv_offload, s.weight_quantize,
        )  # fmt: skip

    @property
    def log_file(self) -> str:
        """The benchmark log."""
        return f"{self.stem}.log" if self.settings.output_file == "auto" else self.settings.output_file


def run_session(settings: RunSettings, rank: Rank) -> dict[str, Any] | None:
    """Measure as one rank.

    Raises:
        LLMPerfError: something is wrong with the input, the machine, or the run; a library's error ends as one too.
    """
    results = run_cases([settings], rank)
    return results[0] if results else None


def run_cases(cases: Sequence[RunSettings], rank: Rank, spare_loops: int = 0) -> list[dict[str, Any]]:
    """Measure several workloads of one model in one mode as one rank; the model is loaded once.

    Args:
        cases: Settings that differ in batch and lengths only; the largest first, since fit is checked for that one.
        rank: This process.
        spare_loops: How many more repeats of each may follow where others disturbed some.

    Raises:
        LLMPerfError: as ``run_session``.
    """
    from calibrate.probe.process import prepare_process, quiet_libraries

    prepare_process(rank.local_world_size)
    lock = measuring(cases[0].allow_concurrent or rank.local_rank != 0)
    progress = Progress(None if rank.first else False)
    with (
        lock,
        quiet_libraries(bool(os.environ.get("LLM_PERF_DEBUG"))) as warned,
        progress.shown(),
        plain_errors(),
    ):
        progress.say("importing torch and deepspeed")
        session = prepare(cases[0], rank, progress)
        warned += session.warnings
        session.warnings, session.spare_loops = warned, spare_loops
        return _measured(session, cases)


def _measured(session: Session, cases: Sequence[RunSettings]) -> list[dict[str, Any]]:
    """Measure, and leave a record whatever happens."""
    from calibrate.run.measurement import measure_cases

    try:
        return measure_cases(session, cases)
    except KeyboardInterrupt:
        _save(session, status="interrupted")
        raise
    except Exception as error:
        _save(session, status="failed", reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        # Every rank's files are in it, so that any of them may tidy up.
        shutil.rmtree(session.swap_folder, ignore_errors=True)


def _save(session: Session, **changes: Any) -> None:
    """Say in the run file how it ended, if it was begun."""
    if session.rank.first and session.record.path.exists():
        with contextlib.suppress(OutputError):
            session.record.save(**changes)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Whatever torch, deepspeed or transformers raise becomes one line."""
    try:
        yield
    except (LLMPerfError, KeyboardInterrupt):
        raise
    except MemoryError as error:
        raise DoesNotFitError(f"out of memory while it ran: {first_line(error, 'no message')}") from error
    except Exception as error:
        if os.environ.get("LLM_PERF_DEBUG"):
            raise
        kind = DoesNotFitError if type(error).__name__ == "OutOfMemoryError" else EnvironmentFailure
        raise kind(f"the run failed: {type(error).__name__}: {first_line(error, 'no message')}") from error


def prepare(settings: RunSettings, rank: Rank, progress: Progress) -> Session:
    """Everything that can be found out, and refused, before the model is loaded.

    Raises:
        LLMPerfError: it will not work, with the reason.
    """
    from calibrate.probe.devices import choose_device, choose_dtype
    from calibrate.probe.local_machine import describe_local_machine
    from calibrate.probe.usage import DeviceMeter, Repeat, rss_bytes
    from calibrate.run.default_model import AUTO, choose_model
    from calibrate.run.model_config import get_model_config, spec_of
    from calibrate.run.prediction import build_run_scenario
    from calibrate.run.quantisation import check_group_size
    from calibrate.run.weights import empty_model

    if rank.first:
        check_outputs(settings.runs_dir, settings.output_file)
    device = choose_device(settings.device, rank.local_rank, rank.local_world_size)
    if settings.model_name == AUTO:
        settings = settings.replace(model_name=choose_model(settings, device))
        if device.kind == "cuda" and settings.system == "zero_inference":
            settings = settings.replace(dummy_on_disk=False)  # making and writing gigabytes takes minutes
    if settings.use_gds and device.kind != "cuda":
        raise EnvironmentFailure("--use-gds reads NVMe into GPU memory: it needs a CUDA device")
    dtype = choose_dtype(settings.dtype, device, settings.weight_quantize)
    config = get_model_config(settings.model_name)
    model = spec_of(config)
    shell = empty_model(config)
    if settings.weight_quantize:
        check_group_size(shell, settings.quant_group_size)
    load_ops(settings, device, dtype, progress)
    if not settings.dummy:
        check_weights(settings.model_name, config.name_or_path)
    folder = writable_folder(settings.offload_dir, "--offload-dir")
    largest = max(parameter.numel() for parameter in shell.parameters())
    baseline = rss_bytes()
    progress.say("measuring this machine")
    with Repeat(DeviceMeter(device)) as probing:
        machine = describe_local_machine(device, dtype, rank.local_world_size, folder, settings.disk_offload)
    scenario = build_run_scenario(settings, model, machine, dtype, device.kind, largest)
    session = Session(
        settings, rank, device, dtype, config, model, largest, machine, folder, baseline,
        RunRecord(Path(settings.runs_dir), "run"), progress,
        os.environ.get("MASTER_PORT") or str(os.getpid()),
    )  # fmt: skip
    session.record = RunRecord(Path(settings.runs_dir), session.stem)
    if (
        probing.found["disturbed"] and rank.local_world_size == 1
    ):  # ranks of one machine probe it side by side
        session.warnings.append(
            f"other processes used {probing.found['others_cores']:.1f} cores while this machine's rates were measured: the "
            "prediction beside the run may be of a slower machine"
        )
    _refuse_what_does_not_fit(session, scenario)
    return session


def _refuse_what_does_not_fit(session: Session, scenario: Any) -> None:
    from calibrate.probe.environment import disk_bytes
    from calibrate.run.prediction import check_fit, predict_run

    prediction = predict_run(scenario, session.device.kind, session.baseline_bytes)
    try:
        check_fit(
            prediction,
            session.device.kind,
            _unwritten_checkpoint_bytes(session),
            disk_bytes(session.folder)["free_bytes"],
        )
    except DoesNotFitError as error:
        error.report = prediction.as_json(session.settings)
        raise


def checkpoint_folder(session: Session) -> Path:
    """Where the dummy checkpoint of this run's shapes is, or will be."""
    from calibrate.run.weights import checkpoint_name

    return session.folder / checkpoint_name(session.config, session.dtype, session.settings.seed)


def _unwritten_checkpoint_bytes(session: Session) -> float:
    """Bytes of the dummy checkpoint that has to be written, in memory first and then on disk; 0 where there is a choice."""
    from calibrate.run.weights import is_complete

    s = session.settings
    needed = s.dummy and (s.dummy_on_disk or (s.system == "transformers" and s.dummy_on_disk is None))
    return checkpoint_bytes(session) if needed and not is_complete(checkpoint_folder(session)) else 0.0


def has_room_for_checkpoint(session: Session) -> bool:
    """Whether dummy weights may go through a checkpoint: it is there, or memory and disk have room for it."""
    from calibrate.probe.environment import disk_bytes, memory_bytes
    from calibrate.run.weights import is_complete

    if is_complete(checkpoint_folder(session)):
        return True
    needed = _ROOM * checkpoint_bytes(session)
    on_disk = needed * (2 if session.settings.disk_offload else 1)
    return memory_bytes()["available_bytes"] > needed and disk_bytes(session.folder)["free_bytes"] > on_disk


def checkpoint_bytes(session: Session) -> float:
    """Bytes of the whole model as a checkpoint."""
    from calibrate.probe.tensors import BYTES
    from llm_perf.counts.parameters import total_params

    return float(total_params(session.model) * BYTES[session.dtype])


_ROOM = 1.1
"""Of a checkpoint's bytes: the files' own, and what else uses memory or disk meanwhile."""

_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.safetensors.index.json")


def check_weights(model_name: str, repository: str) -> None:
    """Make sure that a folder, or else the hub or its cache, has weights: before anything is measured.

    Raises:
        EnvironmentFailure: it has none.
    """
    from calibrate.run import hub
    from calibrate.run.model_config import model_folder

    folder = model_folder(model_name)
    if folder is None:
        hub.check_weights(repository)
    elif not any(True for pattern in _WEIGHT_FILES for _ in folder.glob(pattern)):
        raise EnvironmentFailure(f"{folder} holds a config but no weights; pass --dummy for random ones")


def load_ops(settings: RunSettings, device: Any, dtype: str, progress: Progress) -> None:
    """Load the compiled operators that the run will need: here, where compiling them is seen and spoils no time.

    Raises:
        EnvironmentFailure: one cannot be had.
    """
    from calibrate.probe import ops
    from calibrate.run.quantisation import needs_kernel

    if settings.disk_offload:
        progress.say(
            "loading DeepSpeed's NVMe operators" + ("" if ops.built() else ": compiling them, minutes")
        )
        ops.load_async_io(settings.use_gds)
    if settings.weight_quantize and needs_kernel(device.kind, dtype, settings.quant_group_size):
        compiles = "" if ops.built(("quantizer",)) else ": compiling it, minutes"
        progress.say(f"loading DeepSpeed's quantiser{compiles}")
        ops.load_quantiser()


def check_outputs(runs_dir: str, output_file: str) -> None:
    """Make sure that the benchmark log and the run's file can be written, before hours are spent on what goes there.

    Raises:
        OutputError: one of them cannot.
    """
    try:
        writable_folder(runs_dir, "--runs-dir")
        if output_file == "auto":
            writable_folder(".", "--log-file in")
    except EnvironmentFailure as error:
        raise OutputError(str(error)) from None
    if output_file != "auto":
        _check_log(Path(output_file))


def _check_log(log: Path) -> None:
    if not log.parent.is_dir():
        raise OutputError(f"--log-file {log}: there is no folder {log.parent}")
    if log.is_dir() or not os.access(log if log.exists() else log.parent, os.W_OK):
        raise OutputError(f"--log-file {log}: cannot be written")
