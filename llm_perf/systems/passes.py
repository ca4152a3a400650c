"""Passes of a prediction as schedules: the system's own where it makes one, else what its costs consist of.

A system whose phases are sums over passes (kernels in a row, launches beside them) knows seconds by part and by busy
resource. As a schedule that is one mean pass: in each layer its parts follow one another, and what is busy without being
waited for runs beside them. Its latency and its parts are those of the phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number
from llm_perf.hardware import streams
from llm_perf.systems.base import Load, PhaseCost, System
from llm_perf.systems.schedule import Block, Schedule, Step, Work, total

_STREAM_OF = {
    "compute": streams.COMPUTE,
    "hbm": streams.COMPUTE,
    "kernel_floors": streams.COMPUTE,
    "pcie": streams.H2D,
    "nvme": streams.DISK_READ,
    "cpu": streams.CPU,
    "host": streams.HOST,
    "interconnect": streams.INTERCONNECT,
}
"""Where a resource works. Kernels of a GPU follow one another, whichever of its units they keep busy."""
_BESIDE = ("pcie", "nvme", "cpu", "host", "interconnect")
_SHORTER = 1.0 - 1e-12
"""What runs beside a layer is no longer than it, whatever the rounding."""


@runtime_checkable
class Scheduled(Protocol):
    """A system that makes a schedule of its own."""

    def schedules(self, scenario: Scenario, load: Load) -> tuple[Schedule, Schedule]:
        """The prefill's and the first decode step's."""


def passes(
    system: System, scenario: Scenario, prefill: PhaseCost, decode: PhaseCost | None
) -> Iterator[tuple[str, Schedule]]:
    """The passes of a prediction by name; for a single configuration."""
    load = Load.of(scenario.workload)
    if isinstance(system, Scheduled):
        first, step = system.schedules(scenario, load)
        yield "prefill", first
        if decode is not None:
            yield "decode step 1", step
        return
    layers = scenario.model.num_layers
    yield "prefill", mean_pass(system, prefill, layers)
    if decode is not None:
        steps = load.steps(scenario.model.encoder)
        yield f"decode step (mean of {steps:.0f})", mean_pass(system, decode, layers, steps)


def mean_pass(system: System, cost: PhaseCost, layers: int, count: Number = 1.0) -> Schedule:
    """One of ``count`` equal passes that make up a phase, layer by layer; for a single configuration."""
    parts = {name: seconds / count for name, seconds in cost.parts_s.items() if seconds > 0}
    once = {name: seconds for name, seconds in parts.items() if _once(system, name)}
    each = {name: seconds / layers for name, seconds in parts.items() if name not in once}
    blocks = []
    if each:
        beside = {name: seconds / count / layers for name, seconds in _hidden_s(system, cost).items()}
        blocks.append(Block((_step(system, "layer", each, beside),), float(layers)))
    if once:
        blocks.append(Block((_step(system, "after the layers" if each else "pass", once, {}),)))
    return Schedule(tuple(blocks))


def _once(system: System, part: str) -> bool:
    known = system.parts.get(part)
    return known is not None and known.once


def _hidden_s(system: System, cost: PhaseCost) -> dict[str, Number]:
    """Seconds that resources are busy in a phase while nobody waits for them."""
    waited = {
        name: total(seconds for part, seconds in cost.parts_s.items() if name in system.waits_for(part))
        for name in _BESIDE
    }
    return {name: cost.busy_s.get(name, 0.0) - seconds for name, seconds in waited.items()}


def _step(system: System, name: str, parts: dict[str, Number], beside: dict[str, Number]) -> Step:
    lanes = {"pass": tuple(Work(_stream(system, part), part, seconds) for part, seconds in parts.items())}
    length = total(iter(parts.values()))
    for resource, hidden in beside.items():
        stream = _STREAM_OF[resource]
        taken = total(work.seconds for work in lanes["pass"] if work.stream == stream)
        room = min(hidden, length * _SHORTER - taken)
        if room > 1e-9 * length:
            lanes[f"beside, {resource}"] = (Work(stream, _waiting(system, resource), room),)
    return Step(name, lanes)


def _stream(system: System, part: str) -> str:
    known = (_STREAM_OF[resource] for resource in system.waits_for(part) if resource in _STREAM_OF)
    return next(known, streams.COMPUTE)


def _waiting(system: System, resource: str) -> str:
    """The part that a resource's work is of: the first that waits for it before all else."""
    named = (part for part in system.parts if system.waits_for(part)[0] == resource)
    return next(named, resource)
