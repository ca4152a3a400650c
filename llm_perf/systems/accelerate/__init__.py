"""Accelerate's device_map: modules that do not stay on a GPU are copied there one at a time, with nothing ahead.

The copies read pageable memory, so that the driver moves them and the host waits: copies, products and hooks add up.
On disk, weights are memory-mapped: pages are read first, then copied. Source: huggingface/accelerate, hooks.py
(AlignDevicesHook) and big_modeling.py; the token table and the head stay on the GPU, as the published runs had it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, any_of, maximum, minimum
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import layer_matrices, layer_vectors
from llm_perf.errors import SpecError
from llm_perf.hardware.streams import H2D
from llm_perf.hardware.transfer import Path, copy_path, disk_read_path
from llm_perf.systems.base import (
    ALL_ON_GPU,
    Evaluation,
    Load,
    MemoryParts,
    MemoryUse,
    PhaseCost,
    Placement,
    System,
    TierShares,
)
from llm_perf.systems.constants import machine_of
from llm_perf.systems.footprint import embedding_bytes, head_bytes, layer_weight_bytes, layers_weight_bytes
from llm_perf.systems.forward import Forward, decode_steps, replica_batch
from llm_perf.systems.hybrid import touched_share, unused_bytes
from llm_perf.systems.resident import decode_phase, gpu_memory, notes, prefill_phase
from llm_perf.systems.stacks.transformers import with_int8_products
from llm_perf.systems.terms import Factor, Term, Terms, copies, joined, no_terms, scaled, waited

_GIB = 2**30


class Accelerate(System):
    """Whole modules on GPUs, CPU or disk; those that are not on a GPU come there for each pass."""

    name = "accelerate"
    streams_ends: ClassVar[bool] = False
    """Whether token table and head come and go as layers do, and layers as wholes."""

    def constants(self, scenario: Scenario) -> dict[str, float]:
        """The system's constants, overridden by the scenario's."""
        return with_int8_products(scenario, super().constants(scenario))

    def check(self, scenario: Scenario) -> None:
        """Refuse what device_map does not do.

        Raises:
            SpecError: with what would work.
        """
        p, offload = scenario.parallelism, scenario.offload
        if p.tp_size > 1 or p.dp_size > 1 or p.ep_size > 1:
            raise SpecError(
                f"system {self.name} puts successive layers on successive GPUs: set pp_size to the number of GPUs and "
                "leave tp_size, dp_size and ep_size at 1"
            )
        for what, shares in (("KV cache", offload.kv_cache), ("activations", offload.activations)):
            if shares is not None and shares.gpu < 1:
                raise SpecError(f"system {self.name} keeps the {what} on the GPU; it offloads weights only")
        weights = offload.weights
        if weights is None or weights.gpu == 1:
            return
        if weights.nvme > 0 and scenario.host.disk is None:
            raise SpecError(f"host {scenario.host.name} has no disk to offload to")

    def place(self, scenario: Scenario, load: Load) -> Placement:
        """Weights where the scenario says; else the GPUs are filled first, then CPU memory, then the disk."""
        return self._place(scenario, load, self.constants(scenario))

    def _place(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> Placement:
        given = scenario.offload.weights
        if given is not None:
            return Placement(
                TierShares(given.gpu, given.cpu, given.nvme), ALL_ON_GPU, ALL_ON_GPU, "as asked for"
            )
        shares = _filled(scenario, load, constants)
        return Placement(
            shares, ALL_ON_GPU, ALL_ON_GPU, "filled in order: GPU beside cache and activations, CPU, disk"
        )

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:
        """Memory of the fullest GPU, of the host and of its disk."""
        return memory_use(scenario, load, placement, self.constants(scenario), self.streams_ends)

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases: a resident pass, and the copies of what does not stay, added."""
        constants = self.constants(scenario)
        placement = self._place(scenario, load, constants)
        forward = Forward(scenario, constants)
        batch = replica_batch(scenario, load)
        ends = ends_bytes(scenario) if self.streams_ends else 0.0
        stream = module_stream(scenario, placement, constants, batch * load.prompt_len, ends)
        prefill = _with_stream(prefill_phase(forward, batch, load.prompt_len), 1.0, stream)
        decode = None
        if not scenario.model.encoder:
            each = module_stream(scenario, placement, constants, batch, ends)
            decode = _with_stream(decode_phase(forward, batch, load), decode_steps(load), each)
        memory = memory_use(scenario, load, placement, constants, self.streams_ends)
        return Evaluation(placement, memory, prefill, decode, notes(scenario))


@dataclass(frozen=True, slots=True)
class ModuleStream:
    """Seconds of one pass over the modules that are not on a GPU."""

    copy_s: Number
    disk_s: Number
    hooks_s: Number

    terms: Terms = no_terms

    @property
    def total_s(self) -> Number:
        """Nothing overlaps."""
        return self.copy_s + self.disk_s + self.hooks_s


def module_copies(scenario: Scenario, constants: dict[str, float]) -> Path:
    """The driver's own copy out of pageable memory."""
    source = "the driver's pageable copies on one machine, +-4 %"
    return copy_path(
        H2D,
        scenario.gpu,
        machine_of(scenario),
        Accelerate.name,
        "mmap_h2d",
        constants["driver_link_ratio"],
        source,
        constants["copy_latency_us"] * 1e-6,
    )


def ends_bytes(scenario: Scenario) -> float:
    """Bytes of the token table and the head."""
    return embedding_bytes(scenario) + head_bytes(scenario)


def module_stream(
    scenario: Scenario, placement: Placement, constants: dict[str, float], tokens: Number, ends: float = 0.0
) -> ModuleStream:
    """Copies, disk reads and hooks of one pass; all layers once, of a mixture the experts that so many tokens use.

    ``ends`` are bytes of the token table and the head, where these come and go as layers do.
    """
    everything = bool(constants["fetches_all_experts"])
    unused = 0.0 if everything else unused_bytes(scenario, tokens)
    weights, tiers = layers_weight_bytes(scenario) - unused + ends, placement.weights
    off = tiers.cpu + tiers.nvme
    if not any_of(off > 0):
        return ModuleStream(0.0, 0.0, 0.0)
    model = scenario.model
    tensors: Number = 0.0
    for group in model.layer_groups:
        experts = 1.0 if everything else touched_share(group, tokens)
        tensors = tensors + group.count * (
            layer_matrices(model, group, experts) + layer_vectors(model, group)
        )
    path = module_copies(scenario, constants)
    copy_s = path.seconds(weights * off, tensors * off)
    disk: Number = 0.0 * off
    if scenario.host.disk is not None:
        disk = weights * tiers.nvme / disk_read_path(scenario.host, "mmap").bytes_per_s
    hooks = scenario.model.num_layers * off * constants["hook_ms_per_layer"] * 1e-3

    def terms() -> Iterator[Term]:
        moved = (Factor("layers' weight bytes", weights), Factor("share off the GPU", off))
        copied = copies("host-to-GPU copies per pass", path, moved, weights * off, tensors * off)
        yield waited("weight_streaming", copied, copy_s)
        if disk > 0:
            yield Term("weight_streaming", "NVMe reads", (Factor("seconds of one pass", disk),))
        factors = (
            Factor("layers", model.num_layers),
            Factor("share off the GPU", off),
            Factor("hooks of one layer", constants["hook_ms_per_layer"] * 1e-3),
        )
        yield Term("weight_streaming", "module hooks", factors)

    return ModuleStream(copy_s, disk, hooks, terms)


def _with_stream(phase: PhaseCost, passes: Number, stream: ModuleStream) -> PhaseCost:
    exposed = passes * stream.total_s
    busy = {
        **phase.busy_s,
        "pcie": passes * stream.copy_s,
        "nvme": passes * stream.disk_s,
        "host": phase.busy_s["host"] + passes * stream.hooks_s,
    }
    parts = {**phase.parts_s, "weight_streaming": exposed}
    terms = joined(phase.terms, scaled(stream.terms, "passes", passes))
    return PhaseCost(phase.latency_s + exposed, parts, busy, terms=terms)


# -- placement and memory -----------------------------------------------------------------------------------


def largest_module_bytes(scenario: Scenario) -> float:
    """Bytes of the largest matrix of a layer: what a GPU needs to hold of the modules that pass through it."""
    matrices = [
        linear.weights
        for group in scenario.model.layer_groups
        for linear in layer_linears(group, scenario.model.hidden_size)
    ]
    return max(matrices) * scenario.dtype.stored_weight_bits / 8


def memory_use(
    scenario: Scenario, load: Load, placement: Placement, constants: dict[str, float], whole: bool = False
) -> MemoryUse:
    """Memory of the fullest GPU, of the host (memory-mapped pages are the system's cache) and of its disk.

    ``whole``: layers pass as they are, and so do the token table and the head; else matrix by matrix, and the ends stay.
    """
    resident = gpu_memory(scenario, load, constants)
    layers, tiers = layers_weight_bytes(scenario), placement.weights
    off = tiers.cpu + tiers.nvme
    away = layers * off / scenario.parallelism.pp_size
    passing = minimum(away, largest_module_bytes(scenario))
    if whole:
        layers += ends_bytes(scenario)
        away = layers * off
        ends = embedding_bytes(scenario), head_bytes(scenario)
        passing = minimum(away, max(*layer_weight_bytes(scenario), *ends))
    gpu = MemoryParts(
        weights_bytes=maximum(resident.weights_bytes - away, 0.0),
        kv_cache_bytes=resident.kv_cache_bytes,
        activations_bytes=resident.activations_bytes,
        buffers_bytes=resident.buffers_bytes + passing,
        reserved_bytes=resident.reserved_bytes,
        capacity_bytes=resident.capacity_bytes,
    )
    reserve = constants["host_reserve_gib"] * _GIB
    host, disk = scenario.host, scenario.host.disk
    cpu = MemoryParts(layers * tiers.cpu, 0.0, 0.0, 0.0, reserve, host.usable_memory_bytes)
    room = 0.0 if disk is None else disk.capacity_bytes
    return MemoryUse(gpu, cpu, MemoryParts(layers * tiers.nvme, 0.0, 0.0, 0.0, 0.0, room))


def _filled(scenario: Scenario, load: Load, constants: dict[str, float]) -> TierShares:
    """Shares of the layers' weights when each tier is filled before the next is used."""
    resident = gpu_memory(scenario, load, constants)
    missing = resident.shortfall_bytes * scenario.parallelism.pp_size
    if not any_of(missing > 0):
        return TierShares(1.0 + 0.0 * missing, 0.0 * missing, 0.0 * missing)
    layers = layers_weight_bytes(scenario)
    # Whatever leaves needs room to pass through again.
    passing = largest_module_bytes(scenario) * scenario.parallelism.pp_size
    away = minimum((missing + passing * (missing > 0)) / layers, 1.0)
    room = scenario.host.usable_memory_bytes - constants["host_reserve_gib"] * _GIB
    cpu = away if scenario.host.disk is None else minimum(away, maximum(room, 0.0) / layers)
    return TierShares(1.0 - away, cpu, away - cpu)
