"""Targets that a simulation has missed before it ends, whatever becomes of the requests that are still on their way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from llm_perf.requests.records import Records
from llm_perf.requests.workload import Floats
from llm_perf.search.targets import Target

_ROUNDING: Final = 1 + 1e-9
"""By how much more than its limit a time counts: a percentile between two such times is above the limit, however rounded."""


@dataclass(frozen=True)
class Misses:
    """Asked about a simulation on its way: whether any of the targets is missed for certain.

    A time that is known stays as it is, and requests that never run only leave times out: as many times beyond the limit as
    lie above a percentile of all requests lie above it of fewer, too.

    Attributes:
        targets: Those that are looked at; of them only limits on percentiles of times of requests say something early.
        warm_up: Requests at the beginning whose times do not count.
    """

    targets: tuple[Target, ...]
    warm_up: int = 0

    def __call__(self, records: Records) -> bool:
        """Whether one is missed."""
        return any(self._missed(target, records) for target in self.targets)

    def _missed(self, target: Target, records: Records) -> bool:
        if target.of_requests is None or target.figure == "mean":
            return False
        times = _times(target.of_requests, records)[self.warm_up :]
        above = int((times > target.limit * _ROUNDING).sum())
        place = (len(times) - 1) * float(target.figure.removeprefix("p")) / 100
        return above > len(times) - math.floor(place)


def _times(name: str, records: Records) -> Floats:
    """Times of all requests; NaN where they are not known yet, or do not exist."""
    first, finished = np.array(records.first_token), np.array(records.finished)
    if name == "tpot_s":
        gaps = np.array(records.output) - 1
        return np.where(gaps > 0, (finished - first) / np.maximum(gaps, 1), np.nan)
    return np.asarray((first if name == "ttft_s" else finished) - np.array(records.arrival))
