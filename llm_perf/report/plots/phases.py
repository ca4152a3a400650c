"""Where the time goes: the predicted breakdown beside the measured phases, and decode steps over the context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_perf.report.figure import (
    FAINT,
    MUTED,
    PAPER,
    Bars,
    Figure,
    Limit,
    Mark,
    Note,
    Panel,
    Series,
    amount_axis,
    stacked,
)
from llm_perf.report.looks import PARTS, looks
from llm_perf.report.plots.accuracy import configuration, distinct, shared_title
from llm_perf.report.plots.style import first_of
from llm_perf.report.units import seconds

_MOST_BARS = 18
_MOST_PANELS = 9
_PHASES = ("prefill", "decode")


def breakdown_figure(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Prefill and decode of each run: predicted parts stacked above the measured time, both over the measured time.

    One run per configuration. None where no run states a phase.
    """
    known = distinct([run for run in runs if any(run["measured"][f"{phase}_latency_s"] for phase in _PHASES)])
    if not known:
        return None
    shown = known[:_MOST_BARS]
    left = f" ({len(shown)} of {len(runs)} runs)" if len(shown) < len(runs) else ""
    common = shared_title(shown)
    return Figure(
        [_phase_panel(shown[::-1], phase) for phase in _PHASES],
        f"Predicted parts (colours) and measured phases (grey){left}"
        + (f"\n{common}" if common else "")
        + first_of(len(shown), len(known), "configurations"),
        size=(7.6, 1.6 + 0.4 * len(shown)),
        columns=2,
        legend_columns=4,
        shared=True,
    )


def _phase_panel(shown: Sequence[Mapping[str, Any]], phase: str) -> Panel:
    times = [run["measured"][f"{phase}_latency_s"] for run in shown]
    known = [row for row, measured in enumerate(times) if measured]
    parts = [shown[row]["breakdown_s"][phase] for row in known]

    def shares(spent: Sequence[float]) -> list[float]:
        return [value / times[row] for value, row in zip(spent, known, strict=True)]

    named = [
        (title, colour, "", shares([part.get(name, 0.0) for part in parts]), ())
        for name, (title, colour) in PARTS.items()
    ]
    rest = shares([sum(value for name, value in part.items() if name not in PARTS) for part in parts])
    bars = stacked([*named, ("other parts", MUTED, "", rest, ())], [row + 0.2 for row in known], height=0.36)
    marks: list[Mark] = [
        Bars(
            "measured",
            [row - 0.2 for row in known],
            [1.0] * len(known),
            [0.0] * len(known),
            FAINT,
            height=0.36,
        ),
        *bars,
        *(Note(0, row - 0.2, seconds(times[row]), centred=True) for row in known),
        *(Note(0, row, "not measured", centred=True) for row in range(len(shown)) if row not in known),
        Limit(1.0, colour=MUTED, line="dot"),
    ]
    ends = [start + length for bar in bars for start, length in zip(bar.starts, bar.lengths, strict=True)]
    rows = [configuration(run, shown) for run in shown]
    return Panel(amount_axis("time / measured time", [0.0, 1.0, *ends], log=False), None, marks, phase, rows)


def context_figure(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Time of each decode step over the context: measured points, predicted lines; a panel per model and system.

    None where no run recorded its steps.
    """
    with_steps = [run for run in runs if run["decode_steps"]]
    if not with_steps:
        return None
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for run in with_steps:
        panels.setdefault(f"{run['model'].rpartition('/')[2]}, {run['system']}", []).append(run)
    names = list(panels)[:_MOST_PANELS]
    columns = min(3, len(names))
    look = looks(_case(run) for name in names for run in panels[name])
    return Figure(
        [_context_panel(name, panels[name], look) for name in names],
        "Decode steps: measured (points, median of repeats) and predicted (lines)"
        + first_of(len(names), len(panels), "models and systems"),
        size=(max(5.2, 3.7 * columns), 1.2 + 2.7 * math.ceil(len(names) / columns)),
        columns=columns,
    )


def _case(run: Mapping[str, Any]) -> str:
    words = [f"batch {run['batch_size']}, {run['prompt_len']} + {run['gen_len']}"]
    words += [f"{run['weight_bits']} bit"] if run["weight_bits"] not in (16, 32) else []
    words += ["KV on CPU"] if run["kv_cache_on"] == "cpu" else []
    return ", ".join(words)


def _context_panel(
    name: str, runs: Sequence[Mapping[str, Any]], look: Mapping[str, tuple[str, str]]
) -> Panel:
    marks: list[Mark] = []
    for run in runs:
        steps = run["decode_steps"]
        colour, symbol = look[_case(run)]
        measured, predicted = ([1e3 * s for s in steps[side]] for side in ("measured_s", "predicted_s"))
        marks += [
            Series(_case(run), steps["context"], measured, colour, symbol, size=4.0, edge=PAPER, faint=True),
            Series("", steps["context"], predicted, colour, line="solid"),
        ]
    contexts = [x for mark in marks if isinstance(mark, Series) for x in mark.x]
    times = [y for mark in marks if isinstance(mark, Series) for y in mark.y]
    return Panel(
        amount_axis("context of the step (tokens)", contexts, log=False),
        amount_axis("one decode step (ms)", [0.0, *times], log=False),
        marks,
        name,
    )
