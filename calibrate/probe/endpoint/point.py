"""One planned load, and the record of what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import repeat
from statistics import mean, median
from typing import Any

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    Quantity,
    RequestTimes,
    TokenLengths,
)
from calibrate.probe.endpoint.load import Account, closed_loop
from calibrate.probe.endpoint.prompts import Prompts, TokenLaw
from calibrate.probe.endpoint.request import Asking, Sample
from llm_perf import __version__

TOOL = "llm-perf-observe"


@dataclass(frozen=True, order=True, slots=True)
class LoadPoint:
    """Requests of one kind: ``rounds`` times ``concurrency`` of them, as many in flight; one round is a burst."""

    concurrency: int
    prompt: int
    output: int
    rounds: int = 1

    @property
    def requests(self) -> int:
        """All of them."""
        return self.concurrency * self.rounds

    def __str__(self) -> str:
        """For a line of progress."""
        how = "at once" if self.rounds == 1 else f"of {self.requests} in flight"
        return f"{self.concurrency} {how}, prompt {self.prompt}, generate {self.output}"


@dataclass(frozen=True)
class About:
    """What is said of every point of a session."""

    engine: Engine
    deployment: Deployment
    source: str
    environment: dict[str, Any]


async def measure_point(
    point: LoadPoint, asking: Asking, prompts: Prompts, law: TokenLaw, account: Account, about: About
) -> tuple[BenchmarkRun, list[Sample]]:
    """Send a point's requests and wait for all of them."""
    start = time.perf_counter()
    lengths = repeat((point.prompt, point.output), point.requests)
    samples = await closed_loop(asking, prompts, law, lengths, point.concurrency, account)
    return run_of(point, samples, start, about), samples


def run_of(point: LoadPoint, samples: Sequence[Sample], start_s: float, about: About) -> BenchmarkRun:
    """The record of a point whose requests were sent from ``start_s`` on."""
    times = [sample.as_times(start_s) for sample in samples]
    good = [one for one, sample in zip(times, samples, strict=True) if sample.ok]
    pattern: dict[str, Any] = {"kind": "all_at_once"} if point.rounds == 1 else {"kind": "closed_loop"}
    return BenchmarkRun(
        tool=TOOL,
        tool_version=__version__,
        engine=about.engine,
        deployment=about.deployment,
        load=LoadPattern(concurrency=point.concurrency, num_requests=point.requests, **pattern),
        prompt=_lengths([one.prompt_tokens for one in good], point.prompt),
        output=_lengths([one.output_tokens for one in good], point.output),
        figures=tuple(_figures(good)),
        counts=Counts(
            completed=len(good),
            failed=len(times) - len(good),
            prompt_tokens=sum(one.prompt_tokens or 0 for one in good),
            output_tokens=sum(one.output_tokens or 0 for one in good),
        ),
        requests=tuple(times),
        source=about.source,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        environment=about.environment,
    )


def _lengths(counts: Sequence[int | None], asked: int) -> TokenLengths:
    known = [count for count in counts if count]
    if not known:
        return TokenLengths(mean=asked)
    kind: Any = "fixed" if min(known) == max(known) else "vary"
    return TokenLengths(mean=mean(known), kind=kind, low=min(known), high=max(known))


def _figures(good: Sequence[RequestTimes]) -> list[Figure]:
    """Times over requests, and rates over the whole point."""
    found: list[Figure] = []
    if not good:
        return found
    ttft = [one.first_token_s - one.arrival_s for one in good if one.first_token_s is not None]
    e2e = [one.finished_s - one.arrival_s for one in good if one.finished_s is not None]
    tpot = [value for one in good if (value := tpot_s(one)) is not None]
    gaps = [
        late - early
        for one in good
        for early, late in zip(one.token_s or (), (one.token_s or ())[1:], strict=False)
    ]
    times: tuple[tuple[Quantity, list[float]], ...] = (
        ("ttft_s", ttft), ("tpot_s", tpot), ("itl_s", gaps), ("e2e_s", e2e)
    )  # fmt: skip
    for quantity, values in times:
        if values:
            found += [
                Figure(quantity=quantity, statistic="mean", value=mean(values), samples=len(values)),
                Figure(quantity=quantity, statistic="p50", value=median(values), samples=len(values)),
            ]
    whole = max(one.finished_s or 0.0 for one in good) - min(one.arrival_s for one in good)
    tokens = sum(one.output_tokens or 0 for one in good)
    if whole > 0:
        found += [
            Figure(quantity="duration_s", value=whole),
            Figure(quantity="output_tokens_per_s", value=tokens / whole, scope="system"),
            Figure(quantity="requests_per_s", value=len(good) / whole, scope="system"),
        ]
    return found


def tpot_s(one: RequestTimes) -> float | None:
    """(last - first) / (tokens - 1) of a request; None of one token."""
    if not one.token_s or one.output_tokens is None or one.output_tokens < 2:
        return None
    return (one.token_s[-1] - one.token_s[0]) / (one.output_tokens - 1)
