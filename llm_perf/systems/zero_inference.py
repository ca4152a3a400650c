"""DeepSpeed ZeRO-Inference: ZeRO stage 3 whose weights may live in CPU memory or on NVMe and stream in every pass.

With N ranks each reads 1/N of the weights over its own link and the ranks gather the rest from one another. Sources:
DeepSpeed ZeRO-Inference (arXiv 2206.01861 for its quantisation, arXiv 2104.07857 for ZeRO-Infinity's streaming) and
the DeepSpeedExamples script whose settings of bucket, live parameters and buffers are the constants here.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import Shares
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import layer_vector_params, token_table_params
from llm_perf.counts.quadrature import context_nodes
from llm_perf.errors import SpecError
from llm_perf.hardware.collective import fabric
from llm_perf.hardware.transfer import PathRate, copy_rate, cpu_attention_rate, disk_read_rate
from llm_perf.systems.base import (
    ALL_ON_CPU,
    ALL_ON_GPU,
    NO_MEMORY,
    Evaluation,
    Load,
    MemoryParts,
    MemoryUse,
    PhaseCost,
    Placement,
    TierShares,
)
from llm_perf.systems.constants import WithConstants
from llm_perf.systems.footprint import model_weight_bytes, prefill_activation_bytes, stage_kv_bytes
from llm_perf.systems.forward import Costs, Forward, decode_steps, replica_batch
from llm_perf.systems.resident import add_attention_busy, notes

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class StreamRates:
    """Rates of one machine as this system drives it. ``disk`` is None where the host has none."""

    host_to_gpu: PathRate
    gpu_to_host: PathRate
    disk: PathRate | None
    cpu_attention: PathRate | None
    layer_overhead_s: float
    layer_overhead_source: str


class ZeroInference(WithConstants):
    """ZeRO-3 inference with the weights on GPU, CPU or NVMe."""

    name = "zero_inference"

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
            activations_bytes=prefill_activation_bytes(scenario, batch, load.prompt_len, constants),
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
        run = _Run(scenario, constants, forward, placement, rates, replica_batch(scenario, load))
        decode = None if scenario.model.encoder else run.decode(load)
        said = (*notes(scenario), *_unmeasured(scenario, rates, placement))
        return Evaluation(placement, memory, run.prefill(load.prompt_len), decode, said)


class _Run:
    """Times of one scenario at one placement."""

    def __init__(
        self,
        scenario: Scenario,
        constants: dict[str, float],
        forward: Forward,
        placement: Placement,
        rates: StreamRates,
        batch: Number,
    ) -> None:
        self.scenario, self.constants, self.forward = scenario, constants, forward
        self.placement, self.rates, self.batch = placement, rates, batch
        weights = model_weight_bytes(scenario) - kept_param_bytes(scenario)
        ranks = scenario.parallelism.dp_size
        tiers = placement.weights
        self.sharers = link_sharers(scenario)
        share = weights * (tiers.cpu + tiers.nvme) / ranks
        self.copy_s = share * self.sharers / rates.host_to_gpu.bytes_per_s
        gather = fabric(scenario.gpu, ranks, scenario.gpus_per_node, scenario.host)
        self.gather_s = gather.all_gather_s(weights) if ranks > 1 else 0.0
        self.disk_s = disk_s(weights * tiers.nvme / scenario.num_nodes, rates)
        per_pass_s = constants["pass_overhead_ms"] * 1e-3
        self.overhead_s = scenario.model.num_layers * rates.layer_overhead_s + per_pass_s

    @property
    def stream_s(self) -> Number:
        """Seconds of one pass over all weights: copies, gathers, module hooks, disk reads.

        Gathers hide behind the copies where the GPUs have links of their own; over PCIe both take the same link.
        Reads are prefetched one bucket ahead, less than a layer, so that only a share of them hides.
        """
        own_links = self.scenario.gpu.link.gb_per_s_per_direction is not None
        moved = maximum(self.copy_s, self.gather_s) if own_links else self.copy_s + self.gather_s
        fetch = moved + self.overhead_s
        prefetch = self.scenario.offload.prefetch
        hidden = 0.0 if prefetch is False else self.constants["nvme_prefetch_share"]
        return fetch + self.disk_s - hidden * minimum(fetch, self.disk_s)

    @property
    def overlap(self) -> float:
        """Share of the shorter of streaming and computing that hides."""
        return 0.0 if self.scenario.offload.overlap is False else self.constants["overlap_share"]

    def exposed_stream_s(self, device_s: Number) -> Number:
        """What streaming adds to a pass on the device: the next modules' weights come in while this one computes."""
        return self.stream_s - self.overlap * minimum(self.stream_s, device_s)

    def prefill(self, prompt_len: Number) -> PhaseCost:
        costs = self.forward.prefill(self.batch, prompt_len)
        device = costs.total_s
        streaming = self.exposed_stream_s(device)
        store = self._kv_bytes(prompt_len) * self.sharers / self.rates.gpu_to_host.bytes_per_s
        # Copies to the host run beside those from it; only what computes can hide them, and only without waiting.
        hidden = self.overlap * minimum(store, device) if self.scenario.offload.async_kv_offload else 0.0
        parts = {**costs.parts_s, **self._streaming_parts(streaming), "kv_offload": store - hidden}
        return PhaseCost(device + streaming + store - hidden, parts, self._busy(costs, 1.0, store))

    def decode(self, load: Load) -> PhaseCost:
        constant, attention = self.forward.decode_step(self.batch)
        steps = decode_steps(load)
        base = constant.total_s
        # Attention over a cache in host memory runs there, unless the cache is copied to the GPU in every step.
        on_gpu = 1.0 if self.copies_cache else self.placement.kv_cache.gpu
        attended_s: Number = 0.0
        streaming: Number = 0.0
        cpu_s: Number = 0.0
        fetched_s: Number = 0.0
        # What hides grows with the context until computing takes longer than streaming.
        kinks = list(self.forward.windows)
        if on_gpu:
            kinks.append(self.forward.context_when(attention, (self.stream_s - base) / on_gpu))
        for context, weight in context_nodes(load.prompt_len + 1, steps, kinks):
            attention_s = self.forward.attention_s(attention, context) * on_gpu
            attended_s = attended_s + weight * attention_s
            fetch_s = self._cache_fetch_s(context)
            fetched_s = fetched_s + weight * fetch_s
            device_s = base + attention_s
            exposed_fetch_s = fetch_s - self._hidden(fetch_s, device_s)
            cpu_s = cpu_s + weight * (self._cpu_attention_s(context) + exposed_fetch_s)
            streaming = streaming + weight * self.exposed_stream_s(device_s)
        parts = {name: steps * seconds for name, seconds in constant.parts_s.items()}
        parts["attention"] = parts["attention"] + attended_s
        parts |= self._streaming_parts(streaming)
        parts["kv_offload"] = cpu_s
        busy = self._busy(constant, steps, fetched_s)
        add_attention_busy(busy, attention, attended_s)
        busy["cpu"] = 0.0 if self.copies_cache else cpu_s
        return PhaseCost(steps * base + attended_s + streaming + cpu_s, parts, busy)

    def _streaming_parts(self, exposed_s: Number) -> dict[str, Number]:
        """What streaming exposes, told apart: module hooks are framework time and stay where nothing moves."""
        hooks = self.overhead_s / where(self.stream_s > 0, self.stream_s, 1.0)
        return {"weight_streaming": exposed_s * (1.0 - hooks), "framework": exposed_s * hooks}

    @property
    def copies_cache(self) -> bool:
        """Attention runs on the GPU although the cache is in host memory: all of it is copied there in every step."""
        return self.scenario.offload.attention_device == "gpu"

    def _cache_fetch_s(self, context: Number) -> Number:
        """Copies of the cache to the GPU in one step."""
        if not self.copies_cache:
            return 0.0 * context
        return self._kv_bytes(context) * self.sharers / self.rates.host_to_gpu.bytes_per_s

    def _hidden(self, fetch_s: Number, device_s: Number) -> Number:
        """What computing hides of copying the cache beyond what it hides of the weights, which take the same link."""
        if not self.scenario.offload.async_kv_offload:
            return 0.0
        both = minimum(self.stream_s + fetch_s, device_s)
        return self.overlap * (both - minimum(self.stream_s, device_s))

    def _kv_bytes(self, tokens: Number) -> Number:
        """Cache bytes of ``tokens`` tokens per sequence that live in host memory."""
        return stage_kv_bytes(self.scenario, self.batch, tokens) * self.placement.kv_cache.cpu

    def _cpu_attention_s(self, context: Number) -> Number:
        """Attention over a cache in host memory runs on the CPU, after the weights of the step."""
        if self.rates.cpu_attention is None or self.copies_cache:
            return 0.0 * context
        ranks = self.scenario.gpus_per_node
        return self._kv_bytes(context) * ranks / self.rates.cpu_attention.bytes_per_s

    def _busy(self, costs: Costs, passes: Number, store_s: Number) -> dict[str, Number]:
        busy = {name: passes * seconds for name, seconds in costs.busy_s.items()}
        busy["pcie"] = passes * self.copy_s + store_s
        busy["nvme"] = passes * self.disk_s
        busy["interconnect"] = busy.get("interconnect", 0.0) + passes * self.gather_s
        busy["host"] = passes * self.overhead_s
        return busy


def link_sharers(scenario: Scenario) -> float:
    """GPUs that share one link to the host, where a deployment spreads over a node's links as far as they go.

    The blog's rows on 2 and 4 of a DGX-2's 16 GPUs show a link each, although pairs of GPUs share one.
    """
    host = scenario.host
    links = max(host.gpus_per_node // host.gpus_per_pcie_link, 1)
    return max(scenario.gpus_per_node / links, 1.0)


def disk_s(moved_bytes: Number, rates: StreamRates) -> Number:
    """Seconds of reading ``moved_bytes`` from disk; nothing to read needs no disk."""
    return 0.0 * moved_bytes if rates.disk is None else moved_bytes / rates.disk.bytes_per_s


def stream_rates(scenario: Scenario, constants: dict[str, float]) -> StreamRates:
    """The copy, disk and CPU rates of the scenario's machine under this system."""
    gpu, host, name = scenario.gpu, scenario.host, ZeroInference.name
    source = "usual for this system's copies; the range over measured machines is 0.6 to 0.86"
    if scenario.offload.pin_memory:
        h2d = copy_rate(gpu, host, name, "pinned_h2d", constants["pinned_link_ratio"], source)
    else:
        h2d = copy_rate(
            gpu, host, name, "pageable_h2d", constants["pageable_link_ratio"], "one machine, +-6 %"
        )
    pinned_kv = scenario.offload.pin_kv_cache
    d2h = copy_rate(
        gpu,
        host,
        name,
        "pinned_d2h" if pinned_kv else "pageable_d2h",
        constants["pinned_link_ratio" if pinned_kv else "pageable_link_ratio"],
        "taken as equal to the other direction",
    )
    disk = None if host.disk is None else disk_read_rate(host, "direct")
    kv_on_cpu = scenario.offload.kv_cache is not None and scenario.offload.kv_cache.cpu > 0
    attends_on_cpu = kv_on_cpu and scenario.offload.attention_device != "gpu"
    cpu = cpu_attention_rate(host, name, constants["cpu_attention_ratio"], "1/13") if attends_on_cpu else None
    measured = host.layer_overhead_ms.get(name)
    overhead = constants["layer_overhead_ms"] if measured is None else measured
    stated = f"host {host.name}" if measured is not None else f"default of system {name}"
    return StreamRates(h2d, d2h, disk, cpu, overhead * 1e-3, stated)


def kept_param_bytes(scenario: Scenario) -> float:
    """Bytes of parameters of at most h elements (norms, most biases): ZeRO keeps them on every GPU."""
    hidden = scenario.model.hidden_size
    kept = 0
    for group in scenario.model.layer_groups:
        small_biases = sum(
            linear.out_features
            for linear in layer_linears(group, hidden)
            if linear.bias and linear.copies == 1 and linear.out_features <= hidden
        )
        kept += group.count * (layer_vector_params(scenario.model, group) + small_biases)
    return kept * scenario.dtype.activation_bits / 8


def largest_parameter(scenario: Scenario) -> int:
    """Elements of the largest single parameter: a matrix or the token table. It has to be gathered whole."""
    model = scenario.model
    matrices = [
        linear.weights for group in model.layer_groups for linear in layer_linears(group, model.hidden_size)
    ]
    return max([*matrices, token_table_params(model)])


def live_param_bytes(scenario: Scenario, constants: dict[str, float]) -> float:
    """Bytes of gathered weights on the GPU: live parameters (at least the largest one) and one prefetch bucket."""
    square = scenario.model.hidden_size**2
    live = max(constants["max_live_hidden_squares"] * square, largest_parameter(scenario))
    return (live + constants["prefetch_bucket_hidden_squares"] * square) * scenario.dtype.activation_bits / 8


def nvme_buffer_bytes(scenario: Scenario, constants: dict[str, float]) -> float:
    """Bytes of one CPU buffer for NVMe reads: every parameter has to fit one."""
    elements = max(constants["nvme_buffer_elements"], largest_parameter(scenario))
    return elements * scenario.dtype.activation_bits / 8


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
    if ZeroInference.name not in scenario.host.layer_overhead_ms:
        found.append(
            f"no framework time per layer was measured on host {host}: taken as {rates.layer_overhead_s * 1e3:g} ms "
            "(measured hosts: 2.5 to 12.2 ms)"
        )
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
