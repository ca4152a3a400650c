"""The schedule of a prediction as bars over time: the spans of ``llm-perf infer --trace``."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any, Final

from llm_perf.analysis.inference import InferenceResult
from llm_perf.explore.drawn import view_of
from llm_perf.report.figure import MUTED, Bars, Panel, time_axis
from llm_perf.report.looks import PARTS as STYLED
from llm_perf.report.looks import bar_looks
from llm_perf.report.trace import STEPS, Span, prediction_passes
from llm_perf.report.units import seconds
from llm_perf.systems import System, system_of

_MOST: Final = 1200
"""Spans that one picture shows; a whole schedule is what ``--trace`` writes."""


def schedule_figures(result: InferenceResult) -> list[dict[str, Any]]:
    """One figure per pass: a track per stream, a bar per piece of work."""
    found = []
    for name, spans in prediction_passes(result):
        shown = list(islice(spans, _MOST + 1))
        found.append(_figure(name, shown[:_MOST], system_of(result.scenario), cut=len(shown) > _MOST))
    return found


def _figure(name: str, spans: list[Span], system: System, cut: bool) -> dict[str, Any]:
    tracks = list(dict.fromkeys(span.track for span in spans))[::-1]
    end = max(span.start_s + span.duration_s for span in spans)
    kinds = list(dict.fromkeys(_kind(system, span) for span in spans))
    looks = {"steps": (MUTED, "")} | bar_looks(kind for kind in kinds if kind != "steps")
    part = f", the first {len(spans)} pieces of work" if cut else ""
    bars = [
        _work(system, kind, looks[kind], [span for span in spans if _kind(system, span) == kind], tracks)
        for kind in kinds
    ]
    axis = replace(time_axis(f"time since the pass began{part}", [0.0, end], log=False), high=end)
    alt = f"{name}: {seconds(end)}{part}; tracks {', '.join(tracks[::-1])}"
    drawn = view_of(Panel(axis, None, bars, rows=tracks, height=40 * len(tracks), alt=alt))
    drawn["layout"]["tracks"] = tracks
    return {"name": name, **drawn}


def _kind(system: System, span: Span) -> str:
    """What a bar is coloured by: the part of the latency; for a step of several parts, that."""
    return "steps" if span.track == STEPS and span.name not in system.parts else span.name


def _title(system: System, kind: str) -> str:
    return STYLED[kind][0] if kind in STYLED else system.part_title(kind)


def _words(system: System, span: Span, kind: str) -> list[str]:
    """What the pointer shows of a bar."""
    where = f", layer {span.where['layer']}" if "layer" in span.where else ""
    name = f"step {span.name!r}" if kind == "steps" else _title(system, kind)
    return [f"{name}{where}", seconds(span.duration_s)]


def _work(system: System, kind: str, look: tuple[str, str], spans: list[Span], tracks: list[str]) -> Bars:
    colour, pattern = look
    return Bars(
        _title(system, kind), [tracks.index(span.track) for span in spans], [span.duration_s for span in spans],
        [span.start_s for span in spans], colour, pattern, 0.6,
        [": ".join(_words(system, span, kind)) for span in spans], edged=False,
    )  # fmt: skip
