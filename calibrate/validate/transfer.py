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
from typing import Any, Final

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
from llm_perf.errors import SpecError, bad_value
from llm_perf.systems import get_system
from llm_perf.systems.registry import family_of

_TIMES: Final = ("total_latency_s", "prefill_latency_s", "latency_per_token_s", "throughput_tokens_per_s")
"""Quantities of a row that times alone give."""

_FACTOR: Final = (0.5, 2.0)
"""How far a machine's own rate may be from what machines have in common."""


@dataclass(frozen=True)
class Case:
    """One row of a fit: what was measured, and the scenario that predicts it without any fitted rate."""

    compared: Compared
    scenario: Scenario

    @property
    def target(self) -> Target:
        """The measured value, or its rounding interval."""
        return Target.of(self.compared.measured, self.compared.rounding)


def _machine(case: Case) -> str:
    return case.scenario.host.name


def _gpu(case: Case) -> str:
    return case.scenario.gpu.name


def _model(case: Case) -> str:
    return case.scenario.model.name


def _family(case: Case) -> str:
    """The name of the model up to its first number."""
    name = case.scenario.model.name.rpartition("/")[2].rpartition("_")[2]
    return re.split(r"[-_.]?\d", name, maxsplit=1)[0]


GROUPINGS: Final[dict[str, Callable[[Case], str]]] = {
    "machine": _machine,
    "gpu": _gpu,
    "family": _family,
    "model": _model,
}
"""What may be left out, and the group of a row."""


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


# -- rows ---------------------------------------------------------------------------------------------------


def cases_of(shipped: Validation) -> tuple[Case, ...]:
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


def _other_times(case: Case, scenario: Scenario) -> dict[str, tuple[float, float]]:
    """Prefill and time per token of a row that states them beside its main quantity: (measured, predicted)."""
    return {
        name: (measured, predicted(scenario, name))
        for name, (measured, _) in case.compared.others.items()
        if name in PHASES
    }


# -- parameters -----------------------------------------------------------------------------------------------


def parameters_of(system: str, cases: Sequence[Case]) -> tuple[Parameter, ...]:
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
    cases: Sequence[Case],
    predict: Prediction[Case],
) -> tuple[frozenset[int], ...]:
    """Rows that each parameter changes. A factor on a constant changes those of its machine that the constant does."""
    by_name: dict[str, frozenset[int]] = {}
    for parameter in parameters:
        rows = [index for index, case in enumerate(cases) if concerns(parameter, case.scenario)]
        whole = by_name.get(parameter.name.partition("@")[0])
        if whole is None:
            starts = [parameter, *(p for p in parameters if p is not parameter)]
            whole = sensitive(starts, cases, predict, [rows, *[()] * (len(starts) - 1)])[0]
        by_name[parameter.name] = whole & frozenset(rows)
    return tuple(by_name[parameter.name] for parameter in parameters)


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
    found = [
        replace(case.compared, predicted=predicted(case.scenario, case.compared.quantity), others={})
        for case in cases_of(shipped)
    ]
    return Validation(tuple(found), {})


def transfer(system: str, leave: str) -> Transfer:
    """Refit a system's constants without each machine, GPU, family or model in turn.

    Raises:
        MissingExtraError: SciPy is not installed.
        SpecError: the system or grouping is unknown, nothing was measured, or there is only one group.
    """
    if leave not in GROUPINGS:
        raise bad_value("leave_out", leave, f"one of {', '.join(GROUPINGS)}")
    require_scipy("--leave-out")
    begin = time.perf_counter()
    shipped = validate(system)
    cases = cases_of(shipped)
    if not cases:
        raise SpecError(f"no published run of system {system} is predicted")
    name = cases[0].scenario.system
    groups = [GROUPINGS[leave](case) for case in cases]
    if len(set(groups)) < 2:
        raise SpecError(
            f"all {len(cases)} rows of {name} are of one {leave}, {groups[0]}: nothing would be left to fit"
        )
    parameters = parameters_of(name, cases)
    overrides = Overrides(parameters)

    def predict(case: Case, values: Mapping[str, float]) -> float:
        return predicted(overrides.apply(case.scenario, values), case.compared.quantity)

    depends = _depends(parameters, cases, predict)
    targets = [case.target for case in cases]
    refit = fit(parameters, cases, targets, predict, depends=depends)
    found = leave_out(parameters, cases, targets, groups, predict, depends)
    values = {index: value for _, rows in found.values() for index, value in rows.items()}

    def with_predictions(predictions: Sequence[float]) -> Validation:
        pairs = zip(cases, predictions, strict=True)
        return Validation(tuple(replace(case.compared, predicted=p, others={}) for case, p in pairs), {})

    left_rows = [
        replace(
            case.compared,
            predicted=values[index],
            others=_other_times(case, overrides.apply(case.scenario, found[groups[index]][0].values)),
        )
        for index, case in enumerate(cases)
    ]
    left = Validation(with_intervals(left_rows, groups, leave, name), {})
    return Transfer(
        system=name,
        leave_out=leave,
        parameters=parameters,
        groups=tuple(
            LeftOut(group, fitted, tuple(left.rows[i] for i in rows))
            for group, (fitted, rows) in found.items()
        ),
        refit=refit,
        shipped=Validation(tuple(case.compared for case in cases), shipped.excluded),
        no_fit=without_fits(shipped),
        refitted=with_predictions([predict(case, refit.values) for case in cases]),
        left_out=left,
        seconds=time.perf_counter() - begin,
    )
