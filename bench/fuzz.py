"""Ask llm-perf what nobody would, for an hour: `make fuzz`, or `make fuzz MINUTES=5 SEED=7 ONLY=cli,files`.

The hour is one of the processor, of all processes together: on a machine that others use it takes longer, and is as much.

Every case comes from a number, so that it can be asked again: a case that fails is printed with it, kept in
``fuzz_failures.jsonl``, and belongs into a test. A failure is a traceback, an internal error, a refusal of more than one
line, a NaN, an answer that takes longer than half a minute of the processor, a connection without an answer, or a sweep
that was killed and does not end in the same bytes. Cases stand in ``fuzz_cases.py``, those that hold answers against the
data sheets in ``fuzz_bounds.py``; what starts processes, a server and sweeps, is here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from fuzz_bounds import fuzz_roof  # noqa: E402
from fuzz_cases import LONGEST_S, Failure, check, fuzz_api, fuzz_cli, fuzz_files  # noqa: E402
from fuzz_words import SIZES, WORDS, host_name, system_name  # noqa: E402

from llm_perf.config.loading import known_names  # noqa: E402

__all__ = ["TARGETS", "Failure", "check", "main"]

_TELL_S: Final = 300.0
"""Seconds of the processor after which a run says how far it is."""


_HANGS_UP: Final = 0.998
"""Share of those who send half a request that say so: the others wait for 5 s, in which no processor works."""


# -- the server -------------------------------------------------------------------------------------------------

_MAIN: Final = "import sys; from llm_perf.cli.main import main; main(sys.argv[1:])"
_SERVER: list[tuple[subprocess.Popen[str], int]] = []


def _port() -> int:
    if not _SERVER or _SERVER[0][0].poll() is not None:
        if _SERVER:
            raise Failure("the server has ended")
        process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, "serve", "--port", "0"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        _SERVER.append((process, int(process.stderr.readline().rpartition(":")[2].partition("/")[0])))
    return _SERVER[0][1]


def fuzz_serve(draw: random.Random, folder: Path) -> None:  # noqa: ARG001
    """One connection: a question, nonsense, or somebody who leaves."""
    from urllib.parse import urlencode

    names = ("model", "gpu", "batch_size", "gen_len", "system", "x", "host")
    values = (*WORDS[:-1], "opt-1.3b", "t4", *map(str, SIZES), "../x")
    query = urlencode({draw.choice(names): draw.choice(values) for _ in range(draw.randrange(5))})
    head = "HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    usual = urlencode(
        {
            "model": draw.choice(known_names("model")),
            "gpu": draw.choice(known_names("GPU")),
            **{
                name: draw.choice(SIZES[1:12])
                for name in ("batch_size", "prompt_len", "gen_len")
                if draw.random() < 0.5
            },
            **({"system": system_name(draw)} if draw.random() < 0.5 else {}),
            **({"host": host_name(draw)} if draw.random() < 0.2 else {}),
        }
    )
    asked_for = f"GET /api/view?{usual}&{query} {head}".encode()
    kind = draw.randrange(4)
    if kind == 1:
        asked_for = draw.randbytes(draw.randrange(200)) + b"\r\n\r\n"
    elif kind == 2:
        asked_for = asked_for[: draw.randrange(len(asked_for))]
    with socket.create_connection(("127.0.0.1", _port()), timeout=4 * LONGEST_S) as client:
        client.sendall(asked_for)
        if kind == 3:
            return
        if kind == 2 and draw.random() < _HANGS_UP:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while kind == 0 and (part := client.recv(65536)):
                answer += part
            answer = answer or client.recv(65536)
        except TimeoutError:
            raise Failure(f"no answer\n  {asked_for!r}") from None
        except ConnectionResetError:
            answer = b""
    if kind == 0 and not answer.startswith(b"HTTP/1.1 "):
        raise Failure(f"an empty answer\n  {asked_for!r}")
    if b" 500 " in answer[:20] or b"internal error" in answer:
        raise Failure(f"{answer[:500]!r}\n  {asked_for!r}")


# -- sweeps that are killed -----------------------------------------------------------------------------------

_SWEEP: Final = (
    "sweep", "--model", "opt-1.3b,llama-3.1-8b", "--gpu", "t4,l4", "--batch-size", "1:30", "--prompt-len", "1:30",
    "--gen-len", "1:12", "--json",
)  # fmt: skip
_CHUNKS: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from llm_perf.search import sweep
sweep.CHUNK_POINTS = 500
from llm_perf.cli.main import main
main(sys.argv[2:])
"""


def fuzz_sweep(draw: random.Random, folder: Path) -> None:
    """A sweep that is killed up to four times ends in the bytes of one that was not."""
    command = [sys.executable, "-c", _CHUNKS, str(ROOT), *_SWEEP, "--out"]
    whole, cut = folder / "whole.parquet", folder / "cut.parquet"
    subprocess.run([*command, str(whole)], capture_output=True, check=True)
    for _ in range(draw.randrange(1, 5)):
        process = subprocess.Popen([*command, str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.2, 3.0))
        process.send_signal(draw.choice((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)))
        process.wait()
    done = subprocess.run([*command, str(cut)], capture_output=True, text=True, check=False)
    if done.returncode or whole.read_bytes() != cut.read_bytes() or len(list(folder.iterdir())) != 2:
        raise Failure(
            f"exit {done.returncode}, {sorted(one.name for one in folder.iterdir())}: {done.stderr[-300:]}"
        )


# -- all of it --------------------------------------------------------------------------------------------------

TARGETS: Final[dict[str, tuple[Callable[[random.Random, Path], None], float]]] = {
    "cli": (fuzz_cli, 0.45),
    "files": (fuzz_files, 0.2),
    "api": (fuzz_api, 0.1),
    "roof": (fuzz_roof, 0.1),
    "serve": (fuzz_serve, 0.1),
    "sweep": (fuzz_sweep, 0.05),
}
"""Each with its share of the processor's time; what starts a process for each case spends most of it on imports."""


def processor_s() -> float:
    """Seconds of the processor until now: this process, those that have ended, and the server."""
    own = os.times()
    spent = own.user + own.system + own.children_user + own.children_system
    for process, _ in _SERVER:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def cases(
    spent: dict[str, float], seed: int, minutes: float, *, until: float = float("inf")
) -> Iterator[tuple[str, int]]:
    """Target and seed of each case, until so many minutes of the processor are ``spent``: each target gets its share."""
    while sum(spent.values()) < 60 * minutes and time.monotonic() < until:
        target = min(spent, key=lambda name: spent[name] / TARGETS[name][1])
        start = processor_s()
        yield target, seed
        spent[target] += processor_s() - start
        seed += 1


def course(first: int, counts: dict[str, int], spent: dict[str, float], failed: int) -> str:
    """How many cases of each target, and what they took of the processor."""
    each = ", ".join(f"{name} {count:,} ({spent[name]:,.0f} s)" for name, count in counts.items())
    whole = f"{sum(counts.values()):,} cases, {sum(spent.values()):,.0f} s of the processor"
    return f"from seed {first}: {whole}: {each}; {failed} failed"


def main() -> int:
    """Run until the time is over; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of the processor")
    parser.add_argument(
        "--wall-minutes", type=float, default=float("inf"), help="minutes after which it ends"
    )
    parser.add_argument("--seed", type=int, default=None, help="first case; one that failed, to see it again")
    parser.add_argument("--only", default=",".join(TARGETS), help="targets, separated by commas")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what a library says of its inputs
    os.environ["HF_HUB_OFFLINE"] = "1"
    first = given.seed if given.seed is not None else int(time.time()) % 10**9
    counts = dict.fromkeys(given.only.split(","), 0)
    spent = dict.fromkeys(counts, 0.0)
    failed, told = 0, 0.0
    until = time.monotonic() + 60 * given.wall_minutes
    for target, seed in cases(spent, first, given.minutes, until=until):
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        os.chdir(folder)  # what a flag writes goes there
        try:
            TARGETS[target][0](random.Random(f"{target} {seed}"), folder)
        except Exception as error:  # noqa: BLE001 - whatever comes out of a case is what was looked for
            failure = error if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
            failed += 1
            print(f"{target} {seed}: {failure}", flush=True)
            with (ROOT / "fuzz_failures.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"target": target, "seed": seed, "failure": str(failure)}) + "\n")
        finally:
            os.chdir(ROOT)
            shutil.rmtree(folder, ignore_errors=True)
        counts[target] += 1
        if sum(spent.values()) > told + _TELL_S:
            told = sum(spent.values())
            print(course(first, counts, spent, failed), file=sys.stderr, flush=True)
    for process, _ in _SERVER:
        process.terminate()
    print(course(first, counts, spent, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
