"""A connection of the explorer that does not wait for ever: uvicorn itself bounds only the pause between two requests."""

from __future__ import annotations

import asyncio
from typing import Final

REQUEST_S: Final = 5.0
"""Seconds within which a request must have arrived whole; on one machine it takes milliseconds."""


def patient_connection() -> type[asyncio.Protocol]:
    """HTTP/1.1 as uvicorn speaks it, but whoever sends a request byte by byte is left after `REQUEST_S`."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientConnection(H11Protocol):  # type: ignore[misc]  # uvicorn's types are not read
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.DONE:
                self._arrived()
            else:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(REQUEST_S, self.transport.close)

        def _arrived(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return PatientConnection
