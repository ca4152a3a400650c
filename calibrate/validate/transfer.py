"""How far a system's predictions carry: every constant refitted without one machine, GPU, family or model in turn.

The rows of the group that was left out are then predicted with constants that never saw it. Three more figures stand
beside: the constants as they ship, no fit at all (``--profile none``: every fitted constant has its prior or the middle of
its range, and ratios to the data sheet take the place of what was fitted to a host's runs), and a refit to all rows.

What is refitted: each constant of the system that has a plausible range, and for each machine a factor on the constants
that stand for its own rates. A constant that was fitted to runs starts from its prior or the middle of its range, since the
shipped value knows all rows; one that was counted or is documented starts from its value. A machine that is left
out keeps the factor 1: it gets what the others have in common.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

from calibrate.evidence.published import load_measurements
from calibrate.evidence.settings import run_of, scenario_of
from calibrate.fit.overrides import Overrides, concerns
from calibrate.fit.refit import Batch, Fit, Parameter, Prediction, Target, fit, require_scipy, sensitive
from calibrate.validate.evidence import with_intervals
from calibrate.validate.left_out import PHASES
from calibrate.validate.scoreboard import Compared, Validation, statistics_of, validate
from llm_perf.analysis.measures import latencies
from llm_perf.config.profiles import NO_FIT
from llm_perf.config.scenario import Scenario
from llm_perf.config.training import TrainingScenario
from llm_perf.errors import SpecError, bad_value
from llm_perf.systems import get_system
from llm_perf.systems.registry import family_of

_TIMES: Final = ("total_latency_s", "prefill_latency_s", "latency_per_token_s", "throughput_tokens_per_s")
"""Quantities of a row that times alone give."""

_FACTOR: Final = (0.5, 2.0)
"""How far a machine's own rate may be from what machines have in common."""


Described = TypeVar("Described", Scenario, TrainingScenario)


@dataclass(frozen=True)
class Case(Generic[Described]):
    """One row of a fit: what was measured, and the scenario that predicts it without any fitted rate."""

    compared: Compared
    scenario: Described

    @property
    def target(self) -> Target:
        """The measured value, or its rounding interval."""
        return Target.of(self.compared.measured, self.compared.rounding)


def _family(case: Case[Any]) -> str:
    """The name of the model up to its first number."""
    name = case.scenario.model.name.rpartition("/")[2].rpartition("_")[2]
    return re.split(r"[-_.]?\d", name, maxsplit=1)[0]


GROUPINGS: Final[dict[str, Callable[[Case[Any]], str]]] = {
    "machine": lambda case: case.scenario.host.name,
    "gpu": lambda case: case.scenario.gpu.name,
    "family": _family,
    "model": lambda case: case.scenario.model.name,
}
"""What may be left out, and the group of a row."""


def check_grouping(leave: str) -> None:
    """Refuse what cannot be left out, or refitted, before anything is computed.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: the grouping is unknown.
    """
    if leave not in GROUPINGS:
        raise bad_value("leave_out", leave, f"one of {', '.join(GROUPINGS)}")
    require_scipy("--leave-out")


@dataclass(frozen=True)
class LeftOut:
    """One group, the fit without it, and its rows predicted by that fit."""

    group: str
    fit: Fit
    rows: tuple[Compared, ...]


@dataclass(frozen=True)
class Transfer:
    """All groups in turn; rows in the table's order."""

    system: str
    leave_out: str
    parameters: tuple[Parameter, ...]
    groups: tuple[LeftOut, ...]
    refit: Fit
    shipped: Validation
    no_fit: Validation
    refitted: Validation
    left_out: Validation
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The whole as one JSON object."""
        kinds = {
            "shipped": self.shipped,
            "no_fit": self.no_fit,
            "refit": self.refitted,
            "left_out": self.left_out,
        }
        classes = {kind: found.classes() | {"all": _overall(found)} for kind, found in kinds.items()}
        return {
            "schema_version": 1,
            "system": self.system,
            "leave_out": self.leave_out,
            "classes": {name: {kind: classes[kind][name] for kind in kinds} for name in classes["left_out"]},
            "groups": [_group_dict(group) for group in self.groups],
            "parameters": [self._parameter_dict(parameter) for parameter in self.parameters],
            "rows": [row.as_dict() for row in self.left_out.rows],
            "excluded": dict(self.shipped.excluded),
            "seconds": self.seconds,
        }

    def _parameter_dict(self, parameter: Parameter) -> dict[str, Any]:
        name = parameter.name
        return {
            "name": name,
            "low": parameter.low,
            "high": parameter.high,
            "scale": parameter.scale,
            "factor": parameter.factor,
            "start": parameter.value,
            "refit": None if name in self.refit.unmoved else self.refit.values[name],
            "at_bound": name in self.refit.at_bound,
            "left_out": {
                group.group: None if name in group.fit.unmoved else group.fit.values[name]
                for group in self.groups
            },
        }


def _group_dict(group: LeftOut) -> dict[str, Any]:
    found = Validation(group.rows, {})
    return {
        "left_out": group.group,
        "rows": len(group.rows),
        "gm": _overall(found)["gm"],
        "bias": _overall(found)["bias"],
        "classes": found.classes(),
        "fitted_rows": len(group.fit.log_ratios),
        "fitted_gm": group.fit.gm,
        "at_bound": list(group.fit.at_bound),
    }


def _overall(found: Validation) -> dict[str, Any]:
    return statistics_of(found.rows)


@dataclass(frozen=True)
class Refit(Generic[Described]):
    """The rows of a system or of training, the model of their times, and what of it may change.

    Attributes:
        system: As the answer names it.
        shipped: The rows as the constants that ship predict them.
        no_fit: The same without anything that was fitted.
        cases: What is fitted to.
        parameters: What may change.
        predict: The quantity of a row under values by parameter name.
        depends: Rows that each parameter changes.
        batch: ``predict`` for many values at once, where there is such a model.
        begin: Where the fit to all rows sets out, and those without a group from that one; None: from the starts.
        others: Further times of a row, measured and predicted under values.
        finished: Rows of a grouping whose predictions never saw them, as they are shown.
    """

    system: str
    shipped: Validation
    no_fit: Validation
    cases: tuple[Case[Described], ...]
    parameters: tuple[Parameter, ...]
    predict: Prediction[Case[Described]]
    depends: tuple[frozenset[int], ...]
    batch: Batch[Case[Described]] | None = None
    begin: Mapping[str, float] | None = None
    others: Callable[[Case[Described], Mapping[str, float]], dict[str, tuple[float, float]]] = (
        lambda _case, _values: {}
    )
    finished: Callable[[list[Compared], Sequence[str], str], Sequence[Compared]] = (
        lambda rows, _groups, _leave: rows
    )

    @property
    def targets(self) -> list[Target]:
        """What was measured."""
        return [case.target for case in self.cases]

    @cached_property
    def to_all(self) -> Fit:
        """Fitted to all rows."""
        return fit(
            self.parameters, self.cases, self.targets, self.predict, depends=self.depends, begin=self.begin,
            batch=self.batch,
        )  # fmt: skip

    def without(self, leave: str) -> Transfer:
        """Refit without each group in turn, and predict its rows.

        Raises:
            SpecError: there is only one group.
        """
        started = time.perf_counter()
        groups = [GROUPINGS[leave](case) for case in self.cases]
        begin = None if self.begin is None else self.to_all.values
        found = leave_out(
            self.parameters, self.cases, self.targets, groups, self.predict, self.depends, begin, self.batch
        )
        values = {index: value for _, rows in found.values() for index, value in rows.items()}
        left = [
            replace(case.compared, predicted=values[index], others=self.others(case, found[group][0].values))
            for index, (case, group) in enumerate(zip(self.cases, groups, strict=True))
        ]
        rows = tuple(self.finished(left, groups, leave))
        return Transfer(
            system=self.system,
            leave_out=leave,
            parameters=self.parameters,
            groups=tuple(
                LeftOut(group, fitted, tuple(rows[index] for index in own))
                for group, (fitted, own) in found.items()
            ),
            refit=self.to_all,
            shipped=Validation(tuple(case.compared for case in self.cases), self.shipped.excluded),
            no_fit=self.no_fit,
            refitted=with_predictions(self.cases, lambda case: self.predict(case, self.to_all.values)),
            left_out=Validation(rows, {}),
            seconds=time.perf_counter() - started,
        )


def with_predictions(
    cases: Sequence[Case[Described]], predict: Callable[[Case[Described]], float]
) -> Validation:
    """The rows with other predictions."""
    return Validation(tuple(replace(case.compared, predicted=predict(case), others={}) for case in cases), {})


# -- rows ---------------------------------------------------------------------------------------------------


def cases_of(shipped: Validation) -> tuple[Case[Scenario], ...]:
    """The rows that are predicted at all, with scenarios without anything that was fitted to runs."""
    rows = {measurement.row_id: measurement for measurement in load_measurements()}
    return tuple(
        Case(replace(row, left_out=None), unfitted(scenario_of(run_of(rows[row.run.row_id]))))
        for row in shipped.rows
        if row.run.table == "inference" and row.predicted is not None
    )


def unfitted(scenario: Scenario) -> Scenario:
    """The scenario without anything that was fitted to whole runs, as ``--profile none`` has it."""
    return NO_FIT.apply(scenario)


def predicted(scenario: Scenario, quantity: str) -> float:
    """A quantity of one scenario, as `calibrate.validate` names them; latency only, so quicker than a whole result.

    Raises:
        SpecError: this quantity is not one of time.
    """
    if quantity not in _TIMES:
        raise SpecError(f"{quantity} is no time of this run")
    value = float(getattr(latencies(scenario), quantity))
    if math.isnan(value):
        raise SpecError(f"{quantity} is no time of this run")
    return value


def _other_times(case: Case[Scenario], scenario: Scenario) -> dict[str, tuple[float, float]]:
    """Prefill and time per token of a row that states them beside its main quantity: (measured, predicted)."""
    return {
        name: (measured, predicted(scenario, name))
        for name, (measured, _) in case.compared.others.items()
        if name in PHASES
    }


# -- parameters -----------------------------------------------------------------------------------------------


def parameters_of(system: str, cases: Sequence[Case[Scenario]]) -> tuple[Parameter, ...]:
    """Every constant with a plausible range, then factors of machines on what is their own."""
    found = [
        Parameter(f"system.{name}", c.unfitted, *c.range, scale="log" if c.range[0] > 0 else "linear")
        for name, c in get_system(system).file.constants.items()
        if c.range is not None and c.range[0] < c.range[1]
    ]
    machine = family_of(system).machine_constants
    own = [p.name for p in found if p.name.partition(".")[2] in machine]
    hosts = {case.scenario.host.name: case.scenario.host for case in cases}
    for name, host in hosts.items():
        of_disk = [] if host.disk is None else ["host.disk.stated_read_gb_per_s"]
        found += [Parameter(f"{path}@{name}", 1.0, *_FACTOR, factor=True) for path in (*own, *of_disk)]
    return tuple(found)


def _depends(
    parameters: Sequence[Parameter],
    cases: Sequence[Case[Scenario]],
    predict: Prediction[Case[Scenario]],
) -> tuple[frozenset[int], ...]:
    """Rows that each parameter changes. A factor on a constant changes those of its machine that the constant does."""
    concerned = [
        frozenset(index for index, case in enumerate(cases) if concerns(parameter, case.scenario))
        for parameter in parameters
    ]
    names = {parameter.name for parameter in parameters}
    constants = [parameter.name.partition("@")[0] for parameter in parameters]
    # In one question, so that what is predicted before anything moves is predicted once.
    tried = [
        () if constant != parameter.name and constant in names else rows
        for parameter, constant, rows in zip(parameters, constants, concerned, strict=True)
    ]
    moved = sensitive(parameters, cases, predict, tried)
    by_name = {parameter.name: rows for parameter, rows in zip(parameters, moved, strict=True)}
    return tuple(
        by_name.get(constant, by_name[parameter.name]) & rows
        for parameter, constant, rows in zip(parameters, constants, concerned, strict=True)
    )


# -- leaving out ----------------------------------------------------------------------------------------------


def leave_out(
    parameters: Sequence[Parameter],
    rows: Sequence[Any],
    targets: Sequence[Target],
    groups: Sequence[str],
    predict: Prediction[Any],
    depends: Sequence[frozenset[int]] | None = None,
    begin: Mapping[str, float] | None = None,
    batch: Batch[Any] | None = None,
) -> dict[str, tuple[Fit, dict[int, float]]]:
    """For each group a fit to the rows of all others, and its own rows predicted by it: ``{group: (fit, {row: p})}``.

    ``begin`` is where the solver sets out and ``batch`` the model of many values, as for `calibrate.fit.refit.fit`.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: there is only one group.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        raise SpecError(f"all rows are of {names[0] if names else 'no group'}: nothing would be left to fit")
    touched = sensitive(parameters, rows, predict, batch=batch) if depends is None else depends
    found = {}
    for name in names:
        kept = [index for index, group in enumerate(groups) if group != name]
        place = {index: position for position, index in enumerate(kept)}
        fitted = fit(
            parameters, [rows[i] for i in kept], [targets[i] for i in kept], predict,
            depends=[frozenset(place[i] for i in rows_of if i in place) for rows_of in touched], begin=begin,
            batch=batch,
        )  # fmt: skip
        left = [index for index, group in enumerate(groups) if group == name]
        found[name] = (fitted, {index: predict(rows[index], fitted.values) for index in left})
    return found


def without_fits(shipped: Validation) -> Validation:
    """The rows of a system as ``--profile none`` predicts them: without anything that was fitted to whole runs."""
    return with_predictions(cases_of(shipped), lambda case: predicted(case.scenario, case.compared.quantity))


def transfer(system: str, leave: str) -> Transfer:
    """Refit a system's constants without each machine, GPU, family or model in turn.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: the system or grouping is unknown, nothing was measured, or there is only one group.
    """
    check_grouping(leave)
    shipped = validate(system)
    cases = cases_of(shipped)
    if not cases:
        raise SpecError(f"no published run of system {system} is predicted")
    name = cases[0].scenario.system
    groups = {GROUPINGS[leave](case) for case in cases}
    if len(groups) < 2:
        raise SpecError(
            f"all {len(cases)} rows of {name} are of one {leave}, {min(groups)}: nothing would be left to fit"
        )
    parameters = parameters_of(name, cases)
    overrides = Overrides(parameters)
    # Each group's fit sets out from the same values, and says at the end what it came to on the way.
    known: dict[tuple[float | None, ...], float] = {}
    names = {
        id(case): [parameter.name for parameter in parameters if concerns(parameter, case.scenario)]
        for case in cases
    }

    def predict(case: Case[Scenario], values: Mapping[str, float]) -> float:
        key = (id(case), *(values.get(name) for name in names[id(case)]))
        if key not in known:
            known[key] = predicted(overrides.apply(case.scenario, values), case.compared.quantity)
        return known[key]

    refit = Refit(
        name, shipped, without_fits(shipped), cases, parameters, predict, _depends(parameters, cases, predict),
        others=lambda case, values: _other_times(case, overrides.apply(case.scenario, values)),
        finished=lambda rows, groups, leave: with_intervals(rows, groups, leave, name),
    )  # fmt: skip
    return refit.without(leave)
