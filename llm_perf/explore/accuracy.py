"""The published runs beside their committed predictions, as one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llm_perf.explore.axes import time_axis
from llm_perf.explore.looks import series_look
from llm_perf.report.units import count, percent, rate, seconds

_BAND: Final = 1.2


def accuracy_figure(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Predicted over measured time, a look per accuracy class. None where there are no rows."""
    shown = [row for row in rows if row["measured_s"] and row["predicted_s"] and row["class"]]
    if not shown:
        return None
    classes = sorted({row["class"] for row in shown})
    times = [row[side] for row in shown for side in ("measured_s", "predicted_s")]
    low, high = min(times) / 1.5, max(times) * 1.5
    within = sum(1 / _BAND <= row["predicted_s"] / row["measured_s"] <= _BAND for row in shown)
    band = [(f"a factor of {_BAND}", factor) for factor in (_BAND, 1 / _BAND)]
    lines = [_line(name, low, high, factor) for name, factor in [("predicted = measured", 1.0), *band]]
    lines[-1]["showlegend"] = False
    return {
        "data": [*lines, *(_class(name, number, shown) for number, name in enumerate(classes))],
        "layout": {
            "height": 480,
            "xaxis": time_axis("measured", times, log=True),
            "yaxis": time_axis("predicted", times, log=True),
        },
        "alt": f"{count(len(shown))} published runs, predicted without calibration: "
        f"{count(within)} of them within a factor of {_BAND}",
    }


def _line(name: str, low: float, high: float, factor: float) -> dict[str, Any]:
    """Predictions of ``factor`` times what was measured."""
    dash = "solid" if factor == 1 else "dot"
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": [low, high], "y": [factor * low, factor * high],
        "line": {"color": "@ink", "width": 1, "dash": dash}, "hoverinfo": "skip",
    }  # fmt: skip


def _class(name: str, number: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    own = [row for row in rows if row["class"] == name]
    colour, symbol = series_look(number)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name} ({len(own)})",
        "x": [row["measured_s"] for row in own],
        "y": [row["predicted_s"] for row in own],
        "customdata": [_words(row) for row in own],
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {
            "color": colour,
            "symbol": symbol,
            "size": 7,
            "opacity": 0.75,
            "line": {"width": 0.4, "color": "@paper"},
        },
    }


def _words(row: dict[str, Any]) -> str:
    text = rate if row["quantity"] == "throughput_tokens_per_s" else seconds
    batch = "" if row["batch_size"] is None else f", batch {row['batch_size']}"
    return (
        f"{row['model']} on {row['gpu']}, {row['system']}{batch} (row {row['row_id']})<br>"
        f"measured {text(row['measured'])}, predicted {text(row['predicted'])} "
        f"({percent(row['predicted'] / row['measured'] - 1)})"
    )
