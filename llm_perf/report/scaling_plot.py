"""Latency and throughput over the batch as a picture, one panel per prompt length. matplotlib is loaded only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_perf.analysis.scaling import Curve, Scaling
from llm_perf.report.plots.style import COLOURS, MARKERS, write_figure


def write_scaling_plot(scaling: Scaling, file: str) -> Path:
    """Draw the curves into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_figure(_figure(scaling), file)


def _figure(scaling: Scaling) -> Any:
    from matplotlib.figure import Figure

    lengths = list(dict.fromkeys(curve.prompt_len for curve in scaling.curves))
    sizes = list(dict.fromkeys(curve.tp_size for curve in scaling.curves))
    figure = Figure(figsize=(max(3.4 * len(lengths), 5), 6.4), layout="constrained")
    panels = figure.subplots(2, len(lengths), sharex=True, sharey="row", squeeze=False)
    for curve in scaling.curves:
        column, number = lengths.index(curve.prompt_len), sizes.index(curve.tp_size)
        for row, values in enumerate((curve.latency_s, curve.throughput_tokens_per_s)):
            _draw(panels[row][column], curve, values, number)
    for column, length in enumerate(lengths):
        panels[0][column].set_title(f"prompt of {length} tokens")
        panels[1][column].set_xlabel("batch (sequences)")
        for row in (0, 1):
            panels[row][column].set_xscale("log", base=2)
            panels[row][column].set_yscale("log")
            panels[row][column].grid(visible=True, which="major", color="0.9")
            panels[row][column].set_axisbelow(True)
            panels[row][column].xaxis.set_major_formatter("{x:g}")
    panels[0][0].set_ylabel("latency of the batch (s)")
    panels[1][0].set_ylabel("generated tokens/s")
    inputs = scaling.inputs
    dotted = "" if all(curve.fits.all() for curve in scaling.curves) else "; dotted: does not fit"
    figure.suptitle(
        f"{inputs.model} on {inputs.gpu}, {inputs.system or 'resident'}, generate {inputs.gen_len}{dotted}"
    )
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw(axes: Any, curve: Curve, values: Any, number: int) -> None:
    """A full line where memory holds the batch, a dotted one beyond."""
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(curve.batch_size, values, ":", color=colour, linewidth=1)
    axes.plot(
        curve.batch_size[curve.fits],
        values[curve.fits],
        MARKERS[number % len(MARKERS)] + "-",
        color=colour,
        markersize=4,
        linewidth=1.5,
        label=f"{curve.tp_size} GPU{'s' if curve.tp_size > 1 else ''}",
    )
