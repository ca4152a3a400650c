"""The published runs beside their committed predictions, as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from llm_perf.explore.drawn import view_of
from llm_perf.report.figure import time_axis
from llm_perf.report.looks import looks
from llm_perf.report.plots.accuracy import Point, scatter_panel
from llm_perf.report.units import count, percent, rate, seconds

_BAND: Final = 1.2


def accuracy_figure(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Predicted over measured time, a look per accuracy class. None where there are no rows."""
    shown = [row for row in rows if row["measured_s"] and row["predicted_s"] and row["class"]]
    if not shown:
        return None
    classes = sorted({row["class"] for row in shown})
    groups = {
        f"{name} ({len(own)})": [
            Point(row["measured_s"], row["predicted_s"], words=_words(row)) for row in own
        ]
        for name in classes
        if (own := [row for row in shown if row["class"] == name])
    }
    within = sum(1 / _BAND <= row["predicted_s"] / row["measured_s"] <= _BAND for row in shown)
    band = (f"a factor of {_BAND}", 1 / _BAND, _BAND)
    axis = partial(time_axis, log=True)
    panel = scatter_panel(groups, axis, looks(groups), small=True, band=band)
    alt = (
        f"{count(len(shown))} published runs, to most of which constants were fitted: "
        f"{count(within)} of them within a factor of {_BAND}"
    )
    return view_of(replace(panel, height=480, alt=alt))


def _words(row: dict[str, Any]) -> str:
    text = rate if row["quantity"] == "throughput_tokens_per_s" else seconds
    batch = "" if row["batch_size"] is None else f", batch {row['batch_size']}"
    return (
        f"{row['model']} on {row['gpu']}, {row['system']}{batch} (row {row['row_id']})<br>"
        f"measured {text(row['measured'])}, predicted {text(row['predicted'])} "
        f"({percent(row['predicted'] / row['measured'] - 1)})"
    )
