"""The explorer on localhost: a page, and predictions as JSON. Starlette and uvicorn are loaded only here.

A request costs a bounded amount: its sizes are limited by whoever makes its question, at most a few are predicted at a
time, the others wait in a queue that is bounded too, and answers are kept for whoever asks the same again.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from llm_perf.errors import EnvironmentFailure, LLMPerfError, MissingExtraError
from llm_perf.explore.connection import most_connections, patient_connection
from llm_perf.explore.desk import Desk, Full
from llm_perf.explore.page import asset, content_policy, plotly_js

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST: Final = "127.0.0.1"
_PIECE: Final = 64 * 1024
"""Bytes that are handed to a connection at a time: so much, and not a whole file, waits for each client that reads slowly."""
_HEADERS: Final = {
    "Content-Security-Policy": content_policy(served=True) + "; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

Answer = Callable[[Sequence[tuple[str, str]]], Mapping[str, Any]]
"""From the parameters of a request to a view; a wrong one raises an `LLMPerfError`."""


def build_app(page: str, answer: Answer) -> Starlette:
    """The application: ``/``, its script, style and Plotly, ``/api/view``.

    Raises:
        MissingExtraError: the extra ``explore`` is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.routing import Route
    except ImportError:
        raise MissingExtraError("explore", "serving the page") from None
    html, css, script = "text/html", "text/css", "text/javascript"
    routes = [
        Route("/", _file(page, html)),
        Route("/explorer.css", _file(asset("explorer.css"), css)),
        Route("/explorer.js", _file(asset("explorer.js"), script)),
        Route("/plotly.js", _file(plotly_js(), script)),
        Route("/api/view", _view_endpoint(answer)),
    ]
    # A page elsewhere that gives its own name our address (DNS rebinding) gets nothing.
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    own = Middleware(_OwnPagesOnly)
    return Starlette(routes=routes, middleware=[trusted, own], exception_handlers={Exception: _failed})


class _OwnPagesOnly:
    """Refuses what a page from elsewhere asks for: its browser says where the page is from."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if origin is not None and origin != b"http://" + headers.get(b"host", b""):
            await _json(403, _error("asked by a page from elsewhere"))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _file(text: str, kind: str) -> Callable[[Request], Any]:
    body = text.encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def endpoint(request: Request) -> Response:
        from starlette.responses import Response

        headers = _HEADERS | {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return _pieces(body, kind, 200, headers)

    return endpoint


def _view_endpoint(answer: Answer) -> Callable[[Request], Any]:
    desk = Desk(lambda question: _answered(answer, question))

    async def endpoint(request: Request) -> Response:
        try:
            found = await desk.ask(tuple(request.query_params.multi_items()), lambda: _left(request))
        except Full:
            body = b'{"error": "too many requests are waiting; try again"}'
            return _json(503, body, {"Retry-After": "5"})
        return _json(*found) if found is not None else _json(499, b"")  # nobody is there to read that

    return endpoint


async def _left(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answered(answer: Answer, parameters: Sequence[tuple[str, str]]) -> tuple[int, bytes]:
    """Status and body: 200 with a view, 400 with what is wrong. A defect is 500, without a traceback."""
    try:
        return 200, json.dumps(answer(parameters), allow_nan=False).encode()
    except LLMPerfError as error:
        return 400, _error(" ".join(str(error).split()))
    except Exception as error:  # noqa: BLE001 - whatever it is, the client gets one line
        return 500, _error(f"internal error, please report it: {type(error).__name__}: {error}")


def _error(message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def _json(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    return _pieces(
        body, "application/json", status, _HEADERS | {"Cache-Control": "no-store"} | dict(headers or {})
    )


def _pieces(body: bytes, kind: str, status: int, headers: Mapping[str, str]) -> Response:
    """A response that hands out its body as fast as it is read."""
    from starlette.responses import StreamingResponse

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), _PIECE):
            yield body[start : start + _PIECE]

    return StreamingResponse(pieces(), status, {**headers, "Content-Length": str(len(body))}, kind)


async def _failed(_: Request, error: Exception) -> Response:
    return _json(500, _error(f"internal error, please report it: {type(error).__name__}: {error}"))


def bound_socket(port: int) -> socket.socket:
    """A socket on localhost; port 0 takes a free one.

    Raises:
        EnvironmentFailure: the port is taken, or not allowed.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((HOST, port))
        made.listen(1024)
    except OSError as error:
        made.close()
        raise EnvironmentFailure(
            f"port {port} of {HOST} cannot be used: {error.strerror}; give another --port"
        ) from None
    return made


def serve(app: Starlette, on: socket.socket) -> None:
    """Answer requests until the process is told to stop.

    Raises:
        MissingExtraError: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("explore", "serving the page") from None
    config = uvicorn.Config(
        app,
        http=patient_connection(most_connections()),
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[on])
