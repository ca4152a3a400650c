"""Memory of FlexGen on the fullest GPU, on one host and on its disks.

GPU: resident tensors, the cache that stays there, and at the fullest phase its own streamed weights, those of the next
phase and the kernels' workspace. Host: weights in page-locked blocks, cache, hidden states, the copy workers' buffers,
the workspace of attention on the CPU. Checked against peak figures of FlexGen's logs (docs/systems/flexgen.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.model import LayerGroup
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, where
from llm_perf.counts.attention import kv_cache_elements, kv_elements_per_token
from llm_perf.systems.base import NO_MEMORY, Load, MemoryParts, MemoryUse, TierShares
from llm_perf.systems.flexgen.placement import (
    PhaseTensors,
    TierWeights,
    model_phases,
    place_cache,
    place_tensors,
)
from llm_perf.systems.flexgen.policy import Policy
from llm_perf.systems.footprint import stage_layer_share
from llm_perf.systems.schedule import total

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class PlacedWeights:
    """One stage's phases with where their tensors lie and how many layers of each kind the stage has."""

    phases: tuple[PhaseTensors, ...]
    weights: tuple[TierWeights, ...]
    layers: tuple[float, ...]

    def bytes_on(self, tier: str) -> Number:
        """Bytes of one stage on a tier: ``gpu_bytes``, ``cpu_bytes``, ``disk_bytes``, ``cpu_locked_bytes``."""
        return total(
            count * getattr(weights, tier) for weights, count in zip(self.weights, self.layers, strict=True)
        )

    @property
    def shares(self) -> TierShares:
        """Shares of the weights that really lie on each tier."""
        gpu, cpu, disk = (self.bytes_on(f"{tier}_bytes") for tier in ("gpu", "cpu", "disk"))
        whole = gpu + cpu + disk
        return TierShares(gpu / whole, cpu / whole, disk / whole)


def placed_weights(scenario: Scenario, policy: Policy) -> PlacedWeights:
    """The weights of one stage: its layers with both ends of the model, or in a pipeline with the larger end."""
    phases = model_phases(scenario.model)
    share = stage_layer_share(scenario)
    ends = 1.0 if scenario.parallelism.pp_size == 1 else 0.5
    layers = tuple(ends if phase.group is None else share * phase.group.count for phase in phases)
    weights = tuple(place_tensors(phase, policy.weights, policy.weight_bytes) for phase in phases)
    return PlacedWeights(phases, weights, layers)


def memory_use(
    scenario: Scenario,
    load: Load,
    policy: Policy,
    constants: dict[str, float],
    placed: PlacedWeights | None = None,
) -> MemoryUse:
    """Memory per tier under a policy, whose weights may be ``placed`` already."""
    placed = placed_weights(scenario, policy) if placed is None else placed
    cache = place_cache(policy.kv_cache, policy.gpu_batch)
    kept = load.context_len - 1  # the last token is never stored
    kv = kv_bytes(scenario, policy, kept)
    gpu = MemoryParts(
        weights_bytes=placed.bytes_on("gpu_bytes"),
        kv_cache_bytes=kv * cache.gpu,
        activations_bytes=_waiting_hidden_bytes(scenario, load, policy),
        buffers_bytes=_fullest_phase(scenario, load, policy, placed) + constants["allocator_gib"] * _GIB,
        reserved_bytes=constants["process_reserve_gib"] * _GIB,
        capacity_bytes=scenario.gpu.usable_memory_bytes,
    )
    ranks = scenario.gpus_per_node
    host = MemoryParts(
        weights_bytes=ranks * placed.bytes_on("cpu_bytes"),
        kv_cache_bytes=ranks * kv * cache.cpu,
        activations_bytes=ranks * _host_activations(scenario, load, policy, cache),
        buffers_bytes=ranks * _host_buffers(policy, placed, constants),
        reserved_bytes=ranks * constants["host_reserve_gib"] * _GIB,
        capacity_bytes=scenario.host.usable_memory_bytes,
    )
    disk = scenario.host.disk
    if disk is None:
        return MemoryUse(gpu, host, NO_MEMORY)
    hidden = ranks * _hidden_bytes(scenario, load, policy) * policy.hidden.nvme
    stored = MemoryParts(
        ranks * placed.bytes_on("disk_bytes"), ranks * kv * cache.nvme, hidden, 0.0, 0.0, disk.capacity_bytes
    )
    return MemoryUse(gpu, host, stored)


def kv_bytes(scenario: Scenario, policy: Policy, tokens: Number) -> Number:
    """Stored cache bytes of all sequences on one stage. FlexGen allocates the whole length beforehand."""
    if scenario.model.encoder:
        return 0.0 * policy.batch * tokens
    elements = kv_cache_elements(scenario.model, tokens) * stage_layer_share(scenario)
    return policy.batch * elements * policy.kv_bytes


def _fullest_phase(scenario: Scenario, load: Load, policy: Policy, placed: PlacedWeights) -> Number:
    """Streamed weights of a phase and of the next one, and its workspace, where they are most."""
    phases, weights = placed.phases, placed.weights
    fullest: Number = 0.0
    for index, phase in enumerate(phases):
        following = (index + 1) % len(phases)
        double = weights[index].streamed_bytes + weights[following].streamed_bytes
        if phase.kind == "mlp":  # inner layers come back to their own attention
            own = weights[index].streamed_bytes + weights[index - 1].streamed_bytes
            double = maximum(double, own)
        fullest = maximum(fullest, double + _workspace(scenario, load, policy, phase))
    return fullest


def _workspace(scenario: Scenario, load: Load, policy: Policy, phase: PhaseTensors) -> Number:
    """Bytes that the kernels of one GPU batch hold at their fullest moment in a prefill or a decode step."""
    rows = policy.gpu_batch * load.prompt_len
    hidden = 2.0 * rows * scenario.model.hidden_size
    unpacked = where(policy.compress_weights, phase.matrix_elements, 0.0)
    if phase.kind == "embed" or phase.group is None:
        logits = 2.0 * rows * scenario.model.vocab_size if phase.kind == "head" else hidden
        return hidden + logits + 2.0 * unpacked
    waiting = where(policy.num_gpu_batches > 1, hidden + _new_cache(phase.group, policy, rows), 0.0)
    if phase.kind == "mlp":
        # Two matrices are unpacked at once, the second with its packed bytes as a temporary.
        return waiting + 2.0 * hidden + 2.0 * rows * _inner_width(phase.group) + 3.0 * unpacked
    prefill = waiting + _prefill_attention(scenario, load, policy, phase.group)
    return maximum(prefill, _decode_attention(load, policy, phase.group)) + 2.0 * unpacked


def _inner_width(group: LayerGroup) -> float:
    mlp = group.mlp
    return (2.0 if mlp.gated else 1.0) * (mlp.routed_width or mlp.ffn_size)


def _prefill_attention(scenario: Scenario, load: Load, policy: Policy, group: LayerGroup) -> Number:
    """Input, normalised input, q, k, v, and two copies of the scores."""
    rows = policy.gpu_batch * load.prompt_len
    attention = group.attention
    queries = attention.num_heads * attention.head_dim
    wide = 2.0 * scenario.model.hidden_size + queries + kv_elements_per_token(attention)
    scores = rows * load.prompt_len * attention.num_heads
    return 2.0 * rows * wide + 4.0 * scores


def _decode_attention(load: Load, policy: Policy, group: LayerGroup) -> Number:
    """Cache of two GPU batches on its way through the GPU, unpacked where compressed, and keys in another order."""
    elements = policy.gpu_batch * load.context_len * kv_elements_per_token(group.attention)
    on_gpu = policy.kv_cache.gpu
    through = where(policy.cpu_attention, 0.0, 2.0 * elements * policy.kv_bytes * (1.0 - on_gpu))
    unpacked = where(policy.compress_cache, 2.0 * elements, 0.0)
    used = where(policy.cpu_attention, on_gpu, 1.0)
    return through + used * (unpacked + elements)


def _new_cache(group: LayerGroup, policy: Policy, rows: Number) -> Number:
    return rows * kv_elements_per_token(group.attention) * policy.kv_bytes


def _hidden_bytes(scenario: Scenario, load: Load, policy: Policy) -> Number:
    """Hidden states of one block's prompts; a pipeline has one block at a time in a stage."""
    return 2.0 * policy.gpu_batch * policy.num_gpu_batches * load.prompt_len * scenario.model.hidden_size


def _waiting_hidden_bytes(scenario: Scenario, load: Load, policy: Policy) -> Number:
    """Hidden states on the GPU of the GPU batches that wait; those of two are in the workspace."""
    waiting = maximum(policy.num_gpu_batches - 2, 0) / policy.num_gpu_batches
    return waiting * policy.hidden.gpu * _hidden_bytes(scenario, load, policy)


def _host_activations(scenario: Scenario, load: Load, policy: Policy, cache: TierShares) -> Number:
    """Hidden states, and the 32-bit workspace of attention on the CPU for one layer of one GPU batch."""
    widest = max(kv_elements_per_token(group.attention) for group in scenario.model.layer_groups)
    workspace = 4.0 * policy.gpu_batch * (load.context_len - 1) * widest * (1.0 - cache.gpu)
    hidden = _hidden_bytes(scenario, load, policy) * policy.hidden.cpu
    return hidden + where(policy.cpu_attention, workspace, 0.0)


def _host_buffers(policy: Policy, placed: PlacedWeights, constants: dict[str, float]) -> Number:
    """Buffers of the copy workers, and what page-locked blocks of powers of two take beyond the tensors in them."""
    rounding = placed.bytes_on("cpu_locked_bytes") - placed.bytes_on("cpu_bytes")
    workers = constants["copy_workers"] * constants["copy_buffer_gib"] * _GIB
    return workers + where(policy.pin_weights, rounding, 0.0)
