"""A connection of the explorer that does not wait for ever: uvicorn itself bounds only the pause between two requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

REQUEST_S: Final = 5.0
"""Seconds within which a request must have arrived whole; on one machine it takes milliseconds."""

_TICKS: Final = 5
"""Parts in which those seconds are counted: a server that stood still counts at most one of them as the client's delay."""

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


MOST_CONNECTIONS: Final = 4096
"""Connections at a time: each may hold `_TOO_LONG` and `SEND_BUFFER` bytes, and a file descriptor."""

_OTHER_FILES: Final = 128
"""File descriptors that are left to the rest of the process."""


def most_connections() -> int:
    """How many connections this process may have: as many as the system lets it open, once its own limit is raised."""
    try:
        import resource
    except ImportError:  # another system than Unix has no such limit
        return MOST_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _OTHER_FILES
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return (
        MOST_CONNECTIONS
        if soft == resource.RLIM_INFINITY
        else max(min(MOST_CONNECTIONS, soft - _OTHER_FILES), 1)
    )


def patient_connection(most: int = MOST_CONNECTIONS) -> type[asyncio.Protocol]:
    """HTTP/1.1 as uvicorn speaks it, but nobody holds it by sending, or by reading, byte by byte, or by doing neither.

    Of more than ``most`` connections the one that has been without a request for longest makes room for a new one; where
    all of them wait for an answer, the new one is told to come again.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    idle: dict[PatientConnection, None] = {}  # without a request, the longest first

    class PatientConnection(H11Protocol):  # type: ignore[misc]  # uvicorn's types are not read
        _deadline: asyncio.TimerHandle | None = None
        _overdue = False
        _unread: asyncio.TimerHandle | None = None
        _unread_since: float | None = None
        _head_bytes = 0
        _line_ended = False
        _refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            with contextlib.suppress(OSError):
                _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self._make_room()
            if not self._refused:
                idle[self] = None
                self._wait()

        def _make_room(self) -> None:
            if len(self.connections) <= most:
                return
            if idle:
                longest = next(iter(idle))
                del idle[longest]
                longest.transport.abort()
            elif len(self.connections) <= most + _OTHER_FILES // 2:
                self._refuse(503, "Too many clients wait for an answer; try again.", ("Retry-After", "5"))
            else:
                self.transport.abort()

        def data_received(self, data: bytes) -> None:
            if self._refused:  # read and dropped, until the client has seen why
                return
            self._head_bytes += len(data)
            self._line_ended = self._line_ended or b"\n" in data
            super().data_received(data)
            if str(self.conn.their_state) in _ARRIVING and self._overdue:
                self.transport.close()
            elif str(self.conn.their_state) in _ARRIVING:
                self._wait()
            else:
                self._arrived()
                idle.pop(self, None)

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            idle.pop(self, None)
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
            if (
                self.cycle.response_complete and not self.transport.is_closing()
            ):  # no further request has come already
                idle[self] = None
            # What the system could not take yet would stay with a connection that is closed, for as long as nobody reads.
            if self.transport.get_write_buffer_size():
                self._watch_reading()

        def send_400_response(self, msg: str) -> None:
            too_long = self._head_bytes >= _TOO_LONG
            status = (431 if self._line_ended else 414) if too_long else 400
            words = {400: msg, 414: "The address is too long.", 431: "The headers are too long."}
            self._refuse(status, words[status])

        def _refuse(self, status: int, words: str, *more: tuple[str, str]) -> None:
            """The status that says what is wrong, and time to read it: a reset would take it from the client again."""
            import h11

            self._refused = True
            self._arrived()
            idle.pop(self, None)
            headers = [
                ("Content-Type", "text/plain"),
                ("Content-Length", str(len(words))),
                ("Connection", "close"),
                *more,
            ]
            events = (
                h11.Response(status_code=status, headers=headers, reason=b"refused"),
                h11.Data(data=words.encode()),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event))
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(1.0, self.transport.abort)

        def _wait(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(REQUEST_S / _TICKS, self._tick, _TICKS - 1)

        def _tick(self, left: int) -> None:
            """Close once nothing is left to wait, unless what is missing has come and was not read yet.

            After a pause of the whole process both are due at once, the deadline and a request that came in time.
            """
            if left:
                self._deadline = self.loop.call_later(REQUEST_S / _TICKS, self._tick, left - 1)
                return
            self._deadline = None
            if _readable(self.transport):
                self._overdue = True  # whoever reads it decides: a request that is still not whole is closed
            else:
                self.transport.close()

        def _arrived(self) -> None:
            self._head_bytes, self._line_ended, self._overdue = 0, False, False
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


def _readable(transport: asyncio.BaseTransport) -> bool:
    """Whether a client has sent something that nobody has read yet; its end is not."""
    try:
        peek = socket.socket(fileno=_socket(transport).fileno())
    except OSError:  # it is closed already
        return False
    try:
        return bool(peek.recv(1, socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)))
    except OSError:
        return False
    finally:
        peek.detach()


def _socket(transport: asyncio.BaseTransport) -> socket.socket:
    found: socket.socket = transport.get_extra_info("socket")
    return found
