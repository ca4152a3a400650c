"""How far training predictions carry: all constants refitted without one GPU, family or model in turn.

The same as `calibrate.validate.transfer` for one system: constants that were fitted to runs start from the middle of
their range, efficiencies of GPUs from operator timings. A micro-batch that a source does not print stays what the shipped
constants choose.

The fit to all rows sets out from the constants that ship, and those without a group from that fit, which takes them a
fraction of the rounds; what pulls a constant about which the rows say little is its start, as in any fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from calibrate.evidence.published import load_measurements
from calibrate.evidence.training_runs import training_run_of, training_scenario_of
from calibrate.fit.refit import sensitive
from calibrate.fit.training import TrainingFit, shipped_values, step_time_s, training_parameters
from calibrate.validate.scoreboard import Validation, validate
from calibrate.validate.transfer import Case, Refit, Transfer, check_grouping, with_predictions
from llm_perf.config.training import TrainingScenario


def training_cases(shipped: Validation) -> tuple[Case[TrainingScenario], ...]:
    """The training rows that are predicted at all."""
    measured = {measurement.row_id: measurement for measurement in load_measurements("training")}
    return tuple(
        Case(
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
    return with_predictions(training_cases(shipped), lambda case: step_time_s(case.scenario))


@cache
def _refit() -> Refit[TrainingScenario]:
    """What every grouping shares; it sets out from the constants that ship: far fewer rounds than from their starts."""
    shipped = validate("training")
    cases = training_cases(shipped)
    scenarios = [case.scenario for case in cases]
    parameters = training_parameters(scenarios)
    model = TrainingFit(parameters)
    # A parameter can change the rows of its GPU family, or of the frameworks that have its constant.
    concerned = [[i for i, one in enumerate(scenarios) if model.concerns(p, one)] for p in parameters]

    def predict(case: Case[TrainingScenario], values: Mapping[str, float]) -> float:
        return model.step_time_s(case.scenario, values)

    def batch(case: Case[TrainingScenario], values: Mapping[str, Any]) -> Any:
        return model.step_times_s(case.scenario, values)

    depends = sensitive(parameters, cases, predict, concerned, batch)
    no_fit, begin = training_without_fits(shipped), shipped_values(scenarios)
    return Refit("training", shipped, no_fit, cases, parameters, predict, depends, batch, begin)


def training_transfer(leave: str) -> Transfer:
    """Refit all training constants without each group in turn, and predict its rows.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: the grouping is unknown.
    """
    check_grouping(leave)
    return _refit().without(leave)
