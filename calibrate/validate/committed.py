"""The predictions of the published runs that are committed (``measurements/predictions.csv``), beside the runs.

Nothing is predicted here: these are the figures of the accuracy table, read in milliseconds.
"""

from __future__ import annotations

import csv
import io
from importlib import resources
from typing import Any

from calibrate.evidence.published import Measurement, TrainingMeasurement, load_measurements


def committed_rows() -> list[dict[str, Any]]:
    """Every run that is predicted, as plain JSON types.

    Returns:
        Per run table, row_id, class, system, model, gpu, batch_size, the quantity with its measured and predicted value,
        and both as seconds (``measured_s``, ``predicted_s``): a throughput as the time of all its tokens; None where the
        batch is not stated.
    """
    text = resources.files("calibrate").joinpath("measurements/predictions.csv").read_text("utf-8")
    inference = {row.row_id: row for row in load_measurements("inference")}
    training = {row.row_id: row for row in load_measurements("training")}
    return [
        _row(line, inference[int(line["row_id"])])
        if line["table"] == "inference"
        else _training_row(line, training[int(line["row_id"])])
        for line in csv.DictReader(io.StringIO(text))
        if line["predicted"]
    ]


def _row(line: dict[str, str], run: Measurement) -> dict[str, Any]:
    tokens = None if run.batch_size is None else float(run.batch_size * run.gen_len)
    return _described(line) | {
        "system": run.system,
        "model": run.model,
        "gpu": f"{run.num_gpus} x {run.gpu}" if run.num_gpus > 1 else run.gpu,
        "batch_size": run.batch_size,
        "measured_s": _time(line["quantity"], line["measured"], tokens),
        "predicted_s": _time(line["quantity"], line["predicted"], tokens),
    }


def _training_row(line: dict[str, str], run: TrainingMeasurement) -> dict[str, Any]:
    tokens = None
    if run.global_batch_size is not None and run.seq_len is not None:
        tokens = float(run.global_batch_size * run.seq_len)
    return _described(line) | {
        "system": run.framework,
        "model": run.model,
        "gpu": f"{run.num_gpus} x {run.gpu}",
        "batch_size": run.global_batch_size,
        "measured_s": _time(line["quantity"], line["measured"], tokens),
        "predicted_s": _time(line["quantity"], line["predicted"], tokens),
    }


def _described(line: dict[str, str]) -> dict[str, Any]:
    return {
        "table": line["table"],
        "row_id": int(line["row_id"]),
        "class": line["class"] or None,
        "quantity": line["quantity"],
        "measured": float(line["measured"]),
        "predicted": float(line["predicted"]),
    }


def _time(quantity: str, text: str, tokens: float | None) -> float | None:
    value = float(text)
    if quantity != "throughput_tokens_per_s":
        return value
    return tokens / value if tokens else None
