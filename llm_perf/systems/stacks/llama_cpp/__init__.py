"""llama.cpp: successive layers on successive GPUs, prompts in pieces of a few hundred tokens that follow one another."""

from __future__ import annotations

from typing import ClassVar

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.counts.linears import layer_linears
from llm_perf.systems.base import Load, MemoryParts, PhaseCost
from llm_perf.systems.footprint import prefill_activation_bytes
from llm_perf.systems.forward import Forward, replica_batch
from llm_perf.systems.host_time import exposed_host_s, framework_terms, host_s_per_pass
from llm_perf.systems.resident import Resident, gpu_memory
from llm_perf.systems.terms import joined, one_term

_SCORE_BYTES = 4
"""Scores are kept in 32 bits, and the softmax overwrites them."""


class LlamaCpp(Resident):
    """llama.cpp with its CUDA backend and without flash attention.

    A prompt runs in passes of ``ubatch_tokens``. Over several GPUs (``pp``) the passes follow one another through the
    stages, as far as the launch queues let the one thread that launches everything run ahead.
    """

    name = "llama_cpp"
    options: ClassVar[frozenset[str]] = frozenset()

    def prefill(self, forward: Forward, batch: Number, load: Load) -> PhaseCost:
        """All passes over the prompts, overlapped between the stages."""
        passes = passes_of(batch * load.prompt_len, forward.constants)
        new = load.prompt_len / passes
        mean = forward.prefill(batch, new, (passes - 1) / 2 * new)
        last = forward.prefill(batch, new, (passes - 1) * new)
        pass_s, last_s = mean.total_s, last.total_s
        latency = pipelined_s(forward, passes, pass_s, last_s)
        exposed = exposed_host_s(forward, pass_s)
        once = forward.host_time_scale * forward.constants["step_ms"] * 1e-3
        framework = passes * exposed + once
        costs = mean.scaled(latency / pass_s, passes)
        costs.busy("host", passes * host_s_per_pass(forward))
        terms = joined(
            costs.terms,
            framework_terms("launches not hidden behind kernels", passes, exposed),
            one_term("framework", "once per prefill", ("seconds", once)),
        )
        return PhaseCost(
            latency + framework, {**costs.parts_s, "framework": framework}, costs.busy_s, terms=terms
        )

    def gpu_memory(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> MemoryParts:
        """Memory of the fullest GPU: activations of one pass only, with its scores against the whole context."""
        parts = gpu_memory(scenario, load, constants)
        batch = replica_batch(scenario, load)
        new = load.prompt_len / passes_of(batch * load.prompt_len, constants)
        one_pass = prefill_activation_bytes(scenario, batch, new, constants)
        heads = max(group.attention.num_heads for group in scenario.model.layer_groups)
        scores = batch * new * load.context_len * heads * _SCORE_BYTES
        return MemoryParts(
            parts.weights_bytes,
            parts.kv_cache_bytes,
            one_pass + scores,
            parts.buffers_bytes,
            parts.reserved_bytes,
            parts.capacity_bytes,
        )


def passes_of(tokens: Number, constants: dict[str, float]) -> Number:
    """Passes that so many prompt tokens take; all are taken as equally long."""
    return maximum(-(-tokens // constants["ubatch_tokens"]), 1)


def pipelined_s(forward: Forward, passes: Number, pass_s: Number, last_s: Number) -> Number:
    """Seconds of ``passes`` passes over the stages; ``pass_s`` is what one takes on average, ``last_s`` the last.

    In units of one stage's time the next passes could follow after 1, but one thread launches for all GPUs and is held
    up by the first full queue. With room for f passes of a stage in a queue, k = floor(f), it gets k + 1 passes on their
    way, then waits until stage after stage has taken up the last of them: k + 1 passes per pp + k - f.
    """
    stages = forward.pp
    if stages == 1:
        return passes * pass_s
    stage_s = _largest_share(forward) * pass_s
    ahead = queue_room(forward)
    group = ahead // 1 + 1
    group_s = max(stages + ahead // 1 - ahead, group) * stage_s
    groups = -(-passes // group)
    rest = passes - (groups - 1) * group
    pipelined = (groups - 1) * group_s + rest * stage_s + (stages - 1) / stages * last_s
    return where(passes == 1, pass_s, minimum(pipelined, passes * pass_s))


def _largest_share(forward: Forward) -> float:
    """Layers of the fullest stage over all layers: the head counts as a layer where they are dealt out."""
    layers = forward.model.num_layers
    return -(-(layers + 1) // forward.pp) / layers


def queue_room(forward: Forward) -> float:
    """Passes of one stage whose kernels fit into a GPU's launch queue."""
    layers = _largest_share(forward) * forward.model.num_layers
    quantised = forward.scenario.dtype.weight_bits < forward.scenario.dtype.activation_bits
    group = forward.model.layer_groups[0]
    unpacking = len(layer_linears(group, forward.model.hidden_size)) if quantised else 0
    kernels = forward.constants["prefill_kernels_per_layer"] + unpacking
    return forward.constants["launch_queue_kernels"] / (layers * kernels)
