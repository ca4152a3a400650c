"""The tables that ship, read once per process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal, overload

from calibrate.evidence.published.cells import Row, rows
from calibrate.evidence.published.inference_rows import inference_measurement
from calibrate.evidence.published.names import canonical_model, canonical_system
from calibrate.evidence.published.records import Measurement, TrainingMeasurement
from calibrate.evidence.published.training_rows import training_measurement
from llm_perf.errors import bad_value

_MEASUREMENTS = Path(__file__).resolve().parents[2] / "measurements"


@overload
def load_measurements(kind: Literal["inference"] = "inference") -> tuple[Measurement, ...]: ...
@overload
def load_measurements(kind: Literal["training"]) -> tuple[TrainingMeasurement, ...]: ...
def load_measurements(
    kind: Literal["inference", "training"] = "inference",
) -> tuple[Measurement, ...] | tuple[TrainingMeasurement, ...]:
    """All rows that ship, the doubtful, suspect and out-of-memory ones included, in the table's order.

    Read once per process.

    Args:
        kind: ``"inference"`` or ``"training"``.

    Raises:
        SpecError: there is no such kind, or the table is malformed.
    """
    if kind == "inference":
        return _shipped_inference()
    if kind == "training":
        return _shipped_training()
    raise bad_value("kind", kind, "'inference' or 'training'")


@lru_cache(maxsize=1)
def _shipped_inference() -> tuple[Measurement, ...]:
    return tuple(inference_measurement(row) for row in shipped_rows("published_inference.csv"))


@lru_cache(maxsize=256)
def measurements_of(system: str, model: str) -> tuple[Measurement, ...]:
    """The rows of a system with a model, by their canonical names. Only these are built, which costs more than reading."""
    return tuple(
        inference_measurement(row)
        for row in shipped_rows("published_inference.csv")
        if canonical_system(row.text("system")) == system and canonical_model(row.text("model")) == model
    )


@lru_cache(maxsize=1)
def _shipped_training() -> tuple[TrainingMeasurement, ...]:
    return tuple(training_measurement(row) for name in _TRAINING for row in shipped_rows(name))


_TRAINING = ("published_training.csv", "published_training_b200.csv")
"""Both number their rows differently, so that a row of either has an id of its own."""


@lru_cache(maxsize=3)
def shipped_rows(name: str) -> tuple[Row, ...]:
    """The rows of a table as text, without a record for each."""
    text = (_MEASUREMENTS / name).read_text("utf-8")
    return tuple(rows(text, name))
