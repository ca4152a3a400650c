"""Time of the host in one pass: launches, Python, scheduling and sampling, on a host of any speed.

Every term is a constant of the stack times the host's ``host_time_scale``: the same Python takes longer on another machine.
Launches and Python per layer run beside the device; what schedules and samples comes before and after it.
"""

from __future__ import annotations

import math
from functools import lru_cache

from llm_perf.config.formats import MatrixFormat
from llm_perf.config.model import ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, where
from llm_perf.counts.linears import layer_linears
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems.eager_operations import composed_mixtures, eager_operations, scans
from llm_perf.systems.families import memory_rules
from llm_perf.systems.forward import Forward
from llm_perf.systems.terms import Factor, Terms, joined, one_term

_KERNELS_BESIDE_LAYER = 5
_KERNELS_OF_TENSOR_RANKS = 2


def host_s_per_pass(
    forward: Forward, context: Number | None = None, prefill: bool = False, sequences: Number | None = None
) -> Number:
    """Seconds that the host needs to launch one pass: kernels, Python, modules of quantised weights, loops over experts.

    Beyond ``graph_max_context`` tokens of ``context`` a stack that replays captured graphs runs eagerly, and so it does in
    ``prefill``, whose lengths are not captured, with more ``sequences`` than its largest graph has, and always with
    ``enforce_eager``.
    """
    c = forward.constants
    kernels = c["kernels_per_layer"] + _KERNELS_BESIDE_LAYER
    kernels += _KERNELS_OF_TENSOR_RANKS if forward.tp > 1 else 0
    per_layer = kernels * c["launch_us"] + _python_us_per_layer(forward, context, prefill, sequences)
    seconds = forward.model.num_layers * per_layer * 1e-6
    modules = _quantised_modules(forward) * _module_us(forward) + _experts(forward) * c["expert_loop_us"]
    if prefill and c["prefill_operation_us"] > 0:
        modules += eager_operations(forward) * c["prefill_operation_us"]
    if prefill and c["prefill_moe_us"] > 0:
        modules += composed_mixtures(forward) * c["prefill_moe_us"]
    if prefill and c["prefill_scan_us"] > 0:
        modules += scans(forward) * c["prefill_scan_us"]
    return forward.host_time_scale * (seconds + modules * 1e-6)


def _module_us(forward: Forward) -> float:
    """Microseconds of one linear module of quantised weights beside the kernels of its layer."""
    c = forward.constants
    if c["fp8_linear_us"] > 0 and _has_fp8_modules(forward):
        return c["fp8_linear_us"]
    return c[
        "quantised_8bit_linear_us" if forward.scenario.dtype.weight_bits == 8 else "quantised_4bit_linear_us"
    ]


def _has_fp8_modules(forward: Forward) -> bool:
    return any(row.kernels == "fp8" for rows in _format_rows(forward) for row in rows)


def _python_us_per_layer(
    forward: Forward, context: Number | None, prefill: bool, sequences: Number | None
) -> Number:
    c, always = forward.constants, forward.scenario.workload.enforce_eager
    captured, eager = c["python_us_per_layer"], c["eager_python_us_per_layer"]
    if prefill:
        # Engines whose graphs end at a context read prompts without any; others compile what reads them.
        launched = eager if always or c["graph_max_context"] > 0 else 0.0
        return max(captured, launched, c["prefill_python_us_per_layer"])
    if always:
        return max(captured, eager)
    found: Number = captured
    largest = largest_graph(forward.scenario)
    if sequences is not None and largest is not None:
        found = where(sequences > largest, max(captured, eager), captured)
    if context is None or c["graph_max_context"] <= 0:
        return found
    return where(context > c["graph_max_context"], max(captured, eager), found)


def largest_graph(scenario: Scenario) -> int | None:
    """Sequences of an engine's largest captured graph; None where that is not known to be bounded."""
    rules = memory_rules(scenario.system, scenario.system_version)
    return None if rules is None else rules.largest_graph(scenario)


def graph_kinks(forward: Forward) -> tuple[float, ...]:
    """Contexts after which decode steps run in another way on the host."""
    limit = forward.constants["graph_max_context"]
    return (limit,) if limit > 0 and not forward.scenario.workload.enforce_eager else ()


def host_s_by_regime(forward: Forward, sequences: Number | None = None) -> tuple[Number, ...]:
    """Host seconds of a decode step in each way in which it may run: captured, and eagerly if there is such a context."""
    return tuple(
        host_s_per_pass(forward, context, sequences=sequences)
        for context in (None, *(limit + 1.0 for limit in graph_kinks(forward)))
    )


def _quantised_modules(forward: Forward) -> int:
    """Linear modules of all layers whose weights are quantised; those of experts run in grouped kernels or loops."""
    dtype = forward.scenario.dtype
    if dtype.weight_bits >= 16:
        return 0
    return _modules(forward.model)


@lru_cache(maxsize=256)
def _modules(model: ModelConfig) -> int:
    return sum(
        group.count * sum(linear.copies == 1 for linear in layer_linears(group, model.hidden_size))
        for group in model.layer_groups
    )


def _experts(forward: Forward) -> float:
    """Experts of all layers on one rank."""
    counted = 0.0
    for group, products in forward.groups:
        counted += group.count * max((product.copies for product in products if product.is_expert), default=0)
    return counted


def overlap_exponent(forward: Forward) -> float:
    """How well the host's work hides behind the device's; not at all (1) where modules with FP8 weights wait for that."""
    if forward.constants["waiting_fp8_modules"] > 0 and _has_fp8_modules(forward):
        return 1.0
    return forward.constants["overlap_exponent"]


def _format_rows(forward: Forward) -> tuple[tuple[MatrixFormat, ...], ...]:
    formats = forward.scenario.dtype.formats
    return () if formats is None else formats.layers


def exposed_host_s(
    forward: Forward,
    device_s: Number,
    context: Number | None = None,
    prefill: bool = False,
    sequences: Number | None = None,
) -> Number:
    """What the host adds to a pass on the device: together they take the longer one, rounded where both are alike."""
    host_s = host_s_per_pass(forward, context, prefill, sequences)
    together = p_norm(device_s, host_s, overlap_exponent(forward))
    return maximum(together - device_s, 0.0)


def step_overhead_s(forward: Forward, batch: Number, once: bool = True) -> Number:
    """Scheduling and sampling of one step: ``once`` and per doubling of the tensor ranks, and per sequence.

    Without ``once`` only what is per sequence: of a micro-batch of a step whose micro-batches are scheduled together.
    """
    c = forward.constants
    whole = c["step_ms"] * 1e-3 + math.log2(forward.tp) * c["step_tp_ms"] * 1e-3 if once else 0.0
    return forward.host_time_scale * (whole + batch * c["sequence_us"] * 1e-6)


def prefill_overhead_s(forward: Forward, served: bool = True) -> float:
    """What the host does once per prefill, and a server in front of the engine where the request is ``served`` by one."""
    c = forward.constants
    return forward.host_time_scale * ((c["prefill_ms"] + (c["server_ms"] if served else 0.0)) * 1e-3)


def stream_s(forward: Forward) -> float:
    """What the frontend does per token: it turns it to text and sends it, one after the other, beside the engine."""
    return forward.host_time_scale * (forward.constants["stream_us"] * 1e-6)


def framework_terms(name: str, passes: Number, each_s: Number) -> Terms:
    """Framework time of so many passes."""
    return one_term("framework", name, ("passes", passes), ("seconds of one", each_s))


def step_terms(forward: Forward, passes: Number, batch: Number, once: bool = True) -> Terms:
    """Scheduling and sampling of so many passes, constant by constant; a constant of 0 is left out."""
    c, scale = forward.constants, Factor("host time scale", forward.host_time_scale)
    found = []
    for name, value, count in (
        ("step_ms", c["step_ms"] * 1e-3, 1.0 if once else 0.0),
        ("step_tp_ms", c["step_tp_ms"] * 1e-3, math.log2(forward.tp) if once else 0.0),
        ("sequence_us", c["sequence_us"] * 1e-6, batch),
    ):
        if value and (is_array(count) or count):
            factors = (Factor("passes", passes), scale, Factor("times", count), Factor(name, value))
            found.append(one_term("framework", f"scheduling and sampling, {name}", *factors))
    return joined(*found) if found else framework_terms("scheduling and sampling", passes, 0.0)
