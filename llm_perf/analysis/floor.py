"""What no software can do: fewer seconds than the arithmetic and the weights take at the data sheet's rates.

Every single prediction is held against it: an inference, a step of training, every decode step of a simulation and the whole
of it. One that falls below is a defect of llm-perf, and says so itself. Points of sweeps and plans are those of `predict`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number
from llm_perf.counts.flops import attention_core_flops, decode_step_flops, prefill_flops, training_flops
from llm_perf.counts.modules import mlp_flops
from llm_perf.counts.parameters import active_params, token_table_params
from llm_perf.systems.base import Evaluation, Placement

if TYPE_CHECKING:  # an inference loads neither training nor requests
    from llm_perf.config.training import TrainingScenario
    from llm_perf.requests.outcome import Outcome

_ROUNDING: Final = 1e-6
_CACHED: Final = 4.0
"""Times the GPUs' L2 that weights must exceed for their reads to need device memory: a part of less may stay in it."""


def least_prefill_s(scenario: Scenario) -> float:
    """Seconds of the batch's products on all GPUs at their fastest format: what of the prompt is not cached."""
    workload = scenario.workload
    cached = int(workload.prefix_hit_rate * workload.prompt_len)
    model, batch = scenario.model, workload.batch_size
    flops = _needed_flops(model, batch, workload.prompt_len)
    if cached:
        flops -= _needed_flops(model, batch, cached)
    return float(flops) / _flops_per_s(scenario.gpu, scenario.parallelism.num_gpus)


def _needed_flops(model: ModelConfig, batch: Number, prompt_len: Number) -> Number:
    """FLOPs of a prefill without what nothing reads: the last layer's feed-forward block of all tokens but the last.

    llama.cpp leaves it out (``inp_out_ids``: the rows that the head reads are taken before that block).
    """
    whole = prefill_flops(model, batch, prompt_len)
    if model.encoder:
        return whole
    return whole - mlp_flops(model, model.layer_groups[-1], batch * (prompt_len - 1))


def least_decode_step_s(scenario: Scenario, placement: Placement) -> float:
    """Seconds of a step: its products, or one read of the weights that one token needs, as far as GPUs hold them."""
    workload, model = scenario.workload, scenario.model
    gpus, gpu = scenario.parallelism.num_gpus, scenario.gpu
    flops = float(decode_step_flops(model, workload.batch_size, workload.prompt_len + 1))
    formats = scenario.dtype.formats
    bits = (
        min((one.bits for row in formats.layers for one in row), default=16.0)
        if formats
        else scenario.dtype.weight_bits
    )
    # Of tables a token reads a row, those of layers too; which of the others are tables is not known here.
    held = (
        (active_params(model) - token_table_params(model) - model.layer_table_params - model.other_params)
        * bits
        / 8
        * placement.weights.gpu
    )
    cache = (gpu.l2_mib or 0.0) * 2**20 * gpus
    read = held / (gpus * gpu.hbm_bandwidth_bytes_per_s) if held > _CACHED * cache else 0.0
    return max(flops / _flops_per_s(gpu, gpus), read)


def least_training_step_s(
    scenario: TrainingScenario, sequences: int, flops_per_s: float | None = None
) -> float:
    """Seconds of an optimizer step's products on all GPUs, attention over what is seen alone.

    Frozen weights turn a gradient of activations from the second layer on at the least: half of them all, to be safe.

    Args:
        scenario: What was asked.
        sequences: Of the whole step.
        flops_per_s: Peak of one GPU in the format that it multiplies in; that of its fastest format if None.
    """
    model, seq_len = scenario.model, scenario.plan.seq_len
    square = 3.0 * float(attention_core_flops(model, sequences, seq_len))
    products = float(training_flops(model, sequences, seq_len)) - square
    passes = (
        0.5 if scenario.plan.lora_rank else 1.0
    )  # of the three that a weight has: forward, and half a gradient
    seen = float(attention_core_flops(model, sequences, seq_len, causal=True))
    rate = _flops_per_s(scenario.gpu, 1) if flops_per_s is None else flops_per_s
    return (passes * products + seen) / (rate * scenario.num_gpus)


def _flops_per_s(gpu: GPUConfig, gpus: int) -> float:
    return max(gpu.peak_tflops.values()) * 1e12 * gpus


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
    return _said(found)


def training_below_the_roof(scenario: TrainingScenario, sequences: int, step_s: float) -> str | None:
    """The same of an optimizer step of so many sequences."""
    return _said([("step", step_s, least_training_step_s(scenario, sequences))])


def requests_below_the_roof(
    scenario: Scenario, placement: Placement, resources: Iterable[str], outcome: Outcome, gpus: int
) -> str | None:
    """The same of a simulation on so many GPUs: of its quickest decode step, and of all tokens until the last is there.

    ``scenario`` has one sequence, ``placement`` and ``resources`` are its.
    """
    from llm_perf.requests.outcome import COMPLETED

    floor = floor_s(scenario, placement, resources)
    done = outcome.status == COMPLETED
    if floor is None or not done.any():
        return None
    steps = outcome.steps
    each = (steps.duration_s / steps.count)[steps.decode_sequences > 0]
    tokens = outcome.requests.prompt_tokens - outcome.cached_tokens + outcome.requests.output_tokens - 1
    # What a second token adds to a first: no later one takes less, and of a prompt only the last one meets the head.
    a_token = float(_needed_flops(scenario.model, 1, 2) - _needed_flops(scenario.model, 1, 1))
    least = float(tokens[done].sum()) * a_token / _flops_per_s(scenario.gpu, gpus)
    whole = float(np.nanmax(outcome.finished_s) - outcome.arrival_s.min())
    return _said([("quickest step", float(each.min(initial=np.inf)), floor[1]), ("whole", whole, least)])


def _said(found: Iterable[tuple[str, float, float]]) -> str | None:
    """What to say of the first (name, seconds, least seconds) that is below; None where none is."""
    for name, seconds, least in found:
        if seconds < least * (1 - _ROUNDING):
            return (
                f"a defect of llm-perf, please report it: the {name} of {seconds:.3g} s is quicker than the data sheets "
                f"allow, {least:.3g} s"
            )
    return None
