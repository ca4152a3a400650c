"""Times of FlexGen's block schedule: kernels of one GPU batch, copies around it, and the steps they make up.

Attention and feed-forward of a layer are two phases. A phase goes through all GPU batches before the next phase, and
the executor synchronises after every GPU batch. While the first batch of a phase computes, the weights of the next
phase come in; while batch k computes, the cache of batch k+1 comes in and that of batch k-1 goes out.
Source: FMInference/FlexGen, flexgen/flex_opt.py (generation_loop_overlap_single_batch, _multi_batch, _normal) and
flexgen/pytorch_backend.py (general_copy: which copies block the executor, which go to worker threads).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm_perf.config.model import LayerGroup
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, where
from llm_perf.counts.attention import attended, kv_elements_per_token
from llm_perf.counts.products import Product, layer_products, lm_head_products
from llm_perf.hardware import streams
from llm_perf.hardware.collective import Fabric, fabric
from llm_perf.hardware.gpu_time import KernelStyle, kernel_rates
from llm_perf.hardware.transfer import (
    Path,
    copy_path,
    cpu_attention_path,
    disk_read_path,
    disk_write_path,
    host_path,
)
from llm_perf.systems.base import TierShares
from llm_perf.systems.constants import machine_of
from llm_perf.systems.costs import part_of
from llm_perf.systems.flexgen.placement import (
    PhaseKind,
    PhaseTensors,
    TierWeights,
    model_phases,
    place_cache,
    place_tensors,
)
from llm_perf.systems.flexgen.policy import Policy
from llm_perf.systems.footprint import stage_layer_share
from llm_perf.systems.products import gemm_rates_used, product_time, score_square
from llm_perf.systems.schedule import Block, Lane, Schedule, Step, Work

SYSTEM = "flexgen"

_HIDDEN_VECTORS = {
    "embed": "embed_hidden_vectors",
    "attention": "attention_hidden_vectors",
    "mlp": "mlp_hidden_vectors",
    "head": "head_hidden_vectors",
}
"""The constant that says how many hidden vectors the small kernels of a phase read and write."""


@dataclass(frozen=True, slots=True)
class Rates:
    """The paths of one machine as FlexGen drives it. Disk paths are None where the host has no disk.

    ``weights_to_gpu``: page-locked copies. ``stage_weights``, ``stage_cache``: the copy into page-locked memory that
    goes before where memory is pageable; it blocks the executor. ``new_cache``: GPU to fresh pageable memory.
    ``cpu_attention`` is in bytes of a 16-bit cache. ``phase_s`` is the executor's time for one GPU batch in a phase
    whose tensors move, before its kernels start; ``launch_s`` that of launches alone, which run ahead of kernels.
    """

    to_gpu: Path
    from_gpu: Path
    stage_weights: Path
    stage_cache: Path
    new_cache: Path
    disk_read: Path | None
    disk_write: Path | None
    cpu_attention: Path | None
    hop: Fabric
    phase_s: float
    launch_s: float


def machine_rates(scenario: Scenario, constants: dict[str, float], cpu_attention: bool) -> Rates:
    """The rates of the scenario's machine: measured where the host's file has them, else ratios to the data sheet.

    Raises:
        SpecError: attention runs on a CPU whose memory bandwidth is not stated.
    """
    gpu, host = scenario.gpu, machine_of(scenario)
    per_node = scenario.gpus_per_node
    latency = constants["copy_latency_us"] * 1e-6
    source = "default of system flexgen"

    def copied(stream: str, path: str, ratio: str, gpus: int = 1) -> Path:
        return copy_path(stream, gpu, host, SYSTEM, path, constants[ratio], source, latency, gpus)

    attention = None
    if cpu_attention:
        path = cpu_attention_path(host, SYSTEM, constants["cpu_attention_ratio"], source)
        attention = path.shared_by(per_node)
    measured = host.layer_overhead_ms.get(SYSTEM)
    stages = scenario.parallelism.pp_size
    return Rates(
        to_gpu=copied(streams.H2D, "pinned_h2d", "pinned_link_ratio", per_node),
        from_gpu=copied(streams.D2H, "pinned_d2h", "pinned_link_ratio", per_node),
        stage_weights=copied(streams.CPU_MEMORY, "pageable_h2d", "pageable_link_ratio"),
        stage_cache=copied(streams.CPU_MEMORY, "growing_slice_h2d", "growing_slice_link_ratio"),
        new_cache=host_path(
            streams.D2H, host, SYSTEM, "fresh_d2h", constants["fresh_d2h_gb_per_s"] * 1e9, source
        ),
        disk_read=_disk_read(scenario, constants),
        disk_write=None if host.disk is None else disk_write_path(host, "buffered", per_node),
        cpu_attention=attention,
        hop=fabric(gpu, 2 if stages > 1 else 1, min(per_node, 2)),
        phase_s=(constants["phase_ms"] if measured is None else measured) * 1e-3,
        launch_s=constants["launch_ms"] * 1e-3,
    )


def _disk_read(scenario: Scenario, constants: dict[str, float]) -> Path | None:
    """Reads through the page cache: measured, else bounded by the disk and by what the workers copy."""
    disk, per_node = scenario.host.disk, scenario.gpus_per_node
    if disk is None:
        return None
    if disk.buffered_read is not None:
        return disk_read_path(scenario.host, "buffered", per_node)
    stated = disk.stated_read_gb_per_s * constants["disk_over_stated"]
    rate = min(stated, constants["buffered_read_gb_per_s"]) * 1e9
    path = Path(streams.DISK_READ, rate, 0.0, "stated rate of the disk, as system flexgen reads it")
    return path.shared_by(per_node if disk.shared else 1)


class Kernels:
    """Work of the GPU on one GPU batch, phase by phase. Products always run in 16 bits."""

    def __init__(self, scenario: Scenario, constants: dict[str, float]) -> None:
        self.model, self.constants = scenario.model, constants
        self.rates = kernel_rates(
            scenario.gpu,
            16,
            scenario.flops_efficiency,
            scenario.hbm_memory_efficiency,
            KernelStyle.of(constants),
        )
        self.floor_s = self.rates.gemm.floor_s * constants["floor_scale"]
        self.used = gemm_rates_used(self.rates.gemm)

    def phase(self, phase: PhaseTensors, policy: Policy, tokens: Number, context: Number | None) -> Lane:
        """All kernels of one GPU batch in a phase: ``tokens`` per sequence, ``context`` at decode, None at prefill."""
        rows = policy.gpu_batch * tokens
        works = [
            *self._unpack_weights(phase, policy),
            *self._products(phase, rows),
            self._elementwise(phase, rows),
        ]
        if phase.kind == "attention" and phase.group is not None:
            works += self._attention(phase.group, policy, tokens, context)
        return tuple(works)

    def _unpack_weights(self, phase: PhaseTensors, policy: Policy) -> list[Work]:
        """Weights are loaded once per phase, but unpacked for every GPU batch."""
        seconds = self._traffic_s(phase.matrix_elements * self.constants["unpack_bytes_per_element"])
        return [Work(streams.HBM, "dequantisation", where(policy.compress_weights, seconds, 0.0))]

    def _products(self, phase: PhaseTensors, rows: Number) -> list[Work]:
        found = []
        for label, product in self._products_of(phase):
            taken, copies = product.rows(rows), product.touched(rows)
            one = product_time(self.rates.gemm, product, taken, copies, 2.0, 2.0, self.floor_s)
            bound = one.compute_s >= one.memory_s
            found.append(Work(streams.COMPUTE, label, where(bound, one.seconds, 0.0), self.used))
            found.append(Work(streams.HBM, label, where(bound, 0.0, one.seconds), self.used))
        return found

    def _products_of(self, phase: PhaseTensors) -> Iterator[tuple[str, Product]]:
        if phase.kind == "head":
            yield from (("lm_head", product) for product in lm_head_products(self.model))
        if phase.group is not None:
            wanted = "attention_projections" if phase.kind == "attention" else "mlp"
            for product in layer_products(self.model, phase.group):
                if part_of(product.op) == wanted:
                    yield wanted, product

    def _elementwise(self, phase: PhaseTensors, rows: Number) -> Work:
        c, hidden = self.constants, self.model.hidden_size
        width = c[_HIDDEN_VECTORS[phase.kind]] * hidden
        if phase.kind == "mlp" and phase.group is not None:
            width += c["elementwise_ffn_vectors"] * phase.group.mlp.ffn_size
        return Work(streams.HBM, "elementwise", self._traffic_s(2.0 * rows * width))

    def _attention(
        self, group: LayerGroup, policy: Policy, tokens: Number, context: Number | None
    ) -> list[Work]:
        elements = policy.gpu_batch * kv_elements_per_token(group.attention)
        if context is None:
            return self._prefill_attention(group, policy, tokens, elements * tokens)
        on_gpu = where(policy.cpu_attention, policy.kv_cache.gpu, 1.0)
        read = elements * attended(group.attention, context) * on_gpu * policy.kv_read_share
        unpacked = where(
            policy.compress_cache, self._traffic_s(read * self.constants["unpack_bytes_per_element"]), 0.0
        )
        seconds = 2.0 * read * self.constants["kv_passes"] / self.rates.attention_bytes_per_s
        return [Work(streams.HBM, "attention", seconds), Work(streams.HBM, "dequantisation", unpacked)]

    def _prefill_attention(
        self, group: LayerGroup, policy: Policy, tokens: Number, new: Number
    ) -> list[Work]:
        """The whole square of scores is computed and moved; new keys and values are packed where the cache is."""
        c, pairs = self.constants, policy.gpu_batch * tokens * tokens
        rate = self.rates.gemm.flops_per_s * c["batched_product_share"]
        products, moved = score_square(group.attention, pairs, rate, c["score_bytes"])
        packing = where(policy.compress_cache, self._traffic_s(new * c["pack_bytes_per_element"]), 0.0)
        return [
            Work(streams.COMPUTE, "attention", products),
            Work(streams.HBM, "attention", self._traffic_s(moved)),
            Work(streams.HBM, "quantisation", packing),
        ]

    def _traffic_s(self, moved_bytes: Number) -> Number:
        return moved_bytes / self.rates.elementwise_bytes_per_s


@dataclass(frozen=True, slots=True)
class Visit:
    """One phase as the schedule comes by it: what it loads for the phase that follows, and how often it comes by."""

    phase: PhaseTensors
    next_weights: TierWeights | None
    next_cache: LayerGroup | None


class BlockSchedule:
    """Schedules of one pass of one pipeline stage under a policy."""

    def __init__(self, scenario: Scenario, constants: dict[str, float], policy: Policy) -> None:
        self.scenario, self.constants, self.policy = scenario, constants, policy
        on_cpu = policy.cpu_attention
        self.rates = machine_rates(
            scenario, constants, bool(on_cpu.any()) if is_array(on_cpu) else bool(on_cpu)
        )
        self.kernels = Kernels(scenario, constants)
        self.phases = model_phases(scenario.model)
        self.weights = [place_tensors(phase, policy.weights, policy.weight_bytes) for phase in self.phases]
        self.cache: TierShares = place_cache(policy.kv_cache, policy.gpu_batch)
        stay = (policy.weights.gpu >= 1) & (policy.kv_cache.gpu >= 1) & (policy.hidden.gpu >= 1)
        self.moves: Number = _not(stay)
        # Where nothing moves there is nothing to overlap, and launches run ahead of the kernels in any case.
        self.overlap: Number = policy.overlap | stay

    # -- passes -----------------------------------------------------------------------------------------------

    def prefill(self, prompt_len: Number, last: bool = False, inner: bool = False) -> Schedule:
        """One pass over the prompts of one block.

        ``last``: no pass follows, so nothing is loaded for it. ``inner``: of a pipeline's stage without the head.
        """
        return Schedule(tuple(self._blocks(prompt_len, None, last, inner)))

    def decode_step(self, context: Number, last: bool = False, inner: bool = False) -> Schedule:
        """One pass over one new token of each sequence; ``context`` counts that token."""
        return Schedule(tuple(self._blocks(1.0, context, last, inner)))

    def head_step(self, context: Number, last: bool) -> Schedule:
        """The head alone in a decode step: the only phase that differs where no pass follows."""
        following = 0 if self.scenario.parallelism.pp_size == 1 else 1
        visit = self._visit(len(self.phases) - 1, following, last)
        return Schedule((Block(tuple(self._steps(visit, 1.0, context))),))

    def _blocks(self, tokens: Number, context: Number | None, last: bool, inner: bool) -> Iterator[Block]:
        for visits, repeats in self._order(last, inner):
            steps = [step for visit in visits for step in self._steps(visit, tokens, context)]
            if is_array(repeats) or repeats > 0:
                yield Block(tuple(steps), repeats)
        if self.scenario.parallelism.pp_size > 1:
            yield Block((self._hop(tokens),))

    def _order(self, last: bool, inner_stage: bool) -> Iterator[tuple[list[Visit], Number]]:
        """Phases in order with what each loads for the next, layers of a group as one block and a last one."""
        ends = self.scenario.parallelism.pp_size == 1
        share = stage_layer_share(self.scenario)
        groups = [index for index, phase in enumerate(self.phases) if phase.kind == "attention"]
        head = len(self.phases) - 1
        if ends:
            yield [self._visit(0, groups[0])], 1.0
        for index, following in zip(groups, [*groups[1:], head], strict=True):
            count = share * self.phases[index].group.count  # type: ignore[union-attr]
            inner, boundary = max(count - 1.0, 0.0), min(count, 1.0)
            attention = self._visit(index, index + 1)
            yield [attention, self._visit(index + 1, index)], inner
            yield [attention, self._visit(index + 1, following)], boundary
        if not inner_stage:
            yield [self._visit(head, 0 if ends else groups[0], last)], 1.0

    def _visit(self, index: int, following: int, nothing: bool = False) -> Visit:
        weights, after = self.weights[following], self.phases[following]
        if nothing:
            return Visit(self.phases[index], None, None)
        return Visit(self.phases[index], weights, after.group if after.kind == "attention" else None)

    # -- steps ------------------------------------------------------------------------------------------------

    def _steps(self, visit: Visit, tokens: Number, context: Number | None) -> Iterator[Step]:
        """The first, the middle and the last GPU batch of a phase (the first is the last where there is one)."""
        n = self.policy.num_gpu_batches
        kernels = self.kernels.phase(visit.phase, self.policy, tokens, context)
        attention = visit.phase.kind == "attention"
        # With several batches, attention loads the next batch's cache and stores the one before; the last batch of
        # any other phase loads the first cache of the layer that follows, and the feed-forward phase stores the last.
        own = visit.phase.group if attention else None
        many = n > 1
        kinds = (
            ("first", 1.0, True, (own, many) if attention else (visit.next_cache, _not(many)), _mlp(visit)),
            ("middle", maximum(n - 2, 0), False, (own, True), own),
            ("last", where(many, 1.0, 0.0), False, (visit.next_cache if not attention else None, True), own),
        )
        for name, repeats, loads_weights, (load, wanted), store in kinds:
            if not is_array(repeats) and repeats == 0:
                continue
            lanes = self._lanes(visit, kernels, tokens, context, loads_weights, load, wanted, store)
            duplex = self.constants["pcie_duplex"]
            yield Step(f"{visit.phase.kind} {name}", lanes, repeats, self.overlap, duplex)

    def _lanes(
        self,
        visit: Visit,
        kernels: Lane,
        tokens: Number,
        context: Number | None,
        loads_weights: bool,
        load: LayerGroup | None,
        wanted: Number,
        store: LayerGroup | None,
    ) -> dict[str, Lane]:
        """Lanes: executor with the GPU's compute queue, copies to the GPU, disk reads, stores, launches that run ahead."""
        main: list[Work] = []
        copies: list[Work] = []
        disk: list[Work] = []
        stores: list[Work] = []
        if loads_weights and visit.next_weights is not None:
            self._load_weights(visit.next_weights, main, copies, disk)
        if load is not None and context is not None:
            self._load_cache(load, context, wanted, main, copies, disk)
        if store is not None:
            self._store_cache(store, tokens, context, main, stores)
        hidden_in, hidden_out = self._hidden(visit.phase.kind, tokens, disk, stores)
        busy = Work(streams.HOST, "framework", where(self.moves, self.rates.phase_s, 0.0))
        ahead = Work(streams.HOST, "framework", where(self.moves, 0.0, self.rates.launch_s))
        main += [busy, *hidden_in, *kernels]
        if visit.phase.kind == "attention" and context is not None and visit.phase.group is not None:
            main += self._cpu_attention(visit.phase.group, context)
        main += hidden_out
        lanes = {"executor": main, "copies": copies, "disk": disk, "stores": stores, "launches": [ahead]}
        there = {name: tuple(work for work in works if _takes_time(work)) for name, works in lanes.items()}
        return {name: works for name, works in there.items() if works}

    def _load_weights(
        self, weights: TierWeights, main: list[Work], copies: list[Work], disk: list[Work]
    ) -> None:
        """From host memory, through a page-locked copy where it is pageable; from disk by workers, in two copies."""
        rates, label = self.rates, "weight_streaming"
        staged = where(self.policy.pin_weights, 0.0, weights.cpu_bytes)
        pieces = where(self.policy.pin_weights, 0.0, weights.cpu_copies)
        main.append(Work.over(rates.stage_weights, label, staged, pieces))
        copies.append(Work.over(rates.to_gpu, label, weights.cpu_bytes, weights.cpu_copies))
        if rates.disk_read is not None:
            disk.append(Work.over(rates.disk_read, label, weights.disk_bytes))
            disk.append(Work.over(rates.to_gpu, label, weights.disk_bytes, weights.disk_copies))

    def _load_cache(
        self,
        group: LayerGroup,
        context: Number,
        wanted: Number,
        main: list[Work],
        copies: list[Work],
        disk: list[Work],
    ) -> None:
        """To the GPU through page-locked memory, or into the CPU's workspace: by the executor, or by workers from disk."""
        rates, policy, label = self.rates, self.policy, "kv_offload"
        read = where(wanted, policy.kv_read_share, 0.0) * self._cache_bytes(group, context)
        to_gpu = where(policy.cpu_attention, 0.0, read)
        pieces = where(policy.cpu_attention, 0.0, where(wanted, self._cache_pieces, 0.0))
        from_host, from_disk = to_gpu * self.cache.cpu, to_gpu * self.cache.nvme
        host_pieces, disk_pieces = pieces * (self.cache.cpu > 0), pieces * (self.cache.nvme > 0)
        main.append(Work.over(rates.stage_cache, label, from_host, host_pieces))
        copies.append(Work.over(rates.to_gpu, label, from_host, host_pieces))
        if rates.cpu_attention is not None:
            copied = where(policy.cpu_attention, self._copy_share(), 0.0) * where(wanted, 1.0, 0.0)
            work = self._cpu_cache_bytes(group, context) * self.cache.cpu
            main.append(Work(streams.CPU, "cpu_attention", copied * rates.cpu_attention.seconds(work)))
        if rates.disk_read is not None:
            disk.append(Work.over(rates.disk_read, label, read * self.cache.nvme))
            disk.append(Work.over(rates.to_gpu, label, from_disk, disk_pieces))

    @property
    def _cache_pieces(self) -> Number:
        """Copies of one layer's cache of one GPU batch: keys and values, with their scales where compressed."""
        return where(self.policy.compress_cache, 4.0, 2.0)

    def _store_cache(
        self, group: LayerGroup, tokens: Number, context: Number | None, main: list[Work], stores: list[Work]
    ) -> None:
        """New keys and values: of a prompt by workers into memory that is touched for the first time, of a token at once."""
        rates, label = self.rates, "kv_offload"
        new = self._new_cache_bytes(group, tokens)
        if context is None:
            stores.append(Work.over(rates.new_cache, label, new * self.cache.cpu))
        else:
            main.append(Work.over(rates.from_gpu, label, new * self.cache.cpu))
        if rates.disk_write is not None:
            stores.append(Work.over(rates.from_gpu, label, new * self.cache.nvme))
            stores.append(Work.over(rates.disk_write, label, new * self.cache.nvme))

    def _hidden(
        self, kind: PhaseKind, tokens: Number, disk: list[Work], stores: list[Work]
    ) -> tuple[list[Work], list[Work]]:
        """Hidden states in host memory cross the link on the compute queue, before and after the kernels."""
        rates, hidden, label = self.rates, self.policy.hidden, "hidden_offload"
        size = 2.0 * self.policy.gpu_batch * tokens * self.scenario.model.hidden_size
        comes, goes = kind != "embed", kind != "head"
        if rates.disk_read is not None and rates.disk_write is not None:
            disk.append(Work.over(rates.disk_read, label, comes * size * hidden.nvme))
            stores.append(Work.over(rates.disk_write, label, goes * size * hidden.nvme))
        came = Work.over(rates.to_gpu, label, comes * size * hidden.cpu)
        went = Work.over(rates.from_gpu, label, goes * size * hidden.cpu)
        return [came], [went]

    def _cpu_attention(self, group: LayerGroup, context: Number) -> list[Work]:
        """What is left of attention on the CPU once the cache is in its workspace."""
        if self.rates.cpu_attention is None:
            return []
        work = self._cpu_cache_bytes(group, context) * (1.0 - self.cache.gpu)
        share = where(self.policy.cpu_attention, 1.0 - self._copy_share(), 0.0)
        return [Work(streams.CPU, "cpu_attention", share * self.rates.cpu_attention.seconds(work))]

    def _copy_share(self) -> float:
        return self.constants["cpu_attention_copy_share"]

    def _cache_bytes(self, group: LayerGroup, context: Number) -> Number:
        """Stored bytes of one layer's cache of one GPU batch that a step loads."""
        elements = kv_elements_per_token(group.attention) * attended(group.attention, context)
        return self.policy.gpu_batch * elements * self.policy.kv_bytes

    def _cpu_cache_bytes(self, group: LayerGroup, context: Number) -> Number:
        """The same as 16-bit elements, by which the CPU's rate is stated."""
        return self._cache_bytes(group, context) * (2.0 / self.policy.kv_bytes) * self.policy.kv_read_share

    def _new_cache_bytes(self, group: LayerGroup, tokens: Number) -> Number:
        return self.policy.gpu_batch * tokens * kv_elements_per_token(group.attention) * self.policy.kv_bytes

    def _hop(self, tokens: Number) -> Step:
        """Hidden states of a block go on to the next stage before it starts."""
        size = (
            2.0
            * self.policy.gpu_batch
            * self.policy.num_gpu_batches
            * tokens
            * self.scenario.model.hidden_size
        )
        inside = self.scenario.gpus_per_node >= self.scenario.parallelism.pp_size
        stream = streams.INTERCONNECT if inside else streams.NETWORK
        work = Work(stream, "pipeline_transfer", self.rates.hop.send_s(size))
        return Step("hop", {"executor": (work,)}, 1.0, self.policy.overlap)


def _takes_time(work: Work) -> bool:
    """Whether work takes time anywhere: a scalar zero does not."""
    return is_array(work.seconds) or work.seconds != 0


def _mlp(visit: Visit) -> LayerGroup | None:
    return visit.phase.group if visit.phase.kind == "mlp" else None


def _not(flag: Number) -> Number:
    return ~flag if is_array(flag) else not flag
