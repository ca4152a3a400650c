"""Times of ZeRO-Inference: weights stream through the GPUs module by module while earlier modules compute.

Schedules are made of steps (`llm_perf.systems.schedule`) whose lanes hide a share of what they could: disk reads behind
copies, streaming behind kernels, copies of the cache beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, where
from llm_perf.counts.quadrature import context_nodes
from llm_perf.hardware import streams
from llm_perf.hardware.collective import fabric
from llm_perf.hardware.transfer import Path, copy_path, cpu_attention_path, disk_read_path
from llm_perf.systems.base import Load, PhaseCost, Placement
from llm_perf.systems.constants import machine_of, stated_for_host
from llm_perf.systems.costs import Costs
from llm_perf.systems.footprint import model_weight_bytes, stage_kv_bytes
from llm_perf.systems.forward import Forward, decode_steps
from llm_perf.systems.hybrid import unused_bytes
from llm_perf.systems.resident import add_attention_busy
from llm_perf.systems.schedule import Block, Lane, Schedule, Step, Work, total
from llm_perf.systems.terms import Factor, Quantity, Term, Terms, copies, joined, scaled, waited
from llm_perf.systems.zero_inference.memory import kept_param_bytes, streamed_parameters

SYSTEM = "zero_inference"

_ROUNDING = 1e-12
"""Of a difference of times that are equal, relative to either."""


@dataclass(frozen=True, slots=True)
class StreamRates:
    """Rates of one machine as this system drives it. ``disk`` is None where the host has none.

    ``buffers_to_gpu`` is the way of what was read from a disk: buffers of the swapper are page-locked whatever
    ``pin_memory`` says (DeepSpeed, runtime/swap_tensor/partitioned_param_swapper.py).
    """

    host_to_gpu: Path
    buffers_to_gpu: Path
    gpu_to_host: Path
    disk: Path | None
    cpu_attention: Path | None
    layer_overhead_s: float
    layer_overhead_source: str


class ZeroPasses:
    """Times of one scenario at one placement."""

    def __init__(
        self,
        scenario: Scenario,
        constants: dict[str, float],
        forward: Forward,
        placement: Placement,
        rates: StreamRates,
        batch: Number,
        tokens: Number | None = None,
    ) -> None:
        """``tokens`` per rank and pass decide which experts of a mixture are fetched; all if None."""
        self.scenario, self.constants, self.forward = scenario, constants, forward
        self.placement, self.rates, self.batch = placement, rates, batch
        ranks = scenario.parallelism.dp_size
        # Every rank gathers the experts that any rank's tokens are sent to.
        sent = None if constants["fetches_all_experts"] or tokens is None else tokens * ranks
        unused = 0.0 if sent is None else unused_bytes(scenario, sent)
        weights = model_weight_bytes(scenario) - kept_param_bytes(scenario) - unused
        tiers = placement.weights
        parameters = streamed_parameters(scenario, sent)
        self.copies = (
            (rates.host_to_gpu, tiers.cpu, weights, ranks, parameters),
            (rates.buffers_to_gpu, tiers.nvme, weights, ranks, parameters),
        )
        self.copy_s = total(
            path.seconds(weights * share / ranks, parameters * share) for path, share, *_ in self.copies
        )
        gather = fabric(scenario.gpu, ranks, scenario.gpus_per_node, scenario.host)
        self.gathers = ranks > 1
        self.gather_s = gather.all_gather_s(weights) if self.gathers else 0.0
        self.disk_s = disk_s(weights * tiers.nvme / scenario.num_nodes, rates)
        self.disk_bytes = (weights, tiers.nvme, scenario.num_nodes)
        per_pass_s = constants["pass_overhead_ms"] * 1e-3
        self.overhead_s = scenario.model.num_layers * rates.layer_overhead_s + per_pass_s
        on_host = placement.kv_cache.cpu > 0
        self.cache_on_host = bool(on_host.any()) if is_array(on_host) else bool(on_host)
        self.stream = self._stream()
        self.stream_s = self.stream.duration_s

    # -- steps ------------------------------------------------------------------------------------------------

    def _stream(self) -> Step:
        """All weights of one pass: disk reads, copies, gathers, module hooks.

        A bucket's part is copied and then gathered from all ranks on one CUDA stream, and the next bucket's copy comes
        after both, so that gathers add to copies whatever link they take (DeepSpeed, partitioned_param_coordinator.py).
        Reads are prefetched one bucket ahead, less than a layer, so that only a share of them hides.
        """
        label = "weight_streaming"
        gathers = (Work(streams.INTERCONNECT, label, self.gather_s),) if self.gathers else ()
        fetch = (
            Work(streams.H2D, label, self.copy_s),
            *gathers,
            Work(streams.HOST, "framework", self.overhead_s),
        )
        hidden = 0.0 if self.scenario.offload.prefetch is False else self.constants["nvme_prefetch_share"]
        lanes = {"disk": (Work(streams.DISK_READ, label, self.disk_s),), "fetch": fetch}
        return Step("stream", lanes, overlap=hidden)

    @property
    def overlap(self) -> float:
        """Share of what computing and streaming could hide of each other that hides."""
        return 0.0 if self.scenario.offload.overlap is False else self.constants["overlap_share"]

    def _steps(
        self,
        stream: Work | Step,
        kernels: Lane,
        fetch_s: Number = 0.0,
        store_s: Number = 0.0,
        attention_s: Number = 0.0,
    ) -> tuple[Step, ...]:
        """One pass: weights come in while earlier modules compute, then what waits for all of it.

        Copies of the cache, ``fetch_s`` to the GPU and ``store_s`` back, run beside the kernels if they may, else after
        them; so does attention on the CPU over a cache in host memory.
        """
        label = "kv_offload"
        fetch, store = Work(streams.H2D, label, fetch_s), Work(streams.D2H, label, store_s)
        on_cpu = Step(
            "attention on the CPU", {"cpu": (Work(streams.CPU, label, attention_s),)}, overlap=False
        )
        if self.scenario.offload.async_kv_offload:
            lanes = {"stream": (stream, fetch), "kernels": kernels, "stores": (store,)}
            return Step("pass", lanes, overlap=self.overlap), on_cpu
        after = Step("cache", {"copies": (fetch, store)}, overlap=False)
        return Step("pass", {"stream": (stream,), "kernels": kernels}, overlap=self.overlap), after, on_cpu

    def _latencies(
        self, device_s: Number, fetch_s: Number = 0.0, store_s: Number = 0.0, attention_s: Number = 0.0
    ) -> tuple[Number, Number]:
        """Seconds that streaming adds to ``device_s``, and those that the cache adds to both."""
        stream = Work(streams.H2D, "weight_streaming", self.stream_s)
        kernels = (Work(streams.COMPUTE, "kernels", device_s),)
        alone = Step("pass", {"stream": (stream,), "kernels": kernels}, overlap=self.overlap).duration_s
        if not self.cache_on_host:
            return alone - device_s, 0.0 * device_s
        whole = total(step.duration_s for step in self._steps(stream, kernels, fetch_s, store_s, attention_s))
        return alone - device_s, whole - alone

    def schedule(self, costs: Costs, context: Number | None = None, prompt_len: Number = 0.0) -> Schedule:
        """One pass layer by layer, each layer an equal part of it: for a single configuration.

        ``costs`` are its kernels; ``context`` is that of a decode step, ``prompt_len`` that of a prefill.
        """
        layers = self.scenario.model.num_layers
        kernels = tuple(Work(streams.COMPUTE, name, seconds) for name, seconds in costs.parts_s.items())
        if context is None:
            steps = self._steps(self.stream, kernels, store_s=self._store_s(prompt_len))
        else:
            fetch_s, attention_s = self._cache_fetch_s(context), self._cpu_attention_s(context)
            steps = self._steps(self.stream, kernels, fetch_s, attention_s=attention_s)
        layer = tuple(step.scaled(1.0 / layers) for step in steps if step.duration_s > 0)
        return Schedule((Block(layer, float(layers)),))

    # -- phases -----------------------------------------------------------------------------------------------

    def prefill(self, prompt_len: Number) -> PhaseCost:
        """All prompts in one pass."""
        costs = self.forward.prefill(self.batch, prompt_len)
        device, store = costs.total_s, self._store_s(prompt_len)
        streaming, offload = self._latencies(device, store_s=store)
        parts = {**costs.parts_s, **self._streaming_parts(streaming), "kv_offload": offload}
        moved = Quantity("cache copies to the host", ((Factor("seconds of all copies", store),),))
        terms = joined(
            costs.terms,
            self._streaming_terms(1.0, streaming),
            lambda: iter([waited("kv_offload", moved, offload)]),
        )
        busy = self._busy(costs, 1.0, store)
        return PhaseCost(device + streaming + offload, parts, busy, terms=terms)

    def schedules(self, load: Load) -> tuple[Schedule, Schedule]:
        """The prefill's and the first decode step's, which is empty for an encoder."""
        prefill = self.schedule(self.forward.prefill(self.batch, load.prompt_len), prompt_len=load.prompt_len)
        if self.scenario.model.encoder:
            return prefill, Schedule(())
        costs, attention = self.forward.decode_step(self.batch)
        context = load.prompt_len + 1
        seconds = self.forward.attention_s(attention, context) * self.attends_on_gpu
        costs.part(
            "attention",
            seconds,
            self.forward.attention_terms(attention, [(context, 1.0)], self.attends_on_gpu),
        )
        return prefill, self.schedule(costs, context)

    def decode(self, load: Load) -> PhaseCost:
        """All decode steps."""
        constant, attention = self.forward.decode_step(self.batch)
        steps = decode_steps(load)
        base = constant.total_s
        on_gpu = self.attends_on_gpu
        attended_s: Number = 0.0
        streaming: Number = 0.0
        cpu_s: Number = 0.0
        fetched_s: Number = 0.0
        # What hides grows with the context until computing takes longer than streaming.
        kinks = list(self.forward.windows)
        if on_gpu:
            kinks.append(self.forward.context_when(attention, (self.stream_s - base) / on_gpu))
        nodes: list[tuple[Number, Number]] = []  # of a single configuration, for its terms
        for context, weight in context_nodes(load.prompt_len + 1, steps, kinks):
            if not is_array(context):
                nodes.append((context, weight))
            attention_s = self.forward.attention_s(attention, context) * on_gpu
            attended_s = attended_s + weight * attention_s
            fetch_s = self._cache_fetch_s(context)
            fetched_s = fetched_s + weight * fetch_s
            exposed_s, offload_s = self._latencies(
                base + attention_s, fetch_s, attention_s=self._cpu_attention_s(context)
            )
            cpu_s = cpu_s + weight * offload_s
            streaming = streaming + weight * exposed_s
        parts = {name: steps * seconds for name, seconds in constant.parts_s.items()}
        parts["attention"] = parts["attention"] + attended_s
        parts |= self._streaming_parts(streaming)
        parts["kv_offload"] = cpu_s
        busy = self._busy(constant, steps, fetched_s)
        add_attention_busy(busy, attention, attended_s)
        busy["cpu"] = 0.0 if self.copies_cache else cpu_s
        terms = joined(
            scaled(constant.terms, "steps", steps),
            self.forward.attention_terms(attention, nodes, on_gpu),
            self._streaming_terms(steps, streaming),
            lambda: iter([self._cache_term(nodes, cpu_s)]),
        )
        return PhaseCost(steps * base + attended_s + streaming + cpu_s, parts, busy, terms=terms)

    def _cache_term(self, nodes: list[tuple[Number, Number]], exposed_s: Number) -> Term:
        """What a cache in host memory takes over all steps: copies of it to the GPU, or attention on the CPU."""
        if self.copies_cache or self.rates.cpu_attention is None:
            fetched = total(weight * self._cache_fetch_s(context) for context, weight in nodes)
            return waited(
                "kv_offload", Quantity("cache copies to the GPU", ((Factor("seconds", fetched),),)), exposed_s
            )
        moved = total(weight * self._kv_bytes(context) for context, weight in nodes)
        rate = self.rates.cpu_attention
        factors = (
            Factor("bytes of all steps", moved),
            Factor("GPUs of a node", self.scenario.gpus_per_node),
            Factor("rate of attention on the CPU", rate.bytes_per_s, divides=True, source=rate.source),
        )
        return waited("kv_offload", Quantity("attention on the CPU", (factors,)), exposed_s)

    def _streaming_terms(self, passes: Number, exposed_s: Number) -> Terms:
        """What streaming exposes: the same share of its copies, of what they do not hide of reads, and of the hooks."""

        def terms() -> Iterator[Term]:
            if not self.stream_s or not passes:
                return
            share = Factor("share waited for", exposed_s / (passes * self.stream_s))
            rest = self.stream_s - self.overhead_s - self.copy_s - self.gather_s
            rest = rest if rest > _ROUNDING * self.stream_s else 0.0
            copied = self._copied()
            streamed = [
                (copied.name, copied.value, (copied,)),
                ("all-gathers per pass", self.gather_s, ()),
                ("reads that copies do not hide", rest, tuple(self._reads())),
            ]
            for name, seconds, of in streamed:
                factors = (Factor("passes", passes), share, Factor(name, seconds, of))
                yield Term("weight_streaming", name, factors)
            hooks = self._hooks()
            yield Term(
                "framework",
                hooks.name,
                (Factor("passes", passes), share, Factor(hooks.name, hooks.value, (hooks,))),
            )

        return terms

    def _copied(self) -> Quantity:
        """Copies of weights, from host memory and from the buffers that disks are read into."""
        name = "host-to-GPU copies per pass"
        products: list[tuple[Factor, ...]] = []
        for path, share, weights, ranks, parameters in self.copies:
            if share > 0:
                moved = (
                    Factor("streamed weight bytes", weights),
                    Factor("share off the GPU", share),
                    Factor("GPUs", ranks, divides=True),
                )
                found = copies(name, path, moved, weights * share / ranks, parameters * share)
                products += found.products
        return Quantity(name, tuple(products))

    def _reads(self) -> Iterator[Quantity]:
        """Reads from the disks in one pass, of which copies hide a part."""
        weights, share, nodes = self.disk_bytes
        if self.rates.disk is not None and share > 0:
            rate = self.rates.disk
            factors = (
                Factor("weight bytes", weights),
                Factor("share on NVMe", share),
                Factor("nodes", nodes, divides=True),
                Factor("read rate", rate.bytes_per_s, divides=True, source=f"read rate: {rate.source}"),
            )
            yield Quantity("NVMe reads per pass", (factors,))

    def _hooks(self) -> Quantity:
        source = f"per layer: {self.rates.layer_overhead_source}"
        layer = Factor("framework time per layer", self.rates.layer_overhead_s, source=source)
        products: list[tuple[Factor, ...]] = [(Factor("layers", self.scenario.model.num_layers), layer)]
        per_pass_s = self.constants["pass_overhead_ms"] * 1e-3
        if per_pass_s:
            products.append((Factor("framework time per pass", per_pass_s),))
        return Quantity("module hooks per pass", tuple(products))

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
        return self.rates.host_to_gpu.seconds(self._kv_bytes(context), self._cache_copies)

    @property
    def attends_on_gpu(self) -> Number:
        """Share of attention on the GPU: over a cache in host memory it runs there, unless that is copied in every step."""
        return 1.0 if self.copies_cache else self.placement.kv_cache.gpu

    def _store_s(self, prompt_len: Number) -> Number:
        """Copies of the prompts' cache to host memory."""
        return self.rates.gpu_to_host.seconds(self._kv_bytes(prompt_len), self._cache_copies)

    @property
    def _cache_copies(self) -> Number:
        """Copies of the cache in one pass: keys and values of each layer, where they are in host memory."""
        return where(self.placement.kv_cache.cpu > 0, 2.0 * self.scenario.model.num_layers, 0.0)

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


def disk_s(moved_bytes: Number, rates: StreamRates) -> Number:
    """Seconds of reading ``moved_bytes`` from disk; nothing to read needs no disk."""
    return 0.0 * moved_bytes if rates.disk is None else moved_bytes / rates.disk.bytes_per_s


def stream_rates(scenario: Scenario, constants: dict[str, float]) -> StreamRates:
    """The copy, disk and CPU rates of the scenario's machine under this system."""
    gpu, host, name = scenario.gpu, machine_of(scenario), SYSTEM
    latency = constants["copy_latency_us"] * 1e-6
    usual = "usual for this system's copies; the range over measured machines is 0.6 to 0.86"
    pinned, pageable = constants["pinned_link_ratio"], constants["pageable_link_ratio"]

    def copied(stream: str, path: str, ratio: float, source: str) -> Path:
        return copy_path(stream, gpu, host, name, path, ratio, source, latency, scenario.gpus_per_node)

    buffers = copied(streams.H2D, "pinned_h2d", pinned, usual)
    unlocked = copied(streams.H2D, "pageable_h2d", pageable, "one machine, +-6 %")
    h2d = buffers if scenario.offload.pin_memory else unlocked
    other = "taken as equal to the other direction"
    if scenario.offload.pin_kv_cache:
        d2h = copied(streams.D2H, "pinned_d2h", pinned, other)
    else:
        d2h = copied(streams.D2H, "pageable_d2h", pageable, other)
    disk = None if host.disk is None else disk_read_path(host, "direct")
    kv_on_cpu = scenario.offload.kv_cache is not None and scenario.offload.kv_cache.cpu > 0
    attends_on_cpu = kv_on_cpu and scenario.offload.attention_device != "gpu"
    cpu = cpu_attention_path(host, name, constants["cpu_attention_ratio"], "1/13") if attends_on_cpu else None
    measured = host.layer_overhead_ms.get(name)
    overhead = constants["layer_overhead_ms"] if measured is None else measured
    of_host = measured is not None or stated_for_host(scenario, "layer_overhead_ms")
    stated = f"host {host.name}" if of_host else f"default of system {name}"
    return StreamRates(h2d, buffers, d2h, disk, cpu, overhead * 1e-3, stated)
