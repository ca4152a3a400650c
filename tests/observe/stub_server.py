"""A local server that answers as an engine would, or as one that misbehaves: over sockets, or in memory for many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from calibrate.probe.endpoint.http import Client

MODEL = "stub-model"
BAD_KINDS = ("stall", "429", "500", "no usage", "cut", "lies", "other model", "foreign")


@dataclass
class Stub:
    """How a stub answers, and what it saw.

    Attributes:
        kind: "good" or one of `BAD_KINDS`.
        bad_after: Completions that are answered well first.
        step_s, token_s: Seconds to the first token per token of the prompt, and of each token after it.
        one_by_one: Requests are worked on one at a time.
        strict: Fields beyond the standard are refused (HTTP 422).
    """

    kind: str = "good"
    bad_after: int = 0
    step_s: float = 0.0
    token_s: float = 0.0
    strict: bool = False
    seen: list[str] = field(default_factory=list)
    completions: int = 0

    def pages(self, path: str) -> bytes:
        """The answer to a GET."""
        if path == "/v1/models":
            return _plain(200, {"object": "list", "data": [{"id": MODEL, "owned_by": "llamacpp"}]})
        if path == "/props":
            settings = {"n_ctx": 512}
            return _plain(
                200, {"total_slots": 8, "build_info": "b1", "default_generation_settings": settings}
            )
        return _plain(404, {"error": "no such page"})

    async def completion(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """The pieces of the answer to a completion."""
        if self.strict and "ignore_eos" in body:
            yield _plain(422, {"error": {"message": "unexpected field ignore_eos"}})
            return
        self.completions += 1
        self.seen.append(body["prompt"])
        kind = self.kind if self.completions > self.bad_after else "good"
        prompt, output = len(body["prompt"]), body["max_tokens"]
        if kind in ("429", "500"):
            yield _plain(
                int(kind), {"error": {"message": "too many requests" if kind == "429" else "broken"}}
            )
            return
        if kind == "foreign":
            yield _head(200) + _chunk(b"data: <html>\n\n") + b"0\r\n\r\n"
            return
        yield _head(200)
        if kind == "stall":
            await asyncio.sleep(3600)
        if self.step_s:
            await asyncio.sleep(self.step_s * prompt)
        model = "another-model" if kind == "other model" else MODEL
        for number in range(output):
            if number and self.token_s:
                await asyncio.sleep(self.token_s)
            if kind == "cut" and number == output // 2:
                return
            event = {"model": model, "choices": [{"text": "a", "index": 0, "finish_reason": None}]}
            yield _chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
        usage = {"prompt_tokens": prompt, "completion_tokens": output * (3 if kind == "lies" else 1)}
        last = {"model": model, "choices": [{"text": "", "finish_reason": "length"}]}
        if kind != "no usage":
            last["usage"] = usage
        yield (
            _chunk(b"data: " + json.dumps(last).encode() + b"\n\n")
            + _chunk(b"data: [DONE]\n\n")
            + b"0\r\n\r\n"
        )


def _head(status: int) -> bytes:
    return f"HTTP/1.1 {status} OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _plain(status: int, body: Any) -> bytes:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


async def _serve(stub: Stub, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split(" ", 2)
            size = next(
                (int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")),
                0,
            )
            body = await reader.readexactly(size)
            if method == "GET":
                writer.write(stub.pages(path))
            else:
                whole = False
                async for piece in stub.completion(json.loads(body)):
                    writer.write(piece)
                    await writer.drain()
                    whole = piece.endswith(b"0\r\n\r\n") or b"Content-Length" in piece
                if not whole:
                    break
    writer.close()


@contextlib.contextmanager
def serving(stub: Stub) -> Iterator[str]:
    """The URL of a stub that runs in a thread."""
    loop = asyncio.new_event_loop()

    async def started() -> asyncio.Server:
        return await asyncio.start_server(lambda reader, writer: _serve(stub, reader, writer), "127.0.0.1", 0)

    server = loop.run_until_complete(started())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


class _Writer:
    """Takes a request and feeds the stub's answer to the reader beside it."""

    def __init__(self, stub: Stub, reader: asyncio.StreamReader) -> None:
        self._stub, self._reader, self._closing = stub, reader, False
        self._task: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        body = data.partition(b"\r\n\r\n")[2]
        self._task = asyncio.ensure_future(self._answer(json.loads(body)))

    async def _answer(self, body: dict[str, Any]) -> None:
        piece = b""
        async for piece in self._stub.completion(body):
            self._reader.feed_data(piece)
        if not piece.endswith(b"0\r\n\r\n") and b"Content-Length" not in piece:
            self._reader.feed_eof()

    async def drain(self) -> None:
        """Nothing waits."""

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        if self._task is not None:
            self._task.cancel()


class MemoryClient(Client):
    """A client whose connections end in a stub of this process, without sockets."""

    stub: Stub = Stub()

    async def connection(self, fresh: bool) -> Any:
        """As of `Client`."""
        while self._idle and not fresh:
            reader, writer = self._idle.pop()
            return reader, writer, True
        reader = asyncio.StreamReader()
        return reader, _Writer(self.stub, reader), False
