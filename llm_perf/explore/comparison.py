"""Several GPUs side by side, asked the same: a table of their first numbers, and throughput over latency of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llm_perf.analysis.inference import InferenceResult
from llm_perf.analysis.sweep import InferenceSweep
from llm_perf.explore import cards
from llm_perf.explore.drawn import view_of
from llm_perf.explore.front import batch_series, front, front_times
from llm_perf.report.figure import Panel, Series, amount_axis, time_axis
from llm_perf.report.inference_text import factor_text, machine_name
from llm_perf.report.looks import series_look

MOST_LINES: Final = 8
"""GPUs that people tell apart in one figure, and side by side in one table."""


def comparison_card(
    results: Sequence[InferenceResult], tiles: Sequence[Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    """``tiles`` are the first numbers of each result, under the same names. Many GPUs stand below each other, not drawn."""
    names = [*(tile["name"] for tile in tiles[0]), "90% interval of the whole batch"]
    rows = [
        [_name(one), *(tile["value"] for tile in own), factor_text(one.interval)]
        for one, own in zip(results, tiles, strict=True)
    ]
    missing = [cards.text(f"{_name(result)}: {result.reason}") for result in results if result.reason]
    if len(results) > MOST_LINES:
        found = [cards.table(["GPU", *names], rows), *missing]
    else:
        beside = [list(column) for column in zip(["", *names], *rows, strict=True)]
        figure = comparison_figure(results)
        drawn = [] if figure is None else [cards.figure("comparison", figure)]
        found = [cards.table(beside[0], beside[1:]), *missing, *drawn]
    return cards.card("comparison", "Side by side", found, wide=True)


def _name(result: InferenceResult) -> str:
    return machine_name(result.scenario)


def comparison_figure(results: Sequence[InferenceResult]) -> dict[str, Any] | None:
    """Throughput over the time per token, a line per GPU and a point per batch that fits; the asked one is larger.

    None where no batch fits anywhere.
    """
    fronts = [front(result) for result in results]
    times = [front_times(result, found)[1] for result, found in zip(results, fronts, strict=True)]
    what = front_times(results[0], fronts[0])[0]
    rates = np.concatenate([found.throughput_tokens_per_s for found in fronts])
    shown = np.concatenate([found.feasible for found in fronts])
    if not shown.any():
        return None
    series = [_line(number, *one) for number, one in enumerate(zip(results, fronts, times, strict=True))]
    panel = Panel(
        time_axis(what, np.concatenate(times)[shown]), amount_axis("tokens per second", rates[shown]), series, height=320,
        alt=f"throughput over {what} by batch for {', '.join(map(_name, results))}; batches that fit",
    )  # fmt: skip
    return view_of(panel)


def _line(
    number: int, result: InferenceResult, found: InferenceSweep, times: npt.NDArray[np.float64]
) -> Series:
    asked = found.batch_size == result.scenario.workload.batch_size
    colour, symbol = series_look(number)
    name = _name(result) if found.feasible.any() else f"{_name(result)}: no batch fits"
    size = [9.0 if one else 4.5 for one in asked[found.feasible]]
    return batch_series(name, found, times, found.feasible, colour, symbol=symbol, line="solid", size=size)
