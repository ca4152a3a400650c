"""llama.cpp: layers on GPUs and on the CPU, prompts in pieces of a few hundred tokens that follow one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from llm_perf.config.base import GIB
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.counts.linears import layer_linears
from llm_perf.errors import SpecError
from llm_perf.systems.base import Evaluation, Filling, Load, MemoryParts, MemoryUse, PhaseCost, Placement
from llm_perf.systems.costs import Costs
from llm_perf.systems.footprint import fullest_stage, head_bytes, layer_weight_bytes, stage_kv_bytes
from llm_perf.systems.forward import Forward, replica_batch
from llm_perf.systems.host_time import exposed_host_s, framework_terms, host_s_per_pass
from llm_perf.systems.hybrid import HybridForward, has_experts
from llm_perf.systems.prompts import cached_tokens, full_passes
from llm_perf.systems.resident import Resident, decode_phase, notes, resident_weight_bytes
from llm_perf.systems.stacks.llama_cpp import offload
from llm_perf.systems.terms import joined, one_term

_SCORE_BYTES = 4
"""Scores and logits are kept in 32 bits, and the softmax overwrites its scores."""


_UBATCHES = (512, 1024, 2048, 4096)
"""Passes over prompts that a search tries; the first is the default."""


class LlamaCpp(Resident):
    """llama.cpp with its CUDA backend and without flash attention.

    A prompt runs in passes of ``ubatch_tokens``. Over several GPUs (``pp``) the passes follow one another through the
    stages, as far as the launch queues let the one thread that launches everything run ahead.
    """

    name = "llama_cpp"
    options: ClassVar[frozenset[str]] = frozenset(
        {
            "n_gpu_layers",
            "n_cpu_moe",
            "ubatch_size",
            "threads",
            "split_mode",
            "prefix_hit_rate",
            "max_num_seqs",
        }
    )

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The version's constants, with the pass over prompts that is asked for."""
        found = super().constants(scenario)
        asked = scenario.offload.ubatch_size
        return found if asked is None else found | {"ubatch_tokens": float(asked)}

    def check(self, scenario: Scenario) -> None:
        """Refuse what llama.cpp does not do.

        Raises:
            SpecError: with its own way of doing it.
        """
        asked = scenario.offload
        if asked.weights is not None and asked.weights.gpu < 1:
            raise SpecError(
                "system llama_cpp divides a model by layers and experts: give --n-gpu-layers or --n-cpu-moe "
                "(llm-perf policy --system llama_cpp finds the best), not --cpu-offload or --disk-offload"
            )
        if asked.split_mode == "row":
            raise SpecError(
                "split_mode row divides dense matrices over GPUs, deprecated in llama.cpp (docs/multi-gpu.md), not modelled; "
                "possible: layer"
            )
        if scenario.ds_zero is DSZeRO.STAGE_3:
            raise SpecError(
                "--ds-zero 3 is the system zero_inference; it cannot be combined with --system llama_cpp"
            )
        super().check(scenario.replace(offload=asked.replace(kv_cache=None, activations=None)))
        offload.check(scenario)

    def place(self, scenario: Scenario, load: Load) -> Placement:
        """Where the layers are, as asked for."""
        division = offload.division_of(scenario, self.constants(scenario))
        if division.whole:
            return super().place(scenario, load)
        return offload.placement(scenario, load, division, self.constants(scenario))

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:
        """Memory of the fullest GPU, of the host, and what of the file does not fit there."""
        constants = self.constants(scenario)
        division = offload.division_of(scenario, constants)
        if division.whole:
            return super().memory(scenario, load, placement)
        return offload.memory_use(scenario, load, division, constants)

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases."""
        constants = self.constants(scenario)
        division = offload.division_of(scenario, constants)
        if division.whole:
            return super().evaluate(scenario, load)
        used = offload.memory_use(scenario, load, division, constants)
        forward = offload.forward_of(scenario, constants, division, used)
        batch = replica_batch(scenario, load)
        placement = offload.placement(scenario, load, division, constants)
        said = (*notes(scenario), *offload.notes(scenario, division, used))
        prefill = self.prefill(forward, batch, load)
        return Evaluation(placement, used, prefill, decode_phase(forward, batch, load), said)

    def prefill(self, forward: Forward, batch: Number, load: Load) -> PhaseCost:
        """All passes over the prompts, overlapped between the stages."""
        cached = cached_tokens(forward.scenario.workload, load.prompt_len)
        asked = load.prompt_len - cached
        passes = passes_of(batch * asked, forward.constants)
        each = minimum(forward.constants["ubatch_tokens"] / batch, asked)
        before_last = passes - 1
        costs, seconds = Costs(), list[tuple[Number, Number]]()
        for start, weight in full_passes(forward, cached, each, before_last):
            one = forward.prefill(batch, each, start, with_head=False)
            costs.add(one, weight)
            seconds.append((one.total_s, weight))
        rest = asked - before_last * each
        # Logits are wanted after the last pass alone.
        last = forward.prefill(batch, rest, cached + before_last * each, with_head=False)
        costs.add(last, 1.0)
        seconds.append((last.total_s, 1.0))
        head = Costs()
        forward.head_of(head, batch)
        whole = costs.total_s
        # The CPU's part of a pass comes between those of the stages, which wait for one another then.
        hybrid = isinstance(forward, HybridForward)
        latency = whole if hybrid else pipelined_s(forward, passes, whole / passes, last.total_s)
        overlapped = latency / whole
        # One thread launches the kernels of all GPUs: stages that work at once wait for it no less than one does.
        exposed: Number = sum(
            weight * exposed_host_s(forward, overlapped * pass_s) for pass_s, weight in seconds
        )
        once = forward.host_time_scale * forward.constants["step_ms"] * 1e-3
        framework = exposed + once
        costs = costs.scaled(overlapped)
        costs.add(head, 1.0)
        latency = latency + head.total_s
        costs.busy("host", passes * host_s_per_pass(forward))
        terms = joined(
            costs.terms,
            framework_terms("launches not hidden behind kernels", passes, exposed / passes),
            one_term("framework", "once per prefill", ("seconds", once)),
        )
        return PhaseCost(
            latency + framework, {**costs.parts_s, "framework": framework}, costs.busy_s, terms=terms
        )

    def fillings(self, scenario: Scenario, lossless: bool) -> Iterator[Filling]:
        """Passes over prompts, places and formats of the cache, each with as much on the GPU as fits."""
        model = scenario.model
        if scenario.gpu.absent:
            yield Filling({}, None, range(1))
            return
        moe = any(has_experts(group) for group in model.layer_groups)
        for ubatch in _UBATCHES:
            passes = {} if ubatch == _UBATCHES[0] else {"ubatch_size": ubatch}
            for cache in ({},) if lossless else ({}, {"kv_format": "q8_0"}):
                if moe:
                    layers = range(model.num_layers, -1, -1)
                    yield Filling(passes | cache, "n_cpu_moe", layers)
                yield Filling(passes | cache, "n_gpu_layers", range(model.num_layers + 2))
            yield Filling(passes | {"kv_offload": True}, "n_gpu_layers", range(model.num_layers + 2))

    def describe_policy(self, flags: Mapping[str, Any]) -> str:
        """A policy in few words, for one cell of a table."""
        words = []
        if "n_gpu_layers" in flags:
            words.append(f"{flags['n_gpu_layers']} layers on the GPU")
        if flags.get("n_cpu_moe"):
            words.append(f"experts of {flags['n_cpu_moe']} layers on the CPU")
        words += [f"ubatch {flags['ubatch_size']}"] if "ubatch_size" in flags else []
        words += [f"cache {flags['kv_format']}"] if "kv_format" in flags else []
        words += ["cache in host memory"] if flags.get("kv_offload") else []
        words += [f"{flags['threads']} threads"] if "threads" in flags else []
        return ", ".join(words) or "everything on the GPU"

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
    if not constants["unfused_attention"]:
        states = tokens * (constants["fused_hidden_states"] * model.hidden_size + cached / 2)
        return maximum(tokens * (model.vocab_size + model.hidden_size), states) * _SCORE_BYTES
    heads = max(group.attention.num_heads for group in model.layer_groups)
    logits = tokens * (model.vocab_size + model.hidden_size)
    scores = tokens * ((heads + 1) * cached + constants["unfused_hidden_states"] * model.hidden_size)
    return maximum(logits, scores) * _SCORE_BYTES


def passes_of(tokens: Number, constants: dict[str, float]) -> Number:
    """Passes that so many prompt tokens take: whole ones, and what is left."""
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
