"""Files that a command writes: whole or not at all, and none where any of them cannot be written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_perf.analysis.inference import InferenceResult
from llm_perf.config import files
from llm_perf.errors import OutputError
from llm_perf.report.prediction_log import automatic_name, write_prediction_log

if TYPE_CHECKING:
    from llm_perf.analysis.training import TrainingResult


def result_name(result: InferenceResult, inputs: Mapping[str, Any]) -> str:
    """Name of a result's file: GPU and configuration to read, and a digest that tells all inputs apart."""
    gpu = re.sub(r"[^a-z0-9.+]+", "-", result.scenario.gpu.name.lower()).strip("-.")
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
    return f"{gpu}-{automatic_name(result).removesuffix('.log')}-{digest}.json"


def training_result_name(result: TrainingResult, inputs: Mapping[str, Any]) -> str:
    """Name of a training result's file: GPU, model and batch to read, and a digest that tells all inputs apart."""
    plain = (result.scenario.gpu.name, result.scenario.model.name.rpartition("/")[2])
    gpu, model = (re.sub(r"[^a-z0-9.+]+", "-", name.lower()).strip("-.")[:80] for name in plain)
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]
    return f"{gpu}-{model}-train-bs{result.batch.global_batch_size}-seq{result.scenario.plan.seq_len}-{digest}.json"


def check_log(log_file: str) -> None:
    """Refuse a log that cannot be written before anything else is.

    Raises:
        OutputError: it is a folder, or its folder does not exist.
    """
    path = Path(log_file)
    try:
        folder, below = path.is_dir(), path.parent.is_dir()
    except OSError as error:  # a name that is too long
        raise OutputError(f"--log-file {log_file!r}: {error.strerror}") from None
    if not log_file or folder:
        raise OutputError(f"--log-file {log_file!r} is no file")
    if not below:
        raise OutputError(f"--log-file {log_file!r}: there is no folder {str(path.parent)!r}")


def write_logs(log_file: str, results: list[InferenceResult]) -> list[Path]:
    """Append the benchmark log of each result.

    Raises:
        OutputError: the file cannot be written.
    """
    return [write_prediction_log(result, log_file) for result in results]


def write_files(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write files into a folder, which is made where there is none. A reader never sees half a file.

    Raises:
        OutputError: one of them cannot be written; then none is, and no new folder is left.
    """
    return write_paths({folder / name: text for name, text in texts.items()}, [folder])


def write_paths(texts: Mapping[Path, str], folders: Sequence[Path] = ()) -> list[Path]:
    """Write files wherever they are, all of them or none, with their folders.

    Args:
        texts: What each of them holds.
        folders: Folders that are made even if no file goes there.

    Raises:
        OutputError: one of them cannot be written; then none is, and no new folder is left.
    """
    parts: dict[Path, Path] = {}
    written: dict[Path, Path] = {}
    made: list[Path] = []
    folder = Path()
    try:
        for folder in dict.fromkeys([*folders, *(target.parent for target in texts)]):
            new = [path for path in (folder, *folder.parents) if not path.exists()]
            made = [*new, *made]
            folder.mkdir(parents=True, exist_ok=True)
        for named, text in texts.items():
            folder, target = named.parent, files.behind_links(named)
            files.check_replaceable(target)
            part = target.with_name(f"{target.name}.{os.getpid()}.part")
            parts[part], written[part] = target, named
            part.write_text(text, encoding="utf-8")
        for part, target in parts.items():
            part.replace(target)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        _remove(list(parts), made)
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise OutputError(f"{folder}: results cannot be written there: {reason}") from None
    return list(written.values())


def _remove(parts: list[Path], folders: list[Path]) -> None:
    for file in parts:
        with contextlib.suppress(OSError):
            file.unlink()
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
