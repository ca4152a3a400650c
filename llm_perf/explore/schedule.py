"""The schedule of a prediction as bars over time: the spans of ``llm-perf infer --trace``."""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from llm_perf.analysis.inference import InferenceResult
from llm_perf.report.inference_text import PARTS
from llm_perf.report.plots.style import COLOURS
from llm_perf.report.plots.style import PARTS as STYLED
from llm_perf.report.trace import Span, prediction_passes
from llm_perf.report.units import seconds

_MOST: Final = 1200
"""Spans that one picture shows; a whole schedule is what ``--trace`` writes."""


def schedule_figures(result: InferenceResult) -> list[dict[str, Any]]:
    """One figure per pass: a track per stream, a bar per piece of work."""
    found = []
    for name, spans in prediction_passes(result):
        shown = list(islice(spans, _MOST + 1))
        found.append(_figure(name, shown[:_MOST], cut=len(shown) > _MOST))
    return found


def _figure(name: str, spans: list[Span], cut: bool) -> dict[str, Any]:
    tracks = list(dict.fromkeys(span.track for span in spans))
    end = max(span.start_s + span.duration_s for span in spans)
    scale, unit = next((s, u) for s, u in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")) if end * s >= 1 or u == "µs")
    names = list(dict.fromkeys(span.name for span in spans))
    part = f", the first {len(spans)} pieces of work" if cut else ""
    return {
        "name": name,
        "data": [
            _work(work, _colour(work, names), [span for span in spans if span.name == work], scale)
            for work in names
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


def _work(name: str, colour: str, spans: list[Span], scale: float) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": PARTS.get(name, name),
        "y": [span.track for span in spans],
        "base": [span.start_s * scale for span in spans],
        "x": [span.duration_s * scale for span in spans],
        "customdata": [
            [seconds(span.duration_s), f", layer {span.where['layer']}" if "layer" in span.where else ""]
            for span in spans
        ],
        "hovertemplate": f"{PARTS.get(name, name)}%{{customdata[1]}}: %{{customdata[0]}}<extra></extra>",
        "marker": {"color": colour, "line": {"width": 0}},
        "width": 0.6,
    }


def _colour(name: str, names: list[str]) -> str:
    colour = STYLED[name][1] if name in STYLED else COLOURS[names.index(name) % len(COLOURS)]
    return "@ink" if colour == "#000000" else colour
