"""How far training predictions carry: all constants refitted without one GPU, family or model in turn.

The same as `calibrate.validate.transfer` for one system: constants that were fitted to runs start from the middle of
their range, efficiencies of GPUs from operator timings. A micro-batch that a source does not print stays what the shipped
constants choose.

The fit to all rows sets out from the constants that ship, and those without a group from that fit, which takes them a
fraction of the rounds; what pulls a constant about which the rows say little is its start, as in any fit.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from calibrate.evidence.published import load_measurements
from calibrate.evidence.training_runs import training_run_of, training_scenario_of
from calibrate.fit.refit import Fit, Parameter, Target, fit, require_scipy, sensitive
from calibrate.fit.training import TrainingFit, shipped_values, step_time_s, training_parameters
from calibrate.validate.scoreboard import Compared, Validation, validate
from calibrate.validate.transfer import LeftOut, Transfer, leave_out
from llm_perf.config.training import TrainingScenario
from llm_perf.errors import bad_value


@dataclass(frozen=True)
class TrainingCase:
    """One row of a fit: what was measured, and the scenario that predicts it."""

    compared: Compared
    scenario: TrainingScenario

    @property
    def target(self) -> Target:
        """The measured step."""
        return Target.of(self.compared.measured)


def _family(case: TrainingCase) -> str:
    """The name of the model up to its first number."""
    name = case.scenario.model.name.rpartition("/")[2]
    return re.split(r"[-_.]?\d", name, maxsplit=1)[0]


TRAINING_GROUPINGS: Final[dict[str, Callable[[TrainingCase], str]]] = {
    "gpu": lambda case: case.scenario.gpu.name,
    "machine": lambda case: case.scenario.host.name,
    "family": _family,
    "model": lambda case: case.scenario.model.name,
}
"""What may be left out, and the group of a row."""


def training_cases(shipped: Validation) -> tuple[TrainingCase, ...]:
    """The training rows that are predicted at all."""
    measured = {measurement.row_id: measurement for measurement in load_measurements("training")}
    return tuple(
        TrainingCase(
            replace(row, left_out=None),
            _unfitted(training_scenario_of(training_run_of(measured[row.run.row_id]))),
        )
        for row in shipped.rows
        if row.predicted is not None
    )


def _unfitted(scenario: TrainingScenario) -> TrainingScenario:
    """The scenario without anything that was fitted to whole runs, as ``--profile none`` has it."""
    return scenario.replace(gpu=scenario.gpu.without_fits(), host=scenario.host.without_fits(), fits=False)


def training_without_fits(shipped: Validation) -> Validation:
    """The rows as ``--profile none`` predicts them: without anything that was fitted to whole runs."""
    found = [
        replace(case.compared, predicted=step_time_s(case.scenario), others={})
        for case in training_cases(shipped)
    ]
    return Validation(tuple(found), {})


@dataclass(frozen=True)
class _ToAll:
    """What every grouping shares: the rows, the model of their times, and its fit to all of them."""

    shipped: Validation
    cases: tuple[TrainingCase, ...]
    parameters: tuple[Parameter, ...]
    model: TrainingFit
    depends: tuple[frozenset[int], ...]
    refit: Fit

    @property
    def targets(self) -> list[Target]:
        """The measured steps."""
        return [case.target for case in self.cases]

    def predict(self, case: TrainingCase, values: Mapping[str, float]) -> float:
        """Seconds of a row's step under values by parameter name."""
        return self.model.step_time_s(case.scenario, values)

    def batch(self, case: TrainingCase, values: Mapping[str, Any]) -> Any:
        """The same of many values at once."""
        return self.model.step_times_s(case.scenario, values)


@cache
def _fitted_to_all() -> _ToAll:
    """Fit all parameters to all rows, setting out from the constants that ship: far fewer rounds than from their starts."""
    shipped = validate("training")
    cases = training_cases(shipped)
    parameters = training_parameters([case.scenario for case in cases])
    model = TrainingFit(parameters)
    concerned = [_concerned(p, cases, model) for p in parameters]
    bare = _ToAll(shipped, cases, parameters, model, (), Fit({}, (), (), (), 0))
    depends = sensitive(parameters, cases, bare.predict, concerned, bare.batch)
    begin = shipped_values([row.scenario for row in cases])
    refit = fit(parameters, cases, bare.targets, bare.predict, depends=depends, begin=begin, batch=bare.batch)
    return replace(bare, depends=depends, refit=refit)


def training_transfer(leave: str) -> Transfer:
    """Refit all training constants without each group in turn, and predict its rows.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: the grouping is unknown.
    """
    if leave not in TRAINING_GROUPINGS:
        raise bad_value("leave_out", leave, f"one of {', '.join(TRAINING_GROUPINGS)}")
    require_scipy("--leave-out")
    begin = time.perf_counter()
    known = _fitted_to_all()
    cases, shipped, refit = known.cases, known.shipped, known.refit
    groups = [TRAINING_GROUPINGS[leave](case) for case in cases]
    found = leave_out(
        known.parameters,
        cases,
        known.targets,
        groups,
        known.predict,
        known.depends,
        refit.values,
        known.batch,
    )
    values = {index: value for _, rows in found.values() for index, value in rows.items()}

    def with_predictions(predictions: Sequence[float]) -> Validation:
        pairs = zip(cases, predictions, strict=True)
        return Validation(tuple(replace(case.compared, predicted=p, others={}) for case, p in pairs), {})

    left = with_predictions([values[index] for index in range(len(cases))])
    return Transfer(
        system="training",
        leave_out=leave,
        parameters=known.parameters,
        groups=tuple(
            LeftOut(group, fitted, tuple(left.rows[index] for index in rows))
            for group, (fitted, rows) in found.items()
        ),
        refit=refit,
        shipped=Validation(tuple(case.compared for case in cases), shipped.excluded),
        no_fit=training_without_fits(shipped),
        refitted=with_predictions([known.predict(case, refit.values) for case in cases]),
        left_out=left,
        seconds=time.perf_counter() - begin,
    )


def _concerned(parameter: Parameter, cases: Sequence[TrainingCase], model: TrainingFit) -> list[int]:
    """Rows that a parameter can change: those of its GPU family, or of the frameworks that have its constant."""
    return [index for index, case in enumerate(cases) if model.concerns(parameter, case.scenario)]
