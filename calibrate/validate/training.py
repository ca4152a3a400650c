"""Published training runs against the prediction at exactly their settings; the main quantity is one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable

from calibrate.evidence.published import TrainingMeasurement
from calibrate.evidence.training_runs import training_run_of, training_scenario_of
from calibrate.validate import row
from calibrate.validate.baselines import training_baselines
from calibrate.validate.row import Compared
from llm_perf.analysis.training import predict_training
from llm_perf.errors import LLMPerfError, SpecError

TRAINING = "training"
_STEP = "iteration_time_s"


def compare_all(measurements: Iterable[TrainingMeasurement]) -> tuple[list[Compared], list[str]]:
    """All rows that can be compared, and for each of the others the reason why it is left out."""
    every = list(measurements)
    reasons = [row.unusable(one, one.iteration_time_s) for one in every]
    rows = [compare(one) for one, reason in zip(every, reasons, strict=True) if reason is None]
    return rows, [reason for reason in reasons if reason is not None]


def compare(measurement: TrainingMeasurement) -> Compared:
    """Predict one published run at its own settings. A run that cannot be predicted has a reason instead.

    Raises:
        SpecError: the row states no time.
    """
    if measurement.iteration_time_s is None:
        raise SpecError(f"row {measurement.row_id} states no iteration time")
    predicted, reason = None, None
    baselines: dict[str, float | None] = {}
    try:
        result = predict_training(training_scenario_of(training_run_of(measurement)))
        predicted = result.step_time_s
        baselines = training_baselines(measurement.row_id, result)
    except LLMPerfError as error:
        reason = str(error)
    return Compared(
        _run(measurement),
        TRAINING,
        _STEP,
        measurement.iteration_time_s,
        predicted,
        reason,
        baselines=baselines,
    )


def _run(measurement: TrainingMeasurement) -> row.Run:
    m = measurement
    return row.Run(
        row_id=m.row_id,
        table="training",
        system=m.framework,
        model=m.model,
        gpu=m.gpu,
        num_gpus=m.num_gpus or 1,
        batch_size=m.global_batch_size,
        prompt_len=None,
        gen_len=None,
        seq_len=m.seq_len,
        weight_tier=None,
        source=str(m.source),
        trust=m.trust,
    )
