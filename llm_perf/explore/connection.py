"""A connection of the explorer that does not wait for ever: uvicorn itself bounds only the pause between two requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

REQUEST_S: Final = 5.0
"""Seconds within which a request must have arrived whole; on one machine it takes milliseconds."""

READ_S: Final = 10.0
"""Seconds within which a client must have read what waits for it."""

ANSWER_S: Final = 120.0
"""Seconds within which an answer must have been read whole, however steadily little of it is."""

SEND_BUFFER: Final = 128 * 1024
"""Bytes for which the system is asked to hold what a client has not read; by itself it would hold megabytes for each."""

_ARRIVING: Final = ("IDLE", "SEND_BODY")
"""States of a client, as h11 names them, in which more of its request is to come. A whole request that will be the last
of its connection leaves another state than one that may be followed by others."""

_TOO_LONG: Final = 64 * 1024
"""Bytes of request line and headers from which they are too long: h11's own limit for what has not ended."""


def patient_connection() -> type[asyncio.Protocol]:
    """HTTP/1.1 as uvicorn speaks it, but nobody holds it by sending, or by reading, byte by byte."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientConnection(H11Protocol):  # type: ignore[misc]  # uvicorn's types are not read
        _deadline: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        _unread_since: float | None = None
        _head_bytes = 0
        _line_ended = False
        _refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            with contextlib.suppress(OSError):
                _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self._wait()

        def data_received(self, data: bytes) -> None:
            if self._refused:  # read and dropped, until the client has seen why
                return
            self._head_bytes += len(data)
            self._line_ended = self._line_ended or b"\n" in data
            super().data_received(data)
            if str(self.conn.their_state) in _ARRIVING:
                self._wait()
            else:
                self._arrived()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            self._read()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_reading()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._read()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._unread_since = None
            # What the system could not take yet would stay with a connection that is closed, for as long as nobody reads.
            if self.transport.get_write_buffer_size():
                self._watch_reading()

        def send_400_response(self, msg: str) -> None:
            """The status that says what is wrong, and time to read it: a reset would take it from the client again."""
            import h11

            too_long = self._head_bytes >= _TOO_LONG
            status = (431 if self._line_ended else 414) if too_long else 400
            self._refused = True
            self._arrived()
            words = {
                400: msg,
                414: "The address is too long.",
                431: "The headers are too long.",
            }[status].encode()
            headers = [
                ("Content-Type", "text/plain"),
                ("Content-Length", str(len(words))),
                ("Connection", "close"),
            ]
            events = (
                h11.Response(status_code=status, headers=headers, reason=b"refused"),
                h11.Data(data=words),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event))
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(1.0, self.transport.abort)

        def _wait(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(REQUEST_S, self.transport.close)

        def _arrived(self) -> None:
            self._head_bytes, self._line_ended = 0, False
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _watch_reading(self) -> None:
            if self._unread is None:
                now = self.loop.time()
                self._unread_since = now if self._unread_since is None else self._unread_since
                left = max(0.0, min(READ_S, self._unread_since + ANSWER_S - now))
                self._unread = self.loop.call_later(left, self._give_up_writing)

        def _read(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def _give_up_writing(self) -> None:
            self._unread = None
            if self.transport.get_write_buffer_size():
                # Closed as usual, the system would go on holding, and sending, what it has: by the byte, where the client
                # reads so. Reset, both are free at once.
                with contextlib.suppress(OSError):
                    _socket(self.transport).setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                self.transport.abort()

    return PatientConnection


def _socket(transport: asyncio.BaseTransport) -> socket.socket:
    found: socket.socket = transport.get_extra_info("socket")
    return found
