"""The nearest measured run beside a prediction of exactly that run."""

from __future__ import annotations

from typing import Any

from calibrate.evidence.published import Measurement, nearest_measurement
from calibrate.evidence.settings import peak_memory_bytes, run_of, scenario_of
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.config.scenario import Scenario
from llm_perf.counts.parameters import total_params
from llm_perf.errors import LLMPerfError

_SHOWN = (
    ("total_latency_s", "total latency", "s"),
    ("prefill_latency_s", "prefill latency", "s"),
    ("latency_per_token_s", "decode latency per token", "s"),
    ("throughput_tokens_per_s", "throughput", "token/s"),
    ("peak_gpu_memory_bytes", "peak GPU memory", "bytes"),
)


def error(predicted: float | None, measured: float | None) -> float | None:
    """Signed fraction (predicted - measured) / measured; None where either does not exist."""
    if predicted is None or measured is None:
        return None
    return (predicted - measured) / measured


def nearest_run(result: InferenceResult) -> dict[str, Any] | None:
    """The nearest published run for a prediction, with the prediction at that run's own settings.

    Returns:
        Row, source, trust, what differs from what was asked, and per quantity the measured value, the predicted
        value at the run's settings, and the signed error. None where no measurement is near.
    """
    scenario = result.scenario
    found = nearest_measurement(
        scenario.model.name,
        scenario.gpu.name,
        scenario.system,
        num_gpus=scenario.parallelism.num_gpus,
        batch_size=scenario.workload.batch_size,
        prompt_len=scenario.workload.prompt_len,
        gen_len=scenario.workload.gen_len,
        weight_bits=scenario.dtype.weight_bits,
        kv_bits=scenario.dtype.kv_bits,
        weight_tier=_tier(result),
        model_params=float(total_params(scenario.model)),
    )
    if found is None:
        return None
    measurement, differs = found
    predicted = _predict_there(scenario, measurement)
    if predicted is None:
        return None
    return {
        "row_id": measurement.row_id,
        "description": _description(measurement),
        "source": str(measurement.source),
        "trust": measurement.trust,
        "differs": {name: {"asked": asked, "measured": theirs} for name, (asked, theirs) in differs.items()},
        "quantities": _quantities(measurement, predicted),
    }


def _tier(result: InferenceResult) -> Any:
    weights = result.placement.weights
    return "nvme" if weights.nvme > 0 else "cpu" if weights.cpu > 0 else "gpu"


def _predict_there(asked: Scenario, measurement: Measurement) -> InferenceResult | None:
    """The prediction at the measured run's settings; None where they cannot be predicted.

    What was asked keeps its efficiencies and its profile's constants: only the run's own settings change.
    """
    try:
        there = scenario_of(run_of(measurement)).replace(
            gpu=asked.gpu,
            flops_efficiency=asked.flops_efficiency,
            hbm_memory_efficiency=asked.hbm_memory_efficiency,
            constants=asked.constants,
        )
        return predict_inference(there)
    except LLMPerfError:
        return None


def _quantities(measurement: Measurement, predicted: InferenceResult) -> list[dict[str, Any]]:
    values = measurement.quantities()
    ours = {
        "total_latency_s": predicted.total_latency_s,
        "prefill_latency_s": predicted.prefill.latency_s,
        "latency_per_token_s": predicted.tpot_s,
        "throughput_tokens_per_s": predicted.total_throughput_tokens_per_s,
        "peak_gpu_memory_bytes": peak_memory_bytes(predicted),
    }
    measured = [name for name in values if name not in measurement.derived]
    # Some sources state one rate only; what follows from it is better than nothing, and is said to follow.
    wanted = measured or list(values)
    shown = []
    for name, label, unit in _SHOWN:
        if name in wanted and ours[name] is not None:
            shown.append(
                {
                    "quantity": name,
                    "label": label if measured else f"{label} (follows from the stated rate)",
                    "unit": unit,
                    "measured": values[name],
                    "predicted": ours[name],
                    "error": error(ours[name], values[name]),
                }
            )
    return shown


def _description(measurement: Measurement) -> str:
    batch = "batch not stated" if measurement.batch_size is None else f"batch {measurement.batch_size}"
    gpus = f"{measurement.num_gpus} x " if measurement.num_gpus > 1 else ""
    tier = {"cpu": ", weights on the CPU", "nvme": ", weights on NVMe"}.get(measurement.weight_tier or "", "")
    return (
        f"{measurement.model} on {gpus}{measurement.gpu}, {batch}, prompt {measurement.prompt_len}, "
        f"generate {measurement.gen_len}{tier} (row {measurement.row_id}, trust {measurement.trust_grade})"
    )
