"""Ask a server of the page a great deal, and see that it neither grows nor leaves anybody without an answer: `make soak`.

Three parts, each printed with what it has to reach; 1 where one is missed.
1. ``--requests`` varied questions by ``--clients`` clients that stay connected: each gets an answer, and memory at the end
   is within 10 % of what it was after the first tenth.
2. As many clients at once, each with ``Connection: close``: no answer is empty, and the 99th percentile of the waits is at
   most twice what so many answers take one after the other.
3. As many that ask and leave at once: each costs the next asker under 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from llm_perf.config.loading import known_names  # noqa: E402

_MAIN: Final = "import sys; from llm_perf.cli.main import main; main(sys.argv[1:])"
_LONGEST_S: Final = 1800.0
_GROWTH: Final = 1.10
_QUEUE: Final = 2.0
_ABANDONED_S: Final = 0.05


class Unanswered(Exception):  # noqa: N818 - what was looked for
    """A client got nothing, or something else than an answer."""


def question(draw: random.Random) -> str:
    """The path of a question that nearly nobody asked before."""
    asked = {
        "model": draw.choice(known_names("model")),
        "gpu": draw.choice(known_names("GPU")),
        "batch_size": draw.randrange(1, 257),
        "prompt_len": draw.randrange(1, 1500),
        "gen_len": draw.randrange(1, 500),
    }
    return "/api/view?" + urlencode(asked)


def request(draw: random.Random) -> str:
    """What a page asks for: in ten, two new questions, three that others ask too, two that are refused, three files."""
    kind = draw.randrange(10)
    if kind < 2:
        return question(draw)
    if kind < 5:
        return question(random.Random(draw.randrange(50)))
    if kind < 7:
        wrong = {
            draw.choice(("model", "gpu", "batch_size", "x")): draw.choice(
                ("no-such", "-1", "", "opt", "v100")
            )
        }
        return "/api/view?" + urlencode({"model": "opt-1.3b", "gpu": "t4", **wrong})
    return draw.choice(("/", "/explorer.css", "/explorer.js", "/plotly.js", "/nowhere"))


async def answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, *, close: bool = False
) -> int:
    """The status of an answer that is there to its last byte.

    Raises:
        Unanswered: it is not.
    """
    closing = "Connection: close\r\n" if close else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{closing}\r\n".encode())
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _LONGEST_S)
        fields = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
        body = await asyncio.wait_for(reader.readexactly(int(fields["content-length"])), _LONGEST_S)
    except (OSError, EOFError, TimeoutError, asyncio.TimeoutError) as error:
        raise Unanswered(f"{type(error).__name__}: {path}") from None
    status = int(head.split()[1])
    wanted = (404,) if path == "/nowhere" else (200, 400) if path.startswith("/api/") else (200,)
    if status not in wanted or (path.startswith("/api/") and not isinstance(json.loads(body), dict)):
        raise Unanswered(f"{status} {body[:200]!r}: {path}")
    return status


async def kept_alive(port: int, clients: int, requests: int, seed: int, at: Any) -> Counter[int]:
    """Statuses of that many questions; ``at`` is called with the count of those that are answered."""
    statuses: Counter[int] = Counter()
    left = iter(range(requests))

    async def client(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            if (
                writer.is_closing() or reader.at_eof()
            ):  # it waited for longer than the server keeps a connection
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            statuses[await answer(reader, writer, request(draw))] += 1
            at(statuses.total())
        writer.close()

    await asyncio.gather(*map(client, range(clients)))
    return statuses


async def at_once(port: int, paths: list[str]) -> list[float]:
    """Seconds that each of as many clients waited."""

    async def client(path: str) -> float:
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await answer(reader, writer, path, close=True)
        if await reader.read():
            raise Unanswered(f"more than an answer: {path}")
        writer.close()
        return time.perf_counter() - start

    return list(await asyncio.gather(*map(client, paths)))


async def one_by_one(port: int, paths: list[str]) -> float:
    """Mean seconds of an answer by itself: so many times this is what so many take one after the other.

    Not the median: the longest of these questions take three times that, and waits are sums of all before.
    """
    alone = [(await at_once(port, [path]))[0] for path in paths]
    return sum(alone) / len(alone)


async def abandoned(port: int, paths: list[str], last: str) -> float:
    """Seconds that the next asker waits after so many asked and left."""
    left = [await asyncio.open_connection("127.0.0.1", port) for _ in paths]
    for (_, writer), path in zip(left, paths, strict=True):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        await writer.drain()
    await asyncio.sleep(0.05)
    for _, writer in left:
        writer.transport.abort()
    return (await at_once(port, [last]))[0]


def resident_bytes(process: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(port: int, process: int, clients: int, requests: int, seed: int) -> list[tuple[str, str, bool]]:
    """Each part's figure, what it has to reach, and whether it does."""
    memory: dict[int, int] = {}
    marks = {requests * tenth // 10 for tenth in range(1, 11)}

    def at(done: int) -> None:
        if done in marks:
            memory[done] = resident_bytes(process)

    start = time.perf_counter()
    statuses = asyncio.run(kept_alive(port, clients, requests, seed, at))
    seconds = time.perf_counter() - start
    grown = max(memory.values()) / memory[min(memory)]
    course = ", ".join(f"{size / 2**20:.0f}" for size in memory.values())
    found = [
        (
            f"{requests:,} requests by {clients} clients: {dict(statuses)}, {requests / seconds:.0f}/s",
            "all answered",
            statuses.total() == requests,
        ),
        (f"  memory {course} MiB: x {grown:.3f}", f"≤ x {_GROWTH:.2f}", grown <= _GROWTH),
    ]
    draw = random.Random(f"{seed} once")
    fresh = [question(draw) for _ in range(2 * clients + 31)]
    alone = asyncio.run(one_by_one(port, fresh[-30:]))
    waits = sorted(asyncio.run(at_once(port, fresh[:clients])))
    p99, bound = waits[int(0.99 * (clients - 1))], _QUEUE * clients * alone
    found.append(
        (f"{clients} at once with close: p50 {waits[clients // 2]:.2f} s, p99 {p99:.2f} s, alone {1e3 * alone:.0f} ms",
         f"≤ {bound:.1f} s, none empty", p99 <= bound)
    )  # fmt: skip
    took = asyncio.run(abandoned(port, fresh[clients : 2 * clients], fresh[-31]))
    cost = (took - alone) / clients
    found.append((f"{clients} asked and left: the next waits {took:.2f} s, {1e3 * cost:.1f} ms for each",
                  f"< {1e3 * _ABANDONED_S:.0f} ms", cost < _ABANDONED_S))  # fmt: skip
    return found


def main() -> int:
    """Serve, ask, print; 1 where something is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, "-c", _MAIN, "serve", "--port", "0"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        port = int(server.stderr.readline().rpartition(":")[2].partition("/")[0])
        found = soak(port, server.pid, given.clients, given.requests, given.seed)
    except Unanswered as error:
        print(f"unanswered: {error}")
        return 1
    finally:
        server.terminate()
        server.wait(120)
    for figure, target, met in found:
        print(f"{figure}\n    {target}: {'ok' if met else 'MISSED'}")
    return 0 if all(met for _, _, met in found) else 1


if __name__ == "__main__":
    sys.exit(main())
