"""llama.cpp: successive layers on successive GPUs, prompts in pieces of a few hundred tokens that follow one another."""

from __future__ import annotations

from typing import ClassVar

from llm_perf.config.base import GIB
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.counts.linears import layer_linears
from llm_perf.systems.base import Load, MemoryParts, PhaseCost
from llm_perf.systems.footprint import fullest_stage, head_bytes, layer_weight_bytes, stage_kv_bytes
from llm_perf.systems.forward import Forward, replica_batch
from llm_perf.systems.host_time import exposed_host_s, framework_terms, host_s_per_pass
from llm_perf.systems.resident import Resident, resident_weight_bytes
from llm_perf.systems.terms import joined, one_term

_SCORE_BYTES = 4
"""Scores and logits are kept in 32 bits, and the softmax overwrites its scores."""

_HIDDEN_STATES = 4
"""Hidden states beside the scores of one layer, counted from the 560 MiB that it prints for 8,192 tokens of an 8B model."""


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
        """Memory of the fullest GPU: its layers, the cache, and the compute buffer of one pass.

        The token table stays in host memory unless it is the head as well (not where both are one memory). Layers with a
        window keep it and one pass.
        """
        batch = replica_batch(scenario, load)
        weights = resident_weight_bytes(scenario, constants)
        if not scenario.model.tied_embeddings and scenario.gpu.maker != "apple":
            # Of several stages the first, which held the table, may no longer be the fullest; the last holds the head.
            layers = float(fullest_stage(scenario, *2 * (layer_weight_bytes(scenario),)))
            weights = min(weights, layers + head_bytes(scenario))
        return MemoryParts(
            weights_bytes=weights,
            kv_cache_bytes=stage_kv_bytes(scenario, batch, load.context_len, int(constants["ubatch_tokens"])),
            activations_bytes=compute_buffer_bytes(scenario, batch, load.context_len, constants),
            buffers_bytes=0.0,
            reserved_bytes=constants["process_reserve_gib"] * GIB,
            capacity_bytes=scenario.gpu.usable_memory_bytes,
        )


def compute_buffer_bytes(
    scenario: Scenario, batch: Number, context: Number, constants: dict[str, float]
) -> Number:
    """What llama.cpp allocates for one pass when it starts: logits of all its tokens, or one layer's scores.

    Scores of a pass are kept against the whole cache of all sequences, with its mask and some hidden states (without flash
    attention).
    """
    model, cached = scenario.model, batch * context
    tokens = minimum(constants["ubatch_tokens"], cached)
    heads = max(group.attention.num_heads for group in model.layer_groups)
    logits = tokens * (model.vocab_size + model.hidden_size)
    scores = tokens * ((heads + 1) * cached + _HIDDEN_STATES * model.hidden_size)
    return maximum(logits, scores) * _SCORE_BYTES


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
