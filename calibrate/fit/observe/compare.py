"""Closed loops that were measured beside their predictions, with a profile and without one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from calibrate.evidence.benchmark_run import BenchmarkRun, Quantity
from calibrate.fit.observe.rows import undisturbed
from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import ServiceInputs, Simulation, simulation_of
from llm_perf.requests.summary import Summary

QUANTITIES: Final[tuple[Quantity, ...]] = ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s")


@dataclass(frozen=True)
class Quantified:
    """One measured quantity of a closed loop: the median of its undisturbed repeats, and what was predicted."""

    measured: float
    before: float
    after: float
    interval: tuple[float, float] | None

    @property
    def inside(self) -> bool:
        """Whether it lies in its interval."""
        return self.interval is not None and self.interval[0] <= self.measured <= self.interval[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "measured": self.measured, "before": self.before, "after": self.after,
            "error_before": self.before / self.measured - 1, "error_after": self.after / self.measured - 1,
            "interval": None if self.interval is None else list(self.interval), "inside": self.inside,
        }  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A closed loop."""

    concurrency: int
    prompt: int
    output: int
    repeats: int
    quantities: dict[str, Quantified]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "concurrency": self.concurrency, "prompt": self.prompt, "output": self.output, "repeats": self.repeats,
            "quantities": {name: one.as_dict() for name, one in self.quantities.items()},
        }  # fmt: skip


def compare(runs: Sequence[BenchmarkRun], inputs: InferenceInputs, profile: str) -> list[Compared]:
    """Each closed loop, its repeats together, beside what ``llm-perf simulate`` says of it.

    Args:
        runs: Measured.
        inputs: The deployment, without a profile.
        profile: That is tried.
    """
    groups: dict[tuple[int, int, int, int], list[BenchmarkRun]] = {}
    for run in runs:
        key = (
            run.load.concurrency or 1, run.load.num_requests or 1, round(run.prompt.mean or 1), round(run.output.mean or 1),
        )  # fmt: skip
        groups.setdefault(key, []).append(run)
    return [_compared(key, found, inputs, profile) for key, found in groups.items()]


def _compared(
    key: tuple[int, int, int, int], repeats: Sequence[BenchmarkRun], inputs: InferenceInputs, profile: str
) -> Compared:
    concurrency, requests, prompt, output = key
    traffic = ServiceInputs(
        concurrency=concurrency, num_requests=requests, prompt_len=str(prompt), gen_len=str(output)
    )
    before = simulation_of(inputs, traffic)
    after = simulation_of(inputs.replace(profile=profile), traffic)
    kept = undisturbed(repeats)
    quantities: dict[str, Quantified] = {}
    for quantity in QUANTITIES:
        values = [figure.value for run in kept if (figure := run.figure(quantity)) is not None]
        quantities[quantity] = Quantified(
            median(values),
            _value(before.summary, quantity),
            _value(after.summary, quantity),
            _ends(after, quantity),
        )
    return Compared(concurrency, prompt, output, len(kept), quantities)


def _value(summary: Summary, quantity: Quantity) -> float:
    return {
        "ttft_s": summary.ttft_s.mean,
        "tpot_s": summary.tpot_s.mean,
        "e2e_s": summary.e2e_s.mean,
        "output_tokens_per_s": summary.output_tokens_per_s,
    }[quantity]


def _ends(found: Simulation, quantity: Quantity) -> tuple[float, float] | None:
    interval = None if found.interval is None else found.interval.of(quantity)
    if interval is None or interval.high is None:
        return None
    ends = sorted((_value(interval.low, quantity), _value(interval.high, quantity)))
    return ends[0], ends[1]


def summary(rows: Sequence[Compared]) -> dict[str, Any]:
    """Errors of each quantity over all loops, and how many intervals hold what was measured."""
    found: dict[str, Any] = {}
    for quantity in QUANTITIES:
        ones = [row.quantities[quantity] for row in rows]
        after = [abs(one.after / one.measured - 1) for one in ones]
        before = [abs(one.before / one.measured - 1) for one in ones]
        found[quantity] = {
            "count": len(ones),
            "median_after": median(after),
            "largest_after": max(after),
            "median_before": median(before),
            "bias_after": math.exp(sum(math.log(one.after / one.measured) for one in ones) / len(ones)) - 1,
            "inside": sum(one.inside for one in ones),
        }
    return found
