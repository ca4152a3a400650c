"""What a command prints to: streams that were closed before it began, that are full, or that nobody reads."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any, Final

EXIT_UNREAD: Final = 141
"""As the shell says of a program that wrote to a pipe without a reader: 128 and the number of SIGPIPE."""


class _Told(io.TextIOWrapper):
    """Where notes and refusals go: what cannot be said there is not said, and changes no answer and no exit code."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except (OSError, ValueError):
            silence(self)


def prepare() -> None:
    """Let the process have the three streams that every program expects.

    Of one that was closed (``>&-``) Python has none, and the next file that is opened gets its number: libraries and
    programs that it starts would write into it. Standard output is then one that refuses what is written, as the system
    does; of what fails to be said on standard error nothing is known.
    """
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            _occupy(number, os.O_WRONLY if number == 2 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Where the terminal's encoding lacks a letter (the µ of µs), a question mark is better than no result.
        sys.stdout.reconfigure(errors="replace")
    if sys.stderr is None or type(sys.stderr) is io.TextIOWrapper:
        sys.stderr = _Told(
            open(2, "wb", closefd=False),  # noqa: SIM115 - until the process ends
            encoding=getattr(sys.stderr, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=True,
        )


def _occupy(number: int, flags: int) -> None:
    with contextlib.suppress(OSError):
        device = os.open(os.devnull, flags)
        if device != number:
            os.dup2(device, number)
            os.close(device)
        os.set_inheritable(number, True)


def silence(stream: Any) -> None:
    """Let what a stream still holds go nowhere, since the interpreter would fail to write it when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        device = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(device, stream.fileno())
        finally:
            os.close(device)


def why_not(error: OSError) -> str:
    """What is said of a stream or a file that could not be read or written."""
    if error.errno == errno.EBADF and error.filename is None:  # as `>&-` leaves it
        return "standard output is closed: the answer has nowhere to go"
    return f"input or output failed: {error}"


def end() -> None:
    """Write what standard output still holds, or let it go: a command that has ended keeps its exit code."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        silence(sys.stdout)
