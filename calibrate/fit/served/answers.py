"""What is predicted of a run: every quantity that it may have measured, by the statistic that it states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from calibrate.evidence.benchmark_run import Figure, Quantity, Statistic
from calibrate.fit.served.deployment import Served, with_constants
from llm_perf.analysis.measures import Measures
from llm_perf.errors import SpecError
from llm_perf.requests.outcome import COMPLETED, Outcome
from llm_perf.requests.simulate import simulate
from llm_perf.requests.summary import gaps_of, tpot_of
from llm_perf.requests.workload import Floats
from llm_perf.systems import Load, system_of


@dataclass(frozen=True)
class Answer:
    """Predicted quantities of a run.

    Attributes:
        of: A quantity's value by its statistic, NaN where there is none.
        num_gpus: Of the deployment.
        times: TTFT and TPOT of each request, in the order in which they came; NaN where it has none. Empty of a batch.
    """

    of: Callable[[Quantity, Statistic], float]
    num_gpus: int
    times: Mapping[Quantity, Floats] = field(default_factory=dict)

    def figure(self, figure: Figure) -> float | None:
        """What is predicted of a measured figure; None of one that is not predicted."""
        value = self.of(figure.quantity, figure.statistic)
        if not math.isfinite(value) or value <= 0:
            return None
        return value / self.num_gpus if figure.scope == "per_gpu" else value


def answer_of(served: Served, constants: Mapping[str, float] | None = None) -> Answer:
    """The predictions of a run under constants of its engine.

    Raises:
        SpecError: its engine's scheduler is not known, or it refuses the requests.
        DoesNotFitError: the weights leave no room for a cache.
    """
    scenario = with_constants(served, constants or {})
    if served.requests is None:
        load = load_of(served)
        found = of_batch(
            Measures.of(system_of(scenario).evaluate(scenario, load), load, scenario.model), load
        )
        return Answer(lambda quantity, _: float(found.get(quantity, math.nan)), served.num_gpus)
    outcome = simulate(scenario, served.requests)
    done = (outcome.status == COMPLETED) & (np.arange(len(outcome.status)) >= served.warm_up)
    if not done.any():
        raise SpecError(f"{served.run.source}: the engine refuses all of its requests")
    times: dict[Quantity, Floats] = {
        "ttft_s": outcome.first_token_s - outcome.arrival_s,
        "tpot_s": tpot_of(outcome),
    }
    return Answer(_of_requests(outcome, done), served.num_gpus, times)


def load_of(served: Served) -> Load:
    """Batch and mean lengths of a static batch."""
    return Load(float(served.concurrency), served.prompt, served.output)


def of_batch(measures: Measures, load: Load) -> dict[Quantity, float]:
    """Quantities of one static batch, numbers or arrays. Of one sequence the request's times are the batch's."""
    tokens = load.batch * load.gen_len
    decode = measures.decode_latency_s
    found: dict[Quantity, object] = {
        "prefill_s": measures.ttft_s,
        "ttft_s": measures.ttft_s,
        "step_s": measures.tpot_s,
        "tpot_s": measures.tpot_s,
        "itl_s": measures.tpot_s,
        "decode_s": decode,
        "batch_s": measures.total_latency_s,
        "e2e_s": measures.total_latency_s,
        "output_tokens_per_s": tokens / measures.total_latency_s,
        "input_tokens_per_s": load.batch * load.prompt_len / measures.total_latency_s,
        "total_tokens_per_s": load.batch * (load.prompt_len + load.gen_len) / measures.total_latency_s,
        "requests_per_s": load.batch / measures.total_latency_s,
        "prefill_tokens_per_s": load.batch * load.prompt_len / measures.ttft_s,
        "decode_tokens_per_s": load.batch / measures.tpot_s,
    }
    return found  # type: ignore[return-value]


_SHARES: Final[dict[Statistic, float]] = {
    "p1": 1, "p5": 5, "p10": 10, "p25": 25, "p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99, "p99.9": 99.9,
    "min": 0, "max": 100,
}  # fmt: skip


def _of_requests(outcome: Outcome, done: np.ndarray) -> Callable[[Quantity, Statistic], float]:
    """Quantities of requests that ended, over time."""
    ends, starts = outcome.finished_s[done], outcome.arrival_s[done]
    duration = float(ends.max() - starts.min())
    output = float(outcome.requests.output_tokens[done].sum())
    prompt = float(outcome.requests.prompt_tokens[done].sum())
    each: dict[Quantity, Floats] = {
        "ttft_s": (outcome.first_token_s - outcome.arrival_s)[done],
        "tpot_s": tpot_of(outcome)[done],
        "e2e_s": (outcome.finished_s - outcome.arrival_s)[done],
    }
    rates: dict[Quantity, float] = {
        "output_tokens_per_s": output / duration,
        "input_tokens_per_s": prompt / duration,
        "total_tokens_per_s": (output + prompt) / duration,
        "requests_per_s": float(done.sum()) / duration,
        "duration_s": duration,
    }

    def of(quantity: Quantity, statistic: Statistic) -> float:
        if quantity in rates:
            return rates[quantity] if statistic == "mean" else math.nan
        if quantity == "itl_s":
            gaps, counts = gaps_of(outcome.steps)
            return _statistic(np.repeat(gaps, counts), statistic)
        return _statistic(each[quantity], statistic) if quantity in each else math.nan

    return of


def _statistic(values: Floats, statistic: Statistic) -> float:
    there = values[np.isfinite(values)]
    if not len(there):
        return math.nan
    if statistic == "mean":
        return float(there.mean())
    if statistic == "sd":
        return float(there.std())
    return float(np.percentile(there, _SHARES[statistic]))
