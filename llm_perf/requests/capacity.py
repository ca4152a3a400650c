"""What engines serve at most: requests of the asked lengths in a queue that never runs dry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm_perf.requests.outcome import COMPLETED, Outcome
from llm_perf.requests.request_file import RequestFile
from llm_perf.requests.traffic import Traffic, requests_of
from llm_perf.requests.workload import NONE, Requests

__all__ = ["Capacity", "capacity_of", "sample_of"]

_SAMPLE = 2000
"""Requests whose lengths stand for all: the same ones however many are sent, so that there is one answer."""

_ROUNDS = 8
"""Times that every place of the engines is filled anew."""
_LEFT_OUT = 2
"""Rounds at the beginning, in which the engines fill up."""
_FEW_ROUNDS = 4
_MOST = 16_384
_LEAST = 512


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rates of a service whose queue is never empty, beside the rate at which requests come.

    Attributes:
        requests_per_s, output_tokens_per_s: What all replicas serve at most.
        offered_per_s: Requests that come per second; None in a closed loop, or where all come at once.
        accepted: Share of them that can run at all; the others are rejected and load nothing.
    """

    requests_per_s: float
    output_tokens_per_s: float
    offered_per_s: float | None
    accepted: float = 1.0

    @property
    def load(self) -> float | None:
        """The rate over what can be served; None without a rate."""
        return (
            None if self.offered_per_s is None else self.accepted * self.offered_per_s / self.requests_per_s
        )

    @property
    def keeps_up(self) -> bool | None:
        """Whether the queue stays finite; None without a rate."""
        return None if self.load is None else self.load <= 1

    @property
    def growth_per_s(self) -> float | None:
        """Requests by which the queue grows per second; None without a rate."""
        if self.offered_per_s is None:
            return None
        return max(self.accepted * self.offered_per_s - self.requests_per_s, 0.0)


def sample_of(traffic: Traffic, file: RequestFile | None = None) -> Requests:
    """Requests of the lengths that are asked for; the same ones whatever number is sent, when, and by which seed.

    Args:
        traffic: What was asked.
        file: Its file of requests, where there is one.
    """
    if file is None:
        at_once = {"rate": math.inf, "concurrency": None, "burstiness": 1.0}
        return requests_of(traffic.replace(num_requests=_SAMPLE, seed=0, **at_once))
    found = file.requests
    rows = np.arange(len(found))
    if len(found) > _SAMPLE:
        rows = np.linspace(0, len(found) - 1, _SAMPLE).astype(np.int64)
    return Requests.of(
        found.arrival_s[rows],
        found.prompt_tokens[rows],
        found.output_tokens[rows],
        prefix_id=found.prefix_id[rows],
        prefix_tokens=found.prefix_tokens[rows],
    )


def capacity_of(
    serve: Callable[[Requests], Outcome],
    sample: Requests,
    places: float,
    offered_per_s: float | None,
    engines: int,
    times: int = 1,
) -> Capacity | None:
    """Serve as many requests of the sample's lengths as fill the engines several times over, all there from the beginning.

    Their rate follows from the lengths and the engines alone. It is that between the ends after which the engines are full
    and the end after which they empty. Where fewer in flight are served faster, as where each sequence slows the others
    by more than it adds, it is that of half as many, and so on.

    Args:
        serve: The engines that are looked at.
        sample: Requests with the lengths that are meant, prefixes and turns included.
        places: Requests of it that one engine runs at once (`llm_perf.requests.simulate.places`).
        offered_per_s: The rate at which requests come.
        engines: How many of those that are looked at generate.
        times: How many such groups of engines there are, which share the requests evenly.
    """
    wanted = int(min(max(_ROUNDS * places, _LEAST), _MOST) * engines)
    saturated = serve(_queue(sample, wanted))
    per_s = _served_per_s(saturated)
    if per_s is None:
        return None
    done = saturated.status == COMPLETED
    turns = bool((sample.previous != NONE).any())
    in_flight = int(places * engines) // 2
    while in_flight >= engines and not turns:
        # Filling and emptying count against it: equal requests go in step, and a part of their way may look faster.
        fewer = _whole_per_s(serve(_queue(sample, _FEW_ROUNDS * in_flight, in_flight)))
        if fewer <= per_s:
            break
        more = _whole_per_s(serve(_queue(sample, _ROUNDS * in_flight, in_flight)))
        per_s, in_flight = max(fewer, more), in_flight // 2
    output = float(saturated.requests.output_tokens[done].mean())
    return Capacity(times * per_s, times * per_s * output, offered_per_s, float(done.mean()))


def _whole_per_s(found: Outcome) -> float:
    """Requests per second from the first arrival to the last end."""
    ends = found.finished_s[found.status == COMPLETED]
    return len(ends) / float(ends.max()) if len(ends) else 0.0


def _served_per_s(found: Outcome) -> float | None:
    """Requests per second between filling and emptying; None where fewer than two ran."""
    ends = np.sort(found.finished_s[found.status == COMPLETED])
    if len(ends) < 2:
        return None
    first, last = _LEFT_OUT * len(ends) // _ROUNDS, len(ends) - 1 - len(ends) // _ROUNDS
    spent = float(ends[last] - ends[first])
    return (last - first) / spent if spent > 0 else len(ends) / float(ends[-1])


def _queue(requests: Requests, count: int, in_flight: int | None = None) -> Requests:
    """The requests again and again until there are ``count``, all at the beginning or so many at once, without pauses."""
    there = len(requests)
    rows = np.arange(count) % there
    shift = np.arange(count) // there * there
    before = requests.previous[rows]
    return Requests.of(
        np.zeros(count),
        requests.prompt_tokens[rows],
        requests.output_tokens[rows],
        prefix_id=requests.prefix_id[rows],
        prefix_tokens=requests.prefix_tokens[rows],
        previous=np.where(before == NONE, NONE, before + shift),
        concurrency=in_flight,
    )
