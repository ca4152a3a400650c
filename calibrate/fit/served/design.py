"""What one more run would add: candidates by how much narrower they leave the predictions of all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from calibrate.evidence.benchmark_run import Figure, LoadPattern, TokenLengths
from calibrate.fit.served.deployment import Served, served_of
from calibrate.fit.served.fit import INTERVAL, StackFit, shipped_constants
from calibrate.fit.served.points import Points
from calibrate.fit.stack_priors import SPREAD
from llm_perf.errors import LLMPerfError
from llm_perf.systems.footprint import model_weight_bytes

_CONCURRENCIES: Final = (1, 4, 16, 64, 256)
_LENGTHS: Final = ((128, 128), (1024, 256), (4096, 128), (256, 1024))
_FEW: Final = (1, 16, 64)
_OTHER_MODELS: Final = ("llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b")
"""Sizes of which one is far from whatever was run."""

_STEP: Final = 1e-3
_NOTHING: Final = 1e-5


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


@dataclass(frozen=True)
class Addition:
    """One run on another deployment.

    Attributes:
        what: The deployment, in words.
        before, after: Half-width of the 90 % interval of a decode step there, without the run and with it.
    """

    what: str
    before: float
    after: float

    @property
    def sentence(self) -> str:
        """What it adds, in words."""
        if self.after > 0.95 * self.before:
            return f"{self.what} would add little: decode steps there are known to +-{self.before:.1%}"
        return f"{self.what} would narrow decode steps there from +-{self.before:.1%} to +-{self.after:.1%}"


def additions(found: StackFit) -> list[Addition]:
    """What one run of a second model, and one over twice the GPUs, would add; constants that these runs do not move count."""
    first, models = found.points.served[0], {one.model for one in found.points.served}
    sizes = [float(model_weight_bytes(one.scenario)) for one in found.points.served]

    def far(served: Served) -> float:
        return min(abs(math.log(model_weight_bytes(served.scenario) / size)) for size in sizes)

    others = [
        (one, loads)
        for one in _OTHER_MODELS
        if (loads := _loads(first, model=one)) and loads[0].model not in models
    ]
    farthest = sorted(others, key=lambda other: far(other[1][0]), reverse=True)
    another = (_addition(f"one run of {name}", loads, found) for name, loads in farthest)
    model = next((one for one in another if one is not None), None)  # the farthest that fits
    ranks, gpus = first.run.deployment.tp or 1, first.num_gpus
    wider = [] if first.scenario.gpu.absent else _loads(first, tp=2 * ranks, num_gpus=2 * gpus)
    more = _addition(f"one run over {2 * gpus} GPUs", wider, found) if wider else None
    return [one for one in (model, more) if one is not None]


def _loads(first: Served, **deployment: Any) -> list[Served]:
    """Batches or loops on another deployment; none where it cannot be."""
    other = first.run.replace(deployment=first.run.deployment.replace(**deployment))
    return [one for one in _candidates(replace(first, run=other), _FEW) if one.prompt]


def _addition(what: str, loads: Sequence[Served], found: StackFit) -> Addition | None:
    points = Points(loads)
    values = shipped_constants(loads) | found.start | found.values
    here = points.log_ratios(values)
    columns = {
        name: (points.log_ratios(values | {name: value * math.exp(_STEP)}) - here) / _STEP
        for name, value in values.items()
        if value > 0
    }
    fresh = [
        name for name, slope in columns.items() if name not in found.start and np.abs(slope).max() > _NOTHING
    ]
    names = [*found.start, *fresh]
    decode = [
        n for n, target in enumerate(points.targets) if target.main and target.at not in points.left_out
    ]
    if not decode:
        return None
    slopes = np.stack([columns[name] for name in names], axis=1)
    known = np.zeros((len(names), len(names)))
    known[: len(found.start), : len(found.start)] = found.covariance
    for place, name in enumerate(fresh, len(found.start)):
        known[place, place] = SPREAD[name] ** 2
    before, information = _mean_width(slopes[decode], known), np.linalg.inv(known)
    widths = []
    for index in {points.targets[n].at for n in decode}:
        rows = [n for n, target in enumerate(points.targets) if target.at == index]
        noise = np.array([found.noise[not points.targets[n].main] for n in rows])
        own = slopes[rows] / noise[:, None]
        widths.append(_mean_width(slopes[decode], np.linalg.inv(information + own.T @ own)))
    return Addition(what, before, min(widths))


def _mean_width(slopes: np.ndarray, covariance: np.ndarray) -> float:
    variances = np.einsum("ij,jk,ik->i", slopes, covariance, slopes)
    return float(np.expm1(INTERVAL * np.sqrt(np.mean(np.maximum(variances, 0.0)))))


def _candidates(first: Served, concurrencies: Sequence[int] = _CONCURRENCIES) -> list[Served]:
    """Loads of the first run's deployment, with figures whose values mean nothing."""
    figures = (Figure(quantity="tpot_s", value=1.0), Figure(quantity="ttft_s", value=1.0))
    batch = first.requests is None
    if batch:
        figures = (Figure(quantity="step_s", value=1.0), Figure(quantity="prefill_s", value=1.0))
    found = []
    for concurrency, (prompt, output) in itertools.product(concurrencies, _LENGTHS):
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
