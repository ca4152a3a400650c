"""Kill a Dask cluster under a sweep at random times, and see that the sweep ends in the same bytes: `make kills`.

``--times`` times a worker is killed: the sweep goes on without it. As often the scheduler: the sweep ends with one line and
4, or was done, and the same command on a new scheduler goes on where it was. Each ends in the file of a sweep that nobody
disturbed, and leaves nothing beside it. Exits with 1 where one does not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[1]

_SWEEP: Final = (
    "sweep", "--model", "opt-1.3b,llama-3.1-8b", "--gpu", "t4,l4", "--batch-size", "1:20", "--prompt-len", "1:30",
    "--gen-len", "1:12", "--json",
)  # fmt: skip
_POINTS: Final = 2 * 2 * 20 * 30 * 12
_CHUNKS: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from llm_perf.search import sweep
sweep.CHUNK_POINTS = int(sys.argv[2])
from llm_perf.cli.main import main
main(sys.argv[3:])
"""
_LONGEST_S: Final = 900.0
_WORKERS: Final = 2


class Failure(Exception):  # noqa: N818 - what was looked for
    """A sweep that did not end as it should."""


class Cluster:
    """A scheduler and its workers, each a process of its own that nobody starts again."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        host, _, port = self.address.partition(":")
        self.scheduler = self._process("scheduler", "--host", host, "--port", port, "--no-show")
        self.workers = [self._worker() for _ in range(_WORKERS)]

    def _worker(self) -> subprocess.Popen[bytes]:
        wait = ("--death-timeout", "60", "--no-nanny", "--nthreads", "1")
        return self._process("worker", f"tcp://{self.address}", *wait)

    def _process(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + kind, *words, "--no-dashboard"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill_worker(self, draw: random.Random) -> None:
        """One is killed, and another comes, as an operator's scheduler does it."""
        number = draw.randrange(_WORKERS)
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = self._worker()

    def end(self) -> None:
        """End all that is left."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster that answers, until the end of the block."""
    from distributed import Client

    made = Cluster()
    try:
        with Client(f"tcp://{made.address}", timeout=60, set_as_default=False) as client:
            client.wait_for_workers(_WORKERS, timeout=60)
        yield made
    finally:
        made.end()


def sweep(out: Path, executor: str, chunk: int) -> subprocess.Popen[str]:
    """The command, started."""
    words = [
        sys.executable,
        "-c",
        _CHUNKS,
        str(ROOT),
        str(chunk),
        *_SWEEP,
        "--out",
        str(out),
        "--executor",
        executor,
    ]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str], *codes: int) -> int:
    """Its exit code, one of those.

    Raises:
        Failure: another, no end, or more than lines of progress and one that says why.
    """
    try:
        _, err = process.communicate(timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise Failure(f"no end within {_LONGEST_S:.0f} s") from None
    if process.returncode not in codes or "Traceback" in err or err.count("llm-perf: ") > 1:
        raise Failure(f"exit {process.returncode}: {err[:3000]} ... {err[-600:]}")
    return process.returncode


def same(out: Path, whole: Path) -> None:
    """Whether a file has the same bytes as the other, and nothing is left beside them.

    Raises:
        Failure: it has not, or something is.
    """
    left = sorted(path.name for path in out.parent.iterdir() if path not in (out, whole))
    if not out.exists() or out.read_bytes() != whole.read_bytes() or left:
        raise Failure(f"other bytes, or beside it: {left}")
    out.unlink()


def random_moment(draw: random.Random, process: subprocess.Popen[str], out: Path, parts: int) -> str:
    """Wait for a moment of a sweep, by how much of it is done: its seconds are others each time on a busy machine.

    One moment in ten is before anything is done, while the sweep starts.
    """
    wanted = max(draw.randrange(-parts // 10, parts), 0)
    done = 0
    end = time.monotonic() + _LONGEST_S
    while process.poll() is None and time.monotonic() < end:
        done = _parts(out)
        if done >= wanted:
            break
        time.sleep(0.005)
    time.sleep(draw.uniform(0, 0.02 if wanted else 1.0))
    return f"{done} of {parts} parts{' and all was done' if process.poll() is not None else ''}"


def _parts(out: Path) -> int:
    return len(list(out.parent.glob(f"{out.name}.partial/chunk-*.arrow")))


def worker_killed(draw: random.Random, running: Cluster, folder: Path, chunk: int, parts: int) -> str:
    """One worker is killed at a random moment: 0 in the end."""
    process = sweep(folder / "cut.parquet", f"dask://{running.address}", chunk)
    moment = random_moment(draw, process, folder / "cut.parquet", parts)
    running.kill_worker(draw)
    ended(process, 0)
    same(folder / "cut.parquet", folder / "whole.parquet")
    return f"after {moment}"


def scheduler_killed(draw: random.Random, folder: Path, chunk: int, parts: int) -> str:
    """The scheduler is killed at a random moment: one line, and the next one goes on."""
    out = folder / "cut.parquet"
    with cluster() as running:
        process = sweep(out, f"dask://{running.address}", chunk)
        moment = random_moment(draw, process, out, parts)
        running.scheduler.kill()
        start = time.monotonic()
        code = ended(process, 0, 4)
        said = time.monotonic() - start
    kept = _parts(out)
    if code:
        with cluster() as running:
            ended(sweep(out, f"dask://{running.address}", chunk), 0)
    same(out, folder / "whole.parquet")
    return f"after {moment}: exit {code} {said:.1f} s later, {kept} parts were kept"


def main() -> int:
    """Kill, compare, print; 1 where anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="worker,scheduler")
    parser.add_argument("--chunk-points", type=int, default=500)
    given = parser.parse_args()
    draw, failed = random.Random(given.seed), 0
    folder = Path(tempfile.mkdtemp(prefix="kills-"))

    def tried(name: str, number: int, trial: object, *arguments: object) -> None:
        nonlocal failed
        try:
            said = trial(draw, *arguments)  # type: ignore[operator]
        except Failure as failure:
            failed, said = failed + 1, f"FAILED: {failure}"
            shutil.rmtree(folder / "cut.parquet.partial", ignore_errors=True)
            (folder / "cut.parquet").unlink(missing_ok=True)
        print(f"{name} {number}: {said}", flush=True)

    try:
        parts = -(-_POINTS // given.chunk_points)
        kinds = given.only.split(",")
        with cluster() as running:
            ended(sweep(folder / "whole.parquet", f"dask://{running.address}", given.chunk_points), 0)
            for number in range(given.times if "worker" in kinds else 0):
                tried("worker", number, worker_killed, running, folder, given.chunk_points, parts)
        for number in range(given.times if "scheduler" in kinds else 0):
            tried("scheduler", number, scheduler_killed, folder, given.chunk_points, parts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"killed {len(kinds) * given.times} times, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
