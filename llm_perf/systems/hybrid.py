"""A model divided between a GPU and a CPU that computes: layers, or the routed experts of layers, in host memory.

Every system that does so takes its times and its bytes from here; it says which layers are where (`Division`) and what it
does with a pass of many tokens: compute it on the CPU, or copy the weights to the GPU for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.model import LayerGroup, Mixer, ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, minimum, where
from llm_perf.counts.attention import kv_elements_per_token, prefill_pairs, score_flops_per_pair
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.products import Product, layer_products
from llm_perf.hardware.cpu_time import CpuRates, cpu_rates
from llm_perf.systems.attention import Attention, Chunk, DecodeAttention
from llm_perf.systems.costs import Costs
from llm_perf.systems.footprint import layer_weight_bytes, layers_weight_bytes
from llm_perf.systems.forward import Forward, mlp_of
from llm_perf.systems.terms import no_terms, one_term


@dataclass(frozen=True, slots=True)
class Part:
    """The layers of one group: all, those on the GPU, and those of these whose routed experts are there too."""

    count: int
    on_gpu: int
    experts_on_gpu: int


@dataclass(frozen=True, slots=True)
class Division:
    """Where the parts of a model are.

    Attributes:
        parts: The layers of each group.
        head_on_gpu: Whether the output matrix is on the GPU.
        cache_on_gpu: Whether keys and values of layers on the GPU are there; else attention runs on the CPU.
        held: Share of the experts of the other layers that the GPU holds all the same.
        hits: Share of routed tokens whose expert is among those held; with even routing it is ``held``.
        misses: What is done for the others: computed on the CPU, or copied to the GPU.
        at_once: Whether CPU and GPU work on their experts of one layer at the same time.
        deferred: Experts of a token that the CPU computes beside the next layer of the GPU, at decode.
        file_share: Share of the weights in host memory that a pass reads from the file, since memory is too small.
    """

    parts: tuple[Part, ...]
    head_on_gpu: bool = True
    cache_on_gpu: bool = True
    held: Number = 0.0
    hits: Number = 0.0
    misses: Literal["cpu", "copy"] = "cpu"
    at_once: bool = False
    deferred: int = 0
    file_share: Number = 0.0

    @property
    def whole(self) -> bool:
        """Whether everything is on the GPU."""
        return (
            self.head_on_gpu
            and self.cache_on_gpu
            and all(part.count == part.on_gpu == part.experts_on_gpu for part in self.parts)
        )

    @property
    def empty(self) -> bool:
        """Whether no layer is on the GPU."""
        return not any(part.on_gpu for part in self.parts)


def layers_between(model: ModelConfig, first: int, last: int) -> tuple[int, ...]:
    """Layers of each group among those from number ``first`` to before ``last``.

    Groups that differ in attention only alternate, so that each has its share; others follow one another.
    """
    first, last = max(first, 0), min(last, model.num_layers)
    groups, wanted = model.layer_groups, max(last - first, 0)
    if all(group.mlp == groups[0].mlp for group in groups):
        found = [wanted * group.count // model.num_layers for group in groups]
        for index in sorted(range(len(groups)), key=lambda i: -groups[i].count):
            if sum(found) < wanted:
                found[index] += min(wanted - sum(found), groups[index].count - found[index])
        return tuple(found)
    found, start = [], 0
    for group in groups:
        found.append(max(min(last, start + group.count) - max(first, start), 0))
        start += group.count
    return tuple(found)


def has_experts(group: LayerGroup) -> bool:
    """Whether its layers have routed experts."""
    return group.mlp.routed_experts > 0


@lru_cache(maxsize=256)
def _expert_bytes(model: ModelConfig, dtype: DtypeConfig) -> tuple[float, ...]:
    found = []
    for index, group in enumerate(model.layer_groups):
        total = 0.0
        for position, linear in enumerate(layer_linears(group, model.hidden_size)):
            if linear.copies > 1:
                bits = (
                    dtype.stored_weight_bits
                    if dtype.formats is None
                    else dtype.formats.layers[index][position].bits
                )
                total += linear.copies * linear.weights * bits / 8
        found.append(total)
    return tuple(found)


def expert_layer_bytes(scenario: Scenario) -> tuple[float, ...]:
    """Bytes of the routed experts of one layer of each group."""
    return _expert_bytes(scenario.model, scenario.dtype)


def layers_on_gpu_bytes(scenario: Scenario, division: Division) -> float:
    """Bytes of the layers' weights that the GPU holds, head and token table left out."""
    total = 0.0
    for part, layer, experts in zip(
        division.parts, layer_weight_bytes(scenario), expert_layer_bytes(scenario), strict=True
    ):
        total += part.on_gpu * (layer - experts) + part.experts_on_gpu * experts
        total += (part.count - part.experts_on_gpu) * experts * division.held
    return total


def touched_share(group: LayerGroup, tokens: Number) -> Number:
    """Share of a layer's routed experts that so many tokens are sent to; 1 where there are none."""
    if not group.mlp.routed_experts:
        return 1.0
    expert = Product("expert", 1.0, 1.0, 1.0, 1.0, group.mlp.experts_per_token, group.mlp.routed_experts)
    return expert.touched(tokens)


def unused_bytes(scenario: Scenario, tokens: Number) -> Number:
    """Bytes of experts that no token of a pass over so many is sent to.

    Programs that fetch a module when it runs leave them where they are, since the experts of Hugging Face's mixtures
    are modules of their own.
    """
    unused: Number = 0.0
    for group, routed in zip(scenario.model.layer_groups, expert_layer_bytes(scenario), strict=True):
        unused = unused + group.count * routed * (1.0 - touched_share(group, tokens))
    return unused


def used_share(scenario: Scenario, tokens: Number) -> Number:
    """Share of the layers' bytes that a pass over so many tokens uses: all but experts that none is sent to."""
    return 1.0 - unused_bytes(scenario, tokens) / layers_weight_bytes(scenario)


class _OnTheCPU(Attention):
    """Attention of layers on the GPU whose keys and values are in host memory: the GPU computes none of it."""

    def prefill(self, costs: Costs, attention: Mixer, layers: int, chunks: Sequence[Chunk]) -> None:
        """Nothing on the GPU."""

    def decode(
        self,
        costs: Costs,  # noqa: ARG002 - the interface of all attention
        mixer: Mixer,
        layers: int,  # noqa: ARG002 - likewise
        batch: Number,
        queries: int = 1,  # noqa: ARG002 - likewise
    ) -> DecodeAttention:
        """Nothing on the GPU."""
        return DecodeAttention(mixer, 0.0 * batch, 0.0 * batch, 0.0 * batch)


class HybridForward(Forward):
    """One forward pass over a divided model: the GPU's part as in `Forward`, the CPU's part beside it."""

    def __init__(
        self,
        scenario: Scenario,
        constants: dict[str, float],
        division: Division,
        link_bytes_per_s: float,
        copies_per_socket: bool = False,
    ) -> None:
        super().__init__(scenario, constants)
        self.division, self.link_bytes_per_s = division, link_bytes_per_s
        if not division.cache_on_gpu:
            self.attention = _OnTheCPU(scenario, constants, self.rates, self.attention.fabric)
        self.cpu: CpuRates = cpu_rates(scenario.host, constants, scenario.offload.threads, copies_per_socket)
        self.whole_groups = self.groups
        self.cpu_groups = self._undivided()
        self.whole_head = self.head
        gpu: list[tuple[LayerGroup, tuple[Product, ...]]] = []
        for (group, products), part in zip(self.whole_groups, division.parts, strict=True):
            dense = tuple(product for product in products if not product.is_expert)
            with_experts = part.experts_on_gpu if has_experts(group) else part.on_gpu
            if with_experts:
                gpu.append((group.replace(count=with_experts), products))
            if part.on_gpu > with_experts:
                gpu.append((group.replace(count=part.on_gpu - with_experts), dense))
        self._take_groups(tuple(gpu))
        if not division.head_on_gpu:
            self.head = ()
        # The last layers are those on the GPU, and of these the last have their experts there.
        ends_on_cpu = bool(constants["last_mlp_of_logits"]) and not division.parts[-1].on_gpu
        self.mlp_after_cpu = mlp_of(self.whole_groups[-1][1]) if ends_on_cpu else ()
        if ends_on_cpu:
            self.last_mlp = ()

    def _undivided(self) -> tuple[tuple[Product, ...], ...]:
        """What the CPU computes of a layer of each group: whole products.

        The first of several ranks has it compute for all of them (kvcache-ai/sglang, kt_ep_wrapper.py: ``tp_rank == 0``).
        """
        if self.tp == 1:
            return tuple(products for _, products in self.whole_groups)
        return tuple(
            layer_products(self.model, group, formats=row)
            for group, row in zip(self.model.layer_groups, self._format_rows, strict=True)
        )

    def with_cpu(self, scenario: Scenario, constants: dict[str, float]) -> HybridForward:
        """The same pass of a host and constants that differ in what its CPU reaches alone; nothing else is built anew."""
        other = copy(self)
        other.scenario, other.constants = scenario, constants
        other.cpu = cpu_rates(scenario.host, constants, scenario.offload.threads)
        return other

    # -- whole passes -------------------------------------------------------------------------------------------

    def prefill(self, batch: Number, new_tokens: Number, cached: Number = 0, with_head: bool = True) -> Costs:
        """Seconds of one pass over new tokens of prompts, on both."""
        costs = super().prefill(batch, new_tokens, cached, with_head)
        tokens = batch * new_tokens
        self._host_part(costs, tokens, tokens * self._distinct_share(batch), prompt=True)
        for group, part in zip(self.model.layer_groups, self.division.parts, strict=True):
            layers = part.count - (part.on_gpu if self.division.cache_on_gpu else 0)
            for mixer in group.attention.parts if layers else ():
                self._scores_on_cpu(costs, mixer, layers, batch, new_tokens, cached)
        return self._with_all_parts(costs)

    def decode_step(self, batch: Number, queries: int = 1) -> tuple[Costs, list[DecodeAttention]]:
        """Seconds of one decode step without attention over the context, and that attention per token."""
        costs, attention = super().decode_step(batch, queries)
        tokens = batch * queries
        on_gpu = sum(costs.parts_s.values()) - costs.parts_s.get("lm_head", 0.0)
        beside = on_gpu / self.model.num_layers
        self._host_part(costs, tokens, tokens * self._distinct_share(batch), prompt=False, beside=beside)
        for group, part in zip(self.model.layer_groups, self.division.parts, strict=True):
            layers = part.count - (part.on_gpu if self.division.cache_on_gpu else 0)
            if not layers:
                continue
            if not self.division.cache_on_gpu:
                self._hops(costs, part.on_gpu, tokens)
            for mixer in group.attention.parts:
                moved = batch * kv_elements_per_token(mixer) * self._kept_bits(mixer) / 8
                flops = batch * queries * score_flops_per_pair(mixer, absorbed=True)
                seconds = layers * self.cpu.attention_s(flops, moved)
                attention.append(DecodeAttention(mixer, seconds, 0.0 * seconds, seconds))
        return self._with_all_parts(costs), attention

    def head_of(self, costs: Costs, positions: Number) -> None:
        """The head on so many positions, where it is, and the MLP of the last layer likewise."""
        super().head_of(costs, positions)
        self._head_on_cpu(costs, positions)

    def _kept_bits(self, mixer: Mixer) -> float:
        return mixer.kept_bits(self.scenario.dtype.stored_kv_bits, self.scenario.dtype.state_bits)

    @staticmethod
    def _with_all_parts(costs: Costs) -> Costs:
        """Parts and resources that whoever reads a pass expects, at 0 where nothing runs on the GPU."""
        costs.part("attention", 0.0, no_terms)
        for resource in ("compute", "hbm", "kernel_floors"):
            costs.busy(resource, 0.0)
        return costs

    # -- attention ------------------------------------------------------------------------------------------------

    def _scores_on_cpu(
        self, costs: Costs, mixer: Mixer, layers: int, batch: Number, new: Number, cached: Number
    ) -> None:
        pairs = prefill_pairs(mixer, new + cached, causal=True) - prefill_pairs(mixer, cached, causal=True)
        seconds = layers * self.cpu.scores_s(batch * pairs * score_flops_per_pair(mixer))
        costs.part(
            "cpu_attention", seconds, one_term("cpu_attention", "scores on the CPU", ("seconds", seconds))
        )
        costs.busy("cpu", seconds)

    # -- layers and experts in host memory -----------------------------------------------------------------------

    def _host_part(
        self, costs: Costs, tokens: Number, routed: Number, prompt: bool, beside: Number = 0.0
    ) -> None:
        """All that is in host memory; ``beside`` are a layer's seconds on the GPU that deferred experts hide."""
        groups = zip(self.whole_groups, self.cpu_groups, self.division.parts, strict=True)
        for (group, products), undivided, part in groups:
            on_cpu = part.count - part.on_gpu
            dense = tuple(product for product in products if not product.is_expert)
            experts = tuple(pair for pair in zip(products, undivided, strict=True) if pair[0].is_expert)
            if on_cpu:
                left = self.mlp_after_cpu if group is self.model.layer_groups[-1] else ()
                self._dense(costs, dense, on_cpu, tokens, prompt, left)
                inner = on_cpu - bool(left)
                if experts and inner:
                    self._experts(costs, group, experts, inner, tokens, routed, prompt, beside)
            away = part.on_gpu - part.experts_on_gpu if experts else 0
            if away:
                self._experts(costs, group, experts, away, tokens, routed, prompt, beside)
                stays = where(self._copies_experts(tokens, group, prompt), 0.0, 1.0)
                self._hops(costs, away * (self.division.hits < 1) * stays, tokens)
            elif on_cpu and part.on_gpu:
                self._hops(costs, 1, tokens)

    def _dense(
        self,
        costs: Costs,
        products: tuple[Product, ...],
        layers: int,
        tokens: Number,
        prompt: bool,
        left: tuple[Product, ...] = (),
    ) -> None:
        """Layers without their experts; of the last, products that are ``left`` for the positions with logits."""
        on_cpu, copy_s, on_gpu, moved = 0.0, 0.0, 0.0, 0.0
        for product in products:
            share = 1.0 - 1.0 / layers if product in left else 1.0
            size = product.weights * self._bits(product) / 8
            on_cpu = on_cpu + share * self.cpu.product_s(product, tokens, 1.0, self._bits(product))
            on_gpu = on_gpu + share * self.product_s(product, tokens).seconds
            moved = moved + share * size
        copy_s = moved / self.link_bytes_per_s
        copied = self._copies(tokens, None, prompt)
        name = "cpu_layers"
        self._both(costs, name, layers, copied, on_cpu + self.cpu.layer_s, copy_s, on_gpu, moved)

    def _experts(
        self,
        costs: Costs,
        group: LayerGroup,
        products: tuple[tuple[Product, Product], ...],
        layers: int,
        tokens: Number,
        routed: Number,
        prompt: bool,
        beside: Number = 0.0,
    ) -> None:
        """Experts of so many layers: those found on the GPU there, the others on the CPU or copied.

        Of deferred ones what the GPU's next layer takes, ``beside`` seconds, is hidden.
        Of each product a GPU's part and the whole, which the CPU computes, or writes where each GPU copies its part from.
        """
        d = self.division
        missed = 1.0 - d.hits
        on_cpu, on_gpu, hit_s, moved, staged, used = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for product, whole_product in products:
            touched = product.touched(routed)
            size = product.weights * self._bits(product) / 8
            whole_size = whole_product.weights * self._bits(whole_product) / 8
            rows = product.rows(tokens)
            on_cpu = on_cpu + self.cpu.product_s(
                whole_product, rows * missed, touched * missed, self._bits(whole_product)
            )
            whole = self.product_s(product, tokens, routed).seconds
            on_gpu = on_gpu + whole
            hit_s = hit_s + whole * d.hits
            copies = product.copies if self.constants["copy_all_experts"] else touched
            away = copies * (1.0 - d.held if self.constants["copy_all_experts"] else missed)
            moved, staged = moved + away * size, staged + away * whole_size
            used = used + touched * missed * whole_size
        copied = self._copies_experts(tokens, group, prompt)
        on_cpu = on_cpu + self.cpu.layer_s * (missed > 0)
        if d.at_once:
            on_cpu = maximum(on_cpu - hit_s, 0.0)
        if d.deferred:
            share = min(d.deferred / products[0][1].active, 1.0)
            on_cpu = on_cpu - minimum(on_cpu * share, beside)
        copy_s = moved / self.link_bytes_per_s
        staging = self.constants["host_staging_share"]
        if staging > 0:
            copy_s = copy_s + staged / (self.cpu.read_bytes_per_s * staging)
        self._both(costs, "cpu_experts", layers, copied, on_cpu, copy_s, on_gpu - hit_s, used)
        if is_array(d.hits) or d.hits:
            costs.part("mlp", layers * hit_s, one_term("mlp", "experts held", ("seconds", layers * hit_s)))

    def _both(
        self,
        costs: Costs,
        name: str,
        layers: int,
        copied: Number,
        cpu_s: Number,
        copy_s: Number,
        gpu_s: Number,
        used_bytes: Number,
    ) -> None:
        """Layers whose weights are either computed with on the CPU or copied to the GPU."""
        values: tuple[tuple[str, Number, str], ...] = (
            (name, where(copied, 0.0, layers * cpu_s), "cpu"),
            ("weight_copies", where(copied, layers * copy_s, 0.0), "pcie"),
            ("mlp", where(copied, layers * gpu_s, 0.0), "compute"),
        )
        read = self.division.file_share
        if is_array(read) or read:
            rate = self.file_bytes_per_s
            values = (*values, ("file_reads", layers * used_bytes * read / rate, "nvme"))
        for part, seconds, resource in values:
            label = self.scenario_part_title(part)
            costs.part(
                part, seconds, one_term(part, label, ("layers", layers), ("seconds of one", seconds / layers))
            )
            costs.busy(resource, seconds)

    @staticmethod
    def scenario_part_title(part: str) -> str:
        """What the terms of a part are called."""
        return {
            "cpu_layers": "products and barriers on the CPU",
            "cpu_experts": "experts on the CPU",
            "weight_copies": "weights copied to the GPU",
            "mlp": "products with copied weights",
            "file_reads": "weights that are not in memory",
        }[part]

    @property
    def file_bytes_per_s(self) -> float:
        """Bytes per second that pages of the file come in with."""
        disk = self.scenario.host.disk
        return float("inf") if disk is None else disk.read_bytes_per_s("mmap")

    def _copies(self, tokens: Number, group: LayerGroup | None, prompt: bool) -> Number:
        """Whether a pass of so many tokens copies weights to the GPU, instead of computing on the CPU."""
        if not prompt or self.scenario.gpu.absent:
            return tokens < 0
        bound = self.constants["copy_min_tokens"]
        if group is not None and self.constants["copy_by_experts"]:
            bound = bound * group.mlp.routed_experts / group.mlp.experts_per_token
        return tokens >= bound

    def _copies_experts(self, tokens: Number, group: LayerGroup, prompt: bool) -> Number:
        """The same of a layer's experts, which some systems copy for every pass."""
        copied = self._copies(tokens, group, prompt)
        return copied | (tokens >= 0) if self.division.misses == "copy" else copied

    def _hops(self, costs: Costs, layers: int, tokens: Number) -> None:
        """Hidden states go to the CPU and come back."""
        size = 2.0 * tokens * self.model.hidden_size * 4
        each = self.constants["cpu_hop_us"] * 1e-6 + size / self.link_bytes_per_s
        costs.part(
            "cpu_hops",
            layers * each,
            one_term("cpu_hops", "hops", ("hops", layers), ("seconds of one", each)),
        )
        costs.busy("pcie", layers * each)

    def _head_on_cpu(self, costs: Costs, positions: Number) -> None:
        self._last_mlp(costs, positions)
        if self.division.head_on_gpu:
            return
        for product in self.whole_head:
            seconds = self.cpu.product_s(product, positions, 1.0, self._bits(product))
            costs.part("lm_head", seconds, one_term("lm_head", "head on the CPU", ("seconds", seconds)))
            costs.busy("cpu", seconds)

    def _last_mlp(self, costs: Costs, positions: Number) -> None:
        """The MLP of the last layer on the positions whose logits are asked for: too few to copy its weights for."""
        dense = tuple(product for product in self.mlp_after_cpu if not product.is_expert)
        experts = tuple((product, product) for product in self.mlp_after_cpu if product.is_expert)
        if dense:
            seconds = sum(
                self.cpu.product_s(product, positions, 1.0, self._bits(product)) for product in dense
            )
            title = "MLP of the last layer, of tokens with logits"
            costs.part("cpu_layers", seconds, one_term("cpu_layers", title, ("seconds", seconds)))
            costs.busy("cpu", seconds)
        if experts:
            self._experts(costs, self.model.layer_groups[-1], experts, 1, positions, positions, prompt=False)

    def _bits(self, product: Product) -> float:
        return self._stored_bytes(product) * 8


def missing_share(needed_bytes: Number, room_bytes: float) -> Number:
    """Share of weights that memory has no room for, and that each pass reads from the file again."""
    return maximum(1.0 - minimum(room_bytes / maximum(needed_bytes, 1.0), 1.0), 0.0)
