"""The same fit on published runs: on one model of a machine under a system, the machine's other models predicted.

Where a machine is not at hand, this is what the pipeline can be tried on. Scenarios start without any rate that was
fitted to whole runs on their host, so that the other models' rows enter only through the systems' common constants.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from calibrate.fit.calibrator import Calibrator, Compared, median_absolute_error, predicted_s
from calibrate.fit.observation import Observation
from calibrate.validate.scoreboard import validate
from calibrate.validate.transfer import Case, cases_of
from llm_perf.analysis.inference import predict_inference
from llm_perf.config.calibration import CalibratedMachine
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError

_LEAST_ROWS = 2
"""Of the model that is fitted to."""

Machine = tuple[str, str, str]
"""GPU, host, system."""


@dataclass(frozen=True)
class Carried:
    """One machine and system: fitted on one model, tried on the others.

    Attributes:
        machine: GPU, host and system.
        model: What was fitted to; ``rows`` of it.
        fitted: Names of what was fitted; empty where the rows identify nothing.
        before: Median absolute error on the other models where the fit starts; ``after``: with the fit.
        inside: Share of them within the interval; None without one.
        refused: Why nothing was fitted.
    """

    machine: Machine
    model: str
    rows: int
    others: int
    fitted: tuple[str, ...]
    before: float
    after: float | None
    refused: str | None = None


def observations(cases: Iterable[Case[Scenario]]) -> list[Observation]:
    """Published runs as observations; those of which only a step or nothing is known in seconds are left out."""
    found = []
    for case in cases:
        row, scenario = case.compared, case.scenario
        workload = scenario.workload
        quantities = {row.quantity: row.measured} | {name: pair[0] for name, pair in row.others.items()}
        measured: dict[str, float] = {}
        if "prefill_latency_s" in quantities:
            measured["prefill"] = quantities["prefill_latency_s"]
        if "latency_per_token_s" in quantities and workload.gen_len > 1:
            measured["decode"] = quantities["latency_per_token_s"] * (workload.gen_len - 1)
        if "total_latency_s" in quantities:
            measured["total"] = quantities["total_latency_s"]
        elif "throughput_tokens_per_s" in quantities and not scenario.model.encoder:
            measured["total"] = workload.batch_size * workload.gen_len / quantities["throughput_tokens_per_s"]
        if not measured:
            continue
        found.append(
            Observation(
                source=f"row {row.run.row_id}",
                group=scenario.model.name,
                scenario=scenario,
                measured_s=measured,
                machine=CalibratedMachine(gpu=scenario.gpu.name, host=scenario.host.name),
            )
        )
    return found


def by_machine(found: Iterable[Observation]) -> dict[Machine, dict[str, list[Observation]]]:
    """Observations by machine and system, then by model; only where there are several models."""
    machines: dict[Machine, dict[str, list[Observation]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        key = (one.scenario.gpu.name, one.scenario.host.name, one.scenario.system)
        machines[key][one.group].append(one)
    return {key: dict(models) for key, models in machines.items() if len(models) > 1}


def carry(machine: Machine, models: dict[str, list[Observation]], model: str) -> Carried:
    """Fit on one model, predict the others."""
    own = models[model]
    others = [one for name, found in models.items() if name != model for one in found]
    phase = _phase(others)
    others = [one for one in others if phase in one.measured_s]
    before = median_absolute_error([Compared(one, predicted_s(one.scenario)) for one in others], phase)
    try:
        calibrator = Calibrator().fit(own)
    except SpecError as error:
        return Carried(machine, model, len(own), len(others), (), before, None, str(error))
    after = calibrator.score(others, phase)
    return Carried(machine, model, len(own), len(others), tuple(calibrator.values_), before, after)


def _phase(found: list[Observation]) -> str:
    """What most runs state: the total, else decode, else prefill."""
    return max(
        ("total", "decode", "prefill"), key=lambda phase: sum(phase in one.measured_s for one in found)
    )


@dataclass(frozen=True)
class Covered:
    """Each model of a machine left out in turn, with intervals from the others' own left-out residuals."""

    machine: Machine
    models: int
    runs: int
    error: float
    inside: float


def cover(machine: Machine, models: dict[str, list[Observation]]) -> Covered | None:
    """Coverage on models that were left out of fit and interval alike; None with fewer than three models."""
    errors: list[float] = []
    inside: list[bool] = []
    for model, left_out in models.items():
        rest = [one for name, found in models.items() if name != model for one in found]
        if len({one.group for one in rest}) < 2:
            return None
        try:
            calibrator = Calibrator().fit(rest)
        except SpecError:
            continue
        for one in left_out:
            phase = _phase([one])
            errors.append(abs(next(iter(calibrator.compare([one]))).error(phase) or 0.0))
            interval = predict_inference(calibrator.profile_.apply(one.scenario)).interval
            ends = None if interval is None else getattr(interval, f"{phase}_s")
            if ends is not None:
                inside.append(ends[0] <= one.measured_s[phase] <= ends[1])
    if not inside:
        return None
    return Covered(machine, len(models), len(inside), median(errors), sum(inside) / len(inside))


def tables(system: str | None = None) -> list[str]:
    """Both tables over all machines whose runs ship, as Markdown."""
    machines = by_machine(observations(cases_of(validate(system))))
    lines = [
        "| machine, system | fitted on (rows) | others' rows | before | after | fitted |",
        "| --- | --- | --: | --: | --: | --- |",
    ]
    for machine, models in machines.items():
        for model, own in models.items():
            if len(own) < _LEAST_ROWS:
                continue
            found = carry(machine, models, model)
            after = "refused" if found.after is None else f"{found.after:.1%}"
            names = ", ".join(name.rpartition(".")[2] for name in found.fitted) or "-"
            lines.append(
                f"| {_short(machine)} | {model.rpartition('/')[2]} ({found.rows}) | {found.others} | {found.before:.1%} "
                f"| {after} | {names} |"
            )
    lines += [
        "",
        "| machine, system | models | runs | median error | inside 90 % |",
        "| --- | --: | --: | --: | --: |",
    ]
    for machine, models in machines.items():
        covered = cover(machine, models)
        if covered is not None:
            lines.append(
                f"| {_short(machine)} | {covered.models} | {covered.runs} | {covered.error:.1%} | {covered.inside:.0%} |"
            )
    return lines


def _short(machine: Machine) -> str:
    return f"{machine[0]} ({machine[1]}), {machine[2]}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(tables(*sys.argv[1:2])) + "\n")
