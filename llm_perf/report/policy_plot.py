"""The front of throughput against latency as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_perf.report.figure import INK, MUTED, Figure, Limit, Mark, Panel, Series, amount_axis, time_axis
from llm_perf.report.looks import LIMIT, looks
from llm_perf.report.plots.draw import write_drawn
from llm_perf.search.policy import FrontPoint, PolicyAnswer
from llm_perf.systems.registry import family_of, searched_systems


def write_plot(answer: PolicyAnswer, file: str) -> Path:
    """Draw the front into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    question = answer.question
    title = f"{question.model} on {question.gpu}, prompt {question.prompt_len}, generate {question.gen_len} (predicted)"
    return write_drawn(Figure([front_panel(answer)], title), file)


def front_panel(answer: PolicyAnswer) -> Panel:
    """Filled points keep 16 bits, open ones store weights or cache in fewer: what the model answers may change."""
    front, limit = answer.front, answer.question.max_latency
    marks: list[Mark] = [_series("", front, MUTED, line="solid", width=1.0, steps=True)]
    for system, (colour, symbol) in looks(searched_systems()).items():
        for narrow in (False, True):
            points = [p for p in front if p.flags["system"] == system and _is_narrow(p) is narrow]
            if points:
                name = f"{family_of(system).title}, {'4 or 8 bits' if narrow else '16 bits'}"
                marks.append(_series(name, points, colour, symbol=symbol, is_open=narrow))
    if answer.best is not None:
        best = answer.best
        at = ([best.latency_s], [best.throughput_tokens_per_s])
        marks.append(Series(f"best {answer.question.searched_for}", *at, INK, "star", size=13.0))
    if limit is not None:
        marks.append(Limit(limit, name=f"limit {limit:,g} s", colour=LIMIT))
    times = [point.latency_s for point in front] + ([limit] if limit is not None else [])
    return Panel(
        time_axis("latency of one batch, prefill and all decode steps", times),
        amount_axis(
            "throughput (generated tokens/s)", [0.0, *(p.throughput_tokens_per_s for p in front)], log=False
        ),
        marks,
    )


def _series(name: str, points: Sequence[FrontPoint], colour: str, **look: Any) -> Series:
    return Series(
        name,
        [point.latency_s for point in points],
        [point.throughput_tokens_per_s for point in points],
        colour,
        **look,
    )


def _is_narrow(point: FrontPoint) -> bool:
    flags = point.flags
    return bool(
        flags.get("compress_weight") or flags.get("compress_cache") or (flags.get("quant_bits") or 16) < 16
    )
