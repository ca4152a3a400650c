"""Latency and throughput over the batch as a picture, one panel per prompt length. matplotlib is loaded only here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_perf.analysis.scaling import Curve, Scaling
from llm_perf.report.plots.style import (
    COLOURS,
    MARKERS,
    legend_below,
    log_scale,
    new_figure,
    tidy,
    write_figure,
)


def write_scaling_plot(scaling: Scaling, file: str) -> Path:
    """Draw the curves into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_figure(_figure(scaling), file)


def _figure(scaling: Scaling) -> Any:
    lengths = list(dict.fromkeys(curve.prompt_len for curve in scaling.curves))
    sizes = list(dict.fromkeys(curve.tp_size for curve in scaling.curves))
    figure = new_figure(max(3.2 * len(lengths), 5), 6.0)
    panels = figure.subplots(2, len(lengths), sharex=True, sharey="row", squeeze=False)
    for curve in scaling.curves:
        column, number = lengths.index(curve.prompt_len), sizes.index(curve.tp_size)
        for row, values in enumerate((curve.latency_s, curve.throughput_tokens_per_s)):
            _draw(panels[row][column], curve, values, number)
    for column, length in enumerate(lengths):
        panels[0][column].set_title(f"prompt of {length} tokens", fontsize=10)
        panels[1][column].set_xlabel("batch (sequences)")
    _scales(panels, scaling.curves)
    panels[0][0].set_ylabel("latency of the batch (s)")
    panels[1][0].set_ylabel("generated tokens/s")
    inputs = scaling.inputs
    figure.suptitle(
        f"{inputs.model} on {inputs.gpu}, {inputs.system or 'resident'}, generate {inputs.gen_len} (predicted)",
        fontsize=11,
    )
    _legend(figure, scaling, sizes)
    return figure


def _draw(axes: Any, curve: Curve, values: Any, number: int) -> None:
    """A full line where memory holds the batch, a dotted one beyond; a ring where a larger batch pays little more."""
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(curve.batch_size, values, ":", color=colour, linewidth=1)
    axes.plot(
        curve.batch_size[curve.fits],
        values[curve.fits],
        MARKERS[number % len(MARKERS)] + "-",
        color=colour,
        markersize=4,
        linewidth=1.5,
    )
    worthwhile = curve.batch_size == curve.worthwhile_batch
    axes.plot(
        curve.batch_size[worthwhile], values[worthwhile], "o", color="black", fillstyle="none", markersize=9
    )


def _scales(panels: Any, curves: Sequence[Curve]) -> None:
    """Batches by powers of two, times and rates with plain numbers; each row of panels shares its axis."""
    for row, values in enumerate(
        (
            np.concatenate([curve.latency_s for curve in curves]),
            np.concatenate([curve.throughput_tokens_per_s for curve in curves]),
        )
    ):
        for axes in panels[row]:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            log_scale(axes.yaxis, values.max() / values.min())
            tidy(axes)


def _legend(figure: Any, scaling: Scaling, sizes: Sequence[int]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)], markersize=4,
            label=f"{size} GPU{'s' if size > 1 else ''}",
        )
        for number, size in enumerate(sizes)
    ]  # fmt: skip
    handles.append(
        Line2D([], [], color="black", marker="o", fillstyle="none", markersize=9, linestyle="none",
               label="80 % of its best throughput")
    )  # fmt: skip
    if not all(curve.fits.all() for curve in scaling.curves):
        handles.append(Line2D([], [], color="0.4", linestyle=":", label="does not fit"))
    legend_below(figure, 3, handles)
