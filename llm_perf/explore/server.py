"""The explorer on localhost: a page, and predictions as JSON. Starlette and uvicorn are loaded only here.

A request costs a bounded amount: its sizes are limited by whoever makes its question, at most a few are predicted at a
time, the others wait in a queue that is bounded too, and answers are kept for whoever asks the same again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from llm_perf.errors import EnvironmentFailure, LLMPerfError, MissingExtraError
from llm_perf.explore.connection import patient_connection
from llm_perf.explore.page import asset, content_policy, plotly_js

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST: Final = "127.0.0.1"
_WORKERS: Final = 2
_MOST_WAITING: Final = 2048
_KEPT: Final = 128
"""Answers that are kept: at most some 40 MB."""
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
    return Starlette(routes=routes, middleware=[trusted], exception_handlers={Exception: _failed})


def _file(text: str, kind: str) -> Callable[[Request], Any]:
    body = text.encode()
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def endpoint(request: Request) -> Response:
        from starlette.responses import Response

        headers = _HEADERS | {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=kind, headers=headers)

    return endpoint


def _view_endpoint(answer: Answer) -> Callable[[Request], Any]:
    """Predictions run in a few threads: whoever waits costs a coroutine, not a thread."""
    threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="predict")
    waiting = 0

    @lru_cache(maxsize=_KEPT)
    def kept(parameters: tuple[tuple[str, str], ...]) -> tuple[int, bytes]:
        return _answered(answer, parameters)

    async def endpoint(request: Request) -> Response:
        nonlocal waiting
        if waiting >= _MOST_WAITING:
            body = b'{"error": "too many requests are waiting; try again"}'
            return _json(503, body, {"Retry-After": "5"})
        waiting += 1
        try:
            parameters = tuple(request.query_params.multi_items())
            status, body = await asyncio.get_running_loop().run_in_executor(threads, kept, parameters)
        finally:
            waiting -= 1
        return _json(status, body)

    return endpoint


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
    from starlette.responses import Response

    return Response(
        body, status, _HEADERS | {"Cache-Control": "no-store"} | dict(headers or {}), "application/json"
    )


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
        http=patient_connection(),
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[on])
