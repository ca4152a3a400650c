"""Calibrator: construct with settings, ``fit`` runs, use what it learned. In scikit-learn's manner."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from calibrate.fit import intervals, kernels
from calibrate.fit.candidates import candidates
from calibrate.fit.identify import Identification, identification
from calibrate.fit.observation import PHASES, Observation
from calibrate.fit.overrides import Overrides
from calibrate.fit.profile_file import build_profile
from calibrate.fit.refit import Parameter, Target, fit
from calibrate.fit.start import start_from_runs
from llm_perf.analysis.measures import latencies
from llm_perf.config.profiles import Profile
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError

NOISE = 0.05
"""Standard deviation of a run's log time that repeats inside one process leave out: other processes, other levels of
speed of the machine. Measured between processes: 4.5 to 8 %."""

_FARTHEST = 30.0
"""A run that takes so many times more or less than its rates allow has another unit, or is of another machine."""


@dataclass(frozen=True)
class Compared:
    """One run beside its prediction, seconds by phase."""

    observation: Observation
    predicted_s: Mapping[str, float]

    def error(self, phase: str = "total") -> float | None:
        """(predicted - measured) / measured; None where it was not measured."""
        measured = self.observation.measured_s.get(phase)
        predicted = self.predicted_s.get(phase)
        return None if measured is None or predicted is None else predicted / measured - 1


class Calibrator:
    """Fits what a prediction cannot know of a machine to a few runs on it.

    Args:
        microbench: Record of `llm-perf calibrate --microbench`; without it the rates of products are fitted as well.
        parameters: What to fit; None chooses by the runs' systems and leaves out what they do not identify. Where they
            are given, one that the runs do not identify is refused.
        noise: Standard deviation of a log time between processes.
        name: Name of the profile.

    Attributes:
        values_: Fitted values by parameter name.
        standard_errors_: Of them; relative for rates and times, absolute for shares.
        identification_: Correlations, singular values, condition of the runs.
        not_identified_: One sentence for each parameter that was left where it started.
        compared_: The runs of the fit beside their predictions.
        left_out_: Every run predicted by a fit that knew no run of its group; empty with one group.
        interval_: Half-widths of 90 % intervals from these; None with one group.
        profile_: All of it as a profile.
    """

    def __init__(
        self,
        microbench: Mapping[str, Any] | None = None,
        parameters: Sequence[Parameter] | None = None,
        noise: float = NOISE,
        name: str = "calibrated",
    ) -> None:
        self.microbench = microbench
        self.parameters = parameters
        self.noise = noise
        self.name = name

    # -- fit --------------------------------------------------------------------------------------------------

    def fit(self, runs: Iterable[Observation]) -> Calibrator:
        """Learn from runs.

        Raises:
            SpecError: there are none, one cannot be from this machine or is in another unit, or they do not identify
                what is to be fitted.
        """
        observations = tuple(runs)
        if not observations:
            raise SpecError("nothing to fit: no run is left")
        self.start_ = self._start(observations)
        based = [self._based(one) for one in observations]
        self._check_units(based)
        chosen = (
            candidates(based, self.microbench is not None) if self.parameters is None else self.parameters
        )
        self.not_identified_: tuple[str, ...] = ()
        self._fit_identified(list(chosen), based)
        self.compared_ = self.compare(observations)
        self.left_out_ = self._leave_groups_out(based)
        self.interval_ = intervals.widths(self.left_out_)
        self.profile_ = build_profile(self, observations)
        return self

    def _start(self, observations: Sequence[Observation]) -> Profile:
        """What microbenchmarks say, or the first run's own record of the machine; the same for all runs."""
        if self.microbench is not None:
            record = dict(self.microbench)
            return Profile(
                name="microbenchmarks",
                gpu=kernels.gpu_fields(record),
                host=kernels.host_fields(record),
                system_constants=kernels.system_constants(record),
            )
        return start_from_runs(observations)

    def _based(self, one: Observation) -> Observation:
        return replace(one, scenario=self.start_.apply(one.scenario))

    def _check_units(self, observations: Sequence[Observation]) -> None:
        for one in observations:
            predicted = predicted_s(one.scenario)
            for phase, measured in one.measured_s.items():
                ratio = measured / predicted[phase]
                if not 1 / _FARTHEST < ratio < _FARTHEST:
                    raise SpecError(
                        f"{one.source}: {phase} time of {measured:g} s is {ratio:.3g} times what the machine's rates "
                        f"say ({predicted[phase]:.3g} s): is it in another unit, or of another machine?"
                    )

    def _fit_identified(self, chosen: list[Parameter], based: Sequence[Observation]) -> None:
        """Fit; leave out what the runs do not identify, one parameter at a time, and fit the rest again."""
        while True:
            if not chosen:
                said = "; ".join(self.not_identified_)
                raise SpecError(f"these runs identify nothing that could be fitted: {said}")
            rows = _Rows(based, chosen)
            found = fit(chosen, rows.rows, rows.targets, rows.predict, noise=self.noise)
            silent = [parameter for parameter in chosen if parameter.name in found.unmoved]
            if silent:
                self._refuse(
                    [(p.name, f"{p.name} changes nothing in these runs") for p in silent], chosen, silent=True
                )
                chosen = [parameter for parameter in chosen if parameter not in silent]
                continue
            scatter = math.sqrt(float(np.mean(np.square(found.log_ratios))))
            told = identification(chosen, found.values, rows.log_ratios, max(self.noise, scatter))
            refusals = told.refusals(chosen, found.at_bound)
            if not refusals:
                break
            self._refuse(refusals, chosen)
            worst = refusals[0][0]
            chosen = [parameter for parameter in chosen if parameter.name != worst]
        self.fitted_ = tuple(chosen)
        self.values_ = {parameter.name: found.values[parameter.name] for parameter in chosen}
        self.at_bound_ = found.at_bound
        self.identification_: Identification = told
        self.standard_errors_ = told.standard_errors

    def _refuse(
        self, refusals: Sequence[tuple[str, str]], chosen: Sequence[Parameter], silent: bool = False
    ) -> None:
        """Refuse a set that was asked for; note what is left out of one that was not."""
        if self.parameters is not None:
            raise SpecError(
                f"these runs do not identify what is to be fitted: {'; '.join(s for _, s in refusals)}"
            )
        for name, sentence in refusals if silent else refusals[:1]:
            start = next(parameter.value for parameter in chosen if parameter.name == name)
            self.not_identified_ += (f"{sentence}; it stays at {start:.4g}",)

    def _leave_groups_out(self, based: Sequence[Observation]) -> tuple[Compared, ...]:
        groups = sorted({one.group for one in based})
        if len(groups) < 2:
            return ()
        found = []
        for group in groups:
            others = [one for one in based if one.group != group]
            rows = _Rows(others, self.fitted_)
            values = fit(self.fitted_, rows.rows, rows.targets, rows.predict, noise=self.noise).values
            overrides = Overrides(self.fitted_)
            found += [
                Compared(one, predicted_s(overrides.apply(one.scenario, values)))
                for one in based
                if one.group == group
            ]
        return tuple(found)

    # -- use --------------------------------------------------------------------------------------------------

    def apply(self, scenario: Scenario) -> Scenario:
        """A scenario of this machine as the fit predicts it."""
        return Overrides(self.fitted_).apply(self.start_.apply(scenario), self.values_)

    def predict(self, runs: Iterable[Observation]) -> list[dict[str, float]]:
        """Seconds by phase of each run."""
        return [predicted_s(self.apply(one.scenario)) for one in runs]

    def compare(self, runs: Iterable[Observation]) -> tuple[Compared, ...]:
        """Each run beside its prediction."""
        return tuple(Compared(one, predicted_s(self.apply(one.scenario))) for one in runs)

    def score(self, runs: Iterable[Observation], phase: str = "total") -> float:
        """Median absolute error of a phase; smaller is better.

        Raises:
            SpecError: no run has that phase.
        """
        return median_absolute_error(self.compare(runs), phase)


def median_absolute_error(compared: Iterable[Compared], phase: str = "total") -> float:
    """Median of |predicted / measured - 1|.

    Raises:
        SpecError: no run has that phase.
    """
    errors = [abs(error) for one in compared if (error := one.error(phase)) is not None]
    if not errors:
        raise SpecError(f"no run has a measured {phase}")
    return median(errors)


def predicted_s(scenario: Scenario) -> dict[str, float]:
    """Seconds by phase, without the limits that a whole prediction searches for."""
    found = latencies(scenario)
    return {
        "prefill": float(found.prefill_latency_s),
        "decode": float(found.decode_latency_s),
        "total": float(found.total_latency_s),
    }


class _Rows:
    """Observations as rows of a fit: a row per phase, or the total where the phases were not measured apart."""

    def __init__(self, observations: Sequence[Observation], parameters: Sequence[Parameter]) -> None:
        self.observations = observations
        self.rows: list[tuple[int, str]] = []
        self.targets: list[Target] = []
        for index, one in enumerate(observations):
            apart = {"prefill", "decode"} <= set(one.measured_s)
            phases = ("prefill", "decode") if apart else [p for p in PHASES if p in one.measured_s][-1:]
            for phase in phases:
                self.rows.append((index, phase))
                self.targets.append(Target.of(one.measured_s[phase]))
        self._overrides = Overrides(parameters)
        self._known: dict[int, tuple[tuple[float, ...], dict[str, float]]] = {}
        self._names = tuple(parameter.name for parameter in parameters)

    def predict(self, row: tuple[int, str], values: Mapping[str, float]) -> float:
        """Seconds of a row; both phases of a run come from one evaluation."""
        index, phase = row
        key = tuple(values[name] for name in self._names)
        known = self._known.get(index)
        if known is None or known[0] != key:
            known = key, predicted_s(self._overrides.apply(self.observations[index].scenario, values))
            self._known[index] = known
        return known[1][phase]

    def log_ratios(self, values: Mapping[str, float]) -> np.ndarray:
        """log(predicted / measured) of every row."""
        pairs = zip(self.rows, self.targets, strict=True)
        return np.array([target.log_ratio(self.predict(row, values)) for row, target in pairs])
