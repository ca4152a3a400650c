"""One streamed completion: when each piece of it arrived, and what the server says of its tokens."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal

from calibrate.evidence.benchmark_run import RequestTimes
from calibrate.probe.endpoint.http import Answer, Client, EndpointError

Api = Literal["completions", "chat"]

_DONE = "[DONE]"
_MOST_TEXT = 160


@dataclass
class Sample:
    """What became of one request; times are seconds of the clock that counts from the start of the session.

    Attributes:
        sent_s: When it was sent.
        asked_prompt, asked_output: Tokens that were asked for, the prompt's as far as they are known before.
        token_s: When each piece of the answer arrived.
        finished_s: When the last byte came, or the request was given up.
        prompt_tokens, output_tokens: As the server counts them; None where it does not.
        model: As the server calls it.
        kind: "ok", or why it failed: "refused", "stalled", "cut", "foreign", "http 429", "http 500", "error".
        text: What happened, for people; "" where it went well.
    """

    sent_s: float
    asked_prompt: int
    asked_output: int
    token_s: list[float] = field(default_factory=list)
    finished_s: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    kind: str = "ok"
    text: str = ""

    @property
    def ok(self) -> bool:
        """Whether the whole answer came."""
        return self.kind == "ok"

    def as_times(self, start_s: float) -> RequestTimes:
        """The request in a run that started at ``start_s``."""
        pieces = tuple(round(max(at - start_s, 0.0), 6) for at in self.token_s)
        return RequestTimes(
            arrival_s=round(max(self.sent_s - start_s, 0.0), 6),
            prompt_tokens=self.prompt_tokens or self.asked_prompt or None,
            output_tokens=self.output_tokens if self.output_tokens is not None else len(self.token_s),
            first_token_s=pieces[0] if pieces else None,
            finished_s=round(max(self.finished_s - start_s, 0.0), 6),
            token_s=pieces or None,
            error=None if self.ok else f"{self.kind}: {self.text}",
        )


@dataclass(frozen=True)
class Asking:
    """How a server is asked: the API, the name of its model, and the fields beyond the standard that it takes."""

    client: Client
    model: str
    api: Api = "completions"
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def path(self) -> str:
        """Of the API."""
        return (
            f"{self.client.address.base}/{'completions' if self.api == 'completions' else 'chat/completions'}"
        )

    def body(self, prompt: str, output: int, stream: bool) -> dict[str, Any]:
        """The JSON of a request for exactly ``output`` tokens, as far as a server can be told so."""
        asked: dict[str, Any] = {
            "model": self.model,
            "max_tokens": output,
            "temperature": 0.0,
            "stream": stream,
        }
        if stream:
            asked["stream_options"] = {"include_usage": True}
        if self.api == "chat":
            asked["messages"] = [{"role": "user", "content": prompt}]
        else:
            asked["prompt"] = prompt
        return asked | dict(self.extra)


async def ask(asking: Asking, prompt: str, prompt_tokens: int, output: int) -> Sample:
    """Send one request and note when its tokens come. Never raises what a server did: the sample says it."""
    sample = Sample(time.perf_counter(), prompt_tokens, output)
    try:
        async with asking.client.request(
            "POST", asking.path, asking.body(prompt, output, stream=True)
        ) as answer:
            if answer.status != 200:
                await _refused(sample, answer)
            else:
                await _streamed(sample, answer)
    except EndpointError as error:
        cut = f"the stream was cut after {len(sample.token_s)} of {output} tokens"
        sample.kind, sample.text = error.kind, cut if error.kind == "cut" and sample.token_s else str(error)
    sample.finished_s = max(time.perf_counter(), sample.sent_s)
    return sample


async def _refused(sample: Sample, answer: Answer) -> None:
    body = b""
    async for _, piece in answer.pieces:
        body += piece[: 4 * _MOST_TEXT]
    said = " ".join(body.decode("utf-8", "replace").split())[:_MOST_TEXT]
    sample.kind, sample.text = (
        f"http {answer.status}",
        f"HTTP {answer.status}" + (f": {said}" if said else ""),
    )


async def _streamed(sample: Sample, answer: Answer) -> None:
    """Take the events of a stream.

    Raises:
        EndpointError: it ends before it says that it does, or holds something else.
    """
    if "text/event-stream" not in answer.headers.get("content-type", "text/event-stream"):
        raise EndpointError("foreign", "the server does not stream (no text/event-stream)")
    finished = False
    async for at, data in events(answer.pieces):
        if data == _DONE:
            finished = True
            continue
        try:
            event = json.loads(data)
        except ValueError:
            raise EndpointError("foreign", f"the stream holds {data[:40]!r}, which is no JSON") from None
        finished = _take(sample, event, at) or finished
    if not finished:
        raise EndpointError("cut", "the stream was cut before it began")
    if not sample.token_s:
        raise EndpointError("foreign", "the stream holds no token")


def _take(sample: Sample, event: Any, at: float) -> bool:
    """One event of the stream; whether it says that the answer is complete.

    Raises:
        EndpointError: it is an error.
    """
    if not isinstance(event, dict):
        raise EndpointError("foreign", "the stream holds something else than objects")
    if event.get("error"):
        raise EndpointError("error", f"the server says {json.dumps(event['error'])[:_MOST_TEXT]}")
    usage = event.get("usage")
    if isinstance(usage, dict):
        sample.prompt_tokens, sample.output_tokens = (
            _count(usage, "prompt_tokens"),
            _count(usage, "completion_tokens"),
        )
    if isinstance(event.get("model"), str):
        sample.model = event["model"]
    finished = False
    for choice in event.get("choices") or ():
        if not isinstance(choice, dict):
            raise EndpointError("foreign", "a choice of the stream is no object")
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else choice
        if any(delta.get(name) for name in ("text", "content", "reasoning_content", "reasoning")):
            sample.token_s.append(at)
        finished = finished or choice.get("finish_reason") is not None
    return finished


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


async def events(pieces: AsyncIterator[tuple[float, bytes]]) -> AsyncIterator[tuple[float, str]]:
    """(time of arrival, data) of server-sent events."""
    left = b""
    async for at, piece in pieces:
        *lines, left = (left + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield at, line[5:].strip().decode("utf-8", "replace")
