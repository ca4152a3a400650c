"""What an endpoint's times may change of a stack and its machine, and how far each is known before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from calibrate.fit.refit import Parameter
from llm_perf.config.base import GB
from llm_perf.config.cpu import CpuFacts, cpu_facts, kernels_of
from llm_perf.config.scenario import Scenario
from llm_perf.hardware.cpu_time import read_bytes_per_s
from llm_perf.systems import system_of

_OF_ANY = (("step_ms", 0.01, 100.0), ("sequence_us", 0.5, 10_000.0), ("prefill_ms", 0.01, 100.0))
"""(constant, least, most): time of a step, of each of its sequences, and of a request before the scheduler has it."""

_OF_GPU = (
    ("python_us_per_layer", 1.0, 10_000.0), ("memory_scale", 0.5, 2.0), ("flops_scale", 0.3, 2.0), ("server_ms", 0.01, 100.0),
)  # fmt: skip

_OF_CPU = (
    ("python_us_per_layer", 5.0, 10_000.0), ("cpu_layer_us", 0.5, 1_000.0), ("cpu_score_share", 0.002, 4.0),
    ("cpu_decode_score_share", 0.002, 4.0), ("cpu_attention_share", 0.01, 2.0), ("cpu_elementwise_gb_per_s", 0.5, 500.0),
    ("cpu_wide_kernels", 1.0, 20.0), ("cpu_wide_lost_rows", 0.1, 8.0),
)  # fmt: skip
"""Beside the rates of products and of memory. What a stack sets to 0 it has not."""

_RATE_FACTOR = 6.0


def off_of(scenario: Scenario) -> dict[str, float]:
    """Constants that say of a class of machines what an endpoint's own times say of this one: 0 while these are fitted."""
    served = system_of(scenario).family.calibration.served
    return {name: value for name, value in served.items() if value == 0}


def opened(scenario: Scenario) -> Scenario:
    """A deployment without these constants."""
    return scenario.replace(constants=tuple((dict(scenario.constants) | off_of(scenario)).items()))


def parameters_of(scenario: Scenario) -> list[Parameter]:
    """Parameters of a deployment, each starting at what it would be without the runs."""
    system = system_of(scenario)
    starts = {**system.constants(scenario), **system.family.calibration.served}
    on_cpu = scenario.gpu.absent
    found: list[Parameter] = list(_machine(scenario, starts)) if on_cpu else []
    for name, low, high in (*_OF_ANY, *(_OF_CPU if on_cpu else _OF_GPU)):
        value = starts.get(name, 0.0)
        if value > 0 or (name, low, high) in _OF_ANY:
            # What a stack says nothing of may be anything: the middle of its range on a scale of factors.
            start = value or math.sqrt(low * high)
            found.append(Parameter(f"{scenario.system}.{name}", min(max(start, low), high), low, high))
    wide = any(one.name.endswith(".cpu_wide_kernels") for one in found)
    return [one for one in found if wide or not one.name.endswith(".cpu_wide_lost_rows")]


def _machine(scenario: Scenario, constants: dict[str, float]) -> Sequence[Parameter]:
    """Rates of products, and of reads of memory: of one core where few threads are what limits them."""
    facts = cpu_facts(scenario.host)
    threads = float(scenario.offload.threads or facts.cores)
    read = read_bytes_per_s(facts, constants, threads, copies=False) / GB
    name, start = "host.read_gb_per_s", read
    if threads < facts.cores:
        core = constants["cpu_core_gb_per_s"]
        # What so many threads reach now, as if the cores alone were the limit.
        name, start = (
            f"{scenario.system}.cpu_core_gb_per_s",
            min(core, core * read / _of_cores(facts, constants, threads)),
        )
    flops = f"{scenario.system}.cpu_flops_per_cycle_{kernels_of(scenario.host)}"
    rate = constants[flops.partition(".")[2]]
    return (
        Parameter(
            name, start, start / _RATE_FACTOR, start * (1.0 if threads < facts.cores else _RATE_FACTOR) * 1.01
        ),
        Parameter(flops, rate, rate / _RATE_FACTOR, rate * _RATE_FACTOR),
    )


def _of_cores(facts: CpuFacts, constants: dict[str, float], threads: float) -> float:
    """GB/s that so many cores load."""
    return (
        threads
        * constants["cpu_core_gb_per_s"]
        / (1.0 + facts.cores / facts.sockets / constants["cpu_core_half_cores"])
    )
