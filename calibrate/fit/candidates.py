"""Which end-to-end parameters a set of runs may have, and where they start: what microbenchmarks found, else defaults.

Microbenchmarks give the rates of products; a product's rate and framework time per layer cannot be told apart by runs of
one model, so that the former stay as measured where they were. What microbenchmarks see only in part, framework time
and attention inside a layer, is fitted around what they found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from calibrate.fit.observation import Observation
from calibrate.fit.refit import Parameter
from llm_perf.config.scenario import Scenario
from llm_perf.systems import system_of
from llm_perf.systems.constants import machine_of

_TIMES = {  # constant: least value at which its range starts, since no time is 0 in logarithms
    "python_us_per_layer": 30.0,
    "step_ms": 0.3,
    "layer_overhead_ms": 0.05,
    "pass_overhead_ms": 0.3,
}
_TIME_RANGE = 10.0
"""Framework times may be so many times more or less than tiny models show."""

_RATE_RANGE = (0.5, 1.6)
"""Of copies and disks over their microbenchmarks or data-sheet ratios: a system reaches less, a host file may say less."""

_KERNEL_RANGE = (0.35, 2.5)
"""Of attention inside a model over attention alone: concatenation, masks and casts are in it."""

_GEMM_RANGE = (0.4, 1.6)
_KNOWN_GEMM_RANGE = (0.65, 1.5)
"""Of products that were measured apart: the levels of speed of one virtual machine were 20 and 28 GB/s within an hour."""


def candidates(observations: Sequence[Observation], with_microbench: bool) -> tuple[Parameter, ...]:
    """Parameters that the systems of these runs have. Which of them the runs identify is found out by fitting.

    Args:
        observations: With the rates of microbenchmarks in their scenarios, if there are any.
        with_microbench: Whether products were measured; else their rates are fitted as well.
    """
    found: dict[str, Parameter] = {}
    for one in observations:
        for parameter in _of_scenario(one.scenario, with_microbench):
            found.setdefault(parameter.name, parameter)
    return tuple(found.values())


def _of_scenario(scenario: Scenario, with_microbench: bool) -> Iterator[Parameter]:
    system = scenario.system
    constants = system_of(scenario).constants(scenario)
    times = system_of(scenario).family.calibration.times
    if times:
        yield from _times(system, times, constants, scenario)
        yield from _streams(scenario)
    attention = scenario.gpu.efficiency.attention
    yield _share(
        "gpu.efficiency.attention.decode_memory_efficiency", attention.decode_memory_efficiency, _KERNEL_RANGE
    )
    yield _share(
        "gpu.efficiency.attention.prefill_flops_efficiency", attention.prefill_flops_efficiency, _KERNEL_RANGE
    )
    # What was measured apart moves little, its level of speed from day to day; else it is fitted as well.
    gemm = scenario.gpu.efficiency.gemm_for(scenario.gpu.dtype_for(scenario.dtype.compute_bits))
    name = next(key for key, value in scenario.gpu.efficiency.gemm.items() if value is gemm)
    limits = _KNOWN_GEMM_RANGE if with_microbench else _GEMM_RANGE
    for field in ("memory_efficiency", "flops_efficiency"):
        yield _share(f"gpu.efficiency.gemm.{name}.{field}", getattr(gemm, field), limits)


def _times(
    system: str, names: tuple[str, ...], constants: dict[str, float], scenario: Scenario
) -> Iterator[Parameter]:
    for name in names:
        value = constants[name]
        if name == "layer_overhead_ms":
            value = scenario.host.layer_overhead_ms.get(system, value)
        value = max(value, _TIMES.get(name, 0.01))
        yield Parameter(f"{system}.{name}", value, value / _TIME_RANGE, value * _TIME_RANGE)


def _streams(scenario: Scenario) -> Iterator[Parameter]:
    """Rates of copies and disk where weights move, and how much of them hides."""
    system, offload = scenario.system, scenario.offload
    weights = offload.weights
    if weights is None or weights.gpu == 1:
        return
    if system_of(scenario).family.calibration.copies:
        if scenario.host.name != "this machine":
            path = "pinned_h2d" if offload.pin_memory else "pageable_h2d"
            machine = machine_of(scenario)
            held = machine.copies.get(f"{system}.{path}") or getattr(machine, path)
            low, high = _RATE_RANGE
            if held is not None:
                yield Parameter(
                    f"host.copies.{system}.{path}", held.gb_per_s, held.gb_per_s * low, held.gb_per_s * high
                )
            else:
                ratio = system_of(scenario).constants(scenario)[path.replace("h2d", "link_ratio")]
                yield Parameter(
                    f"{system}.{path.replace('h2d', 'link_ratio')}",
                    ratio,
                    ratio * low,
                    min(1.0, ratio * high),
                )
        if offload.overlap is not False:
            share = system_of(scenario).constants(scenario)["overlap_share"]
            yield Parameter(f"{system}.overlap_share", share, 0.0, 1.0, "linear")
    if weights.nvme > 0 and scenario.host.disk is not None:
        disk = scenario.host.disk
        rate = disk.direct_read.gb_per_s if disk.direct_read is not None else disk.stated_read_gb_per_s
        yield Parameter("host.disk.direct_read", rate, rate * _RATE_RANGE[0], rate * _RATE_RANGE[1])


def _share(name: str, value: float, limits: tuple[float, float]) -> Parameter:
    """A share of a peak: never more than all of it."""
    return Parameter(name, value, value * limits[0], max(min(1.0, value * limits[1]), value))
