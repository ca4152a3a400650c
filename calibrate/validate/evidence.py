"""Prediction intervals of uncalibrated predictions: from residuals of left-out rows to ``llm_perf/analysis/left_out``.

Runs on GPUs of different makers are kept apart: their software differs. A width is the largest conformal quantile among
the groups that were left out in turn (`calibrate.fit.intervals`). It takes two groups, since one says what another would
have said only by accident, and nine residuals, fewer of which have no 90 % quantile. Where a system has fewer in a class,
all systems of the class stand in for it, their groups apart.

Whether the widths keep what they promise is measured by leaving out once more: a row's interval around its left-out
prediction, as wide as the *other* groups say, either holds the measured value or does not (`Residuals.interval`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from typing import Any, Final

import yaml

from calibrate.evidence.published import load_measurements
from calibrate.evidence.settings import run_of, scenario_of
from calibrate.evidence.training_runs import training_run_of, training_scenario_of
from calibrate.fit.intervals import group_width
from calibrate.validate.left_out import LeftOutRow, lines_of
from calibrate.validate.row import Compared, Interval
from llm_perf.analysis.calibrated import asked_sizes
from llm_perf.analysis.evidence import ANY, kind_of, pool_of
from llm_perf.analysis.intervals import inference_options, training_options, training_sizes
from llm_perf.config.calibration import ENOUGH, INTERVAL_LEVEL
from llm_perf.config.gpu import format_bits
from llm_perf.config.loading import get_gpu_config_by_name

_PHASES: Final = {
    "prefill_latency_s": "prefill",
    "latency_per_token_s": "decode",
    "throughput_tokens_per_s": "total",
    "total_latency_s": "total",
    "iteration_time_s": "total",
}
"""Quantity of a row -> the phase of which it speaks."""

_FEWEST_GROUPS: Final = 2
_DIGITS: Final = 4
_HEAD: Final = """\
# How far predictions were off on published runs whose GPU, or model, was left out of every fit: half-widths of 90 % intervals
# as log ratios, by system and accuracy class. Written by `make accuracy` from calibrate/measurements/left_out.csv, which
# bench/leave_out.py makes; calibrate/validate/evidence.py says how.
"""

Entry = tuple[str, str, str]
"""System or `ANY`, accuracy class, vendor of the GPU."""

Key = tuple[str, str, str, str]
"""System or `ANY`, accuracy class, vendor of the GPU, what was left out."""


Group = tuple[str, str]
"""System and what was left out of its fit; and what a width without this group must not know either: for GPUs the chip."""


@dataclass(frozen=True)
class Residuals:
    """|log ratios| of left-out rows by phase and group.

    A row whose source states the time per token and no total counts for the total too, which decode steps dominate. Cards
    with the same chip count as one GPU: what one of them says of the other says little of a third. A run that
    several sources print counts once.
    """

    lines: Sequence[LeftOutRow]

    @cached_property
    def _sizes(self) -> dict[Key, dict[str, dict[Group, list[float]]]]:
        """Key -> phase -> group -> sizes. Groups of `ANY` are those of each system apart."""
        with_total = {_identity(line) for line in self._once if _PHASES[line.quantity] == "total"}
        found: dict[Key, dict[str, dict[Group, list[float]]]] = {}
        for line in self._once:
            phases = {_PHASES[line.quantity]}
            if phases == {"decode"} and _identity(line) not in with_total:
                phases.add("total")
            for key, phase in product(_places(line), phases):
                of_phase = found.setdefault(key, {}).setdefault(phase, {})
                of_phase.setdefault(_group(line), []).append(abs(line.log_ratio))
        return found

    @cached_property
    def _once(self) -> tuple[LeftOutRow, ...]:
        """The lines without those that say the same as another: the same prediction, as far from what was measured."""
        return tuple({replace(line, row_id=0): line for line in reversed(self.lines)}.values())[::-1]

    @property
    def keys(self) -> tuple[Key, ...]:
        """What there is."""
        return tuple(self._sizes)

    def width(self, key: Key, phase: str, without: str | None = None) -> float | None:
        """Half-width of an interval, from all groups but those of one name; None where too little is stated of the phase.

        A total that no row states is a prefill: of runs that generate one token. A phase's is no narrower than the
        total's: a total that is off does not say which phase was.
        """
        groups = self._sizes.get(key, {}).get(phase, {})
        if phase == "total":
            return self._own_width(groups or self._sizes.get(key, {}).get("prefill", {}), without)
        own, total = self._own_width(groups, without), self.width(key, "total", without)
        return own if own is None or total is None else max(own, total)

    @staticmethod
    def _own_width(groups: Mapping[Group, Sequence[float]], without: str | None) -> float | None:
        kept = [sizes for (_, name), sizes in groups.items() if name != without]
        if _names(groups) < _FEWEST_GROUPS or sum(map(len, kept)) < ENOUGH:
            return None
        return group_width(kept)

    def widths(self, key: Key) -> dict[str, Any] | None:
        """An entry of the file; None without a width of the total."""
        found = {phase: self.width(key, phase) for phase in ("prefill", "decode", "total")}
        if found["total"] is None:
            return None
        lines = [line for line in self._once if key in _places(line)]
        rounded = {phase: None if width is None else _up(width) for phase, width in found.items()}
        held, tested = self.inside(key)
        return {
            "groups": len({_chip(line.group) if key[3] == "gpu" else line.group for line in lines}),
            "rows": len({_identity(line) for line in lines}),
            "held": held,
            "tested": tested,
        } | rounded

    def inside(self, key: Key) -> tuple[int, int]:
        """(residuals of the total within what the groups other than their own say, residuals for which these say enough)."""
        phases = self._sizes.get(key, {})
        groups = phases.get("total") or phases.get("prefill", {})
        found: list[bool] = []
        for (_, name), sizes in groups.items():
            width = self.width(key, "total", without=name)
            if width is not None:
                found += [size <= width for size in sizes]
        return sum(found), len(found)

    def half_width(self, line: LeftOutRow) -> float | None:
        """Half-width around a row's left-out prediction, from groups other than its own.

        Own residuals count where there are enough of them, as for a question; else those of all systems of the class.
        """
        for key in _places(line):
            if self.width(key, "total") is not None:
                return self.width(key, _PHASES[line.quantity], without=_group(line)[1])
        return None

    def interval(self, line: LeftOutRow) -> Interval | None:
        """The interval of that half-width; None without one."""
        width = self.half_width(line)
        if width is None:
            return None
        return Interval(line.predicted * math.exp(-width), line.predicted * math.exp(width), INTERVAL_LEVEL)


def with_intervals(
    rows: Sequence[Compared], groups: Sequence[str], leave_out: str, system: str
) -> tuple[Compared, ...]:
    """The rows of one system with intervals as wide as the left-out residuals of the other groups say.

    Neither the fit nor the width of a row knows any row of its group, so that the share of rows inside is honest.

    Args:
        rows: Each predicted by a fit that knew no row of its group.
        groups: What was left out for each row.
        leave_out: What a group is.
        system: The system.
    """
    lines = lines_of(rows, groups, leave_out, system)
    residuals, by_row = Residuals(lines), {(line.row, line.quantity): line for line in lines}

    def around(row: Compared) -> Interval | None:
        line = by_row.get(((row.run.table, row.run.row_id), row.quantity))
        return None if line is None else residuals.interval(line)

    return tuple(replace(row, interval=around(row)) for row in rows)


def _places(line: LeftOutRow) -> list[Key]:
    """The keys for which a line speaks, its own first."""
    own: Key = (line.system, line.accuracy_class, line.vendor, line.leave_out)
    if line.leave_out == "system":
        return [own]
    return [own, (ANY, pool_of(line.accuracy_class, line.leave_out), line.vendor, line.leave_out)]


def _group(line: LeftOutRow) -> Group:
    label = f"{line.system}: {line.group}"
    return label, _chip(line.group) if line.leave_out == "gpu" else label


@cache
def _chip(gpu: str) -> str:
    """What cards with the same chip have in common."""
    found = get_gpu_config_by_name(gpu)
    return found.name if found.sm_count is None else f"{found.architecture} of {found.sm_count}"


def _names(groups: Iterable[Group]) -> int:
    """How many groups are not of the same chip."""
    return len({name for _, name in groups})


def _identity(line: LeftOutRow) -> tuple[str, int, str, str]:
    """What lines of one row have in common."""
    return line.table, line.row_id, line.system, line.leave_out


# -- the file -------------------------------------------------------------------------------------------------


def evidence_files(lines: Sequence[LeftOutRow], rows: Sequence[Compared]) -> dict[str, str]:
    """System -> the text of its file in ``llm_perf/analysis/left_out``.

    Args:
        lines: What is predicted of left-out rows.
        rows: All rows that are predicted: what a system's runs cover, whether they could be left out or not.
    """
    residuals = Residuals(lines)
    facts = _facts(rows)
    members: dict[Entry, dict[tuple[str, int], _Facts]] = {}
    for row, fact in facts.items():
        members.setdefault((fact.system, *fact.kind_of_run), {})[row] = fact
        for pool in {pool_of(fact.accuracy_class, leave) for leave in ("gpu", "model")}:
            members.setdefault((ANY, pool, fact.vendor), {})[row] = fact
    for line in lines:  # rows that a generic system predicts as well
        members.setdefault((line.system, line.accuracy_class, line.vendor), {})[line.row] = facts[line.row]
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in sorted(members):
        widths = {key[3]: residuals.widths(key) for key in sorted(residuals.keys) if key[:3] == entry}
        entries.setdefault(entry[0], []).append(
            dict(zip(("system", "accuracy_class", "vendor"), entry, strict=True))
            | _described(list(members[entry].values()))
            | {"left_out": {leave: found for leave, found in widths.items() if found is not None}}
        )
    return {
        system: _HEAD
        + yaml.safe_dump({"entries": found}, sort_keys=False, width=120, default_flow_style=None)
        for system, found in entries.items()
    }


@dataclass(frozen=True)
class _Facts:
    """What a row says of what is covered."""

    system: str
    accuracy_class: str
    vendor: str
    gpu: str
    host: str
    kind: str
    weight_bits: int
    sizes: Mapping[str, float]
    options: tuple[str, ...] = ()

    @property
    def kind_of_run(self) -> tuple[str, str]:
        """Accuracy class and maker of the GPU."""
        return self.accuracy_class, self.vendor


def _facts(rows: Sequence[Compared]) -> dict[tuple[str, int], _Facts]:
    classes = {
        (row.run.table, row.run.row_id): row.accuracy_class
        for row in rows
        if row.predicted is not None and row.accuracy_class is not None
    }
    found: dict[tuple[str, int], _Facts] = {}
    for row in load_measurements():
        if name := classes.get(("inference", row.row_id)):
            scenario = scenario_of(run_of(row))
            sizes = asked_sizes(scenario) | {"num_gpus": float(scenario.parallelism.num_gpus)}
            found["inference", row.row_id] = _Facts(
                scenario.system, name, scenario.gpu.maker, scenario.gpu.name, scenario.host.name,
                kind_of(scenario.model), scenario.dtype.weight_bits, sizes, inference_options(scenario),
            )  # fmt: skip
    for job in load_measurements("training"):
        if name := classes.get(("training", job.row_id)):
            training = training_scenario_of(training_run_of(job))
            found["training", job.row_id] = _Facts(
                training.framework, name, training.gpu.maker, training.gpu.name, training.host.name,
                kind_of(training.model), format_bits(training.plan.compute_dtype), training_sizes(training),
                training_options(training),
            )  # fmt: skip
    return found


def _described(facts: Sequence[_Facts]) -> dict[str, Any]:
    machines: dict[str, set[str]] = {}
    for fact in facts:
        machines.setdefault(fact.gpu, set()).add(fact.host)
    names = sorted({name for fact in facts for name in fact.sizes})
    options = sorted({option for fact in facts for option in fact.options})
    return {
        "machines": {gpu: sorted(machines[gpu]) for gpu in sorted(machines)},
        "kinds": sorted({fact.kind for fact in facts}),
        "weight_bits": sorted({fact.weight_bits for fact in facts}),
        "sizes": {name: _range([fact.sizes[name] for fact in facts if name in fact.sizes]) for name in names},
    } | ({"options": options} if options else {})


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"low": _digits(min(values)), "high": _digits(max(values))}


def _digits(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _up(width: float) -> float:
    """Rounded up, so that no interval is narrower than what was seen."""
    scale = 10**_DIGITS
    return math.ceil(width * scale - 1e-9) / scale
