"""Load generators that send the same requests several times over: when they are sent, and which times are counted.

An engine that keeps the cache of prompts finds those of an earlier run again, where it has room for all of them.
"""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from llm_perf.config.base import PositiveFloat, PositiveInt, Spec
from llm_perf.errors import SpecError
from llm_perf.requests.workload import Floats

__all__ = ["Repeats", "sent"]

_APART_S: Final = 1e5
"""From the beginning of one run to that of the next, which begins when all have been answered: longer than any takes."""


class Repeats(Spec):
    """Runs of the same requests, one after another.

    Attributes:
        runs: Runs of which all requests are counted together.
        before: Runs that are not counted and come before them.
        rates: Requests per second of the runs that a program has in it, in their order; of each there are ``runs``, all of
            them counted. () where all requests of a run come at once.
        seed: Of Python's ``random.Random``, whose ``expovariate`` makes the gaps of all runs of all rates in their order.
    """

    runs: PositiveInt = 1
    before: Annotated[int, Field(ge=0)] = 0
    rates: tuple[PositiveFloat, ...] = ()
    seed: int | None = None


def sent(repeats: Repeats, rate: float, count: int) -> tuple[Floats, int]:
    """When each of ``count`` requests is sent in each run, and how many are sent before those that are counted.

    Of the runs of other rates the last one before is sent too: it leaves its prompts in the cache.

    Raises:
        SpecError: the program has no such rate.
    """
    if not repeats.rates:
        runs = repeats.before + repeats.runs
        return np.repeat(np.arange(runs) * _APART_S, count), repeats.before * count
    if rate not in repeats.rates:
        raise SpecError(
            f"request_rate {rate:g}: its generator sends at {', '.join(map(str, repeats.rates))} alone"
        )
    place = repeats.rates.index(rate)
    generator = random.Random(repeats.seed)
    drawn = [
        [generator.expovariate(one) for _ in range(count)]
        for one in repeats.rates[: place + 1]
        for _ in range(repeats.runs)
    ]
    earlier = min(place, 1)
    taken = drawn[-(earlier + repeats.runs) :]
    starts = [run * _APART_S + gap for run, gaps in enumerate(taken) for gap in accumulate(gaps)]
    return np.array(starts), earlier * count
