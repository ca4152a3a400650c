"""Where questions wait for an answer: a few are predicted at a time, and whoever leaves is not predicted for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Desk", "Full", "Question", "Reply"]

Question = tuple[tuple[str, str], ...]
"""A request's parameters, in order."""

Reply = tuple[int, bytes]
"""Status and body."""

_WORKERS: Final = 2
_MOST_WAITING: Final = 2048
_KEPT_BYTES: Final = 8 * 2**20
"""Bytes of answers that are kept for whoever asks the same: some 80 of them, whatever is asked."""


class Full(Exception):  # noqa: N818 - what the desk is, not what went wrong
    """As many wait already as may."""


@dataclass
class _Job:
    future: Future[Reply]
    waiting: int = 0


class Desk:
    """Answers questions in a few threads: whoever waits costs a coroutine, not a thread.

    Two who ask the same share one prediction; when the last who waits for it has left, it is not begun.

    Args:
        answer: From a question to a reply; raises nothing.
    """

    def __init__(self, answer: Callable[[Question], Reply]) -> None:
        self._answer = answer
        self._threads = ThreadPoolExecutor(_WORKERS, thread_name_prefix="predict")
        self._jobs: dict[Question, _Job] = {}
        self._kept: OrderedDict[Question, Reply] = OrderedDict()
        self._kept_bytes = 0
        self.waiting = 0

    async def ask(self, question: Question, left: Callable[[], Coroutine[Any, Any, None]]) -> Reply | None:
        """The reply; None when what ``left`` waits for came first.

        Raises:
            Full: too many wait.
        """
        if question in self._kept:
            self._kept.move_to_end(question)
            return self._kept[question]
        if self.waiting >= _MOST_WAITING:
            raise Full
        job = self._jobs.get(question)
        if job is None:
            job = self._jobs[question] = _Job(self._threads.submit(self._answer, question))
        job.waiting += 1
        self.waiting += 1
        gone = asyncio.ensure_future(left())
        reply = asyncio.ensure_future(_result(job.future))
        try:
            await asyncio.wait({gone, reply}, return_when=asyncio.FIRST_COMPLETED)
            return self._keep(question, reply.result()) if reply.done() else None
        finally:
            self.waiting -= 1
            job.waiting -= 1
            for task in (gone, reply):
                task.cancel()
            if not job.waiting and self._jobs.get(question) is job:
                job.future.cancel()  # where it has begun it ends by itself, and nobody gets it
                del self._jobs[question]

    def _keep(self, question: Question, reply: Reply) -> Reply:
        if question not in self._kept:  # of two who asked together, the second keeps nothing anew
            self._kept[question] = reply
            self._kept_bytes += len(reply[1])
        while self._kept_bytes > _KEPT_BYTES:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest)
        return reply


async def _result(future: Future[Reply]) -> Reply:
    """Awaited by several, of whom one may leave: only the desk cancels what they share."""
    return await asyncio.shield(asyncio.wrap_future(future))
