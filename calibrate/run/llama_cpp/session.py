"""A run of llama.cpp from its settings to the result: a file of random weights, llama-bench, the prediction beside it."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrate.probe.environment import disk_bytes, usable_cores
from calibrate.probe.process import signals_interrupt
from calibrate.probe.progress import Progress
from calibrate.probe.records import RunRecord, measuring, writable_folder
from calibrate.run.llama_cpp import SYSTEM
from calibrate.run.llama_cpp.build import LlamaCpp, required
from calibrate.run.llama_cpp.gguf_file import architecture_of, quantise, write_random_gguf
from calibrate.run.llama_cpp.models import SAMPLES, sample
from calibrate.run.llama_cpp.prediction import predict
from calibrate.run.llama_cpp.settings import LlamaCppSettings
from calibrate.run.session import check_outputs, plain_errors
from llm_perf.config import files
from llm_perf.config.formats import FORMATS
from llm_perf.config.gguf import load_gguf
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.model import ModelConfig
from llm_perf.counts.parameters import total_params
from llm_perf.errors import DoesNotFitError, MissingExtraError, OutputError, SpecError, bad_value

DEFAULT_FORMAT = "q4_k_m"
_PACKAGES = ("gguf", "psutil")
_ROOM = 1.1
"""Of the files' bytes: what else the disk takes meanwhile."""


@dataclass
class LlamaCppSession:
    """What the steps of a run hand on.

    Attributes:
        settings: What was asked.
        programs: llama.cpp's.
        model: Shapes of the model; once its file is there, with the formats of its tensors.
        file: The GGUF file that was given; None where random weights are made.
        weight_format: Of random weights.
        threads: Of the CPU.
        record: The run's JSON.
        progress: Says what goes on.
        warnings: For the user.
    """

    settings: LlamaCppSettings
    programs: LlamaCpp
    model: ModelConfig
    file: Path | None
    weight_format: str
    threads: int
    record: RunRecord
    progress: Progress
    warnings: list[str] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """Name of the configuration."""
        return self.settings.stem(self.model.name, self.weight_format, self.threads)

    @property
    def log_file(self) -> str:
        """The benchmark log."""
        return f"{self.stem}.log" if self.settings.output_file == "auto" else self.settings.output_file

    def run_object(self) -> dict[str, Any]:
        """The settings as they were in the end."""
        return self.settings.model_dump() | {
            "system": SYSTEM,
            "model_name": self.model.name,
            "weight_format": self.weight_format,
            "threads": self.threads,
            "device": "cpu",
            "batch_size": 1,
            "parameters": total_params(self.model),
            "checkpoint_bytes": self.model.checkpoint_bytes,
        }


def measure_llama_cpp(settings: LlamaCppSettings) -> dict[str, Any]:
    """Run llama.cpp as the settings say: the object of ``calibrate run --system llama_cpp --json``.

    Raises:
        LLMPerfError: bad settings, llama.cpp is not built, a machine that is too small, or a run that failed.
    """
    with signals_interrupt():
        return _measure(settings)


def _measure(settings: LlamaCppSettings) -> dict[str, Any]:
    from calibrate.run.llama_cpp.measurement import measure

    model, file = model_of(settings)
    threads = threads_of(settings)
    programs = required()
    check_outputs(settings.runs_dir, settings.output_file)
    progress = Progress()
    with measuring(settings.allow_concurrent), progress.shown(), plain_errors():
        session = LlamaCppSession(
            settings,
            programs,
            model,
            file,
            format_of(settings, model),
            threads,
            RunRecord(Path(), "run"),
            progress,
        )
        session.record = RunRecord(Path(settings.runs_dir), session.stem)
        predict(session)  # refuses what will not do, before anything is written
        with _recorded(session), model_file(session) as path:
            return measure(session, path)


def model_of(settings: LlamaCppSettings) -> tuple[ModelConfig, Path | None]:
    """Shapes of the model that is asked for, and its file where it is one.

    Raises:
        SpecError: it is not known, or no file of random weights can be made of it.
        MissingExtraError: the packages for making one are not installed.
    """
    name = settings.model_name
    if name.lower().endswith(".gguf"):
        path = files.expanded(name)
        if settings.weight_format is not None:
            raise SpecError(f"weight_format {settings.weight_format}: {path.name} has a format of its own")
        return load_gguf(path), path
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingExtraError("calibrate", "llm-perf calibrate run --system llama_cpp")
    model = sample(name) if name in SAMPLES else get_model_config_by_name(name)
    architecture_of(model)
    return model, None


def threads_of(settings: LlamaCppSettings) -> int:
    """Threads of the run.

    Raises:
        SpecError: more than the cores that this process may use.
    """
    cores = usable_cores()
    if settings.threads is not None and settings.threads > cores:
        raise bad_value("threads", settings.threads, f"at most {cores}, the cores that this process may use")
    return settings.threads or cores


def format_of(settings: LlamaCppSettings, model: ModelConfig) -> str:
    """Name of the weights' format."""
    if model.stored_formats is not None:
        return model.stored_formats.name
    return settings.weight_format or DEFAULT_FORMAT


@contextlib.contextmanager
def _recorded(session: LlamaCppSession) -> Iterator[None]:
    """Leave a record of how the run ended, whatever happens."""
    session.record.save(run=session.run_object())
    try:
        yield
    except KeyboardInterrupt:
        _save(session, status="interrupted")
        raise
    except Exception as error:
        _save(session, status="failed", reason=f"{type(error).__name__}: {error}")
        raise


def _save(session: LlamaCppSession, **changes: Any) -> None:
    with contextlib.suppress(OutputError):
        session.record.save(**changes)


@contextlib.contextmanager
def model_file(session: LlamaCppSession) -> Iterator[Path]:
    """The GGUF file of a run: the one that was given, or one of random weights in a folder that goes with the block.

    Raises:
        DoesNotFitError: the disk has no room for it.
        LLMPerfError: it cannot be made.
    """
    if session.file is not None:
        yield session.file
        return
    parent = writable_folder(session.settings.offload_dir, "--offload-dir")
    _check_room(session.model, session.weight_format, parent)
    with tempfile.TemporaryDirectory(prefix="llama_cpp-", dir=parent) as folder:
        yield random_file(session, Path(folder))


def random_file(session: LlamaCppSession, folder: Path) -> Path:
    """A file of random weights in the session's format; the session's model takes over what it is stored in."""
    session.progress.say(f"making {session.model.name} with random weights")
    wide = folder / f"{session.model.name.split('/')[-1]}-fp16.gguf"
    write_random_gguf(session.model, wide, session.settings.seed)
    path = wide
    if session.weight_format != "fp16":
        session.progress.say(f"quantising it to {session.weight_format}")
        path = wide.with_name(wide.name.replace("-fp16.", f"-{session.weight_format}."))
        quantise(session.programs, wide, path, session.weight_format, session.threads)
        wide.unlink()
    session.model = load_gguf(path)
    return path


def _check_room(model: ModelConfig, weight_format: str, folder: Path) -> None:
    """Refuse before anything is written what the disk has no room for.

    Raises:
        DoesNotFitError: with what is missing.
    """
    params = float(total_params(model))
    bits = 0.0 if weight_format == "fp16" else FORMATS.get(weight_format, FORMATS["q8_0"]).stored_bits
    needed = _ROOM * params * (16 + bits) / 8
    free = disk_bytes(folder)["free_bytes"]
    if needed > free:
        raise DoesNotFitError(
            f"disk of --offload-dir {folder}: {needed / 2**30:.1f} GiB needed for the file of random weights, "
            f"{free / 2**30:.1f} GiB free; nothing was written"
        )
