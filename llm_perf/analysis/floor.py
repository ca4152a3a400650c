"""What no software can do: fewer seconds than the arithmetic and the weights take at the data sheet's rates.

Every single prediction is held against it. One that falls below is a defect of llm-perf, and says so itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from llm_perf.config.scenario import Scenario
from llm_perf.counts.flops import decode_step_flops, prefill_flops
from llm_perf.counts.parameters import active_params, token_table_params
from llm_perf.systems.base import Evaluation, Placement

_ROUNDING: Final = 1e-6
_CACHED: Final = 4.0
"""Times the GPUs' L2 that weights must exceed for their reads to need device memory: a part of less may stay in it."""


def least_prefill_s(scenario: Scenario) -> float:
    """Seconds of the batch's products on all GPUs at their fastest format: what of the prompt is not cached."""
    workload = scenario.workload
    cached = int(workload.prefix_hit_rate * workload.prompt_len)
    model, batch = scenario.model, workload.batch_size
    flops = prefill_flops(model, batch, workload.prompt_len)
    if cached:
        flops -= prefill_flops(model, batch, cached)
    return float(flops) / _flops_per_s(scenario)


def least_decode_step_s(scenario: Scenario, placement: Placement) -> float:
    """Seconds of a step: its products, or one read of the weights that one token needs, as far as GPUs hold them."""
    workload, model = scenario.workload, scenario.model
    products = float(decode_step_flops(model, workload.batch_size, workload.prompt_len + 1)) / _flops_per_s(
        scenario
    )
    formats = scenario.dtype.formats
    bits = (
        min((one.bits for row in formats.layers for one in row), default=16.0)
        if formats
        else scenario.dtype.weight_bits
    )
    held = (active_params(model) - token_table_params(model)) * bits / 8 * placement.weights.gpu
    gpus, gpu = scenario.parallelism.num_gpus, scenario.gpu
    cache = (gpu.l2_mib or 0.0) * 2**20 * gpus
    read = held / (gpus * gpu.hbm_bandwidth_bytes_per_s) if held > _CACHED * cache else 0.0
    return max(products, read)


def _flops_per_s(scenario: Scenario) -> float:
    return max(scenario.gpu.peak_tflops.values()) * 1e12 * scenario.parallelism.num_gpus


def floor_s(scenario: Scenario, placement: Placement, resources: Iterable[str]) -> tuple[float, float] | None:
    """Seconds that the prefill and a token of decode take at least; None where nothing is known of that.

    Where a CPU computes a part (it is among the ``resources``), or a part of the cache is not read, nothing is known that
    holds for every system.
    """
    if scenario.gpu.absent or "cpu" in resources or scenario.offload.attn_sparsity < 1:
        return None
    rounds = 1.0 if scenario.speculation is None else scenario.speculation.tokens_per_round
    return least_prefill_s(scenario), least_decode_step_s(scenario, placement) / rounds


def below_the_roof(scenario: Scenario, evaluation: Evaluation, step_s: float | None) -> str | None:
    """What to say of an evaluation that is quicker than the GPUs could be; None where it is not."""
    decode = {} if evaluation.decode is None else evaluation.decode.busy_s
    floor = floor_s(scenario, evaluation.placement, (*evaluation.prefill.busy_s, *decode))
    if floor is None:
        return None
    found = [("prefill", float(evaluation.prefill.latency_s), floor[0])]
    if step_s is not None:
        found.append(("decode step", step_s, floor[1]))
    for name, seconds, least in found:
        if seconds < least * (1 - _ROUNDING):
            return (
                f"a defect of llm-perf, please report it: the {name} of {seconds:.3g} s is quicker than the data sheets "
                f"allow, {least:.3g} s"
            )
    return None
