"""Every published run against the prediction at exactly its settings, by accuracy class and by system.

Errors are (predicted - measured) / measured of the run's main quantity: its throughput where the source states one in
the project's sense, else its total, its step or its prefill. A throughput that is printed with one digit stands for
its rounding interval, and the error counts from the nearest end. ``gm`` is the geometric mean of
max(predicted / measured, measured / predicted); it treats both sides alike, where a percentage rewards low guesses.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from calibrate.published import GPU_ALIASES, SYSTEM_ALIASES, Measurement, load_measurements
from calibrate.settings import Run, peak_memory_bytes, run_of, scenario_of
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.config.names import resolve
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError, SpecError
from llm_perf.systems.footprint import model_weight_bytes, stage_kv_bytes
from llm_perf.systems.registry import SYSTEM_NAMES

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
"""Accuracy classes, in the order in which they are shown. Training rows are not predicted yet."""

UNPREDICTED_RATIO: Final = 10.0
"""What a row without a prediction counts in ``gm_all``."""

OVERCOMMITTED: Final = "the stated batch cannot be in GPU memory at once, so the engine queued or paged"

Change: TypeAlias = Callable[[Scenario], Scenario]

_EDGE: Final = frozenset({"exllama", "llama_cpp"})
_MAIN: Final = ("throughput_tokens_per_s", "total_latency_s", "latency_per_token_s", "prefill_latency_s")
_RESIDENT: Final = frozenset({"resident-1gpu", "resident-tp", "resident-pp", "quantised", "edge"})
_OVERCOMMITMENT: Final = 1.07
"""Weights and cache over nominal memory from which on a resident row counts as overcommitted: what GiB and GB differ by."""


@dataclass(frozen=True)
class Compared:
    """One published run and its prediction.

    Attributes:
        measurement: The row.
        accuracy_class: Its class; None for Petals, whose clients the classes do not know.
        quantity: Name of the main quantity, as in `Measurement.quantities`.
        measured: Its value.
        predicted: The prediction; None where the run was refused.
        rounding: Half the interval that the printed value stands for, as a fraction; 0 with more than one digit.
        reason: Why it was refused; None where it was predicted.
        others: Further quantities: name -> (measured, predicted).
    """

    measurement: Measurement
    accuracy_class: str | None
    quantity: str
    measured: float
    predicted: float | None
    rounding: float
    reason: str | None
    others: Mapping[str, tuple[float, float]]

    @property
    def bound(self) -> float:
        """The value to compare with: the end of the rounding interval that is nearest to the prediction."""
        if self.predicted is None or not self.rounding:
            return self.measured
        low, high = self.measured * (1 - self.rounding), self.measured * (1 + self.rounding)
        return min(max(self.predicted, low), high)

    @property
    def error(self) -> float | None:
        """Signed fraction of the measured value."""
        return None if self.predicted is None else (self.predicted - self.bound) / self.bound

    @property
    def ratio(self) -> float | None:
        """max(predicted / measured, measured / predicted)."""
        return (
            None if self.predicted is None else max(self.predicted / self.bound, self.bound / self.predicted)
        )

    def as_dict(self) -> dict[str, Any]:
        """One row of the JSON."""
        m = self.measurement
        return {
            "row_id": m.row_id,
            "class": self.accuracy_class,
            "system": m.system,
            "model": m.model,
            "gpu": m.gpu,
            "num_gpus": m.num_gpus,
            "batch_size": m.batch_size,
            "prompt_len": m.prompt_len,
            "gen_len": m.gen_len,
            "weight_tier": m.weight_tier,
            "quantity": self.quantity,
            "measured": self.measured,
            "predicted": self.predicted,
            "error": self.error,
            "ratio": self.ratio,
            "one_digit": self.rounding > 0,
            "interval": None,
            "reason": self.reason,
            "quantities": {
                name: {"measured": ours, "predicted": theirs, "error": (theirs - ours) / ours}
                for name, (ours, theirs) in self.others.items()
            },
            "source": str(m.source),
            "trust": m.trust,
        }


@dataclass(frozen=True)
class Validation:
    """All rows that count, in the table's order, and how many were left out for which reason."""

    rows: tuple[Compared, ...]
    excluded: Mapping[str, int]

    def classes(self) -> dict[str, dict[str, Any]]:
        """Statistics by accuracy class; classes without rows are left out."""
        return _grouped(self.rows, lambda row: row.accuracy_class, CLASSES)

    def systems(self) -> dict[str, dict[str, Any]]:
        """Statistics by system."""
        names = sorted({row.measurement.system for row in self.rows})
        return _grouped(self.rows, lambda row: row.measurement.system, names)

    def refused(self) -> list[tuple[str, int]]:
        """Reasons for which rows were not predicted, the most frequent first."""
        return Counter(row.reason for row in self.rows if row.reason).most_common()

    def as_dict(self) -> dict[str, Any]:
        """The whole as one JSON object."""
        return {
            "schema_version": 1,
            "classes": self.classes(),
            "systems": self.systems(),
            "excluded": dict(self.excluded),
            "rows": [row.as_dict() for row in self.rows],
        }


def validate(system: str | None = None, gpu: str | None = None, change: Change | None = None) -> Validation:
    """Predict all published inference runs, or those of one system or GPU.

    ``change`` alters each scenario before it is predicted: to ask what a term or a fitted rate is worth.

    Raises:
        SpecError: the system or GPU is unknown, or nothing was measured on it.
    """
    measurements = _selected(load_measurements(), system, gpu)
    excluded: Counter[str] = Counter()
    rows = []
    for measurement in measurements:
        reason = _unusable(measurement)
        if reason is None:
            row = compare(measurement, change)
            if row.reason != OVERCOMMITTED:
                rows.append(row)
                continue
            reason = OVERCOMMITTED
        excluded[reason] += 1
    return Validation(tuple(rows), dict(excluded.most_common()))


def _selected(
    measurements: Iterable[Measurement], system: str | None, gpu: str | None
) -> tuple[Measurement, ...]:
    chosen = tuple(measurements)
    if system is not None:
        known = dict.fromkeys((*SYSTEM_NAMES, *(m.system for m in chosen)))
        aliases = {alias.replace(" ", "-"): name for alias, name in SYSTEM_ALIASES.items()}
        wanted = resolve("system", system, known, aliases)
        chosen = tuple(m for m in chosen if m.system == wanted)
        if not chosen:
            raise SpecError(f"no published run of system {wanted} ships")
    if gpu is not None:
        spec = get_gpu_config_by_name(gpu).name
        on_gpu = tuple(m for m in chosen if GPU_ALIASES.get(m.gpu, m.gpu) == spec)
        if not on_gpu:
            there = ", ".join(sorted({GPU_ALIASES.get(m.gpu, m.gpu) for m in chosen}))
            raise SpecError(f"no published run on {spec} ships; there are runs on {there}")
        chosen = on_gpu
    return chosen


def _unusable(measurement: Measurement) -> str | None:
    """Why a row is no measurement to compare with."""
    if measurement.status != "ok":
        return f"status {measurement.status}"
    if measurement.suspect:
        return "suspect: contradicts other rows or itself"
    if _main_quantity(measurement) is None:
        return "no quantity in the project's sense"
    return None


# -- one row ------------------------------------------------------------------------------------------------


def compare(measurement: Measurement, change: Change | None = None) -> Compared:
    """Predict one published run at its own settings. A run that cannot be predicted has a reason instead.

    Raises:
        SpecError: the row states nothing that could be compared.
    """
    quantity = _main_quantity(measurement)
    if quantity is None:
        raise SpecError(f"row {measurement.row_id} states no quantity that can be compared")
    values = measurement.quantities()
    accuracy: str | None = None
    predicted: dict[str, float] = {}
    reason = None
    try:
        run = run_of(measurement)
        accuracy = accuracy_class(run)
        scenario = scenario_of(run)
        predicted = _predicted(predict_inference(change(scenario) if change else scenario))
        if accuracy in _RESIDENT and _overcommitted(scenario):
            reason = OVERCOMMITTED
    except LLMPerfError as error:
        reason = str(error)
    ours = predicted.get(quantity) if reason is None else None
    if reason is None and ours is None:
        reason = f"no {quantity} is predicted"
    others = {
        name: (value, predicted[name])
        for name, value in values.items()
        if reason is None and name in predicted and name not in measurement.derived
    }
    one_digit = quantity == "throughput_tokens_per_s" or "latency_per_token_s" in measurement.derived
    rounding = measurement.throughput_rounding if one_digit and measurement.throughput_digits == 1 else 0.0
    return Compared(measurement, accuracy, quantity, values[quantity], ours, rounding, reason, others)


def _main_quantity(measurement: Measurement) -> str | None:
    values = measurement.quantities()
    return next((name for name in _MAIN if name in values), None)


def _predicted(result: InferenceResult) -> dict[str, float]:
    found = {
        "throughput_tokens_per_s": result.total_throughput_tokens_per_s,
        "total_latency_s": result.total_latency_s,
        "prefill_latency_s": result.prefill.latency_s,
        "peak_gpu_memory_bytes": peak_memory_bytes(result),
    }
    if result.decode is not None and result.decode.latency_per_token_s is not None:
        found["decode_latency_s"] = result.decode.latency_s
        found["latency_per_token_s"] = result.decode.latency_per_token_s
    return found


def accuracy_class(run: Run) -> str | None:
    """The accuracy class of a run: where its tensors are, then how wide its weights are, then on how many GPUs."""
    shares = [part for part in (run.weights, run.kv_cache) if part is not None]
    if run.system == "petals":
        return None
    if run.system in _EDGE:
        return "edge"
    if any(part[2] > 0 for part in shares):
        return "offload-nvme"
    if any(part[0] < 1 for part in shares):
        return "offload-cpu"
    if run.weight_bits < 16:
        return "quantised"
    if run.pp > 1:
        return "resident-pp"
    return "resident-tp" if run.num_gpus > 1 else "resident-1gpu"


def _overcommitted(scenario: Scenario) -> bool:
    """Whether weights and cache alone are more than the GPUs' nominal memory."""
    p, load = scenario.parallelism, scenario.workload
    # Over all stages: tensor-parallel ranks hold their part already.
    weights = model_weight_bytes(scenario) / p.pp_size
    kv = stage_kv_bytes(scenario, load.batch_size / p.dp_size, load.context_len)
    return bool(weights + kv > scenario.gpu.memory_gib * 1e9 * _OVERCOMMITMENT)


# -- statistics ---------------------------------------------------------------------------------------------


def _grouped(
    rows: Iterable[Compared], key: Callable[[Compared], str | None], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Compared]] = {name: [] for name in names}
    for row in rows:
        name = key(row)
        if name is not None:
            groups[name].append(row)
    return {name: statistics_of(group) for name, group in groups.items() if group}


def statistics_of(rows: Sequence[Compared]) -> dict[str, Any]:
    """What a group of rows says: coverage, errors, bias, shares within 10 and 20 %, gm, rank correlation.

    ``gm`` is over the rows that are predicted, ``gm_all`` over all with `UNPREDICTED_RATIO` for those that are not.
    ``memory_median_abs_error`` is that of peak GPU memory over the rows that state one. What does not exist is None.
    """
    covered = [row for row in rows if row.predicted is not None]
    errors = [row.error for row in covered if row.error is not None]
    ratios = [row.ratio for row in covered if row.ratio is not None]
    missing = len(rows) - len(covered)
    return {
        "rows": len(rows),
        "covered": len(covered),
        "median_abs_error": _median([abs(error) for error in errors]),
        "mean_abs_error": statistics.fmean(map(abs, errors)) if errors else None,
        "bias": _median(errors),
        "within_10": _share(errors, 0.1),
        "within_20": _share(errors, 0.2),
        "gm": _geometric_mean(ratios),
        "gm_all": _geometric_mean([*ratios, *[UNPREDICTED_RATIO] * missing]),
        "rank_correlation": rank_correlation(
            [row.measured for row in covered],
            [row.predicted for row in covered if row.predicted is not None],
        ),
        "memory_median_abs_error": _median(_memory_errors(covered)),
        "interval_coverage": None,
    }


def _memory_errors(rows: Iterable[Compared]) -> list[float]:
    pairs = [row.others[name] for row in rows if (name := "peak_gpu_memory_bytes") in row.others]
    return [abs(predicted - measured) / measured for measured, predicted in pairs]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _share(errors: Sequence[float], limit: float) -> float | None:
    return sum(abs(error) <= limit for error in errors) / len(errors) if errors else None


def _geometric_mean(ratios: Sequence[float]) -> float | None:
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's coefficient, equal values sharing their mean rank; None for fewer than three or constant values."""
    if len(left) < 3:
        return None
    try:
        return statistics.correlation(_ranks(left), _ranks(right))
    except statistics.StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    first: dict[float, int] = {}
    for index, value in enumerate(ordered):
        first.setdefault(value, index)
    counts = Counter(values)
    return [first[value] + (counts[value] - 1) / 2 for value in values]
