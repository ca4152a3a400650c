"""Where a phase turns from what every pass takes anyway to what each token adds, per number of GPUs.

Latency over tokens has two asymptotes: flat, what a pass of one token takes (reading the weights, kernel floors, collectives'
latencies, the framework), and rising, what every further token adds (arithmetic, activations, the cache). They meet at the
threshold: below it the input's length hardly matters, above it latency grows with it. On a plain roofline that is the
pivot of the weights alone; what does not shrink with more GPUs moves it up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems import Load, PhaseCost, checked_system, is_stack
from llm_perf.systems.forward import Forward

_MANY = 1e7
"""Tokens so many that a pass lies on the rising asymptote, whatever the GPU."""
_RESOURCES = ("compute", "hbm", "interconnect", "host")
_TP_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of one deployment.

    ``pivot_tokens``: tokens per pass at which computing with the weights takes as long as reading them. ``prefill_tokens``:
    batch x prompt_len at which prefill latency begins to grow with it. ``decode_batch``: batch at which a decode step
    does, and ``decode_bound`` what a step waits for above it; None for encoders.
    """

    tp_size: int
    num_gpus: int
    pivot_tokens: float
    prefill_tokens: float
    decode_batch: float | None
    decode_bound: str | None


def thresholds_of(scenario: Scenario) -> Thresholds | None:
    """The thresholds of a scenario at its lengths; None for systems that move tensors between memories."""
    if not is_stack(scenario.system):
        return None
    system, p, workload = checked_system(scenario), scenario.parallelism, scenario.workload
    forward = Forward(scenario, system.constants(scenario))
    prompt = float(workload.prompt_len)
    share = p.dp_size * scenario.offload.micro_batches
    # One token in all, then so many that only what grows with them is left.
    batch = share * np.array([1.0, _MANY, 2 * _MANY]) / prompt
    prefill = system.evaluate(scenario, Load(batch, prompt, 1.0)).prefill
    sequences = share * np.array([1.0, _MANY, 2 * _MANY])
    decode = system.evaluate(scenario, Load(sequences, prompt, 2.0)).decode
    return Thresholds(
        tp_size=p.tp_size,
        num_gpus=p.num_gpus,
        pivot_tokens=_pivot(forward),
        prefill_tokens=_meeting(prefill, batch * prompt),
        decode_batch=None if decode is None else _meeting(decode, sequences),
        decode_bound=None if decode is None else _bound(decode),
    )


def thresholds_by_gpus(scenario: Scenario) -> tuple[Thresholds, ...]:
    """The same model at each number of tensor-parallel ranks that divides it and has place in a node."""
    found = []
    for size in _TP_SIZES:
        if size > scenario.host.gpus_per_node:
            break
        changed = scenario.parallelism.replace(
            tp_size=size, pp_size=1, dp_size=1, ep_size=1, sp_size=1, cp_size=1, expert_imbalance=1.0
        )
        try:
            divided = scenario.replace(
                parallelism=changed, num_nodes=1, offload=scenario.offload.replace(micro_batches=1)
            )
            thresholds = thresholds_of(divided)
        except SpecError:  # the model does not divide so, or the system divides none
            continue
        if thresholds is not None:
            found.append(thresholds)
    return tuple(found)


def _pivot(forward: Forward) -> float:
    """(weight bytes / memory rate) / (FLOPs per token / compute rate), over one rank's matrices."""
    read = computed = 0.0
    for group, products in (
        *((group.count, products) for group, products in forward.groups),
        (1, forward.head),
    ):
        for product in products:
            copies = product.copies if product.is_expert else 1
            used = product.active * forward.expert_share if product.is_expert else 1
            read += group * copies * product.weights * float(forward.weight_bytes_per_element(product, 1.0))
            computed += group * used * product.weights
    gemm = forward.rates.gemm
    return (read / gemm.bytes_per_s) / (2 * computed / gemm.flops_per_s)


def _meeting(phase: PhaseCost, tokens: np.ndarray) -> float:
    """Tokens at which the asymptotes meet: the flat one over the slope of the rising one."""
    latency = np.asarray(phase.latency_s)
    slope = (latency[2] - latency[1]) / (tokens[2] - tokens[1])
    return float(latency[0] / slope)


def _bound(phase: PhaseCost) -> str:
    """The resource whose busy time grows most."""
    grown = {
        name: float(np.diff(np.broadcast_to(seconds, 3))[1])
        for name, seconds in phase.busy_s.items()
        if name in _RESOURCES
    }
    return max(grown, key=lambda name: grown[name])
