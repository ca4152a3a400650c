"""Starting the ranks of a run on this machine, and ending all of them when one ends badly."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calibrate.probe.own_process import EXIT_INTERRUPTED, error_of_exit_code, exit_code_of
from calibrate.probe.ranks import free_port
from calibrate.run.settings import RunSettings
from calibrate.run.train.settings import TrainRunSettings
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, LLMPerfError, OutputError

_KINDS: Final[Mapping[str, type[RunSettings] | type[TrainRunSettings]]] = {
    kind.__name__: kind for kind in (RunSettings, TrainRunSettings)
}
_WORKER = "calibrate.run.worker"

GRACE_S = 15.0
"""Seconds that the other ranks have to end by themselves after one has died or the user has interrupted."""

_POLL_S = 0.1
_SETTINGS_VARIABLE = "LLM_PERF_RUN_SETTINGS"
_KIND_VARIABLE = "LLM_PERF_RUN_KIND"
_RESULT_VARIABLE = "LLM_PERF_RUN_RESULT"
_ERROR_VARIABLE = "LLM_PERF_RUN_ERROR"


def launch_ranks(settings: RunSettings | TrainRunSettings) -> dict[str, Any] | None:
    """Start ``num_gpus_per_node`` ranks on this machine and wait for them.

    When one ends with an error, is killed, or the user interrupts, the others have ``GRACE_S`` seconds to follow and are
    killed then.

    Returns:
        The first rank's result.

    Raises:
        LLMPerfError: what the first rank that failed said.
        KeyboardInterrupt: the user interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="llm-perf-") as folder:
        result = Path(folder) / "result.json"
        port = os.environ.get("MASTER_PORT") or str(free_port())
        common = {
            "WORLD_SIZE": str(settings.ranks),
            "LOCAL_WORLD_SIZE": str(settings.num_gpus_per_node),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            _KIND_VARIABLE: type(settings).__name__,
            _SETTINGS_VARIABLE: settings.model_dump_json(),
            _RESULT_VARIABLE: str(result),
        }
        ranks: list[_Process] = []
        try:
            ranks.extend(_start(rank, common, Path(folder)) for rank in range(settings.num_gpus_per_node))
            _wait(ranks)
        finally:
            _end(ranks)
            _remove_swap_files(settings, port)
        failed = _first_failure(ranks)
        if failed is not None:
            raise with_report(failed, json.loads(result.read_text("utf-8")) if result.is_file() else None)
        return json.loads(result.read_text("utf-8"))  # type: ignore[no-any-return]


@dataclass
class _Process:
    """One rank's process, and where it says what went wrong."""

    rank: int
    process: subprocess.Popen[bytes]
    output: Path
    error: Path
    ended_at: float | None = None


def _start(rank: int, common: dict[str, str], folder: Path) -> _Process:
    output, error = folder / f"rank{rank}.stderr", folder / f"rank{rank}.error"
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), _ERROR_VARIABLE: str(error)}
    # The first rank shows its progress on the terminal; the others speak only when something is wrong.
    visible = rank == 0 and sys.stderr.isatty()
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            env=os.environ | common | own,
            stdout=subprocess.DEVNULL,
            stderr=None if visible else stream,
            # Ctrl-C reaches this process alone, which passes it on: else some ranks would be gone before others know.
            start_new_session=True,
        )
    return _Process(rank, process, output, error)


def _wait(ranks: list[_Process]) -> None:
    """Until all have ended, or one has failed; an interrupt is passed on."""
    try:
        while True:
            now = time.monotonic()
            for one in ranks:
                if one.process.poll() is not None and one.ended_at is None:
                    one.ended_at = now
            if any(one.process.returncode not in (None, 0) for one in ranks):
                return
            if all(one.ended_at is not None for one in ranks):
                return
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        for one in ranks:
            if one.process.poll() is None:
                one.process.send_signal(signal.SIGINT)
        raise


def _end(ranks: list[_Process]) -> None:
    """Give the others time to end, then make them."""
    deadline = time.monotonic() + GRACE_S
    for one in ranks:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.wait()
        if one.ended_at is None:
            one.ended_at = time.monotonic()


def _first_failure(ranks: list[_Process]) -> LLMPerfError | KeyboardInterrupt | None:
    """The error of the rank that failed first: the others only lost their peer."""
    failed = sorted(
        (one for one in ranks if one.process.returncode != 0),
        # Of two that were found ended at once, the one that was killed did not only lose its peer.
        key=lambda one: (one.ended_at or 0.0, one.process.returncode > 0),
    )
    if not failed:
        return None
    first = failed[0]
    code = first.process.returncode
    if code == EXIT_INTERRUPTED:
        return KeyboardInterrupt()
    if code < 0:
        name = signal.Signals(-code).name
        return EnvironmentFailure(
            f"rank {first.rank} of {len(ranks)} was killed ({name}); the others were ended"
        )
    return error_of_exit_code(code)(_last_message(first, len(ranks)))


def with_report(error: BaseException, handed_back: dict[str, Any] | None) -> BaseException:
    """The error with the prediction that a rank gave back because the run does not fit."""
    if isinstance(error, DoesNotFitError) and handed_back is not None:
        error.report = handed_back["predicted"]
    return error


def _last_message(one: _Process, ranks: int) -> str:
    texts = [file.read_text("utf-8", "replace") for file in (one.error, one.output) if file.is_file()]
    lines = [line for text in texts for line in text.strip().splitlines()[-1:]]
    said = lines[0] if lines else f"exit code {one.process.returncode}"
    return f"rank {one.rank} of {ranks}: {said}"


def _remove_swap_files(settings: RunSettings | TrainRunSettings, port: str) -> None:
    """What a killed rank could not remove itself."""
    import shutil

    for folder in Path(settings.offload_dir).expanduser().glob(f"swap-{port}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def settings_from_environment() -> RunSettings | TrainRunSettings | None:
    """The settings that ``launch_ranks`` gave to this process."""
    text = os.environ.get(_SETTINGS_VARIABLE)
    return None if text is None else _KINDS[os.environ[_KIND_VARIABLE]](**json.loads(text))


def hand_back(result: dict[str, Any] | None) -> bool:
    """Give the result to the process that launched this rank. False where there is none that waits for it."""
    target = os.environ.get(_RESULT_VARIABLE)
    if target is None:
        return False
    if result is not None:
        try:
            Path(target).write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from None
    return True


def run_rank(
    work: Callable[[], dict[str, Any] | None], give: Callable[[dict[str, Any] | None], object]
) -> int:
    """Do the work of one rank; the code that it exits with.

    Args:
        work: Measures; its result is that of the first rank, None of the others.
        give: Hands the result, or the prediction that says why it does not fit, to whoever launched this rank.
    """

    def given() -> None:
        try:
            give(work())
        except DoesNotFitError as error:
            if error.report is not None:
                give({"status": "does not fit", "predicted": error.report})
            raise

    return exit_code_of(given, tell=_tell)


def _tell(message: str) -> None:
    """Why this rank ends, to the process that launched it; on stderr where none waits for it."""
    target = os.environ.get(_ERROR_VARIABLE)
    if target is None:
        sys.stderr.write(f"llm-perf: {message}\n")
        return
    with contextlib.suppress(OSError):
        Path(target).write_text(message, encoding="utf-8")
