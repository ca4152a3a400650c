"""Constants of one version of an engine, fitted to runs: those that the runs tell, with how uncertain each is.

Least squares on log ratios under a soft_l1 loss, with a log-normal prior on each constant around what ships. How far runs
scatter is estimated with the fit, so that the uncertainty that is stated follows from the runs. A constant that the runs
leave as wide as it was known before stays what ships.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibrate.evidence.benchmark_run import BenchmarkRun
from calibrate.fit.refit import require_scipy
from calibrate.fit.served.deployment import Served
from calibrate.fit.served.points import Points
from calibrate.fit.stack_priors import SPREAD
from llm_perf.config.names import normalise
from llm_perf.errors import SpecError
from llm_perf.systems import system_of

INTERVAL: Final = 1.645
"""Standard deviations of a 90 % interval."""

_USUAL_NOISE: Final = (0.05, 0.15)
"""Log standard deviation that is usual of a run's decode, and of its first tokens, which wait for network and tokeniser."""

_RUNS_OF_IT: Final = 4.0
"""How many runs that knowledge is worth."""

_LEAST_NOISE: Final = 0.005
_TOLD, _MOVED = 0.9, 0.5
"""A constant is told where its uncertainty falls below this share of what was known, or it moves by so much of that."""

_BOUNDS: Final = 3.5
_SOFT: Final = 1.5
"""Standard deviations beyond which a residual counts by its size and not by its square."""

_STEP: Final = 1e-3
_ROUNDS: Final = 5
_AGAIN: Final = 3
"""Evaluations with derivatives at most, of a first solution and of one that begins at another."""
_MOVES: Final = 1e-5


Noise = tuple[float, float]


@dataclass(frozen=True)
class StackFit:
    """What a fit found.

    Attributes:
        release: ``FAMILY@RELEASE``, the file of constants.
        points: The runs, closed loops set right by simulations under the fitted constants.
        start: What ships, of every constant that the runs could move.
        values: Of those that they tell.
        spread: Log standard deviation of every constant that they could move.
        covariance: Of their logarithms, in the order of ``start``.
        slopes: Derivatives of log ratios by those logarithms, a row per target.
        noise: Log standard deviation that the fit leaves: of a run's decode, and of its first tokens.
        before, after: log(predicted / measured) per target with what ships and with the fit.
    """

    release: str
    points: Points
    start: dict[str, float]
    values: dict[str, float]
    spread: dict[str, float]
    covariance: np.ndarray
    slopes: np.ndarray
    noise: Noise
    before: np.ndarray
    after: np.ndarray

    def interval(self, name: str) -> tuple[float, float]:
        """Between which a constant lies with a probability of 90 %."""
        value, width = self.values.get(name, self.start[name]), math.exp(INTERVAL * self.spread[name])
        return value / width, value * width

    @property
    def untold(self) -> tuple[str, ...]:
        """Constants that the runs could move and do not tell."""
        return tuple(name for name in self.start if name not in self.values)

    @property
    def runs(self) -> tuple[BenchmarkRun, ...]:
        """What was fitted, without runs that are not predicted."""
        return tuple(one.run for i, one in enumerate(self.points.served) if i not in self.points.left_out)

    def left_out_residuals(self) -> np.ndarray:
        """Log ratios per target of a fit without it, to first order: what the fit says of a run that it never saw."""
        weights = 1 / np.array([self.noise[not target.main] for target in self.points.targets])
        rows = self.slopes * weights[:, None]
        leverage = np.einsum("ij,jk,ik->i", rows, self.covariance, rows)
        return np.asarray(self.after / np.maximum(1 - leverage, 0.1))


def release_of_runs(served: Sequence[Served]) -> str:
    """The file of constants that all runs are of.

    Raises:
        SpecError: they are of several engines, versions or GPUs.
    """
    files: dict[str, Served] = {}
    for one in served:
        file = system_of(one.scenario).file
        files.setdefault(f"{file.name}@{file.release}", one)
    if len(files) > 1:
        (first, a), (second, b) = list(files.items())[:2]
        raise SpecError(
            f"{a.run.source} is of {first} and {b.run.source} of {second}: runs of one version of one engine make a profile"
        )
    gpus = {normalise(one.scenario.gpu.name): one for one in served}
    if len(gpus) > 1:
        a, b = list(gpus.values())[:2]
        raise SpecError(
            f"{a.run.source} ran on {a.scenario.gpu.name} and {b.run.source} on {b.scenario.gpu.name}: a profile is of one "
            "machine"
        )
    return next(iter(files))


def fit_stack(served: Sequence[Served], start: Mapping[str, float] | None = None) -> StackFit:
    """Fit the constants of the runs' version that they tell.

    Args:
        served: The runs.
        start: Constants to start from in place of those that ship, for figures of versions that were never seen.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: runs of several versions or GPUs, or none that can be predicted.
    """
    require_scipy("a fit of a serving stack")
    if not served:
        raise SpecError("no run is left to fit")
    release = release_of_runs(served)
    given = dict(start or {})
    shipped = {name: given.get(name, value) for name, value in shipped_constants(served).items()}
    plain = Points(served).with_loops(given)
    before = plain.log_ratios(given)
    if len(plain.left_out) == len(served):
        reason = next(iter(plain.left_out.values()))
        raise SpecError(f"no run is left to fit: {served[0].run.source}: {reason}")
    free = _moving(plain, shipped, given, before)
    if not free:
        raise SpecError(
            "the runs move no constant of this engine: they measured nothing of its decode or prompts"
        )
    problem = _Problem(plain, given, {name: shipped[name] for name in free})
    x, noise = problem.solve()
    told = problem.told(x, noise)
    problem = problem.with_points(plain.with_loops(given | problem.values(x, told)))
    x, noise = problem.solve(only=told, begin=x)
    values = problem.values(x, told)
    problem = problem.with_points(plain.with_loops(given | values))
    full = np.where([name in told for name in free], x, 0.0)
    slopes, covariance = problem.curvature(full, noise)
    after = problem.points.log_ratios(given | values)
    spread = dict(zip(free, np.sqrt(np.maximum(np.diag(covariance), 0.0)).tolist(), strict=True))
    return StackFit(
        release,
        problem.points,
        {n: shipped[n] for n in free},
        values,
        spread,
        covariance,
        slopes,
        noise,
        before,
        after,
    )


def shipped_constants(served: Sequence[Served]) -> dict[str, float]:
    """Constants that ship and that a fit may move, as they are on the first run's machine."""
    scenario = served[0].scenario
    values = system_of(scenario).constants(scenario)
    set_by_run = dict(scenario.constants)
    return {name: values[name] for name in SPREAD if values.get(name, 0.0) > 0 and name not in set_by_run}


def _moving(
    points: Points, shipped: dict[str, float], given: dict[str, float], before: np.ndarray
) -> list[str]:
    """Constants that change a prediction when they are half as large again."""
    found = []
    for name, value in shipped.items():
        moved = points.log_ratios(given | {name: value * 1.5})
        if np.abs(moved - before).max() > _MOVES:
            found.append(name)
    return found


class _Problem:
    """Residuals of runs and priors at logarithms of constants, in distance from where they start."""

    def __init__(self, points: Points, given: dict[str, float], start: dict[str, float]) -> None:
        self.points, self.given, self.start = points, given, start
        self.names = list(start)
        self.centre = np.log([start[name] for name in self.names])
        self.prior = np.array([SPREAD[name] for name in self.names])
        self.first = np.array([not target.main for target in points.targets])
        self.counts = np.array([target.at not in points.left_out for target in points.targets], float)
        self._known = functools.lru_cache(maxsize=4)(self._log_ratios)

    def with_points(self, points: Points) -> _Problem:
        """The same of other steady states."""
        return _Problem(points, self.given, self.start)

    def values(self, x: np.ndarray, names: Sequence[str] | None = None) -> dict[str, float]:
        """Constants by name."""
        every = dict(zip(self.names, np.exp(self.centre + x).tolist(), strict=True))
        return every if names is None else {name: every[name] for name in names}

    def _log_ratios(self, x: tuple[float, ...]) -> np.ndarray:
        return self.points.log_ratios(self.given | self.values(np.array(x)))

    def slopes(self, x: np.ndarray, columns: Sequence[int]) -> np.ndarray:
        """Derivatives of log ratios by some logarithms."""
        here = self._known(tuple(x.tolist()))
        found = np.zeros((len(here), len(columns)))
        for place, column in enumerate(columns):
            moved = x.copy()
            moved[column] += _STEP
            found[:, place] = (self._known(tuple(moved.tolist())) - here) / _STEP
        return found

    def weights(self, noise: Noise) -> np.ndarray:
        """What one log ratio counts, per target."""
        return np.asarray(self.counts / np.where(self.first, noise[1], noise[0]))

    def solve(
        self, only: Sequence[str] | None = None, begin: np.ndarray | None = None
    ) -> tuple[np.ndarray, Noise]:
        """(distance of each constant from its start, noise); constants that are not among ``only`` stay where they start."""
        columns = [i for i, name in enumerate(self.names) if only is None or name in only]
        x = np.zeros(len(self.names))
        if begin is not None:
            x[columns] = begin[columns]
        noise = (2 * _USUAL_NOISE[0], 2 * _USUAL_NOISE[1])
        for rounds in (_ROUNDS if begin is None else _AGAIN, _AGAIN):
            x = self._solved(x, columns, noise, rounds)
            noise = self._noise(x, columns, noise)
        return x, noise

    def _solved(self, x: np.ndarray, columns: Sequence[int], noise: Noise, rounds: int) -> np.ndarray:
        from scipy.optimize import least_squares

        if not columns:
            return x
        prior, full = self.prior[list(columns)], x.copy()

        def spread_out(part: np.ndarray) -> np.ndarray:
            full[list(columns)] = part
            return full

        def residuals(part: np.ndarray) -> np.ndarray:
            rows = self._known(tuple(spread_out(part).tolist())) * self.weights(noise)
            return np.concatenate([rows, part / prior])

        def jacobian(part: np.ndarray) -> np.ndarray:
            rows = self.slopes(spread_out(part).copy(), columns) * self.weights(noise)[:, None]
            return np.concatenate([rows, np.diag(1 / prior)])

        found = least_squares(
            residuals, x[list(columns)], jac=jacobian, loss="soft_l1", f_scale=_SOFT, max_nfev=rounds,
            bounds=(-_BOUNDS * prior, _BOUNDS * prior), xtol=1e-3, ftol=1e-4,
        )  # fmt: skip
        return np.array(spread_out(found.x))

    def _noise(self, x: np.ndarray, columns: Sequence[int], noise: Noise) -> Noise:
        """How far runs scatter, by what the fit leaves and what is usual; outliers count as the loss counts them."""
        weights = self.weights(noise)
        rows = self._known(tuple(x.tolist())) * weights
        slopes = self.slopes(x, columns) * weights[:, None]
        information = slopes.T @ slopes + np.diag(1 / self.prior[list(columns)] ** 2)
        leverage = (
            np.einsum("ij,jk,ik->i", slopes, np.linalg.inv(information), slopes) if columns else 0 * rows
        )
        robust = rows**2 / np.sqrt(1 + rows**2 / _SOFT**2)
        found = []
        for kind, usual in enumerate(_USUAL_NOISE):
            mine = (self.first == bool(kind)) & (self.counts > 0)
            free = max(float(mine.sum() - leverage[mine].sum()), 0.0)
            square = (_RUNS_OF_IT * usual**2 + float(robust[mine].sum()) * noise[kind] ** 2) / (
                _RUNS_OF_IT + free
            )
            found.append(max(math.sqrt(square), _LEAST_NOISE))
        return found[0], found[1]

    def curvature(self, x: np.ndarray, noise: Noise) -> tuple[np.ndarray, np.ndarray]:
        """(slopes, covariance) of all constants that the runs could move."""
        slopes = self.slopes(x, range(len(self.names)))
        rows = slopes * self.weights(noise)[:, None]
        return slopes, np.linalg.inv(rows.T @ rows + np.diag(1 / self.prior**2))

    def told(self, x: np.ndarray, noise: Noise) -> tuple[str, ...]:
        """Constants that the runs narrow down, or pull away from what was known."""
        _, covariance = self.curvature(x, noise)
        spread = np.sqrt(np.diag(covariance))
        known = (spread < _TOLD * self.prior) | (np.abs(x) > _MOVED * self.prior)
        return tuple(name for name, yes in zip(self.names, known, strict=True) if yes)
