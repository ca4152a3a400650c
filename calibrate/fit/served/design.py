"""What one more run would add: candidates by how much narrower they leave the predictions of all of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from calibrate.evidence.benchmark_run import Figure, LoadPattern, TokenLengths
from calibrate.fit.served.deployment import Served, served_of
from calibrate.fit.served.fit import INTERVAL, StackFit
from calibrate.fit.served.points import Points
from llm_perf.errors import LLMPerfError

_CONCURRENCIES: Final = (1, 4, 16, 64, 256)
_LENGTHS: Final = ((128, 128), (1024, 256), (4096, 128), (256, 1024))
_STEP: Final = 1e-3


@dataclass(frozen=True)
class Advice:
    """One more run.

    Attributes:
        concurrency, prompt, output: What to run.
        before, after: Half-width of the 90 % interval of a decode step over all candidates, without it and with it.
        constant: The constant that it narrows most, with its half-widths before and after; None where it narrows none.
    """

    concurrency: int
    prompt: int
    output: int
    before: float
    after: float
    constant: tuple[str, float, float] | None

    @property
    def sentence(self) -> str:
        """What to run and what it adds, in words."""
        what = f"one more run at concurrency {self.concurrency}, prompts of {self.prompt}, outputs of {self.output}"
        said = f"{what} would narrow predicted decode steps from +-{self.before:.1%} to +-{self.after:.1%}"
        if self.constant is None:
            return said
        name, before, after = self.constant
        share = after / before
        how = "halve" if share <= 0.55 else f"narrow by {1 - share:.0%}"
        return f"{said}, and {how} the interval of {name}"


def next_run(found: StackFit) -> Advice | None:
    """The run that would add most on the first run's deployment; None where no candidate can be predicted."""
    candidates = _candidates(found.points.served[0])
    if not candidates:
        return None
    names = list(found.start)
    points = Points(candidates)
    values = found.start | found.values
    here = points.log_ratios(values)
    slopes = np.zeros((len(points.targets), len(names)))
    for column, name in enumerate(names):
        slopes[:, column] = (
            points.log_ratios(values | {name: values[name] * math.exp(_STEP)}) - here
        ) / _STEP
    information = np.linalg.inv(found.covariance)
    decode = slopes[[target.main for target in points.targets]]
    before = _mean_width(decode, found.covariance)
    best: tuple[float, int, np.ndarray] | None = None
    for index in range(len(candidates)):
        if index in points.left_out:
            continue
        rows = [n for n, target in enumerate(points.targets) if target.at == index]
        noise = np.array([found.noise[not points.targets[n].main] for n in rows])
        own = slopes[rows] / noise[:, None]
        covariance = np.linalg.inv(information + own.T @ own)
        width = _mean_width(decode, covariance)
        if best is None or width < best[0]:
            best = width, index, covariance
    if best is None:
        return None
    width, index, covariance = best
    one = candidates[index]
    spread = np.sqrt(np.diag(found.covariance))
    shares = np.sqrt(np.diag(covariance)) / np.maximum(spread, 1e-12)
    most = int(np.argmin(shares))
    return Advice(
        one.concurrency,
        round(one.prompt),
        round(one.output),
        before,
        width,
        None
        if shares[most] > 0.9
        else (names[most], float(spread[most]), float(spread[most] * shares[most])),
    )


def _mean_width(slopes: np.ndarray, covariance: np.ndarray) -> float:
    variances = np.einsum("ij,jk,ik->i", slopes, covariance, slopes)
    return float(np.expm1(INTERVAL * np.sqrt(np.mean(np.maximum(variances, 0.0)))))


def _candidates(first: Served) -> list[Served]:
    """Loads of the first run's deployment, with figures whose values mean nothing."""
    figures = (Figure(quantity="tpot_s", value=1.0), Figure(quantity="ttft_s", value=1.0))
    batch = first.requests is None
    if batch:
        figures = (Figure(quantity="step_s", value=1.0), Figure(quantity="prefill_s", value=1.0))
    found = []
    for concurrency, (prompt, output) in itertools.product(_CONCURRENCIES, _LENGTHS):
        run = first.run.replace(
            load=LoadPattern(kind="batch" if batch else "closed_loop", concurrency=concurrency),
            prompt=TokenLengths(mean=float(prompt), kind="fixed"),
            output=TokenLengths(mean=float(output), kind="fixed"),
            figures=figures,
            requests=None,
        )
        try:
            found.append(replace(served_of(run), requests=None) if batch else served_of(run))
        except LLMPerfError:
            continue
    return found
