"""A program of llama.cpp, watched while it runs: it ends when we do, and its memory and CPU time are known."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibrate.probe.devices import Device
from calibrate.probe.usage import DeviceMeter, Repeat
from llm_perf.errors import DoesNotFitError, EnvironmentFailure

_POLL_S = 0.05
_KILLED = -9
_ILLEGAL_INSTRUCTION = -4


@dataclass
class Finished:
    """What a program left.

    Attributes:
        stdout: Its output.
        stderr: Its messages.
        peak_rss_bytes: Its largest resident memory, a mapped file included; None where the system does not tell.
        usage: As ``calibrate.probe.usage.Repeat`` has it: CPU time, and whether others disturbed it.
    """

    stdout: str
    stderr: str
    peak_rss_bytes: int | None
    usage: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program; when the block ends, however it ends, the program has ended too.

    Raises:
        EnvironmentFailure: it cannot be started.
    """
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise EnvironmentFailure(f"{command[0]}: cannot be started: {error.strerror or error}") from None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        with process:  # closes its pipes and waits
            pass


def run_program(command: Sequence[str]) -> Finished:
    """Run a program to its end.

    Raises:
        DoesNotFitError: the system killed it, which it does when memory runs out.
        EnvironmentFailure: it cannot be started or fails, with the line that says why.
    """
    peak: int | None = None
    with Repeat(DeviceMeter(Device("cpu", 0))) as repeat, started(command) as process:
        while True:
            peak = _peak_rss(process.pid) or peak
            try:
                stdout, stderr = process.communicate(timeout=_POLL_S)
                break
            except subprocess.TimeoutExpired:
                continue
    name = Path(command[0]).name
    if process.returncode == _KILLED:
        raise DoesNotFitError(f"{name} was killed while it ran: most likely memory ran out")
    if process.returncode == _ILLEGAL_INSTRUCTION:
        raise EnvironmentFailure(
            f"{command[0]} was built for another processor: make llama-cpp builds it anew"
        )
    if process.returncode:
        raise EnvironmentFailure(
            f"{name} failed: {why(stderr + stdout) or f'exit code {process.returncode}'}"
        )
    return Finished(stdout, stderr, peak, repeat.found)


def _peak_rss(pid: int) -> int | None:
    """Largest resident memory of a process so far, the mapped file included; bytes."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text("ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def why(text: str) -> str:
    """The last line of a program's output that names an error, else its last one, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "error" in line.lower() or "failed" in line.lower()]
    return (named or lines or [""])[-1][:200]
