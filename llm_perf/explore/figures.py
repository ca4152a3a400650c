"""The figures of one prediction as Plotly figures: plain dictionaries, drawn in the browser.

A colour may be ``@ink``, ``@muted`` or ``@paper``: the page puts in what its light or dark style has. Labels are made by the
functions that the command line prints with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.explore.axes import amount_axis, share_axis
from llm_perf.explore.cards import table
from llm_perf.explore.front import front_figure
from llm_perf.explore.looks import bar_looks, part_colour, step_looks
from llm_perf.explore.schedule import schedule_figures
from llm_perf.report.inference_text import TIERS
from llm_perf.report.plots.style import COLOURS
from llm_perf.report.units import gib, seconds
from llm_perf.systems import system_of
from llm_perf.systems.base import COMMON_PARTS, MemoryParts
from llm_perf.systems.costs import part_of
from llm_perf.systems.operations import Operation, operations
from llm_perf.systems.training.base import TrainingMemoryParts

_MEMORY: Final = (
    ("weights", "weights_bytes", COLOURS[0]),
    ("KV cache", "kv_cache_bytes", COLOURS[1]),
    ("activations", "activations_bytes", COLOURS[2]),
    ("buffers", "buffers_bytes", COLOURS[4]),
    ("context, reserve", "reserved_bytes", "@muted"),
)
_BAR: Final = 0.42
"""Height of a bar, as a share of the distance between two."""
_SYMBOLS: Final = {"prefill": "circle", "decode": "circle-open"}


def all_figures(result: InferenceResult) -> dict[str, Any]:
    """Every figure by name; ``schedule`` is a list, one per pass."""
    return {
        "memory": memory_figure(result),
        "breakdown": breakdown_figure(result),
        "roofline": roofline_figure(result),
        "front": front_figure(result),
        "schedule": schedule_figures(result),
    }


def memory_figure(result: InferenceResult) -> dict[str, Any]:
    """Each tier as a bar of its parts, in per cent of what is usable there."""
    memory = result.memory
    return tiers_figure((("nvme", memory.nvme), ("cpu", memory.cpu), ("gpu", memory.gpu)), _MEMORY)


def tiers_figure(
    named: Iterable[tuple[str, MemoryParts | TrainingMemoryParts]], fields: Sequence[tuple[str, str, str]]
) -> dict[str, Any]:
    """Tiers as bars of their parts; ``fields`` are name, attribute and colour of each part."""
    tiers = [(TIERS[name], parts) for name, parts in named if parts.capacity_bytes > 0]
    data = []
    for name, field, colour in fields:
        sizes = [float(getattr(parts, field)) for _, parts in tiers]
        if any(sizes):
            data.append(_memory_part(name, colour, tiers, sizes))
    fullest = max(float(parts.total_bytes / parts.capacity_bytes) for _, parts in tiers)
    end = 100 * max(1.0, fullest)
    return {
        "data": data,
        "layout": {
            "barmode": "stack",
            "height": 72 * len(tiers),
            "xaxis": share_axis("% of what is usable", end),
            "yaxis": {"automargin": True, "ticksuffix": " ", "range": [-0.4, len(tiers) - 0.35]},
            "shapes": [
                {"type": "line", "x0": 100, "x1": 100, "y0": 0, "y1": 1, "yref": "paper",
                 "line": {"color": "@ink", "width": 2, "dash": "dot"}}
            ],
            "annotations": [
                _over_bar(number, f"{gib(float(parts.total_bytes))} of {gib(float(parts.capacity_bytes))}")
                for number, (_, parts) in enumerate(tiers)
            ],
        },
        "alt": "; ".join(
            f"{name}: {gib(float(parts.total_bytes))} of {gib(float(parts.capacity_bytes))} usable"
            for name, parts in reversed(tiers)
        ),
    }  # fmt: skip


def _memory_part(
    name: str, colour: str, tiers: Sequence[tuple[str, MemoryParts | TrainingMemoryParts]], sizes: list[float]
) -> dict[str, Any]:
    return _bar(
        name,
        {"color": colour},
        [tier for tier, _ in tiers],
        [100 * size / float(parts.capacity_bytes) for size, (_, parts) in zip(sizes, tiers, strict=True)],
        [f"{name}: {gib(size)}" for size in sizes],
    )


def _bar(
    name: str, marker: dict[str, Any], places: list[str], shares: list[float], hover: list[str]
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": places,
        "x": shares,
        "customdata": hover,
        "hovertemplate": "%{y}: %{customdata} (%{x:.1f} %)<extra></extra>",
        "marker": marker | {"line": {"width": 0.5, "color": "@paper"}},
        "width": _BAR,
    }


def _over_bar(number: int, text: str) -> dict[str, Any]:
    """Words above the bar at a place, counted from below."""
    return {
        "x": 0, "y": number + _BAR / 2 + 0.02, "xanchor": "left", "yanchor": "bottom", "text": text,
        "showarrow": False, "font": {"color": "@ink"},
    }  # fmt: skip


def breakdown_figure(result: InferenceResult) -> dict[str, Any]:
    """Each phase as a bar of its parts, in per cent of its latency."""
    phases: list[tuple[str, Phase]] = [("prefill", result.prefill)]
    if result.decode is not None:
        phases.insert(0, ("decode", result.decode))
    parts = dict.fromkeys(part for _, phase in reversed(phases) for part in phase.breakdown_s)
    order = sorted(parts, key=lambda part: -max(_share(phase, part) for _, phase in phases))
    looks = bar_looks(order)
    data = []
    system = system_of(result.scenario)
    for part in order:
        spent = [phase.breakdown_s.get(part, 0.0) for _, phase in phases]
        bar = _bar(
            system.part_title(part),
            looks[part],
            [name for name, _ in phases],
            [100 * _share(phase, part) for _, phase in phases],
            [f"{system.part_title(part)}: {seconds(value)}" for value in spent],
        )
        data.append(bar)
    return {
        "data": data,
        "layout": {
            "barmode": "stack",
            "height": 72 * len(phases),
            "xaxis": share_axis("% of the phase", 100.0),
            "yaxis": {"automargin": True, "ticksuffix": " ", "range": [-0.4, len(phases) - 0.35]},
            "annotations": [
                _over_bar(
                    number, f"{seconds(phase.latency_s)}, bound by {system.resource_title(phase.bottleneck)}"
                )
                for number, (_, phase) in enumerate(phases)
            ],
        },
        "alt": "; ".join(
            f"{name} {seconds(phase.latency_s)}, bound by {system.resource_title(phase.bottleneck)}"
            for name, phase in reversed(phases)
        ),
    }


def step_figure(parts_s: Mapping[str, float], titles: Mapping[str, str], step_s: float) -> dict[str, Any]:
    """One training step as a bar of its parts, in per cent."""
    order = sorted((part for part in parts_s if parts_s[part] > 0), key=lambda part: -parts_s[part])
    looks = step_looks(order)
    return {
        "data": [
            _bar(
                titles[part],
                looks[part],
                ["step"],
                [100 * parts_s[part] / step_s],
                [f"{titles[part]}: {seconds(parts_s[part])}"],
            )
            for part in order
        ],
        "layout": {
            "barmode": "stack",
            "height": 72,
            "xaxis": share_axis("% of the step", 100.0),
            "yaxis": {"automargin": True, "ticksuffix": " ", "range": [-0.4, 0.65]},
            "annotations": [_over_bar(0, seconds(step_s))],
        },
        "alt": f"step {seconds(step_s)}: "
        + ", ".join(f"{titles[part]} {parts_s[part] / step_s:.0%}" for part in order[:4]),
    }


def _share(phase: Phase, part: str) -> float:
    return phase.breakdown_s.get(part, 0.0) / phase.latency_s


# -- roofline -------------------------------------------------------------------------------------------------


def roofline_figure(result: InferenceResult) -> dict[str, Any]:
    """The GPU's two roofs, and each operation of both phases at its predicted time."""
    scenario, workload = result.scenario, result.scenario.workload
    gpu = scenario.gpu
    dtype = gpu.dtype_for(scenario.dtype.compute_bits)
    peak, bandwidth = gpu.peak_flops_per_s(dtype), gpu.hbm_bandwidth_bytes_per_s
    found = operations(
        scenario,
        system_of(scenario).constants(scenario),
        workload.batch_size / scenario.parallelism.dp_size,
        float(workload.prompt_len),
        workload.prompt_len + workload.gen_len / 2,
    )
    points = [one for one in found if one.flops > 0 and (one.phase == "prefill" or result.decode is not None)]
    phases = [one.phase for one in points]
    knee = peak / bandwidth
    low = min([knee / 4, *(one.intensity for one in points)]) / 2
    high = max([knee * 4, *(one.intensity for one in points)]) * 2
    roofs = [low * bandwidth / 1e12, peak / 1e12, peak / 1e12]
    roof = {
        "type": "scatter", "mode": "lines", "name": "roof", "line": {"color": "@ink", "width": 2},
        "x": [low, knee, high], "y": roofs, "hoverinfo": "skip",
    }  # fmt: skip
    heights = [*roofs, *(one.flops_per_s / 1e12 for one in points)]
    title = f"{gpu.name}: {peak / 1e12:,.4g} TFLOP/s in {dtype}, {bandwidth / 1e9:,.4g} GB/s"
    return {
        "data": [roof, *_operations(points), *(_phase_key(phase) for phase in dict.fromkeys(phases))],
        "layout": {
            "height": 400,
            "title": {"text": title, "font": {"size": 13}},
            "xaxis": amount_axis("arithmetic intensity (FLOP per byte)", [low, high], log=True),
            "yaxis": amount_axis("reached (TFLOP/s)", heights, log=True),
        },
        "alt": f"{title}; each operation of both phases below these roofs",
        "table": table(
            ("phase", "operation", "time", "FLOP", "bytes", "TFLOP/s"),
            [
                (
                    one.phase,
                    one.op.replace("_", " "),
                    seconds(one.seconds),
                    f"{one.flops:.4g}",
                    f"{one.moved_bytes:.4g}",
                    f"{one.flops_per_s / 1e12:.3g}",
                )
                for one in points
            ],
        ),
    }


def _operations(points: list[Operation]) -> Iterator[dict[str, Any]]:
    """A colour per part of the breakdown; operations of the prefill filled, of decode open."""
    parts = ["attention" if one.op == "attention" else part_of(one.op) for one in points]
    for part in dict.fromkeys(parts):
        own = [one for one, its_part in zip(points, parts, strict=True) if its_part == part]
        colour = part_colour(part)
        yield {
            "type": "scatter", "mode": "markers", "name": COMMON_PARTS[part].title,
            "x": [one.intensity for one in own],
            "y": [one.flops_per_s / 1e12 for one in own],
            "customdata": [
                [f"{one.phase}, {one.op.replace('_', ' ')}", seconds(one.seconds),
                 f"{one.flops:.4g}", f"{one.moved_bytes:.4g}"]
                for one in own
            ],
            "hovertemplate": "%{customdata[0]}: %{customdata[1]}<br>%{customdata[2]} FLOP, "
            "%{customdata[3]} bytes<br>%{x:.3g} FLOP/byte, %{y:.3g} TFLOP/s<extra></extra>",
            "marker": {"size": 11, "color": colour, "symbol": [_SYMBOLS[one.phase] for one in own],
                       "line": {"width": 2, "color": colour}},
        }  # fmt: skip


def _phase_key(phase: str) -> dict[str, Any]:
    """An entry of the legend without points: which look is which phase."""
    marker = {
        "size": 11,
        "color": "@muted",
        "symbol": _SYMBOLS[phase],
        "line": {"width": 2, "color": "@muted"},
    }
    return {"type": "scatter", "mode": "markers", "name": phase, "x": [None], "y": [None], "marker": marker}
