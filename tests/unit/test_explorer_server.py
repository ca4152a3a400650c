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
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from llm_perf.errors import SpecError
from llm_perf.explore import connection, desk
from llm_perf.explore.server import bound_socket, build_app

SHORT_S = 0.3
NEVER_S = 600.0
Answer = Callable[[Sequence[tuple[str, str]]], Mapping[str, Any]]
SERVERS: dict[int, Any] = {}
"""uvicorn's server of a port."""
MET: dict[int, int] = {}
"""Connections that it has had."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, nobody loses a connection for it; who wants to see one lost sets the time himself."""
    for name in ("REQUEST_S", "READ_S", "ANSWER_S"):
        monkeypatch.setattr(connection, name, NEVER_S)


@contextlib.contextmanager
def served(answer: Answer, page: str = "a page", most: int = connection.MOST_CONNECTIONS) -> Iterator[int]:
    import uvicorn

    class Counted(connection.patient_connection(most)):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            MET[port] += 1
            super().connection_made(transport)

    with bound_socket(0) as on:
        port = on.getsockname()[1]
        MET[port] = 0
        config = uvicorn.Config(
            build_app(page, answer),
            http=Counted,
            log_level="error",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=int(NEVER_S),
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [on]}, daemon=True)
        thread.start()
        SERVERS[port] = server
        try:
            assert get(port, "/")[0] == 200
            yield port
        finally:
            server.should_exit = True
            thread.join(60)
            del SERVERS[port]


def until(come: Callable[[], object]) -> None:
    """Wait for what is certain to come, however long it takes here."""
    end = time.monotonic() + NEVER_S
    while not come():
        assert time.monotonic() < end
        time.sleep(0.01)


def connections(port: int) -> int:
    return len(SERVERS[port].server_state.connections)


def get(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=NEVER_S)
    try:
        client.request("GET", path, headers=headers)
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def raw(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=NEVER_S) as client:
        client.sendall(sent)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts)


class Gate:
    """An answer that waits until it is let through, and knows what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.open = threading.Event()

    def __call__(self, parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        self.begun.append(dict(parameters).get("n", ""))
        assert self.open.wait(NEVER_S)
        return {"asked": dict(parameters)}


@pytest.mark.parametrize(
    "head", ["GET {} HTTP/1.0\r\n", "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"]
)
def test_who_will_ask_no_more_gets_a_slow_answer(head: str) -> None:
    """A request that is its connection's last is whole too: the deadline for sending it ends with it."""
    gate = Gate()
    text = head.format("/api/view?n=1") + "Host: 127.0.0.1\r\n" * ("1.0" in head) + "\r\n"
    with served(gate) as port, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(raw, port, text.encode())
        until(lambda: gate.begun)
        (one,) = SERVERS[port].server_state.connections
        assert one._deadline is None
        gate.open.set()
        assert answer.result().startswith(b"HTTP/1.1 200")
        assert answer.result().endswith(b'{"asked": {"n": "1"}}')


class Stalled:
    """A loop whose clock only a test moves: what is due is done at once, as after a pause of the whole process."""

    def __init__(self) -> None:
        self.now, self.due = 0.0, list[tuple[float, Any, Callable[..., object], tuple[Any, ...]]]()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., object], *given: Any) -> Any:
        handle = SimpleNamespace(cancelled=False)
        handle.cancel = lambda: setattr(handle, "cancelled", True)
        self.due.append((self.now + delay, handle, call, given))
        return handle

    def create_task(self, coroutine: Any, **_: Any) -> Any:
        coroutine.close()
        return Mock()

    def pause(self, seconds: float) -> None:
        self.now += seconds
        due, self.due = (
            [one for one in self.due if one[0] <= self.now],
            [one for one in self.due if one[0] > self.now],
        )
        for _, handle, call, given in sorted(due, key=lambda one: one[0]):
            if not handle.cancelled:
                call(*given)


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stalled, Any, socket.socket, list[str]]]:
    """A clock, a connection on it, its client, and what was done to it."""
    import uvicorn
    from uvicorn.server import ServerState

    monkeypatch.setattr(connection, "REQUEST_S", 5.0)
    config = uvicorn.Config(build_app("a page", lambda _: {}), log_level="error")
    loop, done = Stalled(), list[str]()
    ours, client = socket.socketpair()
    transport = SimpleNamespace(
        get_extra_info=lambda name, _=None: ours if name == "socket" else None,
        close=lambda: done.append("close"),
        is_closing=lambda: bool(done),
        pause_reading=lambda: None,
        resume_reading=lambda: None,
    )
    one: Any = connection.patient_connection()(config, ServerState(), {}, _loop=loop)  # type: ignore[call-arg]
    one.connection_made(transport)
    with ours, client:
        yield loop, one, client, done


ASKED = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def test_who_sends_nothing_or_half_of_it_is_closed(met: Any) -> None:
    loop, one, _, done = met
    one.data_received(ASKED[:10])
    for _ in range(39):
        loop.pause(0.125)
        one.data_received(b"x")
    assert not done
    loop.pause(0.125)
    assert done == ["close"]


def test_a_request_that_came_in_time_is_answered_after_a_pause_of_the_server(met: Any) -> None:
    """The deadline is due before anybody could read: what has come decides, and it is whole."""
    loop, one, client, done = met
    for _ in range(connection._TICKS - 1):
        loop.pause(1.0)
    client.sendall(ASKED)
    loop.pause(60.0)
    assert not done
    one.data_received(ASKED)
    loop.pause(1000.0)
    assert not done


def test_half_a_request_that_waits_at_the_deadline_is_read_and_closed(met: Any) -> None:
    loop, one, client, done = met
    client.sendall(ASKED[:10])
    for _ in range(connection._TICKS):
        loop.pause(1.0)
    assert not done
    one.data_received(ASKED[:10])
    assert done == ["close"]


def test_a_pause_of_the_server_is_no_delay_of_its_client(met: Any) -> None:
    """Who stands still for a minute, client and server alike, goes on where both were."""
    loop, one, _, done = met
    loop.pause(60.0)
    loop.pause(3.0)
    assert not done
    one.data_received(ASKED)
    loop.pause(1000.0)
    assert not done


def test_500_at_once_with_close() -> None:
    def quick(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        time.sleep(0.002)
        return dict(parameters)

    with served(quick) as port, ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda n: get(port, f"/api/view?n={n}", Connection="close"), range(500)))
    assert [json.loads(body) for _, body in answers] == [{"n": str(n)} for n in range(500)]


def test_what_nobody_waits_for_is_not_computed() -> None:
    gate = Gate()
    with served(gate) as port:
        clients = []
        for n in range(60):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(f"GET /api/view?n={n} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            clients.append(client)
        until(lambda: len(gate.begun) == desk._WORKERS)
        for client in clients:
            client.close()
        until(lambda: not SERVERS[port].server_state.tasks)  # nobody is waited for any more
        gate.open.set()
        assert get(port, "/api/view?n=last")[0] == 200
    assert gate.begun[desk._WORKERS :] == ["last"]


def test_two_who_ask_the_same_share_one_prediction_and_one_may_leave() -> None:
    gate = Gate()
    asked = b"GET /api/view?n=7 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with served(gate) as port, ThreadPoolExecutor(2) as pool:
        staying = pool.submit(get, port, "/api/view?n=7")
        until(lambda: gate.begun)
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(asked)
            until(lambda: len(SERVERS[port].server_state.tasks) == 2)
        until(lambda: len(SERVERS[port].server_state.tasks) == 1)
        gate.open.set()
        assert staying.result() == (200, b'{"asked": {"n": "7"}}')
        assert get(port, "/api/view?n=7") == staying.result()
    assert gate.begun == ["7"]


def test_answers_are_kept_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight short ones, or one long one: what is kept for others does not grow with what is asked."""
    begun: list[str] = []

    def answer(parameters: Sequence[tuple[str, str]]) -> dict[str, Any]:
        begun.append(dict(parameters)["n"])
        return {"text": "x" * int(dict(parameters)["n"])}

    monkeypatch.setattr(desk, "_KEPT_BYTES", 900)
    with served(answer) as port:
        for size in range(80, 88):
            get(port, f"/api/view?n={size}")
        get(port, "/api/view?n=80")
        assert begun == [str(size) for size in range(80, 88)]
        get(port, "/api/view?n=800")  # takes the room of all of them
        get(port, "/api/view?n=800")
        get(port, "/api/view?n=80")
        get(port, "/api/view?n=2000")
        get(port, "/api/view?n=2000")  # more than is kept at all
    assert begun[8:] == ["800", "80", "2000", "2000"]


def test_too_many_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_MOST_WAITING", 3)
    gate = Gate()
    with served(gate) as port, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(get, port, f"/api/view?n={n}") for n in range(3)]
        until(lambda: len(SERVERS[port].server_state.tasks) == 3)
        until(lambda: len(gate.begun) == desk._WORKERS)
        assert [get(port, f"/api/view?n=late{n}")[0] for n in range(5)] == [503] * 5
        gate.open.set()
        assert [one.result()[0] for one in answers] == [200] * 3
        assert get(port, "/api/view?n=again")[0] == 200


def test_who_does_nothing_makes_room() -> None:
    """Connections without a request are dropped, the longest first, for those that have one."""
    with served(lambda parameters: dict(parameters), most=8) as port:
        until(lambda: connections(port) == 0)
        idle = [socket.create_connection(("127.0.0.1", port), timeout=NEVER_S) for _ in range(40)]
        until(lambda: connections(port) == 8)
        for one in idle[:32]:
            assert not dropped_bytes(one)
        assert get(port, "/api/view?n=1") == (200, b'{"n": "1"}')
        idle[-1].sendall(b"GET /api/view?n=2 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 200")
        for one in idle:
            one.close()


def dropped_bytes(client: socket.socket) -> bytes:
    """What comes from a connection that the server has ended."""
    try:
        return client.recv(100)
    except ConnectionResetError:
        return b""


def test_who_waits_for_an_answer_keeps_its_connection() -> None:
    gate = Gate()
    with served(gate, most=4) as port, ThreadPoolExecutor(4) as pool:
        until(lambda: connections(port) == 0)
        answers = [pool.submit(get, port, f"/api/view?n={n}") for n in range(4)]
        until(lambda: len(SERVERS[port].server_state.tasks) == 4)
        told = raw(port, b"")
        assert told.startswith(b"HTTP/1.1 503")
        assert told.endswith(b"try again.")
        gate.open.set()
        assert [one.result()[0] for one in answers] == [200] * 4
        until(lambda: connections(port) == 0)
        assert get(port, "/api/view?n=5")[0] == 200


def test_a_connection_waits_for_one_answer_at_a_time() -> None:
    """The queue holds one question of each connection, however many it sends at once."""
    gate = Gate()
    asked = [f"GET /api/view?n={n} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" for n in range(50)]
    with served(gate) as port, socket.create_connection(("127.0.0.1", port), timeout=NEVER_S) as client:
        client.sendall("".join(asked).encode())
        until(lambda: gate.begun)
        assert get(port, "/")[0] == 200  # whatever the server had to read, it has read by now
        until(lambda: len(SERVERS[port].server_state.tasks) == 1)
        assert gate.begun == ["0"]
        gate.open.set()
        read = b""
        while read.count(b'{"asked"') < 50:
            part = client.recv(65536)
            assert part
            read += part
    assert gate.begun == [str(n) for n in range(50)]


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
    client.settimeout(NEVER_S)
    read = 0
    try:
        while part := client.recv(1 << 12 if pause_s else 1 << 16):
            read += len(part)
            time.sleep(pause_s)
    except ConnectionResetError:
        return read, True
    return read, False


def test_who_does_not_read_is_dropped_and_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(connection, "READ_S", SHORT_S)
    page = "x" * 6_000_000
    with served(lambda _: {"text": "y" * 2_000_000}, page) as port:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        asked = [("/", ()), ("/api/view", ()), ("/", ("Connection: close",))]
        clients = [reader(port, path, *heads) for path, heads in asked * 20]
        until(lambda: MET[port] == 1 + len(clients) and not connections(port))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 60_000  # KiB; whole bodies for each would be 240,000
        for client in clients:
            read, reset = read_to_the_end(client)
            assert reset
            assert read < 1_000_000
            client.close()
        monkeypatch.setattr(connection, "READ_S", NEVER_S)
        assert len(get(port, "/")[1]) == len(page)  # and who reads gets all of it


def test_the_end_of_an_answer_that_nobody_reads_is_dropped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last piece is written, nothing is paused any more: the connection would stay until its client leaves."""
    monkeypatch.setattr(connection, "READ_S", SHORT_S)
    # fits into what the server hands over, not into what the system takes
    size = connection.SEND_BUFFER * 2 + 60_000
    with served(lambda _: {}, "x" * size) as port:
        clients = [reader(port, "/", *heads) for heads in ((), ("Connection: close",))]
        until(lambda: MET[port] == 1 + len(clients) and not connections(port))
        for client in clients:
            read, reset = read_to_the_end(client)
            assert reset
            assert read < size
            client.close()


def test_who_reads_a_little_at_a_time_is_dropped_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is short enough, all of them together are not."""
    monkeypatch.setattr(connection, "ANSWER_S", 2 * SHORT_S)
    size = 20_000_000  # a minute at this pace
    with served(lambda _: {}, "x" * size) as port, reader(port, "/") as client:
        read, reset = read_to_the_end(client, pause_s=0.01)
        assert reset
        assert read < size


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
