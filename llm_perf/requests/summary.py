"""What an outcome means to those who asked: percentiles, throughput, and how busy the engine was.

Times are those of the field's load generators (vllm/benchmarks/serve.py, calculate_metrics): TTFT from sending to the first
token, time in the queue included; TPOT per request (last - first) / (tokens - 1), over requests of two tokens or more; ITL
every gap between two tokens of one request; E2E from sending to the last token. Percentiles interpolate linearly, as NumPy's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_perf.requests.outcome import COMPLETED, REJECTED, Outcome, Steps
from llm_perf.requests.workload import Floats

__all__ = ["PERCENTILES", "Distribution", "Summary", "gaps_of", "summary_of", "tpot_of"]

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A quantity over requests or gaps, in seconds; all NaN where there is none of them."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Floats) -> Distribution:
        """Of values that count once each; those that do not exist (NaN) are left out."""
        there = values[np.isfinite(values)]
        if not len(there):
            return cls(*[math.nan] * 5)
        return cls(float(there.mean()), *(float(value) for value in np.percentile(there, PERCENTILES)))

    @classmethod
    def of_counted(cls, values: Floats, counts: NDArray[np.int64]) -> Distribution:
        """Of values that stand for ``counts`` equal ones each: what `of` gives of all of them written out."""
        kept = counts > 0
        values, counts = values[kept], counts[kept]
        if not len(values):
            return cls(*[math.nan] * 5)
        order = np.argsort(values, kind="stable")
        values, last = values[order], np.cumsum(counts[order])
        total = int(last[-1])
        # Where a percentile lies between two of the values, and how far (NumPy's method "linear").
        place = (total - 1) * np.array(PERCENTILES) / 100
        low = np.floor(place).astype(np.int64)
        below = values[np.searchsorted(last, low, side="right")]
        above = values[np.searchsorted(last, np.minimum(low + 1, total - 1), side="right")]
        found = below + (above - below) * (place - low)
        return cls(float(np.average(values, weights=counts[order])), *(float(value) for value in found))

    def percentile(self, name: str) -> float:
        """By its name: mean, p50, p90, p95 or p99."""
        return float(getattr(self, name))


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of one simulation. Rates count completed requests over ``duration_s``, as load generators count them.

    Attributes:
        completed, rejected, running: Requests by what became of them.
        preempted: Times that a request lost its cache and was computed anew.
        ttft_s, tpot_s, itl_s, e2e_s: See the module.
        queue_s: From arrival to the first step that computes something of the request.
        duration_s: From the first arrival to the last token.
        output_tokens_per_s, total_tokens_per_s, requests_per_s: The latter with prompt tokens.
        steps: Steps of all replicas.
        mean_batch: Sequences that decode in a step, over the steps in which any does.
        mean_running, mean_waiting: Requests that run, and that have arrived and do not yet, averaged over the duration.
        peak_waiting: The most that a step leaves in the queue; who comes during a step and enters the next is not among them.
        busy: Share of the duration in which an engine computes, over all replicas.
        kv_utilization, peak_kv_utilization: Share of the cache's tokens in use, averaged over computing time, and at most.
        prefix_hit_rate: Share of prompt tokens that were found in the cache.
    """

    completed: int
    rejected: int
    running: int
    preempted: int
    ttft_s: Distribution
    tpot_s: Distribution
    itl_s: Distribution
    e2e_s: Distribution
    queue_s: Distribution
    duration_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    steps: int
    mean_batch: float
    mean_running: float
    mean_waiting: float
    peak_waiting: int
    busy: float
    kv_utilization: float
    peak_kv_utilization: float
    prefix_hit_rate: float


def tpot_of(outcome: Outcome) -> Floats:
    """Seconds per output token of each request; NaN for one of a single token, or that did not end."""
    gaps = outcome.requests.output_tokens - 1
    spent = outcome.finished_s - outcome.first_token_s
    return np.where(gaps > 0, spent / np.maximum(gaps, 1), np.nan)


def gaps_of(steps: Steps) -> tuple[Floats, NDArray[np.int64]]:
    """Gaps between tokens in seconds, and how many there are of each.

    In a row of equal steps every decoding sequence gets a token per step. The first step of a row also ends the wait of
    those that could not go on before it, each since the row in which it got the token before: it decoded there, or its
    prompt ended there. Gaps across a preemption are not among them.
    """
    values: list[Floats] = []
    counts: list[NDArray[np.int64]] = []
    for replica in np.unique(steps.replica):
        mine = steps.replica == replica
        ends, batch = steps.start_s[mine] + steps.duration_s[mine], steps.decode_sequences[mine]
        going_on, each = steps.going_on[mine], steps.duration_s[mine] / steps.count[mine]
        before = np.concatenate([np.zeros(1, np.int64), going_on[:-1]])
        waits = np.where(batch > 0, going_on, np.maximum(going_on - before, 0))
        decodes = np.flatnonzero(batch > 0)
        # The next row with decodes after each row, and who waits for it there since then, the longest first.
        following = np.searchsorted(decodes, np.arange(len(batch)), side="right")
        rows = np.flatnonzero((following < len(decodes)) & (waits > 0))
        targets, waiting = decodes[following[rows]], waits[rows]
        earlier = np.cumsum(waiting) - waiting
        earlier -= earlier[np.searchsorted(targets, targets)]
        waiting = np.clip(batch[targets] - earlier, 0, waiting)
        gap = np.maximum(steps.start_s[mine][targets] - ends[rows], 0.0)
        waited = np.bincount(targets, waiting, len(batch)).astype(np.int64)
        values += [each[decodes], each[targets] + gap]
        counts += [(batch * steps.count[mine] - waited)[decodes], waiting]
    if not values:
        return np.empty(0), np.empty(0, np.int64)
    return np.concatenate(values), np.concatenate(counts)


def summary_of(outcome: Outcome, warm_up: int = 0) -> Summary:
    """All figures of an outcome. The first ``warm_up`` requests are in the rates, and not in the times of requests."""
    requests, steps = outcome.requests, outcome.steps
    done = outcome.status == COMPLETED
    duration = _duration_s(outcome)

    def per_second(total: float) -> float:
        return total / duration if duration > 0 else math.nan

    output = float(requests.output_tokens[done].sum())
    prompt = float(requests.prompt_tokens[done].sum())
    decoding = steps.decode_sequences > 0
    replicas = max(outcome.engines, int(steps.replica.max(initial=0)) + 1)
    busy_s = float(steps.duration_s.sum())
    in_use = steps.kv_tokens / max(outcome.kv_capacity_tokens, 1)
    return Summary(
        completed=int(done.sum()),
        rejected=int((outcome.status == REJECTED).sum()),
        running=int(len(requests) - done.sum() - (outcome.status == REJECTED).sum()),
        preempted=int(outcome.preemptions.sum()),
        ttft_s=Distribution.of((outcome.first_token_s - outcome.arrival_s)[warm_up:]),
        tpot_s=Distribution.of(tpot_of(outcome)[warm_up:]),
        itl_s=Distribution.of_counted(*gaps_of(steps)),
        e2e_s=Distribution.of((outcome.finished_s - outcome.arrival_s)[warm_up:]),
        queue_s=Distribution.of((outcome.scheduled_s - outcome.arrival_s)[warm_up:]),
        duration_s=duration,
        output_tokens_per_s=per_second(output),
        total_tokens_per_s=per_second(output + prompt),
        requests_per_s=per_second(float(done.sum())),
        steps=int(steps.count.sum()),
        mean_batch=_mean(steps.decode_sequences[decoding], steps.count[decoding]),
        mean_running=per_second(float((outcome.finished_s - outcome.scheduled_s)[done].sum())),
        mean_waiting=per_second(float((outcome.scheduled_s - outcome.arrival_s)[done].sum())),
        peak_waiting=int(steps.waiting.max(initial=0)),
        busy=per_second(busy_s) / replicas,
        kv_utilization=_mean(in_use, steps.duration_s),
        peak_kv_utilization=float(in_use.max(initial=0.0)),
        prefix_hit_rate=float(outcome.cached_tokens[done].sum()) / prompt if prompt else math.nan,
    )


def _duration_s(outcome: Outcome) -> float:
    ends = outcome.finished_s[np.isfinite(outcome.finished_s)]
    starts = outcome.arrival_s[np.isfinite(outcome.arrival_s)]
    return float(ends.max() - starts.min()) if len(ends) and len(starts) else math.nan


def _mean(values: Floats | NDArray[np.int64], weights: Floats | NDArray[np.int64]) -> float:
    total = float(weights.sum())
    return float((values * weights).sum()) / total if total > 0 else math.nan
