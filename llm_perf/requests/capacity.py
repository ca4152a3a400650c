"""What engines serve at most: the same requests in a queue that never runs dry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm_perf.requests.outcome import Outcome
from llm_perf.requests.workload import NONE, Requests

__all__ = ["Capacity", "capacity_of"]

_ROUNDS = 4
"""Times that every place of the engine is filled anew in a saturated run."""
_MOST = 16_384
_LEAST = 512


@dataclass(frozen=True, slots=True)
class Capacity:
    """Rates of a service whose queue is never empty, beside the rate at which requests come.

    Attributes:
        requests_per_s, output_tokens_per_s: What all replicas serve at most.
        offered_per_s: Requests that come per second; None in a closed loop, or where all come at once.
    """

    requests_per_s: float
    output_tokens_per_s: float
    offered_per_s: float | None

    @property
    def load(self) -> float | None:
        """The rate over what can be served; None without a rate."""
        return None if self.offered_per_s is None else self.offered_per_s / self.requests_per_s

    @property
    def keeps_up(self) -> bool | None:
        """Whether the queue stays finite; None without a rate."""
        return None if self.load is None else self.load <= 1

    @property
    def growth_per_s(self) -> float | None:
        """Requests by which the queue grows per second; None without a rate."""
        return None if self.offered_per_s is None else max(self.offered_per_s - self.requests_per_s, 0.0)


def capacity_of(
    serve: Callable[[Requests], Outcome], outcome: Outcome, offered_per_s: float | None, engines: int
) -> Capacity:
    """Serve as many requests of the same lengths as fill the engines several times over, all there from the beginning.

    The rate is that between the first and the last quarter of the ends, when the engines are full.

    Args:
        serve: The engines.
        outcome: Of the requests whose lengths are meant.
        offered_per_s: The rate at which they come.
        engines: How many of them generate.
    """
    requests = outcome.requests
    whole = float((requests.prompt_tokens + requests.output_tokens).mean())
    places = engines * outcome.kv_capacity_tokens / whole
    wanted = int(min(max(_ROUNDS * places, _LEAST * engines, len(requests)), _MOST * engines))
    saturated = serve(_queue(requests, wanted))
    ends = np.sort(saturated.finished_s[np.isfinite(saturated.finished_s)])
    if len(ends) < 2:
        return Capacity(math.nan, math.nan, offered_per_s)
    first, last = len(ends) // 4, 3 * len(ends) // 4
    spent = float(ends[last] - ends[first])
    per_s = (last - first) / spent if spent > 0 else len(ends) / float(ends[-1])
    done = np.isfinite(outcome.finished_s)
    output = float(requests.output_tokens[done].mean()) if done.any() else math.nan
    return Capacity(per_s, per_s * output, offered_per_s)


def _queue(requests: Requests, count: int) -> Requests:
    """The requests again and again until there are ``count``, all at the beginning, sessions without pauses."""
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
    )
