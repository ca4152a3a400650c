"""One planned load, and the record of what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import repeat
from statistics import mean
from typing import Any

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Engine,
    LoadPattern,
    TokenLengths,
)
from calibrate.evidence.request_figures import figures_of_requests
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
        figures=figures_of_requests(good),
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
