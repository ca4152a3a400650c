"""The figures of one prediction: memory, breakdown, roofline, front and schedule.

Labels are made by the functions that the command line prints with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.explore.cards import table
from llm_perf.explore.drawn import view_of
from llm_perf.explore.front import front_figure
from llm_perf.explore.schedule import schedule_figures
from llm_perf.report.figure import BAR, MUTED, Axis, Limit, Mark, Note, Panel, share_axis, stacked
from llm_perf.report.inference_text import TIERS
from llm_perf.report.looks import COLOURS, bar_looks, colour_of
from llm_perf.report.plots.roofline import part_of_operation, roof_title, roofline_panel
from llm_perf.report.units import gib, seconds
from llm_perf.systems import system_of
from llm_perf.systems.base import COMMON_PARTS
from llm_perf.systems.operations import operations
from llm_perf.systems.tiers import Tier

_MEMORY: Final = {
    "weights_bytes": COLOURS[0],
    "kv_cache_bytes": COLOURS[1],
    "activations_bytes": COLOURS[2],
    "buffers_bytes": COLOURS[4],
    "reserved_bytes": MUTED,
}
"""Colours of what GPU memory is used for."""
_ROW: Final = 72
"""Height of a bar and its words, in pixels."""


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


def tiers_figure(named: Iterable[tuple[str, Tier]], colours: Mapping[str, str]) -> dict[str, Any]:
    """Tiers as bars of their parts; ``colours`` are those of the parts, by the names of their fields."""
    tiers = [(TIERS[name], parts) for name, parts in named if parts.capacity_bytes > 0]
    said = [f"{gib(float(parts.total_bytes))} of {gib(float(parts.capacity_bytes))}" for _, parts in tiers]
    filled = []
    for field, name in tiers[0][1].uses.items():
        sizes = [float(getattr(parts, field)) for _, parts in tiers]
        shares = [
            100 * size / float(parts.capacity_bytes) for size, (_, parts) in zip(sizes, tiers, strict=True)
        ]
        filled.append((name, colours[field], "", shares, [f"{name}: {gib(size)}" for size in sizes]))
    fullest = max(float(parts.total_bytes / parts.capacity_bytes) for _, parts in tiers)
    return _bars_figure(
        filled, [name for name, _ in tiers], said, share_axis("% of what is usable", 100 * max(1.0, fullest)),
        "; ".join(f"{name}: {text} usable" for (name, _), text in reversed(list(zip(tiers, said, strict=True)))),
        [Limit(100, line="dot")],
    )  # fmt: skip


def _bars_figure(
    filled: Sequence[tuple[str, str, str, list[float], list[str]]],
    rows: Sequence[str],
    said: Sequence[str],
    axis: Axis,
    alt: str,
    limits: Sequence[Limit] = (),
) -> dict[str, Any]:
    """Rows from below as bars of parts (name, colour, pattern, per cent, words), with words above each bar."""
    parts = [
        (
            name,
            colour,
            pattern,
            shares,
            [f"{row}: {text} ({share:.1f} %)" for row, text, share in zip(rows, words, shares, strict=True)],
        )
        for name, colour, pattern, shares, words in filled
    ]
    above = [Note(0, row + BAR / 2 + 0.02, text) for row, text in enumerate(said)]
    marks: list[Mark] = [*stacked(parts, range(len(rows))), *limits, *above]
    return view_of(Panel(axis, None, marks, rows=rows, height=_ROW * len(rows), alt=alt))


def breakdown_figure(result: InferenceResult) -> dict[str, Any]:
    """Each phase as a bar of its parts, in per cent of its latency."""
    phases: list[tuple[str, Phase]] = [("prefill", result.prefill)]
    if result.decode is not None:
        phases.insert(0, ("decode", result.decode))
    parts = dict.fromkeys(part for _, phase in reversed(phases) for part in phase.breakdown_s)
    order = sorted(parts, key=lambda part: -max(_share(phase, part) for _, phase in phases))
    looks, system = bar_looks(order), system_of(result.scenario)
    filled = [
        (
            system.part_title(part), *looks[part], [100 * _share(phase, part) for _, phase in phases],
            [f"{system.part_title(part)}: {seconds(phase.breakdown_s.get(part, 0.0))}" for _, phase in phases],
        )
        for part in order
    ]  # fmt: skip
    said = [
        f"{seconds(phase.latency_s)}, bound by {system.resource_title(phase.bottleneck)}"
        for _, phase in phases
    ]
    alt = "; ".join(f"{name} {text}" for (name, _), text in reversed(list(zip(phases, said, strict=True))))
    return _bars_figure(filled, [name for name, _ in phases], said, share_axis("% of the phase", 100.0), alt)


def step_figure(parts_s: Mapping[str, float], titles: Mapping[str, str], step_s: float) -> dict[str, Any]:
    """One training step as a bar of its parts, in per cent."""
    order = sorted((part for part in parts_s if parts_s[part] > 0), key=lambda part: -parts_s[part])
    filled = [
        (
            titles[part],
            colour_of(number),
            "",
            [100 * parts_s[part] / step_s],
            [f"{titles[part]}: {seconds(parts_s[part])}"],
        )
        for number, part in enumerate(order)
    ]
    alt = f"step {seconds(step_s)}: " + ", ".join(
        f"{titles[part]} {parts_s[part] / step_s:.0%}" for part in order[:4]
    )
    return _bars_figure(filled, ["step"], [seconds(step_s)], share_axis("% of the step", 100.0), alt)


def _share(phase: Phase, part: str) -> float:
    return phase.breakdown_s.get(part, 0.0) / phase.latency_s


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
    title = roof_title(gpu.name, dtype, peak, bandwidth)
    panel = roofline_panel(
        title, peak, bandwidth, points, lambda op: (COMMON_PARTS[part_of_operation(op)].title, "circle")
    )
    drawn = view_of(replace(panel, alt=f"{title}; each operation of both phases below these roofs"))
    rows = [
        (
            one.phase, one.op.replace("_", " "), seconds(one.seconds), f"{one.flops:.4g}", f"{one.moved_bytes:.4g}",
            f"{one.flops_per_s / 1e12:.3g}",
        )
        for one in points
    ]  # fmt: skip
    return drawn | {"table": table(("phase", "operation", "time", "FLOP", "bytes", "TFLOP/s"), rows)}
