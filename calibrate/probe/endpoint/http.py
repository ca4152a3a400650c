"""HTTP/1.1 over asyncio streams: as much as streaming from an inference server needs, with the time of every piece.

A client of its own, because a measurement wants the time at which bytes arrived, not that at which a library handed them
on, and because nothing has to be installed for it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llm_perf.errors import SpecError

_LIMIT = 1 << 20
"""Bytes of one line of an answer, at most."""

_MOST_JSON = 16 << 20


class EndpointError(Exception):
    """A request that got no whole answer. ``kind`` is one word for the account, the text says what happened."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens. ``base`` is the path before ``/completions``, as ``/v1``."""

    host: str
    port: int
    base: str
    tls: bool = False

    @classmethod
    def of(cls, url: str) -> Address:
        """The address of a URL such as ``http://127.0.0.1:8000/v1``; ``/v1`` where it has no path.

        Raises:
            SpecError: it is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise SpecError(f"--url {url!r}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(f"--url {url!r}: expected a URL such as http://127.0.0.1:8000/v1")
        if parts.username or parts.query or parts.fragment:
            raise SpecError(
                f"--url {url!r}: expected scheme, host, port and path only (a key: OPENAI_API_KEY)"
            )
        tls = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/") or "/v1", tls)

    @property
    def root(self) -> str:
        """The path of what is not part of the API, such as ``/version``."""
        return self.base.removesuffix("/v1")

    def __str__(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"


@dataclass
class Answer:
    """The head of an answer, and its body piece by piece."""

    status: int
    headers: dict[str, str]
    pieces: AsyncIterator[tuple[float, bytes]]


@dataclass
class Client:
    """Connections to one server, kept open between requests.

    Attributes:
        address: The server's.
        stall_s: Seconds without a byte after which a request is given up.
        key: Sent as a bearer token; None for none.
    """

    address: Address
    stall_s: float = 60.0
    key: str | None = field(default=None, repr=False)
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list, repr=False)

    async def get_json(self, path: str) -> Any:
        """The JSON of a GET, or its text where it is none; None where the server has no such page.

        Raises:
            EndpointError: no answer.
        """
        async with self.request("GET", path) as answer:
            body = await _whole(answer)
            if answer.status != 200:
                return None
        try:
            return json.loads(body)
        except ValueError:
            return body.decode("utf-8", "replace")

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> _Exchange:
        """An exchange for ``async with``, which gives the answer as soon as its head is there."""
        return _Exchange(self, method, path, body)

    async def close(self) -> None:
        """Close what is open."""
        idle, self._idle = self._idle, []
        for _, writer in idle:
            writer.close()

    async def connection(self, fresh: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bool]:
        """(reader, writer, whether it was used before)."""
        while self._idle and not fresh:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer, True
            writer.close()
        address = self.address
        context = ssl.create_default_context() if address.tls else None
        try:
            opened = asyncio.open_connection(address.host, address.port, ssl=context, limit=_LIMIT)
            reader, writer = await asyncio.wait_for(opened, self.stall_s)
        except asyncio.TimeoutError:
            raise EndpointError("stalled", f"{address} does not answer within {self.stall_s:g} s") from None
        except OSError as error:
            raise EndpointError(
                "refused", f"{address} cannot be reached: {error.strerror or error}"
            ) from None
        return reader, writer, False

    def keep(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection whose answer was read to its end."""
        self._idle.append((reader, writer))


class _Exchange:
    """One request and its answer; the connection is kept if the answer was read whole, else closed."""

    def __init__(self, client: Client, method: str, path: str, body: dict[str, Any] | None) -> None:
        self._client, self._method, self._path, self._body = client, method, path, body
        self._whole = False
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None
        self._keeps = False

    async def __aenter__(self) -> Answer:
        client = self._client
        message = self._message()
        for fresh in (False, True):
            reader, writer, used = await client.connection(fresh)
            self._reader, self._writer = reader, writer
            try:
                writer.write(message)
                await writer.drain()
                status, headers = await self._head(reader)
            except (OSError, asyncio.IncompleteReadError):
                writer.close()
                if used:  # the server closed an idle connection, which says nothing about this request
                    continue
                raise EndpointError(
                    "cut", f"{client.address} closed the connection without an answer"
                ) from None
            except EndpointError:
                writer.close()
                raise
            break
        self._keeps = headers.get("connection", "").lower() != "close"
        return Answer(status, headers, self._pieces(reader, headers))

    async def __aexit__(self, *_error: object) -> None:
        if self._writer is None or self._reader is None:
            return
        if self._whole and self._keeps:
            self._client.keep(self._reader, self._writer)
        else:
            self._writer.close()

    def _message(self) -> bytes:
        client, body = self._client, b""
        lines = [f"{self._method} {self._path} HTTP/1.1", f"Host: {client.address}", "Accept: */*"]
        if client.key:
            lines.append(f"Authorization: Bearer {client.key}")
        if self._body is not None:
            body = json.dumps(self._body).encode()
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def _read(self, reading: Any) -> bytes:
        try:
            found: bytes = await asyncio.wait_for(reading, self._client.stall_s)
        except asyncio.TimeoutError:
            raise EndpointError(
                "stalled", f"{self._client.address} sent nothing for {self._client.stall_s:g} s"
            ) from None
        except (asyncio.LimitOverrunError, ValueError):
            raise EndpointError("foreign", f"{self._client.address} sends lines of more than 1 MiB") from None
        return found

    async def _head(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
        text = (await self._read(reader.readuntil(b"\r\n\r\n"))).decode("latin-1")
        first, *lines = text.split("\r\n")
        words = first.split(" ")
        if len(words) < 2 or not words[0].startswith("HTTP/1") or not words[1].isdigit():
            raise EndpointError("foreign", f"{self._client.address} speaks no HTTP/1.1")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
            if name
        }
        return int(words[1]), headers

    async def _pieces(
        self, reader: asyncio.StreamReader, headers: dict[str, str]
    ) -> AsyncIterator[tuple[float, bytes]]:
        """(seconds of the clock, bytes) as they arrive."""
        try:
            if headers.get("transfer-encoding", "").lower() == "chunked":
                while size := _size(await self._read(reader.readline())):
                    yield time.perf_counter(), (await self._read(reader.readexactly(size + 2)))[:-2]
                await self._read(reader.readline())
            elif "content-length" in headers and headers["content-length"].isdigit():
                left = int(headers["content-length"])
                while left:
                    piece = await self._read(reader.read(min(left, _LIMIT)))
                    if not piece:
                        raise EndpointError("cut", f"{self._client.address} cut its answer")
                    left -= len(piece)
                    yield time.perf_counter(), piece
            else:
                self._keeps = False
                while piece := await self._read(reader.read(_LIMIT)):
                    yield time.perf_counter(), piece
        except (OSError, asyncio.IncompleteReadError, _BadChunkError):
            raise EndpointError("cut", f"{self._client.address} cut its answer") from None
        self._whole = True


class _BadChunkError(Exception):
    """A chunk's size that is none: the stream ended."""


def _size(line: bytes) -> int:
    try:
        return int(line.split(b";")[0], 16)
    except ValueError:
        raise _BadChunkError from None


async def _whole(answer: Answer) -> bytes:
    found = bytearray()
    async for _, piece in answer.pieces:
        found += piece
        if len(found) > _MOST_JSON:
            raise EndpointError("foreign", "an answer is larger than 16 MiB")
    return bytes(found)
