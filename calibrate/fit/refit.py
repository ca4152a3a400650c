"""A robust fit of named parameters to measured rows: constants of systems, fields of GPUs and of hosts.

A :class:`Parameter` names one number with its plausible range. :func:`fit` moves a vector of them until predictions meet
measurements: least squares on log ratios under a soft_l1 loss, bounded by the ranges (SciPy, extra ``search``). It knows
nothing of what a row is: :data:`Prediction` is any function of a row and of values by parameter name.
`calibrate.fit.overrides` applies values to a scenario; `calibrate.validate.transfer` leaves groups of rows out.

A parameter about which the rows say nothing stays where it starts: beside the rows' residuals, log(p / m) / ``noise``,
stands one per parameter, its distance from its start in units of half its range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias, TypeVar

import numpy as np

from llm_perf.errors import MissingExtraError, SpecError

NOISE: Final = 0.1
"""Log ratio that counts as one standard deviation of a row: what predictions of the offloading systems are off by."""

_STEP: Final = 0.01
"""Step of the difference quotients, in units of half a parameter's range."""

_MOVES: Final = 1e-6
"""Least change of log prediction for which a row counts as depending on a parameter."""

_INSIDE: Final = 0.1
"""Least distance of the solver's first point from the bounds, in the same units."""

_ROUNDS: Final = 25
"""Most evaluations of the residuals; each comes with one of their derivatives."""

Row = TypeVar("Row")

Prediction: TypeAlias = Callable[[Row, Mapping[str, float]], float]
"""What a fit asks of a model of time: the quantity of a row, a positive number, given values by parameter name."""

Batch: TypeAlias = Callable[[Row, Mapping[str, Any]], Any]
"""The same of many values at once: some are arrays of one length, and so is what comes back, one quantity for each place."""


@dataclass(frozen=True)
class Parameter:
    """One number that a fit may change.

    Attributes:
        name: Unique in a fit, and what it changes (see `calibrate.fit.overrides`): ``<system>.<constant>``,
            ``system.<constant>`` for whatever system a scenario has, ``gpu.<field>`` or ``host.<field>`` with dots between
            nested fields; behind ``@``, if at all, the one host or GPU on which it holds.
        value: Where the fit starts, and where it stays if the rows say nothing about it.
        low, high: The plausible range.
        scale: "log" for rates and times, "linear" for shares and what may be 0.
        factor: It multiplies what the scenario has, instead of taking its place.
    """

    name: str
    value: float
    low: float
    high: float
    scale: Literal["log", "linear"] = "log"
    factor: bool = False

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))) or not self.low < self.high:
            raise SpecError(f"parameter {self.name}: the range {self.low:g} to {self.high:g} is none")
        if not self.low <= self.value <= self.high:
            raise SpecError(
                f"parameter {self.name}: value {self.value:g} is outside its range {self.low:g} to {self.high:g}"
            )
        if self.scale == "log" and self.low <= 0:
            raise SpecError(f"parameter {self.name}: a range from {self.low:g} has no logarithm")

    @property
    def half_range(self) -> float:
        """Half the range on the parameter's scale."""
        return (self._scaled(self.high) - self._scaled(self.low)) / 2

    def at(self, position: float) -> float:
        """The value at a distance from the start, in units of half the range."""
        scaled = self._scaled(self.value) + position * self.half_range
        value = math.exp(scaled) if self.scale == "log" else scaled
        return float(min(max(value, self.low), self.high))

    def position(self, value: float) -> float:
        """The inverse of `at`: the distance of a value from the start."""
        return (self._scaled(value) - self._scaled(self.value)) / self.half_range

    @property
    def bounds(self) -> tuple[float, float]:
        """Positions of both ends of the range."""
        return self.position(self.low), self.position(self.high)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.scale == "log" else value


@dataclass(frozen=True)
class Target:
    """A measured value, or the interval that a printed one stands for: a prediction inside it is met."""

    low: float
    high: float

    def log_ratio(self, predicted: float) -> float:
        """log(predicted / nearest measured); 0 inside the interval."""
        return math.log(predicted / min(max(predicted, self.low), self.high))

    @classmethod
    def of(cls, measured: float, rounding: float = 0.0) -> Target:
        """A value, give or take a fraction of it."""
        return cls(measured * (1 - rounding), measured * (1 + rounding))


@dataclass(frozen=True)
class Fit:
    """What a fit found. ``unmoved`` names the parameters about which the rows say nothing."""

    values: dict[str, float]
    log_ratios: tuple[float, ...]
    unmoved: tuple[str, ...]
    at_bound: tuple[str, ...]
    evaluations: int

    @property
    def gm(self) -> float | None:
        """Geometric mean of max(p / m, m / p) over the rows of the fit."""
        return geometric_mean_ratio(self.log_ratios)


def geometric_mean_ratio(log_ratios: Sequence[float]) -> float | None:
    """The exponential of the mean size of log ratios; None of none."""
    return math.exp(sum(map(abs, log_ratios)) / len(log_ratios)) if log_ratios else None


def require_scipy(purpose: str) -> None:
    """Make sure that SciPy is installed before a long computation.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import scipy.optimize  # noqa: F401
    except ImportError:
        raise MissingExtraError("search", purpose) from None


def sensitive(
    parameters: Sequence[Parameter],
    rows: Sequence[Row],
    predict: Prediction[Row],
    candidates: Sequence[Iterable[int]] | None = None,
    batch: Batch[Row] | None = None,
) -> tuple[frozenset[int], ...]:
    """For each parameter the rows whose prediction it changes between the ends of its range.

    ``candidates`` are the rows that are tried for each parameter, all of them where it is None. ``batch`` is ``predict`` for
    many values at once, where there is such a model.
    """
    if batch is not None:
        return _sensitive_at_once(parameters, rows, batch, candidates)
    starts = {parameter.name: parameter.value for parameter in parameters}
    logs = [math.log(predict(row, starts)) for row in rows]
    found = []
    for index, parameter in enumerate(parameters):
        ends = [starts | {parameter.name: end} for end in (parameter.low, parameter.high)]
        tried = range(len(rows)) if candidates is None else candidates[index]
        found.append(
            frozenset(
                row
                for row in tried
                if any(abs(math.log(predict(rows[row], values)) - logs[row]) > _MOVES for values in ends)
            )
        )
    return tuple(found)


def _sensitive_at_once(
    parameters: Sequence[Parameter],
    rows: Sequence[Row],
    batch: Batch[Row],
    candidates: Sequence[Iterable[int]] | None,
) -> tuple[frozenset[int], ...]:
    """`sensitive` with one question for all parameters of a row, at both ends of each."""
    starts = {parameter.name: parameter.value for parameter in parameters}
    tried = [range(len(rows))] * len(parameters) if candidates is None else [set(c) for c in candidates]
    found: list[set[int]] = [set() for _ in parameters]
    for row in range(len(rows)):
        mine = [index for index, those in enumerate(tried) if row in those]
        moved = [(parameters[index].name, end) for index in mine for end in _ends(parameters[index])]
        logs = np.log(_each_moved(batch, rows[row], starts, moved))
        for place, index in enumerate(mine):
            if np.abs(logs[2 * place : 2 * place + 2] - logs[-1]).max() > _MOVES:
                found[index].add(row)
    return tuple(map(frozenset, found))


def _ends(parameter: Parameter) -> tuple[float, float]:
    return parameter.low, parameter.high


def _each_moved(
    batch: Batch[Row], row: Row, values: Mapping[str, float], moved: Sequence[tuple[str, float]]
) -> np.ndarray:
    """The quantity of a row with each of ``moved`` in turn in its parameter's place, and last with ``values`` themselves."""
    asked: dict[str, Any] = {}
    for place, (name, value) in enumerate(moved):
        if name not in asked:
            asked[name] = np.full(len(moved) + 1, values[name])
        asked[name][place] = value
    return np.array(np.broadcast_to(batch(row, {**values, **asked}), len(moved) + 1), dtype=float)


def fit(
    parameters: Sequence[Parameter],
    rows: Sequence[Row],
    targets: Sequence[Target],
    predict: Prediction[Row],
    *,
    depends: Sequence[frozenset[int]] | None = None,
    noise: float | Sequence[float] = NOISE,
    begin: Mapping[str, float] | None = None,
    batch: Batch[Row] | None = None,
) -> Fit:
    """Fit parameters to rows.

    Args:
        parameters: What may change; each starts at its value.
        rows: What was measured, in any form that ``predict`` understands.
        targets: The measured value of each row.
        predict: The model.
        depends: For each parameter the indices of rows that it changes, as `sensitive` finds them; None: found here.
        noise: Log ratio that counts as one standard deviation of a row, or one for each row.
        begin: Values by name from which the solver sets out, such as those of a fit to more rows: fewer rounds. The
            starts, which a parameter's own residual pulls towards, stay where they are.
        batch: ``predict`` for many values at once, where the model has such a form: derivatives then cost one question a row.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: there are no rows, or two parameters have one name.
        LLMPerfError: a row cannot be predicted.
    """
    require_scipy("a fit")
    if len(rows) != len(targets) or not rows:
        raise SpecError(f"a fit needs rows with a measured value each, got {len(rows)} and {len(targets)}")
    if len({parameter.name for parameter in parameters}) < len(parameters):
        raise SpecError("two parameters of a fit have the same name")
    touched = sensitive(parameters, rows, predict, batch=batch) if depends is None else depends
    moving = [index for index, found in enumerate(touched) if found]
    problem = _Problem(
        parameters, rows, targets, predict, noise, moving, [sorted(touched[i]) for i in moving], batch
    )
    positions = problem.solve(begin or {})
    values = problem.values(positions)
    return Fit(
        values=values,
        log_ratios=tuple(problem.log_ratio(index, values) for index in range(len(rows))),
        unmoved=tuple(p.name for index, p in enumerate(parameters) if index not in moving),
        at_bound=problem.at_bound(positions),
        evaluations=problem.evaluations,
    )


class _Problem:
    """Residuals of rows and parameters at positions of the parameters that move, and their derivatives."""

    def __init__(
        self,
        parameters: Sequence[Parameter],
        rows: Sequence[Any],
        targets: Sequence[Target],
        predict: Prediction[Any],
        noise: float | Sequence[float],
        moving: Sequence[int],
        depends: Sequence[Sequence[int]],
        batch: Batch[Any] | None = None,
    ) -> None:
        self.rows, self.targets, self.predict = rows, targets, predict
        self.noise = np.broadcast_to(np.asarray(noise, dtype=float), len(rows))
        self.batch = batch
        self.starts = {parameter.name: parameter.value for parameter in parameters}
        self.chosen = [parameters[index] for index in moving]
        self.depends = depends
        self.evaluations = 0
        self._last: tuple[tuple[float, ...], np.ndarray] | None = None

    def solve(self, begin: Mapping[str, float]) -> np.ndarray:
        """Positions of the parameters that move. ``begin``: values of some, from which the solver sets out."""
        from scipy.optimize import least_squares

        if not self.chosen:
            return np.zeros(0)
        low, high = np.array([parameter.bounds for parameter in self.chosen]).T
        # From an end of a range the solver hardly moves: its steps shrink with the distance to the bounds.
        first = np.array([p.position(begin.get(p.name, p.value)) for p in self.chosen])
        first = np.clip(first, low + _INSIDE, high - _INSIDE)
        found = least_squares(
            self.residuals, first, self.derivatives, (low, high), loss="soft_l1", max_nfev=_ROUNDS,
            xtol=1e-3, ftol=1e-4,
        )  # fmt: skip
        return np.asarray(found.x)

    def values(self, positions: np.ndarray) -> dict[str, float]:
        """Values by name."""
        return self.starts | {p.name: p.at(x) for p, x in zip(self.chosen, positions, strict=True)}

    def log_ratio(self, row: int, values: Mapping[str, float]) -> float:
        """log(predicted / measured) of one row."""
        self.evaluations += 1
        return self.targets[row].log_ratio(self.predict(self.rows[row], values))

    def residuals(self, positions: np.ndarray) -> np.ndarray:
        """Rows in units of the noise, then parameters in units of half their range."""
        values = self.values(positions)
        rows = np.array([self.log_ratio(index, values) for index in range(len(self.rows))]) / self.noise
        self._last = (tuple(positions), rows)
        return np.concatenate([rows, positions])

    def derivatives(self, positions: np.ndarray) -> np.ndarray:
        """Difference quotients, evaluated only for the rows that depend on a parameter."""
        if self._last is None or self._last[0] != tuple(positions):
            self.residuals(positions)
        assert self._last is not None
        here = self._last[1]
        slopes = np.zeros((len(self.rows) + len(positions), len(positions)))
        slopes[len(self.rows) :] = np.eye(len(positions))
        steps = [
            _STEP if position + _STEP <= parameter.bounds[1] else -_STEP
            for position, parameter in zip(positions, self.chosen, strict=True)
        ]
        if self.batch is not None:
            for row, columns in enumerate(self._columns):
                self._slopes_at_once(self.batch, slopes, positions, steps, row, columns)
            return slopes
        for column, (step, rows) in enumerate(zip(steps, self.depends, strict=True)):
            moved = positions.copy()
            moved[column] += step
            values = self.values(moved)
            for row in rows:
                slopes[row, column] = (self.log_ratio(row, values) / self.noise[row] - here[row]) / step
        return slopes

    @cached_property
    def _columns(self) -> list[list[int]]:
        """For each row the parameters that it depends on."""
        found: list[list[int]] = [[] for _ in self.rows]
        for column, rows in enumerate(self.depends):
            for row in rows:
                found[row].append(column)
        return found

    def _slopes_at_once(
        self,
        batch: Batch[Any],
        slopes: np.ndarray,
        positions: np.ndarray,
        steps: Sequence[float],
        row: int,
        columns: Sequence[int],
    ) -> None:
        """One row's difference quotients in all parameters, of one question."""
        if not columns:
            return
        self.evaluations += len(columns)
        moved = [(self.chosen[c].name, self.chosen[c].at(positions[c] + steps[c])) for c in columns]
        found = _each_moved(batch, self.rows[row], self.values(positions), moved)
        ratios = [self.targets[row].log_ratio(value) for value in found]
        for column, ratio in zip(columns, ratios[:-1], strict=True):
            slopes[row, column] = (ratio - ratios[-1]) / self.noise[row] / steps[column]

    def at_bound(self, positions: np.ndarray) -> tuple[str, ...]:
        """Parameters that ended at an end of their range."""
        ends = [(p, x, p.bounds) for p, x in zip(self.chosen, positions, strict=True)]
        return tuple(p.name for p, x, (low, high) in ends if min(x - low, high - x) < _STEP)
