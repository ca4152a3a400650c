"""Starting the ranks of a run: our own on one machine, DeepSpeed's launcher for several."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrate.run.ranks import free_port
from calibrate.run.settings import RunSettings
from llm_perf.errors import DoesNotFitError, EnvironmentFailure, LLMPerfError, OutputError, SpecError

GRACE_S = 15.0
"""Seconds that the other ranks have to end by themselves after one has died or the user has interrupted."""

_POLL_S = 0.1
_EXIT_INTERRUPTED = 130
_SETTINGS_VARIABLE = "LLM_PERF_RUN_SETTINGS"
_RESULT_VARIABLE = "LLM_PERF_RUN_RESULT"
_ERRORS: dict[int, type[LLMPerfError]] = {2: SpecError, 3: DoesNotFitError, 4: EnvironmentFailure}


def launch_ranks(settings: RunSettings) -> dict[str, Any] | None:
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
            _SETTINGS_VARIABLE: settings.model_dump_json(),
            _RESULT_VARIABLE: str(result),
        }
        ranks = [_start(rank, common, Path(folder)) for rank in range(settings.num_gpus_per_node)]
        try:
            _wait(ranks)
        finally:
            _end(ranks)
            _remove_swap_files(settings, port)
        failed = _first_failure(ranks)
        if failed is not None:
            raise failed
        return json.loads(result.read_text("utf-8"))  # type: ignore[no-any-return]


@dataclass
class _Process:
    """One rank's process, and where it says what went wrong."""

    rank: int
    process: subprocess.Popen[bytes]
    messages: Path
    ended_at: float | None = None


def _start(rank: int, common: dict[str, str], folder: Path) -> _Process:
    messages = folder / f"rank{rank}.stderr"
    environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    # The first rank shows its progress on the terminal; the others speak only when something is wrong.
    visible = rank == 0 and sys.stderr.isatty()
    with messages.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "calibrate.run.worker"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=None if visible else stream,
            # Ctrl-C reaches this process alone, which passes it on: else some ranks would be gone before others know.
            start_new_session=True,
        )
    return _Process(rank, process, messages)


def _wait(ranks: list[_Process]) -> None:
    """Until all have ended, or one has failed; an interrupt is passed on."""
    try:
        while True:
            for one in ranks:
                if one.process.poll() is not None and one.ended_at is None:
                    one.ended_at = time.monotonic()
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
        (one for one in ranks if one.process.returncode != 0), key=lambda one: one.ended_at or 0.0
    )
    if not failed:
        return None
    first = failed[0]
    code = first.process.returncode
    if code == _EXIT_INTERRUPTED:
        return KeyboardInterrupt()
    if code < 0:
        name = signal.Signals(-code).name
        return EnvironmentFailure(
            f"rank {first.rank} of {len(ranks)} was killed ({name}); the others were ended"
        )
    return _ERRORS.get(code, EnvironmentFailure)(_last_message(first, len(ranks)))


def _last_message(one: _Process, ranks: int) -> str:
    lines = [line for line in one.messages.read_text("utf-8", "replace").splitlines() if line.strip()]
    said = lines[-1].removeprefix("llm-perf: ") if lines else f"exit code {one.process.returncode}"
    return f"rank {one.rank} of {ranks}: {said}"


def _remove_swap_files(settings: RunSettings, port: str) -> None:
    """What a killed rank could not remove itself."""
    import shutil

    for folder in Path(settings.offload_dir).expanduser().glob(f"swap-{port}-*"):
        shutil.rmtree(folder, ignore_errors=True)


def hostfile_command(settings: RunSettings, hostfile: str) -> list[str]:
    """The ``deepspeed`` command that starts a run on the hosts of a file (``worker-0 slots=8`` per line).

    Settings travel as an argument: the launcher passes no variables of ours to other machines.

    Raises:
        SpecError: the file cannot be read.
    """
    if not Path(hostfile).is_file():
        raise SpecError(f"--hostfile {hostfile}: no such file")
    launcher = str(Path(sys.executable).parent / "deepspeed")
    return [
        launcher, "--hostfile", hostfile, "--num_gpus", str(settings.num_gpus_per_node), "--no_local_rank",
        "--module", "calibrate.run.worker", "--settings", settings.model_dump_json(),
    ]  # fmt: skip


def launch_hosts(settings: RunSettings, hostfile: str) -> int:
    """Start a run on several machines through DeepSpeed's launcher; returns its exit code."""
    command = hostfile_command(settings, hostfile)
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        raise EnvironmentFailure(f"{command[0]}: cannot be started: {error.strerror or error}") from None


def settings_from_environment() -> RunSettings | None:
    """The settings that ``launch_ranks`` gave to this process."""
    text = os.environ.get(_SETTINGS_VARIABLE)
    return None if text is None else RunSettings(**json.loads(text))


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
