"""When requests are sent: Poisson and burstier ones, and sessions with pauses between their turns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from llm_perf.requests.workload import NONE, Floats, Ints, Requests

__all__ = ["Coming", "Turns", "arrivals"]


def arrivals(rate: float, burstiness: float, count: int, generator: np.random.Generator) -> Floats:
    """Arrival times in seconds of ``count`` requests at ``rate`` per second, the last of them at count / rate.

    Gaps are gamma distributed with shape ``burstiness`` and mean 1 / rate: 1 is a Poisson process, less is burstier, more
    is more even, infinite is constant. The times are then stretched to the nominal duration, so that the rate of a sample
    is the one that was asked for. This is how ``vllm bench serve`` defines both (vllm/benchmarks/serve.py, get_request).
    An infinite rate sends everything at 0.
    """
    if math.isinf(rate):
        return np.zeros(count)
    even = math.isinf(burstiness)
    gaps = np.full(count, 1 / rate) if even else generator.gamma(burstiness, 1 / (rate * burstiness), count)
    times = np.cumsum(gaps)
    nominal = count / rate
    # Gaps of a very small shape may all be zero in floating point: then all arrive at once at the end of the time.
    return times * (nominal / times[-1]) if times[-1] > 0 else np.full(count, nominal)


@dataclass(frozen=True)
class Turns:
    """Requests as turns of sessions: all first turns, then all second ones, and so on; the last round may be shorter.

    Attributes:
        count: Requests in all.
        each: Turns of a session.
    """

    count: int
    each: int

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return -(-self.count // self.each)

    @property
    def session(self) -> Ints:
        """The session of each request."""
        return np.arange(self.count, dtype=np.int64) % self.sessions

    @property
    def previous(self) -> Ints:
        """The request of the turn before; `NONE` for first turns."""
        before = np.arange(self.count, dtype=np.int64) - self.sessions
        return np.maximum(before, NONE)

    def whole_prompts(self, said: Ints, answered: Ints) -> Ints:
        """Tokens of each prompt: all that was said and answered in the session before, and what is said now."""
        prompt = said.copy()
        for start in range(self.sessions, self.count, self.sessions):
            now = slice(start, min(start + self.sessions, self.count))
            before = slice(start - self.sessions, now.stop - self.sessions)
            prompt[now] += prompt[before] + answered[before]
        return prompt


class Coming:
    """Requests that are yet to arrive: those whose time is known, and those that the ends of others bring.

    Attributes:
        times: (seconds, request) of those whose time is known, a heap.
    """

    def __init__(self, requests: Requests) -> None:
        previous = requests.previous.tolist()
        self._followers: dict[int, list[int]] = {}
        for turn, before in enumerate(previous):
            if before >= 0:
                self._followers.setdefault(before, []).append(turn)
        self._think_s: list[float] = requests.think_s.tolist()
        arrival_s = requests.arrival_s.tolist()
        first = [index for index, before in enumerate(previous) if before < 0]
        at_first = len(first) if requests.concurrency is None else requests.concurrency
        self._queue = first[at_first:][::-1]
        self.times: list[tuple[float, int]] = [(arrival_s[index], index) for index in first[:at_first]]
        heapify(self.times)

    @property
    def follows(self) -> bool:
        """Whether anything is brought by the end of another."""
        return bool(self._queue or self._followers)

    @property
    def next_s(self) -> float:
        """When the next one arrives, as far as that is known; infinite where it is not."""
        return self.times[0][0] if self.times else math.inf

    def next(self) -> tuple[float, int]:
        """The next one that arrives, with its time."""
        return heappop(self.times)

    def follow(self, request: int, end_s: float) -> None:
        """What the end of a request brings: the next of a closed loop, and the session's next turn."""
        if self._queue:
            heappush(self.times, (end_s, self._queue.pop()))
        for turn in self._followers.get(request, ()):
            heappush(self.times, (end_s + self._think_s[turn], turn))
