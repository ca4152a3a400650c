"""Settings of the process that a run measures in, made before torch is imported where they have to be."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calibrate.probe.environment import usable_cores
from calibrate.probe.ops import extensions_dir

_MALLOC_THRESHOLD = 1 << 30
_MALLOC_DEFAULT = 128 << 10
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare_process(ranks_here: int, one_thread: bool = False) -> None:
    """Threads, waiting, memory and caches as a measurement wants them. What the user has set stays, but for ``one_thread``.

    OpenMP threads that spin while others compute turn a busy machine's factor of 2 into 4 to 40; large temporaries that
    go back to the kernel on every free cost up to a third of a prefill.
    """
    threads = max(1, usable_cores() // ranks_here)
    if one_thread:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(extensions_dir()))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # A ninja that changes with PATH makes torch compile every extension anew.
    own = str(Path(sys.executable).parent)
    if own not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = own + os.pathsep + os.environ.get("PATH", "")
    keep_freed_memory(True)


def keep_freed_memory(kept: bool) -> None:
    """Whether this process keeps freed memory for later, which makes steps faster, or gives it back at once (glibc).

    What is kept hides what each part of a step holds.
    """
    threshold = _MALLOC_THRESHOLD if kept else _MALLOC_DEFAULT
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, threshold)
        libc.mallopt(_M_TRIM_THRESHOLD, threshold)


def give_memory_back() -> None:
    """Give what was freed and kept back to the system, where it can (glibc).

    What probes have freed would otherwise count as there before a run, and be used by it again.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """A request to end (SIGTERM, a closed terminal) ends the block as Ctrl-C does: ranks, swap files and locks with it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what a signal does
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What the user has taken in hand (nohup ignores SIGHUP) stays.
    before = {
        number: signal.getsignal(number) for number in numbers if signal.getsignal(number) is signal.SIG_DFL
    }
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Have the system end this process when the one that started it is gone, where it can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


@contextlib.contextmanager
def quiet_libraries(chatty: bool = False) -> Iterator[list[str]]:
    """Keep stdout for results: what libraries print there, also from C++, goes to stderr, and only where ``chatty``.

    Yields:
        Texts of warnings that llm-perf's own code gave; others are dropped.
    """
    own: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_stdout_elsewhere(None if chatty else os.devnull))
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _collector(own)
        if not chatty:
            for name in ("DeepSpeed", "transformers", "torch", "huggingface_hub"):
                stack.enter_context(_level(name, logging.ERROR))
        yield own


def _collector(own: list[str]) -> Any:
    def show(message: Any, category: Any, filename: str, *_rest: Any) -> None:
        del category
        text = str(message)
        if f"{os.sep}calibrate{os.sep}" in filename and text not in own:
            own.append(text)

    return show


@contextlib.contextmanager
def _level(name: str, level: int) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _stdout_elsewhere(target: str | None) -> Iterator[None]:
    """Point file descriptor 1 at a file, or at stderr where ``target`` is None."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # stdout is closed
        yield
        return
    other = os.dup(2) if target is None else os.open(target, os.O_WRONLY)
    try:
        os.dup2(other, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(other)
