"""The roofs of a device and each operation below them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm_perf.report.figure import INK, MUTED, SYMBOLS, Figure, Mark, Panel, Series, amount_axis
from llm_perf.report.looks import part_colour
from llm_perf.report.plots.style import first_of
from llm_perf.report.units import seconds
from llm_perf.systems.costs import part_of
from llm_perf.systems.operations import Operation

_MOST_PANELS = 4
Look = tuple[str, str]
"""Name and symbol of an operation."""


def part_of_operation(op: str) -> str:
    """The part of the breakdown that an operation belongs to."""
    return "attention" if op == "attention" else part_of(op)


def roof_title(gpu: str, dtype: str, peak_flops_per_s: float, bandwidth_bytes_per_s: float) -> str:
    """A device and its two roofs."""
    return (
        f"{gpu}: {peak_flops_per_s / 1e12:,.4g} TFLOP/s in {dtype}, {bandwidth_bytes_per_s / 1e9:,.4g} GB/s"
    )


def roofline_panel(
    title: str, peak: float, bandwidth: float, points: Sequence[Operation], look: Callable[[str], Look]
) -> Panel:
    """The roofs, and each operation at its predicted time: those of the prefill filled, of decode open.

    Args:
        title: Of the panel.
        peak: FLOP/s.
        bandwidth: Bytes/s.
        points: Operations that have FLOPs.
        look: Name and symbol of an operation; its colour is that of its part of the breakdown.
    """
    knee = peak / bandwidth
    low = min([knee / 4, *(one.intensity for one in points)]) / 2
    high = max([knee * 4, *(one.intensity for one in points)]) * 2
    roofs = [low * bandwidth / 1e12, peak / 1e12, peak / 1e12]
    marks: list[Mark] = [Series("roof", [low, knee, high], roofs, INK, line="solid")]
    for name, symbol in dict.fromkeys(look(one.op) for one in points):
        own = [one for one in points if look(one.op) == (name, symbol)]
        marks.append(
            Series(
                name, [one.intensity for one in own], [one.flops_per_s / 1e12 for one in own],
                part_colour(part_of_operation(own[0].op)), symbol, [one.phase == "decode" for one in own],
                words=[_words(one) for one in own],
            )
        )  # fmt: skip
    phases = dict.fromkeys(one.phase for one in points)
    marks += [Series(phase, (), (), MUTED, "circle", phase == "decode") for phase in phases]
    heights = [*roofs, *(one.flops_per_s / 1e12 for one in points)]
    return Panel(
        amount_axis("arithmetic intensity (FLOP per byte)", [low, high], log=True),
        amount_axis("reached (TFLOP/s)", heights, log=True),
        marks,
        title,
    )


def _words(one: Operation) -> str:
    return (
        f"{one.phase}, {one.op.replace('_', ' ')}: {seconds(one.seconds)}<br>{one.flops:.4g} FLOP, "
        f"{one.moved_bytes:.4g} bytes<br>{one.intensity:.3g} FLOP/byte, {one.flops_per_s / 1e12:.3g} TFLOP/s"
    )


def roofline_figure(runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """One panel per GPU and number format, with the operations of all its runs. None where nothing is known."""
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run["roofline"]:
            roof = run["roofline"]
            title = roof_title(
                roof["gpu"], roof["dtype"], roof["peak_flops_per_s"], roof["bandwidth_bytes_per_s"]
            )
            panels.setdefault(title, []).append(roof)
    if not panels:
        return None
    names = list(panels)[:_MOST_PANELS]
    columns = min(2, len(names))
    ops = list(
        dict.fromkeys(op["op"] for run in runs if run["roofline"] for op in run["roofline"]["operations"])
    )
    look = {op: (op.replace("_", " "), SYMBOLS[number % len(SYMBOLS)]) for number, op in enumerate(ops)}
    return Figure(
        [
            roofline_panel(
                name, panels[name][0]["peak_flops_per_s"], panels[name][0]["bandwidth_bytes_per_s"],
                [
                    Operation(op["phase"], op["op"], op["flops"], op["bytes"], op["seconds"])
                    for roof in panels[name] for op in roof["operations"] if op["flops"] > 0
                ],
                look.__getitem__,
            )
            for name in names
        ],
        "Roofline: each operation at its predicted time (prefill filled, decode open)"
        + first_of(len(names), len(panels), "GPUs and number formats"),
        size=(7.2 if columns == 1 else 10.5, 0.9 + 4.3 * -(-len(names) // columns)),
        columns=columns, legend_columns=4,
    )  # fmt: skip
