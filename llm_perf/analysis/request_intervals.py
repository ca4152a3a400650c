"""Intervals of requests over time: what steps that are off make of them, and how far they were off themselves.

Times to first token are waits: in a queue, in a burst, for a scheduler. Rows of tables were farther off in them than in
steps, so that beside simulations with shorter and longer steps each figure has a half-width of its own, by how requests come
(`llm_perf.analysis.stack_intervals.request_widths`); the wider counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from llm_perf.analysis.novelty import BEYOND
from llm_perf.requests.summary import Summary
from llm_perf.requests.workload import Requests

CLOSED, RATE, AT_ONCE = "closed loop", "rate", "all at once"
"""How requests come, as the tables of rows and of widths call it."""

AT_ONCE_S: Final = 1e-9
"""Requests that all arrive within this time arrive at once."""

_WIDTH_OF: Final = {"ttft_s": "ttft_s", "tpot_s": "tpot_s", "itl_s": "tpot_s"}
"""Which quantity of the rows a figure is of."""

_THROUGHPUT: Final = "throughput_tok_s"


def load_of(requests: Requests, places: float = math.inf) -> str:
    """How requests come: a closed loop of many more than engines have ``places`` for is a queue that never ends.

    Of 1,489 closed loops of the tables 14 have more requests in flight than places, and none 1.5 times as many.
    """
    if requests.concurrency is not None:
        return AT_ONCE if requests.concurrency > BEYOND * places else CLOSED
    return AT_ONCE if float(requests.arrival_s.max()) <= AT_ONCE_S else RATE


@dataclass(frozen=True)
class TimeInterval:
    """Between which values measured times are to be expected, where step times are off as far as published runs were.

    Attributes:
        level, method, groups: As those of the interval around the steps (`PredictionInterval`).
        factors: How much shorter and longer steps may be than predicted.
        low, high: The figures that follow; of ``high`` None where requests would then come faster than they are served.
        middle: The figures of the prediction itself.
        tokens: The same with steps as far off as those between tokens are, where a profile tells these apart.
        widths: Half-widths as log ratios of what rows of requests state, beside what steps make of it.
        least: The shortest that hardware allows times to first token and times between tokens to be, as shares of them.
        load: The rows' kind of load that ``widths`` are of.
        novel: What no run of the version has, in words.
    """

    level: float
    method: str
    groups: int
    factors: tuple[float, float]
    low: Summary
    high: Summary | None
    middle: Summary
    tokens: TimeInterval | None = None
    widths: Mapping[str, float] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    load: str = ""
    novel: tuple[str, ...] = ()

    def of(self, name: str) -> TimeInterval:
        """That of a figure: times between tokens may have one of their own."""
        return self.tokens if self.tokens is not None and name in ("tpot_s", "itl_s") else self

    def ends(self, name: str, figure: str) -> tuple[float, float | None]:
        """Both ends of a figure: of three simulations the least and the greatest, since some are ruled by chance.

        They are no nearer than the figure's own width; of a whole request, than that of its first token.
        """
        own = self.of(name)
        if own is not self:
            return own.ends(name, figure)
        known = [
            value
            for one in (self.low, self.middle, self.high)
            if one is not None and math.isfinite(value := getattr(one, name).percentile(figure))
        ]
        if not known:
            return math.nan, math.nan
        low, high = self._widened(name, figure, min(known), max(known))
        return low, None if self.high is None else high

    def _widened(self, name: str, figure: str, low: float, high: float) -> tuple[float, float]:
        middle = getattr(self.middle, name).percentile(figure)
        quantity = _WIDTH_OF.get(name)
        if not math.isfinite(middle):
            return low, high
        if quantity is None:  # a whole request: its first token may be as early, or as late, as that one is
            first = self.middle.ttft_s.percentile(figure)
            if not (self.widths and math.isfinite(first)):
                return low, high
            early, late = self._widened("ttft_s", figure, first, first)
            return min(low, middle - (first - early)), max(high, middle + late - first)
        width = self.widths.get(quantity, 0.0)
        share = max(math.exp(-width), min(self.least.get(quantity, 0.0), 1.0))
        return min(low, middle * share), max(high, middle * math.exp(width))

    def throughput(self, name: str) -> tuple[float | None, float]:
        """Both ends of a rate of tokens or requests; no low end where requests would come faster than they are served.

        As many come as come: of requests at a rate that is kept up nothing but that rate is in it.
        """
        known = [getattr(one, name) for one in (self.low, self.middle, self.high) if one is not None]
        width = self.widths.get(_THROUGHPUT, 0.0)
        middle: float = getattr(self.middle, name)
        low, high = min(*known, middle * math.exp(-width)), max(*known, middle * math.exp(width))
        return None if self.high is None else low, high
