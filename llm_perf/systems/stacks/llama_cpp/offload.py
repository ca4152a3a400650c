"""llama.cpp with layers or experts in host memory: which are where, what that needs, and the pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_perf.config.base import GIB
from llm_perf.config.named_hosts import one_memory
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, minimum
from llm_perf.counts.linears import layer_linears
from llm_perf.errors import SpecError
from llm_perf.hardware.transfer import host_link_bytes_per_s
from llm_perf.systems.base import (
    NO_MEMORY,
    Load,
    MemoryParts,
    MemoryUse,
    Placement,
    TierShares,
)
from llm_perf.systems.footprint import (
    head_bytes,
    layer_weight_bytes,
    layers_weight_bytes,
    model_weight_bytes,
    stage_kv_bytes,
)
from llm_perf.systems.forward import replica_batch
from llm_perf.systems.hybrid import (
    Division,
    HybridForward,
    Part,
    expert_layer_bytes,
    has_experts,
    layers_between,
    layers_on_gpu_bytes,
    missing_share,
)


def check(scenario: Scenario) -> None:
    """Refuse settings that mean nothing for the model or the machine.

    Raises:
        SpecError: experts of a dense model, or layers on a GPU that is not there.
    """
    asked = scenario.offload
    if asked.n_cpu_moe and not any(has_experts(group) for group in scenario.model.layer_groups):
        raise SpecError(
            f"--n-cpu-moe is about experts, and {scenario.model.name} is dense: give --n-gpu-layers"
        )
    if scenario.gpu.absent and asked.n_gpu_layers:
        raise SpecError(f"--n-gpu-layers {asked.n_gpu_layers} needs a GPU, and --gpu none is none")
    if scenario.gpu.absent and scenario.parallelism.num_gpus > 1:
        raise SpecError(
            "--gpu none is no GPU at all: leave the sizes of tensor, pipeline and data parallelism out"
        )


def division_of(scenario: Scenario, constants: dict[str, float]) -> Division:
    """Which layers are on the GPU: the last ``n_gpu_layers``, of which the head is one.

    Since late 2025 the head counts as the first of them (llama-model.cpp: layers from n_layer + 1 - n_gpu_layers on),
    before as the last. The experts of the first ``n_cpu_moe`` layers stay in host memory.
    """
    model, asked = scenario.model, scenario.offload
    layers = model.num_layers
    wanted = (0 if scenario.gpu.absent else layers + 1) if asked.n_gpu_layers is None else asked.n_gpu_layers
    wanted = min(wanted, layers + 1)
    head = wanted > 0 if constants["output_layer_first"] else wanted > layers
    start = layers - min(max(wanted - 1, 0) if constants["output_layer_first"] else wanted, layers)
    on_gpu = layers_between(model, start, layers)
    with_experts = layers_between(model, max(start, asked.n_cpu_moe or 0), layers)
    parts = tuple(
        Part(group.count, here, min(experts, here) if has_experts(group) else here)
        for group, here, experts in zip(model.layer_groups, on_gpu, with_experts, strict=True)
    )
    cache = asked.kv_cache
    return Division(parts, head, cache_on_gpu=cache is None or cache.gpu > 0)


def of_one_gpu(scenario: Scenario) -> Scenario:
    """The scenario with everything on one GPU of one machine."""
    if scenario.parallelism.pp_size == 1:
        return scenario
    return scenario.replace(parallelism=scenario.parallelism.replace(pp_size=1), num_nodes=1)


# -- memory -------------------------------------------------------------------------------------------------------


def gpu_weight_bytes(scenario: Scenario, division: Division) -> float:
    """Bytes of weights on all GPUs together."""
    head = head_bytes(scenario) if division.head_on_gpu else 0.0
    if division.head_on_gpu and scenario.model.tied_embeddings:
        head = max(head, _table_bytes(scenario))
    return layers_on_gpu_bytes(scenario, division) + head


def _table_bytes(scenario: Scenario) -> float:
    return model_weight_bytes(scenario) - layers_weight_bytes(scenario) - head_bytes(scenario)


def host_weight_bytes(scenario: Scenario, division: Division) -> float:
    """Bytes of weights in host memory: the token table, and all that is not on a GPU; every byte is in one place."""
    return max(model_weight_bytes(scenario) - gpu_weight_bytes(scenario, division), 0.0)


@dataclass(frozen=True, slots=True)
class Dealt:
    """What one of several GPUs holds: successive layers, and the bytes of their weights there, the head's on the last."""

    layers: int
    weight_bytes: float


def layers_per_gpu(scenario: Scenario, division: Division, gpus: int) -> tuple[Dealt, ...]:
    """The layers on GPUs dealt out in their order, so that the fullest GPU holds as little as can be.

    llama.cpp deals them out by number unless ``--tensor-split`` says otherwise, as the start command does: layers whose
    experts are in host memory are a small part of the others. ``scenario`` has one pipeline stage.
    """
    layers = _layer_bytes(scenario, division)
    head = gpu_weight_bytes(scenario, division) - sum(layers)
    if not layers:
        return (*(Dealt(0, 0.0),) * (gpus - 1), Dealt(0, head))
    layers[-1] += head
    low, high = max(sum(layers) / gpus, *layers), sum(layers)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_filled(layers, middle)) <= gpus else (middle, high)
    found = _filled(layers, high)
    return (*found, *(Dealt(0, 0.0),) * (gpus - len(found)))


_HALVINGS = 30
"""Steps towards the smallest size that all GPUs can be held to, to a billionth of the whole."""


def _filled(layers: Sequence[float], most_bytes: float) -> list[Dealt]:
    """Layers dealt out to as few GPUs as hold so many bytes each."""
    found, count, held = [], 0, 0.0
    for size in layers:
        if count and held + size > most_bytes:
            found.append(Dealt(count, held))
            count, held = 0, 0.0
        count, held = count + 1, held + size
    return [*found, Dealt(count, held)]


def _layer_bytes(scenario: Scenario, division: Division) -> list[float]:
    """Bytes on GPUs of each layer that is there, first layer first; groups that alternate have their mean."""
    found: list[float] = []
    sizes = zip(division.parts, layer_weight_bytes(scenario), expert_layer_bytes(scenario), strict=True)
    for part, layer, experts in sizes:
        bare = layer - experts * (1.0 - division.held)
        found += [bare] * (part.on_gpu - part.experts_on_gpu) + [layer] * part.experts_on_gpu
    groups = scenario.model.layer_groups
    if all(group.mlp == groups[0].mlp for group in groups):
        with_experts = sum(part.experts_on_gpu for part in division.parts)
        bare_layers = len(found) - with_experts
        found.sort()
        ends = found[:bare_layers], found[bare_layers:]
        found = [sum(end) / len(end) for end in ends for _ in end]
    return found


def cache_on_gpu_share(scenario: Scenario, division: Division) -> float:
    """Share of the layers whose keys and values are on the GPU."""
    if not division.cache_on_gpu:
        return 0.0
    return sum(part.on_gpu for part in division.parts) / scenario.model.num_layers


def memory_use(scenario: Scenario, load: Load, division: Division, constants: dict[str, float]) -> MemoryUse:
    """Memory of the fullest GPU, of the host, and bytes that stay in the file since the host has no room for them."""
    from llm_perf.systems.stacks.llama_cpp import compute_buffer_bytes

    batch, stages = replica_batch(scenario, load), scenario.parallelism.pp_size
    one_stage = of_one_gpu(scenario)
    cache = stage_kv_bytes(one_stage, batch, load.context_len, int(constants["ubatch_tokens"]))
    share = cache_on_gpu_share(scenario, division)
    gpu = NO_MEMORY
    if not scenario.gpu.absent:
        copied = _largest_tensor_bytes(scenario) if constants["copy_min_tokens"] > 0 else 0.0
        dealt = layers_per_gpu(one_stage, division, stages)
        fullest = max(range(stages), key=lambda index: dealt[index].weight_bytes)
        held = sum(part.layers for part in dealt)
        gpu = MemoryParts(
            weights_bytes=dealt[fullest].weight_bytes,
            kv_cache_bytes=cache * share * (dealt[fullest].layers / held if held else 0.0),
            activations_bytes=compute_buffer_bytes(scenario, batch, load.context_len, constants),
            buffers_bytes=copied,
            reserved_bytes=constants["process_reserve_gib"] * GIB,
            capacity_bytes=scenario.gpu.usable_memory_bytes,
        )
    capacity: Number = scenario.host.usable_memory_bytes
    if one_memory(scenario.gpu, scenario.host):
        capacity = maximum(capacity - gpu.total_bytes, 0.0)
    weights = host_weight_bytes(one_stage, division)
    reserve = constants["host_reserve_gib"] * GIB
    room = maximum(capacity - reserve - cache * (1 - share), 0.0)
    kept = minimum(weights, room) if scenario.host.disk is not None else weights
    cpu = MemoryParts(
        weights_bytes=kept,
        kv_cache_bytes=cache * (1 - share),
        activations_bytes=0.0,
        buffers_bytes=0.0,
        reserved_bytes=reserve,
        capacity_bytes=capacity,
    )
    disk = scenario.host.disk
    file = MemoryParts(weights - kept, 0.0, 0.0, 0.0, 0.0, 0.0 if disk is None else disk.capacity_bytes)
    return MemoryUse(gpu, cpu, file)


def _largest_tensor_bytes(scenario: Scenario) -> float:
    """What a GPU needs to hold of weights that are copied for one product: all experts of a matrix are one tensor."""
    model, formats = scenario.model, scenario.dtype.formats
    found = 0.0
    for index, group in enumerate(model.layer_groups):
        for position, linear in enumerate(layer_linears(group, model.hidden_size)):
            bits = (
                scenario.dtype.stored_weight_bits if formats is None else formats.layers[index][position].bits
            )
            found = max(found, linear.copies * linear.weights * bits / 8)
    return found


def placement(scenario: Scenario, load: Load, division: Division, constants: dict[str, float]) -> Placement:
    """Shares of weights and cache, and why."""
    used = memory_use(scenario, load, division, constants)
    whole = model_weight_bytes(scenario)
    gpu = gpu_weight_bytes(scenario, division) / whole
    nvme = used.nvme.weights_bytes / whole
    share = cache_on_gpu_share(scenario, division)
    return Placement(
        TierShares(gpu, maximum(1.0 - gpu - nvme, 0.0), nvme),
        TierShares(share, 1.0 - share, 0.0),
        TierShares(0.0, 1.0, 0.0) if division.empty else TierShares(1.0, 0.0, 0.0),
        _reason(scenario, division),
    )


def _reason(scenario: Scenario, division: Division) -> str:
    layers = scenario.model.num_layers
    if scenario.gpu.absent:
        return "without a GPU all layers are computed on the CPU"
    here = sum(part.on_gpu for part in division.parts)
    away = sum(
        part.on_gpu - part.experts_on_gpu
        for part, group in zip(division.parts, scenario.model.layer_groups, strict=True)
        if has_experts(group)
    )
    experts = f", experts of {away} of these in host memory" if away else ""
    return f"{here} of {layers} layers on the GPU{experts}; the rest is computed on the CPU"


# -- time ---------------------------------------------------------------------------------------------------------


def forward_of(
    scenario: Scenario, constants: dict[str, float], division: Division, used: MemoryUse
) -> HybridForward:
    """The pass over the divided model."""
    needed = host_weight_bytes(scenario, division)
    missing = used.nvme.weights_bytes
    share = missing / needed if needed and (is_array(missing) or missing > 0) else 0.0
    return HybridForward(
        scenario, constants, replace(division, file_share=share), link_bytes_per_s(scenario, constants)
    )


def link_bytes_per_s(scenario: Scenario, constants: dict[str, float]) -> float:
    """Bytes per second that copies of weights to the GPU reach; no limit where both have one memory."""
    if scenario.gpu.absent or one_memory(scenario.gpu, scenario.host):
        return float("inf")
    return host_link_bytes_per_s(scenario.gpu, scenario.host) * constants["host_copy_link_share"]


def notes(scenario: Scenario, division: Division, used: MemoryUse) -> tuple[str, ...]:
    """What a reader should know."""
    missing = used.nvme.weights_bytes
    if is_array(missing) or missing <= 0:
        return ()
    share = missing_share(host_weight_bytes(scenario, division), used.cpu.weights_bytes)
    return (
        f"{missing / GIB:.1f} GiB of the file do not fit in host memory: {share:.0%} of what a pass needs of it is read "
        "from the disk each time (memory map)",
    )


__all__ = [
    "check", "division_of", "expert_layer_bytes", "forward_of", "layers_per_gpu", "memory_use", "notes", "placement",
]  # fmt: skip
