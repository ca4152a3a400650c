"""Published inference runs against the prediction at exactly their settings.

The main quantity of a run is its throughput where the source states one in the project's sense, else its total, its
step or its prefill. A throughput that is printed with one digit stands for its rounding interval, and the error counts
from the nearest end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from calibrate.evidence.published import Measurement
from calibrate.evidence.settings import NotStatedError, Run, peak_memory_bytes, run_of, scenario_of
from calibrate.validate import row
from calibrate.validate.baselines import inference_baselines
from calibrate.validate.row import Compared, Interval
from llm_perf.analysis import evidence
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError, SpecError
from llm_perf.systems.footprint import model_weight_bytes, stage_kv_bytes

Change: TypeAlias = Callable[[Scenario], Scenario]

_OVERCOMMITTED: Final = "the stated batch cannot be in GPU memory at once, so the engine queued or paged"
_MAIN: Final = ("throughput_tokens_per_s", "total_latency_s", "latency_per_token_s", "prefill_latency_s")
_RESIDENT: Final = frozenset({"resident-1gpu", "resident-tp", "resident-pp", "quantised", "edge"})
_OVERCOMMITMENT: Final = 1.07
"""Weights and cache over nominal memory from which on a resident row counts as overcommitted: what GiB and GB differ by."""


def compare_all(
    measurements: Iterable[Measurement], change: Change | None = None
) -> tuple[list[Compared], list[str]]:
    """All rows that can be compared, and for each of the others the reason why it is left out."""
    rows, excluded = [], []
    for measurement in measurements:
        reason = row.unusable(measurement, _main_quantity(measurement)) or _not_stated(measurement)
        if reason is None:
            compared = compare(measurement, change)
            if compared.reason != _OVERCOMMITTED:
                rows.append(compared)
                continue
            reason = _OVERCOMMITTED
        excluded.append(reason)
    return rows, excluded


def _not_stated(measurement: Measurement) -> str | None:
    """What the source leaves out, where no predictor could be asked about the row."""
    try:
        run_of(measurement)
    except NotStatedError as error:
        return f"the source does not state {error.what}"
    except LLMPerfError:
        return None  # a reason for which this predictor refuses it: that counts against it
    return None


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
    baselines: dict[str, float | None] = {}
    interval: Interval | None = None
    reason = None
    try:
        run = run_of(measurement)
        accuracy = accuracy_class(run)
        baselines = inference_baselines(measurement.row_id, run, quantity)
        scenario = scenario_of(run)
        result = predict_inference(change(scenario) if change else scenario)
        predicted, interval = _predicted(result), _interval(result, quantity)
        if accuracy in _RESIDENT and _overcommitted(scenario):
            reason = _OVERCOMMITTED
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
    return Compared(
        _run(measurement),
        accuracy,
        quantity,
        values[quantity],
        ours,
        reason,
        _rounding(measurement, quantity),
        others,
        baselines,
        interval if ours is not None else None,
    )


def _run(measurement: Measurement) -> row.Run:
    m = measurement
    return row.Run(
        row_id=m.row_id,
        table="inference",
        system=m.system,
        model=m.model,
        gpu=m.gpu,
        num_gpus=m.num_gpus,
        batch_size=m.batch_size,
        prompt_len=m.prompt_len,
        gen_len=m.gen_len,
        seq_len=None,
        weight_tier=m.weight_tier,
        source=str(m.source),
        trust=m.trust,
    )


def _rounding(measurement: Measurement, quantity: str) -> float:
    from_rate = quantity == "throughput_tokens_per_s" or "latency_per_token_s" in measurement.derived
    return measurement.throughput_rounding if from_rate and measurement.throughput_digits == 1 else 0.0


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
    if result.decode is not None and result.tpot_s is not None:
        found["decode_latency_s"] = result.decode.latency_s
        found["latency_per_token_s"] = result.tpot_s
    return found


def _interval(result: InferenceResult, quantity: str) -> Interval | None:
    """Where a profile says that the main quantity lies; None without a profile, or where it says nothing of it."""
    found = result.interval
    if found is None or found.profile is None:
        return None
    if quantity == "prefill_latency_s":
        ends = found.prefill_s
    elif quantity == "latency_per_token_s":
        ends = found.decode_s
    else:
        ends = found.total_s
    if ends is None:
        return None
    if quantity == "throughput_tokens_per_s":
        tokens = float(result.measures.tokens)
        return Interval(tokens / ends[1], tokens / ends[0], found.level)
    steps = float(result.measures.steps) if quantity == "latency_per_token_s" else 1.0
    return Interval(ends[0] / steps, ends[1] / steps, found.level)


def accuracy_class(run: Run) -> str | None:
    """The accuracy class of a run, by what its source states."""
    shares = [part for part in (run.weights, run.kv_cache) if part is not None]
    gpu, nvme = min((part[0] for part in shares), default=1.0), max((part[2] for part in shares), default=0.0)
    return evidence.accuracy_class(run.system, gpu, nvme, run.weight_bits, run.num_gpus, run.pp)


def _overcommitted(scenario: Scenario) -> bool:
    """Whether weights and cache alone are more than the GPUs' nominal memory."""
    p, load = scenario.parallelism, scenario.workload
    # Over all stages: tensor-parallel ranks hold their part already.
    weights = model_weight_bytes(scenario) / p.pp_size
    kv = stage_kv_bytes(scenario, load.batch_size / p.dp_size, load.context_len)
    return bool(weights + kv > scenario.gpu.memory_gib * 1e9 * _OVERCOMMITMENT)
