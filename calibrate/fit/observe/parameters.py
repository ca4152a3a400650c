"""What an endpoint's times may change of a stack and its machine, and how far each is known before."""

from __future__ import annotations

from collections.abc import Sequence

from calibrate.fit.refit import Parameter
from llm_perf.config.cpu import cpu_facts, kernels_of
from llm_perf.config.scenario import Scenario
from llm_perf.hardware.cpu_time import read_bytes_per_s
from llm_perf.systems import system_of

_OF_ANY = (("step_ms", 0.01, 200.0), ("sequence_us", 0.5, 20_000.0), ("prefill_ms", 0.01, 200.0))
"""(constant, least, most): time of a step, of each of its sequences, and of a request before the scheduler has it."""

_OF_GPU = (("python_us_per_layer", 1.0, 10_000.0), ("memory_scale", 0.5, 2.0), ("flops_scale", 0.3, 2.0))

_OF_CPU = (
    ("python_us_per_layer", 5.0, 10_000.0), ("cpu_layer_us", 0.5, 1_000.0), ("cpu_score_share", 0.002, 4.0),
    ("cpu_decode_score_share", 0.002, 4.0), ("cpu_attention_share", 0.01, 2.0), ("cpu_elementwise_gb_per_s", 0.5, 500.0),
    ("cpu_wide_kernels", 1.0, 20.0), ("cpu_wide_lost_rows", 0.1, 8.0),
)  # fmt: skip
"""Beside the rates of products and of memory. What a stack sets to 0 it has not."""

_RATE_FACTOR = 6.0


def parameters_of(scenario: Scenario) -> list[Parameter]:
    """Parameters of a deployment, each starting at what it would be without the runs."""
    constants = system_of(scenario).constants(scenario)
    on_cpu = scenario.gpu.absent
    found: list[Parameter] = []
    if on_cpu:
        found += _machine(scenario, constants)
    for name, low, high in (*_OF_ANY, *(_OF_CPU if on_cpu else _OF_GPU)):
        value = constants.get(name, 0.0)
        if value > 0 or name in (one[0] for one in _OF_ANY):
            found.append(Parameter(f"{scenario.system}.{name}", min(max(value, low), high), low, high))
    return found


def _machine(scenario: Scenario, constants: dict[str, float]) -> Sequence[Parameter]:
    """Rates of products, and of reads of memory."""
    facts = cpu_facts(scenario.host)
    threads = float(scenario.offload.threads or facts.cores)
    read = read_bytes_per_s(facts, constants, threads, copies=False) / 1e9
    flops = f"cpu_flops_per_cycle_{kernels_of(scenario.host)}"
    rate = constants[flops]
    return (
        Parameter("host.read_gb_per_s", read, read / _RATE_FACTOR, read * _RATE_FACTOR),
        Parameter(f"{scenario.system}.{flops}", rate, rate / _RATE_FACTOR, rate * _RATE_FACTOR),
    )
