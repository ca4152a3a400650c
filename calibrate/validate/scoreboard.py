"""Every published run against the prediction at exactly its settings, by accuracy class and by system.

Errors are (predicted - measured) / measured of the run's main quantity. `calibrate.validate` has the parts: one row,
the statistics, and the simpler predictors that stand beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from calibrate.evidence.published import (
    GPU_ALIASES,
    SYSTEM_ALIASES,
    Measurement,
    TrainingMeasurement,
    load_measurements,
)
from calibrate.validate import inference, training
from calibrate.validate.baselines import (
    BANDWIDTH_EFFICIENCY,
    FLOPS_EFFICIENCY,
    LLM_ANALYSIS,
    ROOFLINE,
    llm_analysis_version,
)
from calibrate.validate.evidence import Residuals
from calibrate.validate.figures import statistics_of
from calibrate.validate.inference import Change, accuracy_class, compare
from calibrate.validate.left_out import load_left_out
from calibrate.validate.row import Compared, LeftOut
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.config.names import resolve
from llm_perf.errors import SpecError
from llm_perf.systems.registry import system_names

__all__ = ["CLASSES", "Compared", "Validation", "accuracy_class", "compare", "statistics_of", "validate"]

CLASSES: Final = (
    "resident-1gpu",
    "resident-tp",
    "resident-pp",
    "quantised",
    "edge",
    "offload-cpu",
    "offload-nvme",
    "training",
)
"""Accuracy classes, in the order in which they are shown."""


@dataclass(frozen=True)
class Validation:
    """All rows that count, in the tables' order, and how many were left out for which reason."""

    rows: tuple[Compared, ...]
    excluded: Mapping[str, int]

    def classes(self) -> dict[str, dict[str, Any]]:
        """Statistics by accuracy class; classes without rows are left out."""
        return _grouped(self.rows, lambda row: row.accuracy_class, CLASSES)

    def systems(self) -> dict[str, dict[str, Any]]:
        """Statistics by system; the training frameworks are in the class."""
        names = sorted({row.run.system for row in self.rows if row.run.table == "inference"})
        return _grouped(self.rows, lambda row: row.run.system, names)

    def refused(self) -> list[tuple[str, int]]:
        """Reasons for which rows were not predicted, the most frequent first."""
        return Counter(row.reason for row in self.rows if row.reason).most_common()

    def as_dict(self) -> dict[str, Any]:
        """The whole as one JSON object."""
        return {
            "schema_version": 1,
            "classes": self.classes(),
            "systems": self.systems(),
            "baselines": {
                ROOFLINE: {
                    "flops_efficiency": FLOPS_EFFICIENCY,
                    "bandwidth_efficiency": BANDWIDTH_EFFICIENCY,
                },
                LLM_ANALYSIS: {"version": llm_analysis_version()},
            },
            "excluded": dict(self.excluded),
            "rows": [row.as_dict() for row in self.rows],
        }


def validate(system: str | None = None, gpu: str | None = None, change: Change | None = None) -> Validation:
    """Predict all published runs, or those of one system or GPU; the system ``training`` is all training runs.

    ``change`` alters each inference scenario before it is predicted: to ask what a term or a fitted rate is worth.

    Raises:
        SpecError: the system or GPU is unknown, or nothing was measured on it.
    """
    runs, trainings = _selected(load_measurements(), load_measurements("training"), system, gpu)
    rows, excluded = inference.compare_all(runs, change)
    more_rows, more_excluded = training.compare_all(trainings)
    counted = Counter([*excluded, *more_excluded])
    found = (*rows, *more_rows)
    return Validation(found if change else with_left_out(found), dict(counted.most_common()))


def with_left_out(rows: Iterable[Compared]) -> tuple[Compared, ...]:
    """The rows, each with what constants that never saw its model say of it, where they were refitted so."""
    lines = load_left_out()
    residuals = Residuals(lines)
    by_row = {
        (line.table, line.row_id, line.quantity): line
        for line in lines
        if line.leave_out == ("family" if line.table == "training" else "model")
    }

    def left_out(row: Compared) -> LeftOut | None:
        line = by_row.get((row.run.table, row.run.row_id, row.quantity))
        if line is None or row.predicted is None:
            return None
        return LeftOut(line.leave_out, line.group, line.predicted, residuals.interval(line))

    return tuple(replace(row, left_out=left_out(row)) for row in rows)


def _selected(
    runs: Sequence[Measurement],
    trainings: Sequence[TrainingMeasurement],
    system: str | None,
    gpu: str | None,
) -> tuple[Sequence[Measurement], Sequence[TrainingMeasurement]]:
    if system is not None:
        wanted = _system_name(system, runs)
        runs = [run for run in runs if run.system == wanted]
        trainings = trainings if wanted == training.TRAINING else []
        if not (runs or trainings):
            raise SpecError(f"no published run of system {wanted} ships")
    if gpu is not None:
        spec = get_gpu_config_by_name(gpu).name
        there = sorted({_gpu_name(name) for name in (*(r.gpu for r in runs), *(t.gpu for t in trainings))})
        runs = [run for run in runs if _gpu_name(run.gpu) == spec]
        trainings = [run for run in trainings if _gpu_name(run.gpu) == spec]
        if not (runs or trainings):
            raise SpecError(f"no published run on {spec} ships; there are runs on {', '.join(there)}")
    return runs, trainings


def _system_name(system: str, runs: Iterable[Measurement]) -> str:
    known = dict.fromkeys((*system_names(), *(run.system for run in runs), training.TRAINING))
    aliases = {alias.replace(" ", "-"): name for alias, name in SYSTEM_ALIASES.items()}
    return resolve("system", system, known, aliases)


def _gpu_name(name: str) -> str:
    return GPU_ALIASES.get(name, name)


def _grouped(
    rows: Iterable[Compared], key: Callable[[Compared], str | None], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Compared]] = {name: [] for name in names}
    for row in rows:
        name = key(row)
        if name in groups:
            groups[name].append(row)
    return {name: statistics_of(group) for name, group in groups.items() if group}
