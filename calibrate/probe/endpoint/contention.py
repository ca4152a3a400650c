"""Whether others had the cores of a server on this machine: how long its threads were ready to run and did not.

Linux counts that for every thread (``/proc/PID/task/TID/schedstat``: seconds on a core, seconds in the queue of one).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_PROC = Path("/proc")
_LISTENS = "0A"


def listener(port: int) -> int | None:
    """The process that listens on a port of this machine; None where the system does not tell."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text("ascii").splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{words[9]}]")
    for folder in _PROC.iterdir() if inodes else ():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if any(str(link.readlink()) in inodes for link in (folder / "fd").iterdir()):
                    return int(folder.name)
    return None


class Contention:
    """Shares of a process's time that it waited for a core, from one asking to the next."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid
        self._before = self._counts()

    def share(self) -> float | None:
        """Waited over waited and run since the last asking; None where the system does not tell."""
        before, now = self._before, self._counts()
        self._before = now
        if before is None or now is None:
            return None
        ran = sum(max(run - before.get(thread, (0, 0))[0], 0) for thread, (run, _) in now.items())
        waited = sum(max(wait - before.get(thread, (0, 0))[1], 0) for thread, (_, wait) in now.items())
        return waited / (ran + waited) if ran + waited else None

    def _counts(self) -> dict[str, tuple[int, int]] | None:
        if self._pid is None:
            return None
        found: dict[str, tuple[int, int]] = {}
        with contextlib.suppress(OSError):
            for task in (_PROC / str(self._pid) / "task").iterdir():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    words = (task / "schedstat").read_text("ascii").split()
                    found[task.name] = (int(words[0]), int(words[1]))
        return found or None
