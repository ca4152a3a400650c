"""Which experts of a layer the tokens of a step are sent to: how many in all, and how many on the busiest rank.

A router does not choose evenly, and even one that did would not load all ranks alike in a step. Both follow from one number,
the standard deviation of how often experts are chosen over its mean: experts are popular by a log-normal law, tokens choose
without knowing of each other. A step waits for the rank that has most to do, of which the expected maximum of as many normal
deviates tells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from llm_perf.counts.arrays import Number, expm1, log1p, maximum, minimum, sqrt

_NODES: Final = 16
"""Equally many experts of each popularity: so many kinds stand for all."""
_HALVINGS: Final = 60
_WIDEST: Final = 3.5
"""Largest coefficient of variation that so many kinds express with room to spare: theirs is below 15 ** .5."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Tokens choose ``active`` of ``experts``, which are popular with a coefficient of variation of ``variation``."""

    active: int
    experts: int
    variation: float

    def touched_share(self, tokens: Number) -> Number:
        """Share of the experts that ``tokens`` tokens are sent to on average; one token is sent to ``active``."""
        if self.active >= self.experts:
            return 1.0
        if self.variation <= 0:
            return -expm1(log1p(-self.active / self.experts) * tokens)
        rates = choice_rates(self.active, self.experts, self.variation)
        share: Number = 0.0
        for rate in rates:
            share = share - expm1(-rate * tokens)
        return share / len(rates)

    def busiest_rows(self, tokens: Number, ranks: int) -> Number:
        """Rows of the busiest of ``ranks`` ranks over the mean, each of which has as many of the experts."""
        if ranks <= 1 or self.variation <= 0:
            return 1.0
        apart = (ranks - 1) / self.experts * self.variation**2
        chance = (ranks - 1) * self._left / self.active
        most = min(float(ranks), self.experts / self.active)
        return minimum(1.0 + highest_of(ranks) * sqrt(apart + chance / maximum(tokens, 1.0)), most)

    def busiest_touched(self, tokens: Number, ranks: int) -> Number:
        """Experts that the busiest of ``ranks`` ranks is sent tokens for."""
        own = self.experts / ranks
        share = self.touched_share(tokens)
        if ranks <= 1 or self.variation <= 0:
            return own * share
        spread = sqrt(own * maximum(share * (1.0 - share), 0.0) * (1.0 - 1.0 / ranks))
        return minimum(own * share + highest_of(ranks) * spread, minimum(own, self.active * tokens))

    @property
    def _left(self) -> float:
        """How far a choice of different experts varies less than one that may repeat them."""
        return (self.experts - self.active) / max(self.experts - 1, 1)


@lru_cache(maxsize=256)
def choice_rates(active: int, experts: int, variation: float) -> tuple[float, ...]:
    """-log of the probability that a token leaves an expert alone, for each kind of expert.

    In proportion to their popularity, and such that a token is sent to ``active`` different experts.
    """
    popularity = popularities(min(variation, _WIDEST))
    low, high = 0.0, 1.0
    while _chosen(popularity, high) < active / experts:
        high *= 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _chosen(popularity, middle) < active / experts else (low, middle)
    return tuple(high * one for one in popularity)


def _chosen(popularity: tuple[float, ...], rate: float) -> float:
    return -sum(math.expm1(-rate * one) for one in popularity) / len(popularity)


@lru_cache(maxsize=64)
def popularities(variation: float) -> tuple[float, ...]:
    """Popularities of `_NODES` kinds of experts, 1 on average, with exactly this coefficient of variation."""
    if variation <= 0:
        return (1.0,) * _NODES
    quantiles = [_quantile((place + 0.5) / _NODES) for place in range(_NODES)]

    def scaled(spread: float) -> list[float]:
        top = spread * quantiles[-1]
        raised = [math.exp(spread * one - top) for one in quantiles]
        return [one * _NODES / sum(raised) for one in raised]

    def varies(spread: float) -> float:
        return math.sqrt(sum((one - 1.0) ** 2 for one in scaled(spread)) / _NODES)

    low, high = 0.0, 1.0
    while varies(high) < variation:
        high *= 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if varies(middle) < variation else (low, middle)
    return tuple(scaled(high))


@lru_cache(maxsize=64)
def highest_of(count: int) -> float:
    """Expected largest of ``count`` normal deviates, by Blom's formula (1958); within 5 % from 2 on."""
    return _quantile((count - 0.375) / (count + 0.25)) if count > 1 else 0.0


def _quantile(probability: float) -> float:
    from statistics import NormalDist  # which few questions need, and takes its time to import

    return NormalDist().inv_cdf(probability)
