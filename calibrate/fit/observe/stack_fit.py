"""Constants of a stack and rates of its machine, fitted to observed rows of one model or several, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from statistics import median
from typing import Any

import numpy as np

from calibrate.fit.identify import Identification, identification
from calibrate.fit.intervals import Scattered, width_beyond_scatter
from calibrate.fit.observe.design import NOISE
from calibrate.fit.observe.model import ServedModel
from calibrate.fit.observe.parameters import off_of, parameters_of
from calibrate.fit.observe.results import check_same, rows_of_results
from calibrate.fit.observe.rows import Row, rows_of
from calibrate.fit.observe.store import Stored
from calibrate.fit.refit import Fit, Parameter, Target, fit
from calibrate.fit.served.deployment import Served
from calibrate.probe.environment import cpu_name, usable_cores
from llm_perf import __version__
from llm_perf.config.base import GIB
from llm_perf.config.calibration import CalibratedMachine, Calibration, Coverage, IntervalWidths, Range
from llm_perf.config.profiles import Profile
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems.footprint import model_weight_bytes

_LEAST_ROWS = 4
_STEP = 0.01
_WIDEST = 5.0
"""Log ratio from which on an interval is none: a factor of 150."""


def fit_rows(model: ServedModel, rows: Sequence[Row], begin: dict[str, float] | None = None) -> Fit:
    """Fit a model's parameters to rows.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: there are none.
    """
    targets = [Target.of(row.seconds) for row in rows]
    found = fit(model.parameters, rows, targets, model, noise=NOISE, begin=begin)
    # Once more from there: the solver stops after a number of rounds, short of what is far from where it set out.
    return fit(model.parameters, rows, targets, model, noise=NOISE, begin=found.values)


@dataclass(frozen=True)
class StackFit:
    """What sessions say of a stack.

    Attributes:
        scenarios: Deployment of each model.
        parameters: What could change.
        rows: What was measured.
        fitted: The fit of all rows.
        known: What the rows tell apart.
        left_out: log(predicted / measured) of each row by a fit without its load on its model.
        noise: Standard deviation of a row, the larger of the assumed one and of what the fit leaves.
    """

    scenarios: dict[str, Scenario]
    parameters: tuple[Parameter, ...]
    rows: tuple[Row, ...]
    fitted: Fit
    known: Identification
    left_out: tuple[float, ...]
    noise: float

    @property
    def refusals(self) -> list[tuple[str, str]]:
        """Parameters that these rows do not identify, each with a sentence."""
        return self.known.refusals(
            [one for one in self.parameters if one.name in self.known.names], self.fitted.at_bound
        )


def fit_sessions(sessions: Sequence[Stored], results: Sequence[Served] = ()) -> StackFit:
    """Fit all sessions of one stack on one machine together, with results of benchmark tools that were run on it.

    Args:
        sessions: Of ``calibrate observe``.
        results: Of other tools, each a row per phase; their time takes part as a session's does.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: they are of several stacks, or too little was measured.
    """
    scenarios: dict[str, Scenario] = {}
    for session in sessions:
        scenario = session.scenario
        first = next(iter(scenarios.values()), scenario)
        if (scenario.system, scenario.gpu.name) != (first.system, first.gpu.name):
            raise SpecError(
                f"{session.folder}: is of {scenario.system} on {scenario.gpu.name}, the others of {first.system} on "
                f"{first.gpu.name}: a fit is of one stack on one machine"
            )
        known_model = scenarios.setdefault(scenario.model.name, scenario).model
        if known_model != scenario.model:
            raise SpecError(
                f"{session.folder}: is of another model than {scenario.model.name} of the sessions before it"
            )
    rows = tuple(rows_of([run for session in sessions for run in session.runs]))
    if results:
        check_same(next(iter(scenarios.values())), results)
        rows += rows_of_results(results)
        scenarios |= {one.model: one.scenario for one in results if one.model not in scenarios}
    if len(rows) < _LEAST_ROWS:
        raise SpecError(
            f"{len(rows)} times were measured in these sessions; a fit needs {_LEAST_ROWS} or more"
        )
    parameters = tuple(parameters_of(max(scenarios.values(), key=model_weight_bytes)))
    model = ServedModel.of(scenarios, parameters, rows)
    fitted = fit_rows(model, rows)
    left = np.std(fitted.log_ratios) if len(rows) > len(parameters) else 0.0
    noise = max(NOISE, float(left))
    moving = [one for one in parameters if one.name not in fitted.unmoved]

    def log_ratios(values: Any) -> np.ndarray:
        return np.array([math.log(model(row, fitted.values | dict(values)) / row.seconds) for row in rows])

    known = identification(moving, fitted.values, log_ratios, noise)
    left_out = _left_out(rows, fitted, moving, log_ratios, noise)
    return StackFit(scenarios, parameters, rows, fitted, known, left_out, noise)


def _left_out(
    rows: Sequence[Row],
    fitted: Fit,
    moving: Sequence[Parameter],
    log_ratios: Callable[[Any], np.ndarray],
    noise: float,
) -> tuple[float, ...]:
    """log(predicted / measured) of each row by a fit without all that was measured of its load on its model.

    By the fit's own curvature instead of as many fits: with J the derivatives by the parameters, in units of the noise and of
    half their ranges, H = J (J'J + 1)^-1 J', and the rows g of one load, their residuals without them are (1 - H_gg)^-1 r_g.
    """
    base, columns = np.array(fitted.log_ratios), []
    for one in moving:
        position = one.position(fitted.values[one.name])
        step = _STEP if position + _STEP <= one.bounds[1] else -_STEP
        moved = log_ratios({one.name: one.at(position + step)})
        columns.append((moved - base) / step / noise)
    slopes = np.stack(columns, axis=1)
    hat = slopes @ np.linalg.solve(slopes.T @ slopes + np.eye(len(moving)), slopes.T)
    found = np.zeros(len(rows))
    for load in {row.load for row in rows}:
        at = [index for index, row in enumerate(rows) if row.load == load]
        found[at] = np.linalg.solve(np.eye(len(at)) - hat[np.ix_(at, at)], base[at])
    return tuple(float(one) for one in found)


def profile_of(found: StackFit, name: str, server: dict[str, Any]) -> Profile:
    """The profile that `infer`, `simulate`, `plan` and `sweep` take.

    Args:
        found: The fit.
        name: The profile's.
        server: What the servers said of themselves.
    """
    scenario = next(iter(found.scenarios.values()))
    constants: dict[str, dict[str, float]] = {scenario.system: off_of(scenario)}
    host: dict[str, Any] = {}
    for parameter in found.parameters:
        room, _, path = parameter.name.partition(".")
        value = float(f"{found.fitted.values[parameter.name]:.6g}")
        if parameter.name in found.fitted.unmoved:
            continue
        if room == "host":
            host[path] = value
        else:
            constants.setdefault(room, {})[path] = value
    return Profile(
        name=name,
        system_constants=constants,
        host=host,
        provenance=_provenance(found, server),
        calibration=Calibration(
            machine=CalibratedMachine(
                gpu="none" if scenario.gpu.absent else scenario.gpu.name, host=scenario.host.name,
                cpu=cpu_name() if scenario.gpu.absent else None, cores=usable_cores() if scenario.gpu.absent else None,
            ),
            covers=_coverage(found),
            interval=_interval(found),
            not_identified=tuple(sorted({*found.fitted.unmoved, *(name for name, _ in found.refusals)})),
        ),
    )  # fmt: skip


def _interval(found: StackFit) -> IntervalWidths:
    """Half-widths from loads that were left out: of steps, of first tokens, and of whole bursts."""
    of_kind: dict[str, list[Scattered]] = {"step": [], "first": []}
    loads: dict[Any, dict[str, tuple[Row, float]]] = {}
    for row, off in zip(found.rows, found.left_out, strict=True):
        of_kind[row.kind].append(Scattered(off, row.spread, row.repeats))
        loads.setdefault(row.load, {})[row.kind] = (row, off)
    whole = [_burst(*load["first"], *load["step"]) for load in loads.values() if len(load) == 2]

    def width(values: list[Scattered]) -> float | None:
        found_width = width_beyond_scatter(values)
        return None if found_width is None or found_width > _WIDEST else round(found_width, 4)

    return IntervalWidths(
        method="each load on each model left out in turn; a measurement is taken to average nine bursts",
        groups=len(loads),
        prefill=width(of_kind["first"]),
        decode=width(of_kind["step"]),
        total=width(whole or [one for ones in of_kind.values() for one in ones]),
    )


def _burst(first: Row, first_off: float, step: Row, step_off: float) -> Scattered:
    """A burst's whole time, from its first token's and its steps'."""
    steps_s = (first.point[2] - 1) * step.seconds
    measured_s = first.seconds + steps_s
    off = math.log((first.seconds * math.exp(first_off) + steps_s * math.exp(step_off)) / measured_s)
    spread = None
    if first.spread is not None and step.spread is not None:
        spread = math.hypot(first.seconds * first.spread, steps_s * step.spread) / measured_s
    return Scattered(off, spread, min(first.repeats, step.repeats))


def _coverage(found: StackFit) -> Coverage:
    scenarios = list(found.scenarios.values())
    tier = "cpu" if scenarios[0].gpu.absent else "gpu"

    return Coverage(
        systems=tuple(sorted({one.system for one in scenarios})),
        tiers=(tier,),
        weight_bits=tuple(sorted({one.dtype.weight_bits for one in scenarios})),
        model_gib=Range.of([round(model_weight_bytes(one) / GIB, 4) for one in scenarios]),
        batch_size=Range.of([float(row.point[0]) for row in found.rows]),
        prompt_len=Range.of([float(row.point[1]) for row in found.rows]),
        # A step knows its context, not how many steps there will be.
        gen_len=Range(low=1.0, high=max(float(row.point[1] + row.point[2]) for row in found.rows)),
    )


def _provenance(found: StackFit, server: dict[str, Any]) -> dict[str, Any]:
    errors = found.known.standard_errors
    return {
        "made_by": f"llm-perf {__version__}",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "server": server,
        "runs": [
            f"{row.model}: {row.point[0]} at once, prompt {row.point[1]}, generate {row.point[2]}: {row.kind}, "
            f"{row.repeats} repeats"
            for row in found.rows
        ],
        "parameters": {
            name: {"value": float(f"{found.fitted.values[name]:.6g}"), "standard_error": float(f"{errors[name]:.3g}")}
            for name in found.known.names
        },
        "residuals": {
            title: residuals([off for off, row in zip(found.fitted.log_ratios, found.rows, strict=True) if row.kind == kind])
            for title, kind in (("decode", "step"), ("prefill", "first"))
        },
        "not_fitted_on": "other models, formats and machines than those of the runs",
    }  # fmt: skip


def residuals(log_ratios: Sequence[float]) -> dict[str, float]:
    """Median, largest and mean of errors."""
    sizes = [abs(math.expm1(one)) for one in log_ratios] or [0.0]
    return {
        "median_abs_error": round(median(sizes), 4),
        "max_abs_error": round(max(sizes), 4),
        "bias": round(sum(map(math.expm1, log_ratios)) / max(len(log_ratios), 1), 4),
    }
