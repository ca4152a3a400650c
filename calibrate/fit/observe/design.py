"""What to run next: the load whose times say most about what is not yet known, per second that it takes.

The derivatives of the predicted times by the parameters, in units of the noise and of half the parameters' ranges, are the
rows of J; J'J of what was run, and the identity for what was known before, is the information. A load adds the rows of its
own, and is worth the logarithm by which the determinant grows (D-optimal), over its predicted seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.fit.observe.model import ServedModel
from calibrate.fit.observe.rows import Arrivals, Row
from calibrate.fit.refit import Parameter
from calibrate.probe.endpoint.point import LoadPoint

NOISE = 0.05
"""Log ratio that counts as one standard deviation of an undisturbed time."""

_STEP = 0.02
_BETWEEN_SENDS_S = 2e-4
"""Between two requests of a burst: a client writes one after another."""

_SHARED = 0.5
"""Share of a time's variance that its repeats have in common."""

_BEST = 1e-4
"""Least worth of a point, in determinants' logarithms per second."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Planned:
    """A load with what it is worth."""

    point: LoadPoint
    seconds: float
    gain: float


def candidates(most_concurrency: int, longest: int, output: int) -> list[LoadPoint]:
    """Bursts at doubled concurrencies and quadrupled prompts, as far as a server lets them.

    Args:
        most_concurrency: Requests at once.
        longest: Tokens of prompt and output together.
        output: Tokens to generate: enough that all of a burst decode together for a while.
    """
    sizes = [2**power for power in range(most_concurrency.bit_length()) if 2**power <= most_concurrency]
    sizes += [most_concurrency] if most_concurrency not in sizes else []
    prompts = [tokens for tokens in (32, 128, 512, 1024, 2048, 4096) if tokens + output <= longest]
    prompts = prompts or [max(longest - output, 1)]
    return [LoadPoint(size, prompt, output) for size in sizes for prompt in prompts]


def planned_rows(model: str, point: LoadPoint) -> tuple[Row, Row]:
    """The rows that a burst will give: a step of all of it, and the first token."""
    count, asked = point.concurrency, (point.concurrency, point.prompt, point.output)
    context = point.prompt + point.output / 2
    sent = Arrivals(
        tuple(number * _BETWEEN_SENDS_S for number in range(count)),
        (point.prompt,) * count,
        (point.output,) * count,
    )
    return (
        Row(model, "step", 1.0, None, 1, asked, batch=count, context=context),
        Row(model, "first", 1.0, None, 1, asked, arrivals=sent),
    )


class Design:
    """Chooses loads of one model on a server.

    Args:
        model: Predicts rows at values.
        name: Of the model that is observed.
        points: What could be run.

    Attributes:
        seconds: What each point is predicted to take.
    """

    def __init__(self, model: ServedModel, name: str, points: Sequence[LoadPoint]) -> None:
        self.model, self.name, self.points = model, name, tuple(points)
        self._values: tuple[float, ...] | None = None
        self._slopes: dict[LoadPoint, Matrix] = {}
        self.seconds: dict[LoadPoint, float] = {}

    def best(
        self, values: Mapping[str, float], done: Mapping[LoadPoint, float], seconds_left: float
    ) -> Planned | None:
        """The load to run next; None where none fits into the time, or none says anything.

        Args:
            values: Of the parameters, as far as they are known.
            done: Points that were run, with how many undisturbed repeats they are worth.
            seconds_left: For it.
        """
        self._prepare(values)
        information = self.information(done)
        found: Planned | None = None
        for point in self.points:
            seconds = self.seconds[point]
            if seconds > seconds_left:
                continue
            repeats = done.get(point, 0.0)
            more = _effective(repeats + 1.0) - _effective(repeats)
            gain = _gain(information, math.sqrt(more) * self._slopes[point])
            if gain / seconds > _BEST and (found is None or gain / seconds > found.gain / found.seconds):
                found = Planned(point, seconds, gain)
        return found

    def information(self, done: Mapping[LoadPoint, float]) -> Matrix:
        """That of what was run, and of what was known before."""
        size = len(self.model.parameters)
        total: Matrix = np.eye(size)
        for point, repeats in done.items():
            slopes = self._slopes.get(point)
            if slopes is not None:
                total = total + _effective(repeats) * slopes.T @ slopes
        return total

    def deviations(self, values: Mapping[str, float], done: Mapping[LoadPoint, float]) -> dict[str, float]:
        """Standard deviation of each parameter after the runs, of its logarithm where its scale is one."""
        self._prepare(values)
        spread = np.sqrt(np.diag(np.linalg.inv(self.information(done))))
        return {
            one.name: float(size * one.half_range)
            for one, size in zip(self.model.parameters, spread, strict=True)
        }

    def _prepare(self, values: Mapping[str, float]) -> None:
        """Derivatives and durations of all points at these values."""
        here = tuple(values[one.name] for one in self.model.parameters)
        if here == self._values:
            return
        self._values = here
        rows = {point: planned_rows(self.name, point) for point in self.points}
        base = {point: self._logs(pair, values) for point, pair in rows.items()}
        columns: dict[LoadPoint, list[Matrix]] = {point: [] for point in self.points}
        for parameter in self.model.parameters:
            moved, step = _moved(parameter, values)
            for point, pair in rows.items():
                columns[point].append((self._logs(pair, moved) - base[point]) / step / NOISE)
        for point in self.points:
            self._slopes[point] = np.stack(columns[point], axis=1)
            step_s, first_s = np.exp(base[point])
            self.seconds[point] = float(2 * first_s + point.output * step_s)

    def _logs(self, rows: Sequence[Row], values: Mapping[str, float]) -> Matrix:
        return np.log([self.model(row, values) for row in rows])


def _moved(parameter: Parameter, values: Mapping[str, float]) -> tuple[dict[str, Any], float]:
    """Values with one moved by a part of half its range, inside of it, and by how much it was."""
    position = parameter.position(values[parameter.name])
    step = _STEP if position + _STEP <= parameter.bounds[1] else -_STEP
    return {**values, parameter.name: parameter.at(position + step)}, step


def _effective(repeats: float) -> float:
    """Independent repeats that so many are worth: they share what the machine was like, and what the model leaves out."""
    return repeats / (1.0 + _SHARED * max(repeats - 1.0, 0.0))


def _gain(information: Matrix, slopes: Matrix) -> float:
    """By how much the logarithm of the determinant grows with the rows S: log det(I + S M^-1 S')."""
    inner = np.eye(len(slopes)) + slopes @ np.linalg.solve(information, slopes.T)
    return float(np.linalg.slogdet(inner)[1])
