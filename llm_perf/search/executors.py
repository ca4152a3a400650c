"""Where the chunks of a sweep are evaluated: in this process, in several of this machine, or on a Dask cluster.

Each executor takes chunk numbers and gives ``(number, columns)`` as they are done, each number once. A chunk depends on
its number alone, so that one whose worker died is simply evaluated again elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from typing import Any, Final, TypeAlias

from llm_perf.errors import EnvironmentFailure, MissingExtraError, SpecError
from llm_perf.search.sweep import Array, Coded, Sweep

Result: TypeAlias = "tuple[int, dict[str, Array | Coded]]"
Executor: TypeAlias = Callable[[Sweep, Iterable[int]], Iterator[Result]]

IN_FLIGHT_PER_WORKER: Final = 3
"""Chunks that are handed out ahead of each worker: it never waits, and results that nobody took yet stay few."""

CONNECT_S: Final = 10
"""Seconds that a scheduler has to answer."""

RETRIES: Final = 3
"""Times that a chunk is evaluated again after its worker died."""


def get_executor(name: str) -> Executor:
    """The executor of ``--executor``: local, processes, processes:N or dask://HOST:PORT.

    Raises:
        SpecError: another name, or a bad number of processes.
        MissingExtraError: dask is not installed.
    """
    if not isinstance(name, str):
        raise SpecError(f"the executor must be text, got {name!r}")
    kind, _, rest = name.partition(":")
    if name == "local":
        return local
    if kind == "processes":
        count = _processes(name, rest)
        return lambda sweep, chunks: processes(sweep, chunks, count)
    if kind == "dask" and rest.startswith("//") and len(rest) > len("//"):
        _require_dask()
        return lambda sweep, chunks: dask(sweep, chunks, f"tcp:{rest}")
    raise SpecError(f"--executor {name!r}: expected local, processes, processes:N or dask://HOST:PORT")


def _processes(name: str, count: str) -> int:
    if not count and ":" not in name:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not count.isdigit() or not 1 <= int(count) <= 1024:
        raise SpecError(f"--executor {name!r}: the number of processes must be from 1 to 1024")
    return int(count)


def local(sweep: Sweep, chunks: Iterable[int]) -> Iterator[Result]:
    """In this process, one after the other."""
    for chunk in chunks:
        yield chunk, sweep.evaluate(chunk)


def processes(sweep: Sweep, chunks: Iterable[int], count: int) -> Iterator[Result]:
    """In ``count`` processes of this machine. Where one is killed, its chunks are evaluated again.

    Raises:
        EnvironmentFailure: processes were killed again and again, for memory above all, or cannot start.
    """
    from concurrent.futures.process import BrokenProcessPool

    waiting = iter(chunks)
    for _ in range(1 + RETRIES):
        handed_out: set[int] = set()
        try:
            yield from _in_pool(sweep, waiting, count, handed_out)
        except BrokenProcessPool:
            waiting = chain(sorted(handed_out), waiting)
        else:
            return
    raise EnvironmentFailure(
        f"worker processes of the sweep were killed {1 + RETRIES} times, as for memory, or cannot start, as from a script "
        'without if __name__ == "__main__"; with --out, what is finished is kept'
    )


def _in_pool(sweep: Sweep, waiting: Iterator[int], count: int, handed_out: set[int]) -> Iterator[Result]:
    """Results of one pool of processes. ``handed_out`` has the chunks whose result is not given yet, also at a failure."""
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    context = get_context("forkserver" if os.name == "posix" else "spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start, initargs=(sweep,)) as pool:

        def submit(chunks: int) -> set[Future[Result]]:
            submitted = set()
            for chunk in islice(waiting, chunks):
                handed_out.add(chunk)
                submitted.add(pool.submit(_evaluate, chunk))
            return submitted

        try:
            running = submit(count * IN_FLIGHT_PER_WORKER)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    chunk, columns = future.result()
                    running |= submit(1)  # which may fail: the chunk counts as given only after it
                    handed_out.remove(chunk)
                    yield chunk, columns
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_SWEEP: Sweep | None = None


def _start(sweep: Sweep) -> None:
    """In a worker: remember the sweep, leave interrupts to the process that has the files open, and end with it."""
    import signal
    import threading

    global _SWEEP
    _SWEEP = sweep
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for chunks for ever."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _evaluate(chunk: int) -> Result:
    assert _SWEEP is not None
    return chunk, _SWEEP.evaluate(chunk)


def dask(sweep: Sweep, chunks: Iterable[int], address: str) -> Iterator[Result]:
    """On the workers of a Dask cluster, which must have this version of llm-perf installed.

    Workers may go and come while it runs: neither the sweep nor a chunk is at one of them only.

    Raises:
        EnvironmentFailure: no scheduler answers, or it is lost; there are no workers, or a chunk failed on several of them.
    """
    from distributed import Client

    with _quiet(), closing(_client(Client, address)) as client:
        try:
            yield from _to_the_last(client, sweep, chunks, address)
        except EnvironmentFailure:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a lost scheduler makes of questions and results
            said = " ".join(str(error).split())
            raise EnvironmentFailure(
                f"the Dask cluster at {address} is lost ({said}); with --out, what is finished is kept"
            ) from None


def _to_the_last(client: Any, sweep: Sweep, chunks: Iterable[int], address: str) -> Iterator[Result]:
    """Results of all chunks: what the cluster says is all may lack one that was at a worker that was killed."""
    waiting: Iterable[int] = chunks
    for _ in range(1 + RETRIES):
        handed_out: set[int] = set()
        for chunk, columns in _on_cluster(client, sweep, waiting, handed_out):
            handed_out.discard(chunk)
            yield chunk, columns
        if not handed_out:
            return
        waiting = sorted(handed_out)
    raise EnvironmentFailure(
        f"the Dask cluster at {address} lost chunks {1 + RETRIES} times; with --out, what is finished is kept"
    )


def _on_cluster(client: Any, sweep: Sweep, chunks: Iterable[int], handed_out: set[int]) -> Iterator[Result]:
    """Results as they come; ``handed_out`` takes the chunks that the cluster was asked for."""
    from distributed import as_completed

    from llm_perf import __version__

    _check_workers(client)
    workers = sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    # A task and no scattered data: whoever loses it makes it again, scattered data are gone with their last worker.
    shared = client.submit(_itself, sweep, pure=False, retries=RETRIES)
    waiting = iter(chunks)

    def submit(chunk: int) -> Any:
        handed_out.add(chunk)
        return client.submit(_evaluate_with, shared, chunk, __version__, pure=False, retries=RETRIES)

    first = [submit(chunk) for chunk in islice(waiting, workers * IN_FLIGHT_PER_WORKER)]
    running = as_completed(first, loop=client.loop)
    for future in running:
        # A finished chunk may be lost again with its worker until it is fetched: result() waits for the next try.
        if future.status == "error":
            raise EnvironmentFailure(f"a chunk of the sweep failed on the cluster: {future.exception()}")
        result = future.result()
        future.release()
        for chunk in islice(waiting, 1):
            running.add(submit(chunk))
        yield result


def _itself(sweep: Sweep) -> Sweep:
    return sweep


def _evaluate_with(sweep: Sweep, chunk: int, version: str) -> Result:
    """On a worker, which may have come after all were asked for their version."""
    if _version() != version:
        raise EnvironmentFailure(f"a worker has llm-perf {_version()}, and the sweep's is {version}")
    return chunk, sweep.evaluate(chunk)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracebacks that a cluster's client logs of connections that it loses: a sweep says what that means."""
    import logging
    import warnings

    # distributed gives some of its loggers a level of their own.
    loggers = [
        logging.getLogger(name)
        for name in ("asyncio", *logging.root.manager.loggerDict)
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _client(client: Any, address: str) -> Any:
    try:
        return client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise EnvironmentFailure(f"no Dask scheduler answers at {address}: {error}") from None


def _check_workers(client: Any) -> None:
    """Workers with another version would give other numbers.

    Raises:
        EnvironmentFailure: there are none, or their llm-perf is missing or another one.
    """
    from llm_perf import __version__

    # One that ends while it is asked is none: its chunks go elsewhere, and another that comes is asked with each chunk.
    answers = client.run(_version, on_error="return")
    found = {worker: said for worker, said in answers.items() if not isinstance(said, OSError | TimeoutError)}
    if not found:
        raise EnvironmentFailure("the Dask cluster has no workers")
    for worker, version in found.items():
        if isinstance(version, Exception):
            raise EnvironmentFailure(f"worker {worker} cannot say which llm-perf it has: {version}")
        if version != __version__:
            raise EnvironmentFailure(f"worker {worker} has llm-perf {version}, and here is {__version__}")


def _version() -> str:
    from llm_perf import __version__

    return __version__


def _require_dask() -> None:
    try:
        import distributed  # noqa: F401 - is it there?
    except ImportError:
        raise MissingExtraError("distributed", "a sweep on a Dask cluster") from None
