"""A server of this machine: started, waited for, and ended with the block however that ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calibrate.probe.ranks import free_port
from calibrate.run.llama_cpp.child import why
from llm_perf.errors import EnvironmentFailure

START_S = 120.0
"""Seconds that a server may take to load a model."""

_POLL_S = 0.1
_GRACE_S = 5.0


@dataclass(frozen=True)
class Served:
    """A server that answers.

    Attributes:
        url: Of its API, for ``llm-perf calibrate observe --url``.
        model: As it calls the model.
        pid: Its process.
        log: File of its output.
    """

    url: str
    model: str
    pid: int
    log: Path


@contextlib.contextmanager
def serving(
    command: Sequence[str], port: int, model: str, name: str, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Start a server and wait until ``/health`` says 200.

    Args:
        command: Its program and arguments.
        port: Where it is told to listen, on 127.0.0.1.
        model: As it calls the model.
        name: Of the program, for messages.
        environment: Variables beside one's own.

    Raises:
        EnvironmentFailure: it cannot be started, ends, or is not there in time.
    """
    with tempfile.TemporaryDirectory(prefix="llm-perf-serve-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                )  # fmt: skip
            except OSError as error:
                raise EnvironmentFailure(f"{name}: cannot be started: {error.strerror or error}") from None
        try:
            _wait(process, port, log, name)
            yield Served(f"http://127.0.0.1:{port}/v1", model, process.pid, log)
        finally:
            _end(process)


def some_port() -> int:
    """A port that is free now."""
    return free_port()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, name: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = why(log.read_text("utf-8", errors="replace"))
            raise EnvironmentFailure(
                f"{name} ended before it answered: {said or f'exit code {process.returncode}'}"
            )
        if _answers(f"http://127.0.0.1:{port}/health"):
            return
        time.sleep(_POLL_S)
    raise EnvironmentFailure(f"{name} does not answer within {START_S:.0f} s")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:
            return bool(answer.status == 200)
    except OSError:  # of which URLError is one
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    if process.poll() is None:
        process.kill()
        process.wait()
