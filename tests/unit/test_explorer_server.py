"""The explorer's server by itself: every client gets its answer whole, and what nobody waits for is not computed."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llm_perf.errors import SpecError
from llm_perf.explore import connection, desk
from llm_perf.explore.server import bound_socket, build_app

SHORT_S = 0.3
Answer = Callable[[Sequence[tuple[str, str]]], Mapping[str, Any]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REQUEST_S", SHORT_S)
    monkeypatch.setattr(connection, "READ_S", SHORT_S)


@contextlib.contextmanager
def served(answer: Answer, page: str = "a page") -> Iterator[int]:
    import uvicorn

    with bound_socket(0) as on:
        config = uvicorn.Config(
            build_app(page, answer),
            http=connection.patient_connection(),
            log_level="error",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [on]}, daemon=True)
        thread.start()
        port = on.getsockname()[1]
        assert get(port, "/")[0] == 200
        yield port
        server.should_exit = True
        thread.join(10)


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        client.request("GET", path, headers=headers)
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def raw(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(sent)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


def slow(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
    time.sleep(2 * SHORT_S)
    return {"asked": dict(parameters)}


@pytest.mark.parametrize(
    "head", ["GET {} HTTP/1.0\r\n", "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"]
)
def test_who_will_ask_no_more_gets_a_slow_answer(head: str) -> None:
    """A request that is its connection's last is whole too: the deadline for sending it ends with it."""
    with served(slow) as port:
        answer = raw(
            port, (head.format("/api/view?n=1") + "Host: 127.0.0.1\r\n" * ("1.0" in head) + "\r\n").encode()
        )
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b'{"asked": {"n": "1"}}')


def test_500_at_once_with_close() -> None:
    def quick(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        time.sleep(0.002)
        return dict(parameters)

    with served(quick) as port, ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda n: get(port, f"/api/view?n={n}", Connection="close"), range(500)))
    assert [json.loads(body) for _, body in answers] == [{"n": str(n)} for n in range(500)]


def test_what_nobody_waits_for_is_not_computed() -> None:
    begun: list[str] = []

    def answer(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        begun.append(dict(parameters)["n"])
        time.sleep(0.2)
        return {}

    with served(answer) as port:
        clients = []
        for n in range(60):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(f"GET /api/view?n={n} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            clients.append(client)
        time.sleep(0.1)
        for client in clients:
            client.close()
        start = time.perf_counter()
        assert get(port, "/api/view?n=last")[0] == 200
        took = time.perf_counter() - start
    assert begun[-1] == "last"
    assert len(begun) <= 1 + 2 * desk._WORKERS
    assert took < 60 * 0.05


def test_two_who_ask_the_same_share_one_prediction_and_one_may_leave() -> None:
    begun: list[str] = []

    def answer(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        begun.append(dict(parameters)["n"])
        time.sleep(0.5)
        return {"n": 7}

    with served(answer) as port, ThreadPoolExecutor(2) as pool:
        staying = pool.submit(get, port, "/api/view?n=7")
        time.sleep(0.1)
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(b"GET /api/view?n=7 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            time.sleep(0.1)
        assert staying.result() == (200, b'{"n": 7}')
        assert get(port, "/api/view?n=7") == (200, b'{"n": 7}')
    assert begun == ["7"]


def test_too_many_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_MOST_WAITING", 3)
    with served(slow) as port, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: get(port, f"/api/view?n={n}")[0], range(12)))
        assert set(answers) == {200, 503}
        assert get(port, "/api/view?n=again")[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://elsewhere.example", "null", "https://127.0.0.1:{}", "http://127.0.0.1:1"]
)
def test_a_page_from_elsewhere_gets_nothing(origin: str) -> None:
    with served(lambda _: {"secret": 1}) as port:
        for path in ("/", "/api/view"):
            status, body = get(port, path, Origin=origin.format(port))
            assert status == 403
            assert b"secret" not in body
        assert get(port, "/api/view", Origin=f"http://127.0.0.1:{port}") == (200, b'{"secret": 1}')


def test_what_is_too_long_is_told_so() -> None:
    with served(lambda _: {}) as port:
        long = b"x" * (connection._TOO_LONG + 10)
        assert raw(port, b"GET /?" + long).startswith(b"HTTP/1.1 414")
        assert raw(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + long).startswith(b"HTTP/1.1 431")
        assert raw(port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")


def reader(port: int, path: str, *heads: str) -> socket.socket:
    """A client that asks and holds little of what it does not read: its window is small from its first packet on."""
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall("\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *heads, "", ""]).encode())
    return client


def read_to_the_end(client: socket.socket, pause_s: float = 0.0) -> tuple[int, bool]:
    """Bytes that still come, and whether the connection was reset: a close would look like the end of an answer."""
    client.settimeout(10)
    read = 0
    try:
        while part := client.recv(1 << 12 if pause_s else 1 << 16):
            read += len(part)
            time.sleep(pause_s)
    except ConnectionResetError:
        return read, True
    return read, False


def test_who_does_not_read_is_dropped_and_costs_little() -> None:
    import resource

    page = "x" * 6_000_000
    with served(lambda _: {"text": "y" * 2_000_000}, page) as port:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        asked = [("/", ()), ("/api/view", ()), ("/", ("Connection: close",))]
        clients = [reader(port, path, *heads) for path, heads in asked * 20]
        time.sleep(4 * SHORT_S)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 60_000  # KiB; whole bodies for each would be 240,000
        for client in clients:
            read, reset = read_to_the_end(client)
            assert reset
            assert read < 1_000_000
            client.close()
        assert len(get(port, "/")[1]) == len(page)  # and who reads gets all of it


def test_the_end_of_an_answer_that_nobody_reads_is_dropped_too() -> None:
    """The last piece is written, nothing is paused any more: the connection would stay until its client leaves."""
    size = (
        connection.SEND_BUFFER * 2 + 60_000
    )  # fits into what the server hands over, not into what the system takes
    with served(lambda _: {}, "x" * size) as port:
        clients = [reader(port, "/", *heads) for heads in ((), ("Connection: close",))]
        time.sleep(3 * SHORT_S)
        for client in clients:
            read, reset = read_to_the_end(client)
            assert reset
            assert read < size
            client.close()


def test_who_reads_a_little_at_a_time_is_dropped_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is short enough, all of them together are not."""
    monkeypatch.setattr(connection, "ANSWER_S", 2 * SHORT_S)
    with served(lambda _: {}, "x" * 6_000_000) as port, reader(port, "/") as client:
        start = time.monotonic()
        read, reset = read_to_the_end(client, pause_s=0.01)
        assert reset
        assert read < 6_000_000
        assert time.monotonic() < start + 10


def test_what_is_wrong_and_what_is_a_defect() -> None:
    def answer(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        if parameters:
            raise SpecError("n must be 1\n  or 2")
        raise RuntimeError("oops")

    with served(answer) as port:
        assert get(port, "/api/view?n=3") == (400, b'{"error": "n must be 1 or 2"}')
        status, body = get(port, "/api/view")
        assert status == 500
        assert "oops" in json.loads(body)["error"]


def test_a_short_soak_leaves_nobody_without_an_answer() -> None:
    """`make soak` asks the real thing so, 20,000 times."""
    import asyncio
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location("soak", Path(__file__).parents[2] / "bench" / "soak.py")
    assert spec is not None
    assert spec.loader is not None
    soak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(soak)

    def answer(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        if len(parameters) < 5:
            raise SpecError("refused")
        return dict(parameters)

    with served(answer) as port:
        statuses = asyncio.run(soak.kept_alive(port, 20, 300, 1, lambda _: None))
        waits = asyncio.run(soak.at_once(port, [f"/api/view?n={n}" for n in range(100)]))
    assert statuses.total() == 300
    assert set(statuses) == {200, 400, 404}
    assert len(waits) == 100
