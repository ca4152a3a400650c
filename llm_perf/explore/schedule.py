"""The schedule of a prediction as bars over time: the spans of ``llm-perf infer --trace``."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from llm_perf.analysis.inference import InferenceResult
from llm_perf.explore.looks import bar_looks
from llm_perf.report.plots.style import PARTS as STYLED
from llm_perf.report.trace import STEPS, Span, prediction_passes
from llm_perf.report.units import seconds
from llm_perf.systems import System, system_of

_PLAIN: Final[dict[str, Any]] = {"color": "@muted"}
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
    tracks = list(dict.fromkeys(span.track for span in spans))
    end = max(span.start_s + span.duration_s for span in spans)
    scale, unit = next((s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if end * s >= 1 or u == "µs")
    kinds = list(dict.fromkeys(_kind(system, span) for span in spans))
    looks = {"steps": _PLAIN} | bar_looks(kind for kind in kinds if kind != "steps")
    part = f", the first {len(spans)} pieces of work" if cut else ""
    return {
        "name": name,
        "data": [
            _work(system, kind, looks[kind], [span for span in spans if _kind(system, span) == kind], scale)
            for kind in kinds
        ],
        "layout": {
            "barmode": "overlay",
            "height": 40 * len(tracks),
            "xaxis": {"title": {"text": f"{unit} since the pass began{part}"}, "range": [0, end * scale]},
            "tracks": tracks[::-1],
            "yaxis": {
                "automargin": True,
                "categoryorder": "array",
                "categoryarray": tracks[::-1],
                "ticksuffix": " ",
            },
        },
        "alt": f"{name}: {seconds(end)}{part}; tracks {', '.join(tracks)}",
    }


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


def _work(
    system: System, kind: str, marker: dict[str, Any], spans: list[Span], scale: float
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": _title(system, kind),
        "y": [span.track for span in spans],
        "base": [span.start_s * scale for span in spans],
        "x": [span.duration_s * scale for span in spans],
        "customdata": [_words(system, span, kind) for span in spans],
        "hovertemplate": "%{customdata[0]}: %{customdata[1]}<extra></extra>",
        "marker": marker | {"line": {"width": 0}},
        "width": 0.6,
    }
