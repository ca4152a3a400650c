"""DeepSpeed ZeRO-Inference: ZeRO stage 3 whose weights may live in CPU memory or on NVMe and stream in every pass.

With N ranks each reads 1/N of the weights over its own link and the ranks gather the rest from one another. Sources:
DeepSpeed ZeRO-Inference (arXiv 2206.01861 for its quantisation, arXiv 2104.07857 for ZeRO-Infinity's streaming) and
the DeepSpeedExamples script whose settings of bucket, live parameters and buffers are the constants here. The pieces:
`times` (streams and passes), `memory` (what a GPU holds of the weights).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import Shares
from llm_perf.counts.arrays import maximum, where
from llm_perf.errors import SpecError
from llm_perf.systems.base import (
    ALL_ON_CPU,
    ALL_ON_GPU,
    NO_MEMORY,
    Evaluation,
    Load,
    MemoryParts,
    MemoryUse,
    Placement,
    System,
    TierShares,
)
from llm_perf.systems.footprint import (
    copied_cache_bytes,
    model_weight_bytes,
    prefill_activation_bytes,
    stage_kv_bytes,
)
from llm_perf.systems.forward import Forward, replica_batch
from llm_perf.systems.resident import notes
from llm_perf.systems.schedule import Schedule
from llm_perf.systems.zero_inference.memory import kept_param_bytes, live_param_bytes, nvme_buffer_bytes
from llm_perf.systems.zero_inference.times import StreamRates, ZeroPasses, stream_rates

_GIB = 2**30


class ZeroInference(System):
    """ZeRO-3 inference with the weights on GPU, CPU or NVMe."""

    name = "zero_inference"
    options = frozenset({"prefetch"})

    def check(self, scenario: Scenario) -> None:
        """Refuse what ZeRO-Inference does not do.

        Raises:
            SpecError: with what would work.
        """
        p = scenario.parallelism
        if p.tp_size > 1 or p.pp_size > 1 or p.ep_size > 1:
            raise SpecError(
                "system zero_inference shards weights over data-parallel ranks: leave tp_size, pp_size and ep_size at 1 "
                "and set dp_size or --num-gpus"
            )
        for shares in (scenario.offload.weights, scenario.offload.kv_cache, scenario.offload.activations):
            if shares is not None and shares.nvme > 0 and scenario.host.disk is None:
                raise SpecError(f"host {scenario.host.name} has no disk to offload to")
        if scenario.offload.kv_cache is not None and scenario.offload.kv_cache.nvme > 0:
            raise SpecError(
                "system zero_inference keeps the KV cache on the GPU or in CPU memory, not on NVMe"
            )

    def smaller(self, inputs: Mapping[str, Any], scenario: Scenario) -> Iterator[dict[str, Any]]:
        """The cache to host memory, weights from there to the disk."""
        if not inputs["kv_offload"]:
            yield {"kv_offload": True}
        if inputs["cpu_offload"] and scenario.host.disk is not None:
            yield {"cpu_offload": False, "disk_offload": True}

    def knobs(self, lossless: bool) -> Iterator[dict[str, Any]]:
        """Bits and tier of the weights, page-locked memory, place and waiting of the cache."""
        for bits in (16,) if lossless else (16, 8, 4):
            for tier in ("gpu", "cpu", "nvme"):
                for pinned in (True,) if tier == "gpu" else (True, False):
                    for kv, blocking in ((False, True), (True, True), (True, False)):
                        yield {
                            "quant_bits": bits,
                            "cpu_offload": tier == "cpu",
                            "disk_offload": tier == "nvme",
                            "pin_memory": pinned,
                            "kv_offload": kv,
                            "async_kv_offload": not blocking,
                        }

    def describe_policy(self, flags: Mapping[str, Any]) -> str:
        """Batch, tier and width of the weights, place of the cache."""
        tier = "host" if flags["cpu_offload"] else "NVMe" if flags["disk_offload"] else "GPU"
        words = [f"batch {flags['batch_size']}", f"weights on {tier} {flags['quant_bits']} bit"]
        words.append(f"cache on {'host' if flags['kv_offload'] else 'GPU'}")
        return ", ".join([*words, *([] if flags["pin_memory"] else ["pageable"])])

    def place(self, scenario: Scenario, load: Load) -> Placement:
        """Weights where the scenario says; else on the GPU if all fits, else on the CPU if it has the memory, else NVMe."""
        return self._place(scenario, load, self.constants(scenario))

    def _place(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> Placement:
        kv = _shares(scenario.offload.kv_cache) or ALL_ON_GPU
        activations = _shares(scenario.offload.activations) or ALL_ON_GPU
        given = _shares(scenario.offload.weights)
        if given is not None:
            return Placement(given, kv, activations, "as asked for")

        def use(weights: TierShares) -> MemoryUse:
            return self._memory(scenario, load, Placement(weights, kv, activations), constants)

        fits_gpu = use(ALL_ON_GPU).gpu.fits
        fits_cpu = use(ALL_ON_CPU).cpu.fits
        if scenario.host.disk is None:
            fits_cpu = fits_cpu | True
        gpu = where(fits_gpu, 1.0, 0.0)
        cpu = where(fits_gpu, 0.0, where(fits_cpu, 1.0, 0.0))
        weights = TierShares(gpu, cpu, 1.0 - gpu - cpu)
        return Placement(weights, kv, activations, _reason(scenario, weights))

    def memory(self, scenario: Scenario, load: Load, placement: Placement) -> MemoryUse:
        """Memory of the fullest GPU, of one host and of its disks."""
        return self._memory(scenario, load, placement, self.constants(scenario))

    def _memory(
        self, scenario: Scenario, load: Load, placement: Placement, constants: dict[str, float]
    ) -> MemoryUse:
        weights = model_weight_bytes(scenario)
        ranks, nodes = scenario.parallelism.dp_size, scenario.num_nodes
        batch = replica_batch(scenario, load)
        kv = stage_kv_bytes(scenario, batch, load.context_len)
        kept = kept_param_bytes(scenario)
        streamed = placement.weights.cpu + placement.weights.nvme > 0
        gathers = streamed | (ranks > 1)
        gpu = MemoryParts(
            weights_bytes=where(gathers, kept + (weights - kept) * placement.weights.gpu / ranks, weights),
            kv_cache_bytes=kv * placement.kv_cache.gpu,
            activations_bytes=maximum(
                prefill_activation_bytes(scenario, batch, load.prompt_len, constants),
                copied_cache_bytes(scenario, kv, constants) * placement.kv_cache.gpu,
            ),
            buffers_bytes=where(gathers, live_param_bytes(scenario, constants), 0.0),
            reserved_bytes=constants["process_reserve_gib"] * _GIB,
            capacity_bytes=scenario.gpu.usable_memory_bytes,
        )
        staging = (
            constants["nvme_buffer_count"] * nvme_buffer_bytes(scenario, constants) * scenario.gpus_per_node
        )
        cpu = MemoryParts(
            weights_bytes=weights * placement.weights.cpu / nodes,
            kv_cache_bytes=kv * placement.kv_cache.cpu * scenario.gpus_per_node,
            activations_bytes=0.0,
            buffers_bytes=where(placement.weights.nvme > 0, staging, 0.0),
            reserved_bytes=constants["host_reserve_gib"] * _GIB * scenario.gpus_per_node,
            capacity_bytes=scenario.host.usable_memory_bytes,
        )
        disk = scenario.host.disk
        if disk is None:
            return MemoryUse(gpu, cpu, NO_MEMORY)
        on_disk = weights * placement.weights.nvme / nodes
        return MemoryUse(gpu, cpu, MemoryParts(on_disk, 0.0, 0.0, 0.0, 0.0, disk.capacity_bytes))

    def evaluate(self, scenario: Scenario, load: Load) -> Evaluation:
        """Placement, memory and both phases."""
        constants = self.constants(scenario)
        forward = Forward(scenario, constants)
        placement = self._place(scenario, load, constants)
        memory = self._memory(scenario, load, placement, constants)
        rates = stream_rates(scenario, constants)
        batch = replica_batch(scenario, load)
        shared = (scenario, constants, forward, placement, rates, batch)
        prefill = ZeroPasses(*shared, batch * load.prompt_len).prefill(load.prompt_len)
        decode = None if scenario.model.encoder else ZeroPasses(*shared, batch).decode(load)
        said = (*notes(scenario), *_unmeasured(scenario, rates, placement))
        return Evaluation(placement, memory, prefill, decode, said)

    def schedules(self, scenario: Scenario, load: Load) -> tuple[Schedule, Schedule]:
        """The schedules of the prefill and of the first decode step, as a trace shows them."""
        constants = self.constants(scenario)
        placement = self._place(scenario, load, constants)
        rates = stream_rates(scenario, constants)
        batch = replica_batch(scenario, load)
        forward = Forward(scenario, constants)
        shared = (scenario, constants, forward, placement, rates, batch)
        prefill, _ = ZeroPasses(*shared, batch * load.prompt_len).schedules(load)
        return prefill, ZeroPasses(*shared, batch).schedules(load)[1]


def _unmeasured(scenario: Scenario, rates: StreamRates, placement: Placement) -> tuple[str, ...]:
    """What stands in for rates that were not measured on this host; for a single configuration."""
    weights, host = placement.weights, scenario.host.name
    if hasattr(weights.gpu, "shape"):
        return ()
    found = []
    if weights.gpu < 1 and not rates.host_to_gpu.measured:
        found.append(f"no copy rate was measured on host {host}: taken as {rates.host_to_gpu.source}")
    if weights.nvme > 0 and rates.disk is not None and not rates.disk.measured:
        found.append(f"no disk rate was measured on host {host}: taken as the {rates.disk.source}")
    return tuple(found)


def _shares(given: Shares | None) -> TierShares | None:
    return None if given is None else TierShares(given.gpu, given.cpu, given.nvme)


def _reason(scenario: Scenario, weights: TierShares) -> str:
    """Why the weights went where they are; only for a single configuration."""
    if hasattr(weights.gpu, "shape"):
        return "chosen per configuration: GPU if all fits, else CPU if it has the memory, else NVMe"
    host = scenario.host.memory_gib
    ranks = scenario.parallelism.dp_size
    size = f"{model_weight_bytes(scenario) / _GIB:,.1f} GiB of weights"
    gpus = ("the GPU's" if ranks == 1 else f"{ranks} GPUs'") + f" {scenario.gpu.memory_gib * ranks:,.0f} GiB"
    if weights.gpu == 1:
        return f"{size} fit {gpus} beside cache and activations, so they stay on the GPU"
    if weights.nvme == 1:
        return f"{size} fit neither {gpus} nor the host's {host:,.0f} GiB, so they stream from NVMe"
    rest = "the host has no disk" if scenario.host.disk is None else f"the host's {host:,.0f} GiB hold them"
    return f"{size} do not fit {gpus} with cache and activations; {rest}"
