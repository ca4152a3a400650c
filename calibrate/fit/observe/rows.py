"""What a fit takes from observed points: steps of a known batch and context, and times to the first token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np

from calibrate.evidence.benchmark_run import BenchmarkRun, RequestTimes
from llm_perf.config.scenario import Scenario
from llm_perf.requests.workload import Requests

Kind = Literal["step", "first"]

WAITED = "waited_share"
"""Share of a point's time that the server's threads waited for a core, in `BenchmarkRun.environment`."""

PLANNED = "planned"
"""(concurrency, prompt, output) of a point as it was planned, likewise."""

QUIET = 0.25
"""Waited share up to which a point counts as undisturbed: threads that wake one another wait for up to 0.2 of their time."""

_LEAST_STEPS = 4


@dataclass(frozen=True)
class Arrivals:
    """Requests as they were sent."""

    arrival_s: tuple[float, ...]
    prompt: tuple[int, ...]
    output: tuple[int, ...]

    def requests(self) -> Requests:
        """For the simulator, in order of sending."""
        return Requests.of(np.array(self.arrival_s), np.array(self.prompt), np.array(self.output))


@dataclass(frozen=True)
class Row:
    """One measured time.

    Attributes:
        model: Name of the model.
        kind: ``step``: a decode step of ``batch`` sequences of a mean ``context``. ``first``: the mean time to the first
            token over ``arrivals``.
        seconds: Measured: the median of the undisturbed repeats, as of every load that is compared with a prediction.
        spread: Standard deviation of their logarithms; None of a single one.
        repeats: How many.
        batch, context: Of a step.
        arrivals: Of a first token.
        point: (concurrency, prompt, output) that it is of.
        result: What predicts a figure of a tool's result, which was measured on no burst; None of a session's own row.
        source: The file of such a result.
    """

    model: str
    kind: Kind
    seconds: float
    spread: float | None
    repeats: int
    point: tuple[int, int, int]
    batch: int = 0
    context: float = 0.0
    arrivals: Arrivals | None = None
    result: Result | None = None
    source: str = ""

    @property
    def load(self) -> tuple[str, tuple[int, int, int], str]:
        """What is left out together: all that was measured of one load on one model."""
        return self.model, self.point, self.source


@dataclass(frozen=True)
class Result:
    """A figure of a tool's result: its deployment, and the seconds that a deployment with other constants takes."""

    scenario: Scenario
    seconds_of: Callable[[Scenario], float]


def rows_of(runs: Iterable[BenchmarkRun]) -> list[Row]:
    """Rows of observed bursts, the repeats of a point together; points that were disturbed least stand for a point."""
    points: dict[tuple[str, tuple[int, int, int]], list[BenchmarkRun]] = {}
    for run in runs:
        if run.load.kind == "all_at_once" and _good(run):
            key = (run.deployment.model or "-", (run.load.concurrency or 1, *_asked(run)))
            points.setdefault(key, []).append(run)
    found: list[Row] = []
    for (model, point), repeats in points.items():
        found += _of_point(model, point, undisturbed(repeats))
    return found


def undisturbed(repeats: Sequence[BenchmarkRun]) -> list[BenchmarkRun]:
    """The repeats in which nobody else had the server's cores; where all were disturbed, the least disturbed one."""
    known = [(run.environment.get(WAITED), run) for run in repeats]
    shares: list[tuple[float, BenchmarkRun]] = [
        (float(share), run) for share, run in known if isinstance(share, (int, float))
    ]
    if len(shares) < len(repeats):
        return list(repeats)
    quiet = [run for share, run in shares if share <= QUIET]
    return quiet or [min(shares, key=lambda one: one[0])[1]]


def _asked(run: BenchmarkRun) -> tuple[int, int]:
    """Tokens that were planned: those that came differ from prompt to prompt, by what a tokenizer makes of random letters."""
    planned = run.environment.get(PLANNED)
    if isinstance(planned, list) and len(planned) == 3:
        return int(str(planned[1])), int(str(planned[2]))
    return round(run.prompt.mean or 1), round(run.output.mean or 1)


def _good(run: BenchmarkRun) -> list[RequestTimes]:
    return [
        one
        for one in run.requests or ()
        if one.error is None and one.token_s and one.first_token_s is not None and one.prompt_tokens
    ]


def _of_point(model: str, point: tuple[int, int, int], repeats: Sequence[BenchmarkRun]) -> list[Row]:
    steps = [found for run in repeats if (found := step_of(_good(run))) is not None]
    rows: list[Row] = []
    if steps:
        seconds, spread = _middle([one[0] for one in steps])
        context = median(one[1] for one in steps)
        rows.append(Row(model, "step", seconds, spread, len(steps), point, batch=point[0], context=context))
    first = [_mean_first(_good(run)) for run in repeats]
    if first:
        seconds, spread = _middle(first)
        # As the client sends when nothing holds it up: a delay between two sends would put them into two batches.
        sent = min((_arrivals(_good(run)) for run in repeats), key=_span)
        rows.append(Row(model, "first", seconds, spread, len(first), point, arrivals=sent))
    return rows


def step_of(requests: Sequence[RequestTimes]) -> tuple[float, float] | None:
    """(seconds of a step, mean context) while all of these decode; None where that is too short.

    From the first token of the last to the last token of the first that ends every step is of all of them. The mean over
    that window is taken, since a server hands tokens on in clusters; the middle of the requests' means stands for the step.
    """
    starts = max(one.token_s[0] for one in requests if one.token_s)
    ends = min(one.token_s[-1] for one in requests if one.token_s)
    means, contexts = [], []
    for one in requests:
        times: Any = one.token_s
        inside = [index for index, at in enumerate(times) if starts <= at <= ends]
        if len(inside) <= _LEAST_STEPS or one.prompt_tokens is None:
            return None
        first, last = inside[0], inside[-1]
        # Pieces of a stream are tokens where the server sends as many; else they hold more than one each.
        per_piece = ((one.output_tokens or len(times)) - 1) / max(len(times) - 1, 1)
        means.append((times[last] - times[first]) / ((last - first) * per_piece))
        contexts.append(one.prompt_tokens + ((first + last) / 2 + 1) * per_piece)
    return median(means), sum(contexts) / len(contexts)


def _mean_first(requests: Sequence[RequestTimes]) -> float:
    return sum((one.first_token_s or 0.0) - one.arrival_s for one in requests) / len(requests)


def _arrivals(requests: Sequence[RequestTimes]) -> Arrivals:
    ordered = sorted(requests, key=lambda one: one.arrival_s)
    return Arrivals(
        tuple(one.arrival_s for one in ordered),
        tuple(one.prompt_tokens or 1 for one in ordered),
        tuple(max(one.output_tokens or 1, 1) for one in ordered),
    )


def _span(arrivals: Arrivals) -> float:
    return arrivals.arrival_s[-1] - arrivals.arrival_s[0]


def _middle(values: Sequence[float]) -> tuple[float, float | None]:
    if len(values) < 2:
        return values[0], None
    return median(values), float(np.std(np.log(values), ddof=1))
