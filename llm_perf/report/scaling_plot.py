"""Latency and throughput over the batch as a figure, one panel per prompt length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_perf.analysis.scaling import Curve, Scaling
from llm_perf.report.figure import INK, MUTED, Axis, Figure, Mark, Panel, Series, amount_axis, time_axis
from llm_perf.report.looks import series_look
from llm_perf.report.plots.draw import write_drawn

_MOST_TICKS = 6


def write_scaling_plot(scaling: Scaling, file: str) -> Path:
    """Draw the curves into a PNG or SVG file.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_drawn(scaling_figure(scaling), file)


def scaling_figure(scaling: Scaling) -> Figure:
    """Latency above throughput, a column per prompt length, a look per number of GPUs."""
    curves, inputs = scaling.curves, scaling.inputs
    lengths = list(dict.fromkeys(curve.prompt_len for curve in curves))
    sizes = list(dict.fromkeys(curve.tp_size for curve in curves))
    latency = time_axis(
        "latency of the batch", np.concatenate([curve.latency_s for curve in curves]), log=True
    )
    rates = np.concatenate([curve.throughput_tokens_per_s for curve in curves])
    throughput = amount_axis("generated tokens/s", rates, log=True)
    above = [
        Panel(
            _batches(curves),
            latency,
            _marks(curves, length, sizes, "latency_s"),
            f"prompt of {length} tokens",
        )
        for length in lengths
    ]
    below = [
        Panel(_batches(curves), throughput, _marks(curves, length, sizes, "throughput_tokens_per_s"))
        for length in lengths
    ]
    title = f"{inputs.model} on {inputs.gpu}, {inputs.system or 'resident'}, generate {inputs.gen_len} (predicted)"
    size = (max(3.2 * len(lengths), 5), 6.0)
    return Figure([*above, *below], title, size, columns=len(lengths), shared=True)


def _batches(curves: Sequence[Curve]) -> Axis:
    """Batches by powers of two."""
    sizes = np.concatenate([curve.batch_size for curve in curves])
    low, high = float(sizes.min()), float(sizes.max())
    powers = range(int(np.ceil(np.log2(low))), int(np.floor(np.log2(high))) + 1)
    ticks = tuple(2.0**power for power in powers[:: -(-len(powers) // _MOST_TICKS)])
    return Axis(
        "batch (sequences)", low / 1.2, high * 1.2, ticks, tuple(f"{tick:g}" for tick in ticks), log=True
    )


def _marks(curves: Sequence[Curve], length: int, sizes: Sequence[int], measure: str) -> list[Mark]:
    """A full line where memory holds the batch, a dotted one beyond; a ring where a larger batch pays little more."""
    marks: list[Mark] = []
    for curve in curves:
        if curve.prompt_len != length:
            continue
        colour, symbol = series_look(sizes.index(curve.tp_size))
        values: Any = getattr(curve, measure)
        fits, worthwhile = curve.fits, curve.batch_size == curve.worthwhile_batch
        name = f"{curve.tp_size} GPU{'s' if curve.tp_size > 1 else ''}"
        marks += [
            Series("", curve.batch_size.tolist(), values.tolist(), colour, line="dot", width=1.0),
            Series(
                name,
                curve.batch_size[fits].tolist(),
                values[fits].tolist(),
                colour,
                symbol,
                line="solid",
                size=4.0,
            ),
            Series(
                "", curve.batch_size[worthwhile].tolist(), values[worthwhile].tolist(), INK, "ring", size=9.0
            ),
        ]
    marks.append(Series("80 % of its best throughput", (), (), INK, "ring"))
    if not all(curve.fits.all() for curve in curves):
        marks.append(Series("does not fit", (), (), MUTED, line="dot"))
    return marks
