"""Reads and writes of a disk past the page cache."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from calibrate.probe.sampler import Call, Item

_BLOCK = 8 << 20
_FILE_BYTES = 128 << 20
_THREADS = (1, 4)
"""One request at a time, and as many as DeepSpeed's aio threads keep under way."""


def items(folder: Path) -> Iterator[Item]:
    """Reads and writes of 8 MiB, in order, over a file of 128 MiB."""
    direct = _direct(folder)
    for direction in ("read", "write"):
        for threads in _THREADS:
            settings = {"direction": direction, "block_bytes": _BLOCK, "threads": threads, "direct": direct}
            work = {"bytes": float(_BLOCK * threads)}
            yield Item("disk", settings, work, lambda d=direction, t=threads: _prepare(folder, d, t))  # type: ignore[misc]


def _direct(folder: Path) -> bool:
    """Whether the folder's disk is reached past the page cache; what else is wrong with it each item says."""
    try:
        return _File(folder).direct
    except OSError:
        return False


class _File:
    """A file without a name, so that nothing is left of it whatever happens; opened past the page cache if possible.

    ``direct`` is False where it was not: what is measured then is memory.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / f".llm-perf-disk-{os.getpid()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        self.direct = hasattr(os, "O_DIRECT")
        try:
            self.descriptor = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o600)
        except OSError:  # tmpfs and some network file systems know no direct I/O
            self.direct = False
            self.descriptor = os.open(path, flags, 0o600)
        path.unlink()
        self._close = weakref.finalize(self, os.close, self.descriptor)


def _buffer() -> mmap.mmap:
    """A page-aligned block of bytes that no disk can compress."""
    block = mmap.mmap(-1, _BLOCK)
    block.write(os.urandom(_BLOCK))
    return block


def _prepare(folder: Path, direction: str, threads: int) -> Call:
    file, blocks = _File(folder), _FILE_BYTES // _BLOCK
    buffers = [_buffer() for _ in range(threads)]
    for number in range(blocks):
        os.pwritev(file.descriptor, [buffers[0]], number * _BLOCK)
    os.fsync(file.descriptor)

    def one(number: int, buffer: Any) -> int:
        place = number % blocks * _BLOCK
        if direction == "read":
            return os.preadv(file.descriptor, [buffer], place)
        return os.pwritev(file.descriptor, [buffer], place)

    if threads == 1:
        return lambda turn: one(turn, buffers[0])
    pool = ThreadPoolExecutor(threads)

    def several(turn: int) -> None:
        list(pool.map(one, range(turn * threads, (turn + 1) * threads), buffers))

    return several
