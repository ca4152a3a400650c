"""Device time of one forward pass on one rank, by part: what every system is built on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from llm_perf.config.formats import MatrixFormat
from llm_perf.config.model import LayerGroup, Mixer, ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, minimum, where
from llm_perf.counts.attention import (
    attended,
    keys_read,
    kv_elements_per_token,
    prefill_pairs,
    score_flops_per_pair,
)
from llm_perf.counts.parameters import token_table_params
from llm_perf.counts.products import Product, layer_products, lm_head_products, routed_experts
from llm_perf.hardware.collective import Fabric, Topology, joins_all, with_pcie_share
from llm_perf.hardware.gpu_time import GemmRates, KernelRates, KernelStyle, kernel_rates
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems.base import Load
from llm_perf.systems.decode_attention import attention_s_per_token, kv_reads
from llm_perf.systems.format_kernels import WEIGHT_ONLY, Kind, compute_factor, read_factor
from llm_perf.systems.products import (
    ProductTime,
    decode_attention,
    elementwise,
    fused_attention,
    layer_terms,
    product_time,
    score_square,
    unfused_attention,
)
from llm_perf.systems.terms import Factor, Quantity, Term, Terms, joined, one_term, scaled

_GEMM_PARTS = {
    "qkv": "attention_projections",
    "q": "attention_projections",
    "kv_down": "attention_projections",
    "kv_up": "attention_projections",
    "attention_output": "attention_projections",
    "lm_head": "lm_head",
    "lm_head_projection": "lm_head",
}


def part_of(op: str) -> str:
    """The part of the breakdown that a product belongs to; whatever is not attention or head is the MLP.

    What a mixer has beside the common products is named ``attention_…``; behind a colon stands which of a layer's mixers
    it is of.
    """
    plain = op.partition(":")[0]
    return _GEMM_PARTS.get(plain, "attention_projections" if plain.startswith("attention_") else "mlp")


_NATIVE_KINDS: dict[int, Kind] = {4: "native 4-bit", 8: "native 8-bit", 16: "16-bit", 32: "16-bit"}
_LEAST_8BIT = 7.0
"""Stored bits from which a format's kernels are those of 8-bit weights: types of 6.56 bits unpack like those of 4."""


class Costs:
    """Seconds by part of the breakdown and by busy resource, added up over a pass, and the terms of the parts.

    ``products`` are the matrix products that it is of, with how often each runs; of a single configuration.
    """

    __slots__ = ("_terms", "busy_s", "parts_s", "products")

    def __init__(self) -> None:
        self.parts_s: dict[str, Number] = {}
        self.busy_s: dict[str, Number] = {}
        self.products: list[tuple[str, Number, ProductTime]] = []
        self._terms: list[Terms] = []

    def product(self, op: str, times: Number, one: ProductTime) -> None:
        """Add a product that runs so many times."""
        part, seconds = part_of(op), times * one.seconds
        self.part(part, seconds, lambda: one.terms(part, op, times))
        self.busy("compute", times * one.compute_s)
        self.busy("hbm", times * one.memory_s)
        self.busy("kernel_floors", times * one.floor_s)
        if not is_array(seconds):
            self.products.append((op, times, one))

    def part(self, name: str, seconds: Number, terms: Terms) -> None:
        """Add exposed seconds to a part, and what they consist of.

        Terms of arrays are dropped: nobody reads them, and they would keep every intermediate array in memory, which
        makes a sweep take up to 2.7 times as long.
        """
        self.parts_s[name] = self.parts_s[name] + seconds if name in self.parts_s else seconds
        if not is_array(seconds):
            self._terms.append(terms)

    def busy(self, resource: str, seconds: Number) -> None:
        """Add busy seconds to a resource."""
        self.busy_s[resource] = self.busy_s[resource] + seconds if resource in self.busy_s else seconds

    def add(self, other: Costs, times: Number) -> None:
        """Add another pass so many times."""
        for name, seconds in other.parts_s.items():
            self.parts_s[name] = self.parts_s.get(name, 0.0) + times * seconds
        for name, seconds in other.busy_s.items():
            self.busy(name, times * seconds)
        if not is_array(times):
            self._terms.append(scaled(other.terms, "passes", times))
            self.products += [(op, times * count, one) for op, count, one in other.products]

    def scaled(self, parts: Number, busy: Number) -> Costs:
        """So many times the parts, and so many times the busy seconds."""
        found = Costs()
        found.parts_s = {name: parts * seconds for name, seconds in self.parts_s.items()}
        found.busy_s = {name: busy * seconds for name, seconds in self.busy_s.items()}
        found._terms = [scaled(self.terms, "passes that follow one another", parts)]
        return found

    def terms(self) -> Iterator[Term]:
        """What the parts consist of; for a single configuration."""
        return joined(*self._terms)()

    @property
    def total_s(self) -> Number:
        """Sum of the parts."""
        total: Number = 0.0
        for seconds in self.parts_s.values():
            total = total + seconds
        return total


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """What one mixer of a layer group attends to in a decode step: seconds = floor_s + per_token_s x attended(context)."""

    mixer: Mixer
    per_token_s: Number
    compute_per_token_s: Number
    memory_per_token_s: Number


class Forward:
    """One rank's forward pass of a scenario under a stack's constants.

    Built once per scenario; its methods take batch (sequences of one replica) and lengths, scalars or arrays.
    """

    def __init__(self, scenario: Scenario, constants: dict[str, float]) -> None:
        self.scenario = scenario
        self.constants = constants
        self.model: ModelConfig = scenario.model
        parallelism = scenario.parallelism
        self.tp, self.ep, self.pp, self.dp = (
            parallelism.tp_size,
            parallelism.ep_size,
            parallelism.pp_size,
            parallelism.dp_size,
        )
        self.sp, self.cp = parallelism.sp_size, parallelism.cp_size
        # Experts see the tokens of so many replicas; spread over tensor ranks as well, each takes a part of these.
        self.expert_batches = min(self.ep, self.dp)
        self.expert_share = self.expert_batches / self.ep * parallelism.expert_imbalance
        self.activation_bytes = scenario.dtype.activation_bits / 8
        scale = scenario.host.host_time_scale if constants["host_scaled"] else None
        self.host_time_scale = 1.0 if scale is None else scale.value
        self.rates: KernelRates = kernel_rates(
            scenario.gpu,
            scenario.dtype.compute_bits,
            scenario.flops_efficiency,
            scenario.hbm_memory_efficiency,
            KernelStyle.of(constants, self._weight_only),
        )
        self._floor_share = constants["floor_scale"] * constants["graph_floor_scale"]
        self.floor_s = self.rates.gemm.floor_s * self._floor_share
        self._gemms = {"": self.rates.gemm} | self._gemms_of_formats()
        self.groups = tuple(
            (group, layer_products(self.model, group, self.tp, self.ep, self.dp, row))
            for group, row in zip(self.model.layer_groups, self._format_rows, strict=True)
        )
        self._unpacking_experts = tuple(
            group
            for group, products in self.groups
            if any(product.is_expert and self._narrow(product) for product in products)
        )
        self.head = lm_head_products(self.model, self.tp, self._head_format)
        topology = Topology(scenario.gpu, scenario.host, parallelism, scenario.gpus_per_node)
        self.tp_fabric: Fabric = with_pcie_share(
            topology.tensor, scenario.gpu, constants["pcie_bus_efficiency"]
        )
        self.ep_fabric: Fabric = topology.experts
        self.cp_fabric: Fabric = topology.context
        self.hops_between_nodes = topology.hops_between_nodes
        self.hop_in_node: Fabric = topology.hop_in_node
        self.hop_between_nodes: Fabric = topology.hop_between_nodes

    # -- a whole pass -----------------------------------------------------------------------------------------

    def prefill(self, batch: Number, new_tokens: Number, cached: Number = 0, with_head: bool = True) -> Costs:
        """Device seconds of one pass over ``new_tokens`` new tokens of ``batch`` sequences.

        ``cached`` tokens per sequence came before them, and their keys and values are in the cache. ``with_head`` is off
        for a pass that ends inside the prompts: nobody needs its logits. Context-parallel ranks take an equal part of
        the new tokens each.
        """
        costs = Costs()
        tokens = batch * new_tokens / self.cp
        routed = tokens * self._distinct_share(batch)
        for group, products in self.groups:
            self._products(costs, products, tokens, group.count, routed)
            for mixer in group.attention.parts:
                self._prefill_attention(costs, mixer, group.count, batch, new_tokens, cached)
            self._elementwise(costs, group, tokens)
            self._layer_communication(costs, group, tokens)
        if with_head:
            logits = tokens if self.constants["logits_all_positions"] else batch
            self._head(costs, logits)
        self._pipeline_transfer(costs, tokens)
        return costs

    def decode_step(self, batch: Number, queries: int = 1) -> tuple[Costs, list[DecodeAttention]]:
        """Device seconds of one decode step without attention over the context, and that attention per token.

        ``queries`` tokens of every sequence are computed at once: one, or as many as speculation checks.
        """
        costs = Costs()
        attention: list[DecodeAttention] = []
        tokens = batch * queries
        routed = tokens * self._distinct_share(batch)
        for group, products in self.groups:
            self._products(costs, products, tokens, group.count, routed)
            attention += [
                self._decode_attention(costs, mixer, group.count, batch, queries)
                for mixer in group.attention.parts
            ]
            self._elementwise(costs, group, tokens)
            self._layer_communication(costs, group, tokens)
        self._head(costs, tokens)
        self._pipeline_transfer(costs, tokens)
        return costs, attention

    def _distinct_share(self, batch: Number) -> Number:
        """Share of a replica's tokens that differ: equal prompts send theirs to the same experts."""
        distinct = self.scenario.workload.distinct_prompts
        return 1.0 if distinct is None else minimum(distinct / (batch * self.dp), 1.0)

    @property
    def windows(self) -> tuple[float, ...]:
        """Contexts at which some layers stop attending to more."""
        limits = {_window(mixer) for group in self.model.layer_groups for mixer in group.attention.parts}
        return tuple(sorted(limits - {math.inf}))

    # -- products ---------------------------------------------------------------------------------------------

    @property
    def _weight_only(self) -> bool:
        """Weights are narrower than activations: products run at the activations' width."""
        return self.scenario.dtype.weight_bits < self.scenario.dtype.activation_bits

    @property
    def _format_rows(self) -> tuple[tuple[MatrixFormat, ...] | None, ...]:
        formats = self.scenario.dtype.formats
        return (None,) * len(self.model.layer_groups) if formats is None else formats.layers

    @property
    def _head_format(self) -> MatrixFormat | None:
        formats = self.scenario.dtype.formats
        if formats is None:
            return None
        return formats.embedding if self.model.tied_embeddings else formats.head

    def _gemms_of_formats(self) -> dict[str, GemmRates]:
        """Rates of products by kernels, where matrices have formats of their own.

        Wide matrices run the stack's plain 16-bit kernels, FP8 and INT8 ones on their own units where the GPU has these.
        """
        if self.scenario.dtype.formats is None:
            return {}
        scenario, found = self.scenario, {}
        style = KernelStyle.of(self.constants, quantised=False)
        for kernels, dtype in (("16-bit", None), ("fp8", "fp8"), ("int8", "int8"), ("fp4", "fp4")):
            if dtype is None or dtype in scenario.gpu.peak_tflops:
                found[kernels] = kernel_rates(
                    scenario.gpu,
                    scenario.dtype.compute_bits,
                    scenario.flops_efficiency,
                    scenario.hbm_memory_efficiency,
                    style,
                    dtype,
                ).gemm
        return found

    def _gemm(self, product: Product) -> GemmRates:
        return self._gemms.get("" if product.stored is None else product.stored.kernels, self.rates.gemm)

    def _narrow(self, product: Product) -> bool:
        """Whether the weights of a product are unpacked to run at the activations' width."""
        if product.stored is None:
            return self._weight_only
        return product.stored.kernels not in self._gemms

    def _unpacks(self, product: Product, rows: Number) -> Number:
        """Whether weights are unpacked by a kernel of its own, and the product reads the unpacked copy.

        Some stacks do so from ``unpack_min_rows`` rows on, and unpack in the registers of the product below.
        """
        if not self._narrow(product) or self.constants["unpack_bytes_per_weight"] <= 0:
            return False
        if part_of(product.op) == "lm_head" or product.op == "router":
            return False
        return rows >= self.constants["unpack_min_rows"]

    def weight_bytes_per_element(self, product: Product, rows: Number) -> Number:
        """Bytes of one weight that a product of so many rows reads; the head is the embedding table and has its width."""
        stored, kind = self._stored_bytes(product), self._kernel_kind(product)
        if product.stored is None and part_of(product.op) == "lm_head" and self._unpacks_tables:
            return self.activation_bytes
        if kind not in WEIGHT_ONLY:
            return stored
        # Weight-only kernels reach a share of the 16-bit kernels' bandwidth.
        share = self.constants[WEIGHT_ONLY[kind]]
        return where(self._unpacks(product, rows), self.activation_bytes, stored / share)

    def _stored_bytes(self, product: Product) -> float:
        """Bytes that one weight takes in memory, which a product reads at least."""
        dtype, stored = self.scenario.dtype, product.stored
        if stored is not None:
            return stored.bits / 8
        if part_of(product.op) == "lm_head":
            return dtype.stored_embedding_bits / 8
        return self.activation_bytes if product.op == "router" else dtype.stored_weight_bits / 8

    def _products(
        self,
        costs: Costs,
        products: tuple[Product, ...],
        tokens: Number,
        layers: int,
        routed: Number | None = None,
    ) -> None:
        """Products of so many layers on ``tokens`` tokens, of which ``routed`` differ: they decide which experts are read."""
        routed = tokens if routed is None else routed
        for product in products:
            costs.product(product.op, layers, self.product_s(product, tokens, routed))
            self._unpack(costs, product, tokens, layers, routed)

    def product_s(self, product: Product, tokens: Number, routed: Number | None = None) -> ProductTime:
        """One product on so many tokens, of which ``routed`` differ (all if None): they decide which experts are read."""
        gemm, kind = self._gemm(product), self._kernel_kind(product)
        rows = product.rows(tokens)
        copies = product.touched(tokens if routed is None else routed, self.expert_batches)
        if product.is_expert:
            rows = rows * self.expert_share
        # However good its kernels, no product reads what is stored faster than the data sheet's memory.
        least = self._stored_bytes(product) * gemm.bytes_per_s / gemm.peak_bytes_per_s

        def bytes_per_weight(rows: Number) -> Number:
            reads = read_factor(self.constants, kind, gemm, product.is_expert, rows, copies)
            return maximum(self.weight_bytes_per_element(product, rows) * reads, least)

        most = gemm.matvec_max_rows
        return product_time(
            gemm,
            product,
            rows,
            copies,
            bytes_per_weight(rows),
            self.activation_bytes,
            gemm.floor_s * self._floor_share,
            compute_factor(self.constants, kind, gemm),
            bytes_per_weight(minimum(rows, most)) if most else None,
        )

    def _kernel_kind(self, product: Product) -> Kind:
        """What the kernel of a product multiplies; where one width stands for all matrices, heads and routers stay wide."""
        dtype, stored = self.scenario.dtype, product.stored
        if stored is None:
            if part_of(product.op) == "lm_head" or product.op == "router":
                return "16-bit"
            if self._weight_only:
                return "weight-only 8-bit" if dtype.weight_bits == 8 else "weight-only 4-bit"
            return _NATIVE_KINDS.get(dtype.compute_bits, "16-bit")
        if self._narrow(product):
            return "weight-only 8-bit" if stored.bits >= _LEAST_8BIT else "weight-only 4-bit"
        return _NATIVE_KINDS[{"16-bit": 16, "fp4": 4}.get(stored.kernels, 8)]

    def _unpack(self, costs: Costs, product: Product, tokens: Number, layers: int, routed: Number) -> None:
        """Kernels that unpack quantised weights into 16 bits before the product move bytes per weight and pass."""
        unpacks = self._unpacks(product, product.rows(tokens))
        if unpacks is False:
            return
        weights = product.touched(routed, self.expert_batches) * product.weights
        moved = where(unpacks, weights * self.constants["unpack_bytes_per_weight"], 0.0)
        seconds = layers * moved / self.rates.elementwise_bytes_per_s
        rate = self.rates.elementwise_bytes_per_s
        unpacked = (Factor("layers", layers), Factor("bytes", moved), Factor("bytes/s", rate, divides=True))
        costs.part(
            "dequantisation", seconds, one_term("dequantisation", product.op.replace("_", " "), *unpacked)
        )
        costs.busy("hbm", seconds)

    @property
    def _unpacks_tables(self) -> bool:
        """The token table and the head are quantised as well, and whatever is quantised is unpacked in every pass."""
        dtype = self.scenario.dtype
        always = self.constants["unpack_bytes_per_weight"] > 0 and self.constants["unpack_min_rows"] <= 1
        return always and dtype.formats is None and dtype.embedding_bits < dtype.activation_bits

    def _unpack_tables(self, costs: Costs) -> None:
        """A quantised token table is unpacked whole in every pass: for the lookup of a few rows, and for the head."""
        if not self._unpacks_tables:
            return
        weights = token_table_params(self.model) + sum(product.weights for product in self.head)
        each, rate = self.constants["unpack_bytes_per_weight"], self.rates.elementwise_bytes_per_s
        seconds = weights * each / rate
        factors = (
            Factor("weights", weights), Factor("bytes per weight", each), Factor("bytes/s", rate, divides=True)
        )  # fmt: skip
        costs.part("dequantisation", seconds, one_term("dequantisation", "token table", *factors))
        costs.busy("hbm", seconds)

    def _head(self, costs: Costs, positions: Number) -> None:
        self._products(costs, self.head, positions, 1)
        self._unpack_tables(costs)
        if self.tp > 1:
            logits = positions * self.model.vocab_size * self.activation_bytes
            self._communicate(costs, "all_gather", 1, self.tp_fabric.all_gather_s(logits))

    # -- attention --------------------------------------------------------------------------------------------

    def _prefill_attention(
        self, costs: Costs, attention: Mixer, layers: int, batch: Number, new: Number, cached: Number
    ) -> None:
        pairs = prefill_pairs(attention, new + cached, causal=not self.model.encoder)
        if is_array(cached) or cached:
            pairs = pairs - prefill_pairs(attention, cached, causal=True)
        seen = keys_read(attention, new, cached)
        pairs = pairs / self.cp
        per_pair = score_flops_per_pair(attention, self.tp)
        bits = attention.kept_bits(self.scenario.dtype.kv_bits)
        kv_bytes = batch * seen * kv_elements_per_token(attention, self.tp) * bits / 8
        if self.cp > 1:
            self._ring(costs, layers, kv_bytes, batch * pairs * per_pair / self.rates.attention_flops_per_s)
        if not self.constants["unfused_attention"] or attention.recurrent:
            seconds = self.rates.prefill_attention_s(batch * pairs * per_pair, new / self.cp, kv_bytes)
            floors = (self.cp - 1) * self.rates.attention_floor_s
            whole = seconds + floors

            def each() -> Quantity:
                flops, floor_s = batch * pairs * per_pair, self.rates.attention_floor_s + floors
                return fused_attention(self.rates, flops, new / self.cp, kv_bytes, floor_s)

            costs.part(
                "attention", layers * whole, layer_terms("attention", "attention of the prompt", layers, each)
            )
            costs.busy("kernel_floors", layers * (self.rates.attention_floor_s + floors))
            costs.busy("compute", layers * batch * pairs * per_pair / self.rates.attention_flops_per_s)
            return
        # Unfused kernels compute the whole rectangle of scores and move every score through memory.
        square = new * (new + cached) / self.cp
        rate = self.constants["unfused_product_share"] * self.rates.gemm.flops_per_s
        heads = attention.num_heads / self.tp
        compute, moved = score_square(attention, batch * square, rate, self.constants["score_bytes"], self.tp)
        read = kv_bytes / self.rates.attention_bytes_per_s
        products = p_norm(compute, read, self.rates.knee_exponent)
        working_set = 2 * self.activation_bytes * batch * square * heads
        memory = self.rates.scores_s(moved, working_set)
        whole = products + memory + 2 * self.rates.attention_floor_s

        def both() -> Quantity:
            flops = batch * square * per_pair
            return unfused_attention(self.rates, flops, rate, kv_bytes, moved, working_set)

        costs.part("attention", layers * whole, layer_terms("attention", "unfused attention", layers, both))
        costs.busy("kernel_floors", 2 * layers * self.rates.attention_floor_s)
        costs.busy("compute", layers * compute)
        costs.busy("hbm", layers * (memory + read))

    def _ring(self, costs: Costs, layers: int, kv_bytes: Number, attention_s: Number) -> None:
        """Keys and values pass round the context ranks while each attends to what it has (arXiv 2310.01889)."""
        turns = self.cp - 1
        passed = turns * self.cp_fabric.send_s(kv_bytes / self.cp)
        exposed = maximum(passed - attention_s * turns / self.cp, 0.0)
        name = "keys and values passed round"
        costs.part(
            "context_exchange", layers * exposed, _of_layers("context_exchange", name, layers, exposed)
        )
        costs.busy("interconnect", layers * passed)

    def _decode_attention(
        self, costs: Costs, mixer: Mixer, layers: int, batch: Number, queries: int = 1
    ) -> DecodeAttention:
        """Linear in the context, so that steps can be summed; the floor of the kernel goes to ``costs`` at once.

        Context ranks attend to a part of the cache each, for the same queries, and merge what they found (flash
        decoding over ranks, arXiv 2411.01783, section 3.4).
        """
        flops = batch * queries * score_flops_per_pair(mixer, self.tp, absorbed=True) / self.cp
        reads = kv_reads(self.scenario, self.constants, mixer, batch)
        if self.cp > 1:
            merged = batch * queries * mixer.num_heads / self.tp * mixer.head_dim
            size = merged * self.activation_bytes
            self._communicate(costs, "context_exchange", layers, self.cp_fabric.all_reduce_s(size))
        heads = mixer.num_heads / self.tp
        processors = self.scenario.gpu.sm_count or 1
        eager = self.constants["eager_attention_us"] * 1e-6 * batch * heads / processors
        floor = self.rates.attention_floor_s * self.constants["graph_floor_scale"] + eager
        costs.part("attention", layers * floor, _of_layers("attention", "attention kernels", layers, floor))
        costs.busy("kernel_floors", layers * floor)
        return DecodeAttention(
            mixer,
            layers * attention_s_per_token(self.scenario, self.constants, self.rates, mixer, flops, reads),
            layers * flops / self.rates.gemm.flops_per_s,
            layers * reads.stored / self.rates.attention_bytes_per_s,
        )

    def attention_terms(
        self, attention: list[DecodeAttention], nodes: list[tuple[Number, Number]], times: Number = 1.0
    ) -> Terms:
        """Decode attention, floors left out, of steps at contexts with weights."""

        def terms() -> Iterator[Term]:
            for entry in attention:
                read = sum(weight * attended(entry.mixer, context) for context, weight in nodes)
                one = decode_attention(self.rates, entry.compute_per_token_s, entry.memory_per_token_s)
                # Some stacks have limits beside the two roofs.
                of = (one,) if math.isclose(one.value, entry.per_token_s, rel_tol=1e-9) else ()
                factors = (
                    Factor("tokens attended to over all steps", times * read),
                    Factor(one.name, entry.per_token_s, of),
                )
                yield Term("attention", "attention over the context", factors)

        return terms

    def attention_s(self, attention: list[DecodeAttention], context: Number) -> Number:
        """Seconds of decode attention, floors left out, at a context."""
        total: Number = 0.0
        for entry in attention:
            total = total + entry.per_token_s * attended(entry.mixer, context)
        return total

    def context_when(self, attention: list[DecodeAttention], seconds: Number) -> Number:
        """The context at which decode attention, floors left out, has come to take ``seconds``.

        Beyond each window fewer layers grow. Attention time is the least of these lines, so the latest crossing counts.
        """
        found: Number = 0.0
        for limit in (0.0, *self.windows):
            full = [entry for entry in attention if _window(entry.mixer) <= limit]
            growing = [entry.per_token_s for entry in attention if _window(entry.mixer) > limit]
            if growing:
                rest = seconds - sum(entry.per_token_s * _window(entry.mixer) for entry in full)
                found = maximum(found, rest / sum(growing))
        return found

    # -- everything else --------------------------------------------------------------------------------------

    def _elementwise(self, costs: Costs, group: LayerGroup, tokens: Number) -> None:
        """Norms, residuals, rotary embeddings (replicated over tp) and the activation function (sharded).

        A layer of one block, mixer or MLP alone, has half of what a layer of both has.
        """
        c = self.constants
        blocks = (bool(group.attention.parts) + bool(group.mlp.ffn_size)) / 2
        hidden = (
            blocks * c["elementwise_hidden_vectors"] * self.model.hidden_size * self._sequence_share(tokens)
        )
        experts = routed_experts(group) or 1
        ffn = c["elementwise_ffn_vectors"] * group.mlp.ffn_size * experts / self.tp
        moved = tokens * (hidden + ffn) * self.activation_bytes
        working_set = 2 * tokens * self.model.hidden_size * self.activation_bytes
        traffic = self.rates.elementwise_s(moved, working_set)
        floors = blocks * c["kernels_per_layer"] * self.rates.elementwise_floor_s * c["graph_floor_scale"]
        floors = floors + _extra_kernels_s(c, group, group in self._unpacking_experts)
        whole = traffic + floors

        def each() -> Quantity:
            return elementwise(self.rates, moved, working_set, floors)

        costs.part(
            "elementwise",
            group.count * whole,
            layer_terms("elementwise", "norms, residuals", group.count, each),
        )
        costs.busy("kernel_floors", group.count * floors)
        costs.busy("hbm", group.count * traffic)

    def _sequence_share(self, tokens: Number) -> Number:
        """Part of the tokens that one rank normalises and adds: 1/sp of them, a whole token at least."""
        return maximum(1.0 / self.sp, minimum(1.0 / tokens, 1.0)) if self.sp > 1 else 1.0

    def _layer_communication(self, costs: Costs, group: LayerGroup, tokens: Number) -> None:
        size = tokens * self.model.hidden_size * self.activation_bytes
        if self.tp > 1:
            count = group.count * self._reductions(group)
            extra = self.constants["all_reduce_extra_us"] * 1e-6
            if self.sp > 1:
                pair = self.tp_fabric.reduce_scatter_all_gather_s(size) + 2 * extra
                self._communicate(costs, "reduce_scatter_all_gather", count, pair)
            else:
                limit = self.constants["one_shot_all_reduce_kib"] * 1024
                reduced = self.tp_fabric.small_all_reduce_s(size, limit)
                own = self.constants["custom_all_reduce_us"] * 1e-6
                if own > 0 and joins_all(self.scenario.gpu, self.tp):
                    reduced = minimum(reduced, self.tp_fabric.custom_all_reduce_s(size, own))
                self._communicate(costs, "all_reduce", count, reduced + extra)
        if self.expert_batches > 1 and routed_experts(group):
            # Tensor ranks that share the experts have every token already, and add up after them.
            routed = size * routed_experts(group) * self.expert_share
            self._communicate(costs, "all_to_all", 2 * group.count, self.ep_fabric.all_to_all_s(routed))

    def _reductions(self, group: LayerGroup) -> int:
        """Sums over tensor ranks in one layer: one per product of a mixer that is split by rows, one of the MLP's block."""
        split = {
            linear.op for linear in group.attention.linears(self.model.hidden_size) if linear.split == "row"
        }
        if group.parallel_attention:
            return max(len(split), 1)
        return len(split) + (1 if group.mlp.ffn_size else 0)

    def _pipeline_transfer(self, costs: Costs, tokens: Number) -> None:
        """A request passes every stage; hidden states cross each boundary between stages."""
        if self.pp > 1:
            size = tokens * self.model.hidden_size * self.activation_bytes
            between = self.hops_between_nodes
            hops = between * self.hop_between_nodes.send_s(size)
            hops = hops + (self.pp - 1 - between) * self.hop_in_node.send_s(size)
            extra = (self.pp - 1) * self.constants["hop_us"] * 1e-6
            self._communicate(costs, "pipeline_transfer", 1, hops + extra)

    @staticmethod
    def _communicate(costs: Costs, part: str, times: int, each_s: Number) -> None:
        """A collective so many times."""
        seconds = times * each_s
        values = (("times", times), ("seconds of one", each_s))
        costs.part(part, seconds, one_term(part, part, *values))
        costs.busy("interconnect", seconds)


def _of_layers(part: str, name: str, layers: int, each_s: Number) -> Terms:
    return one_term(part, name, ("layers", layers), ("seconds of one", each_s))


def _extra_kernels_s(c: dict[str, float], group: LayerGroup, unpacks_experts: bool) -> float:
    """Kernels of one layer that its products and norms do not cover: routing and sorting for experts, scans, bookkeeping."""
    microseconds = c["layer_us"]
    if routed_experts(group):
        microseconds += c["moe_us"] + (c["expert_weight_only_us"] if unpacks_experts else 0.0)
    if any(part.recurrent for part in group.attention.parts):
        microseconds += c["state_space_us"]
    return microseconds * 1e-6


def _window(mixer: Mixer) -> float:
    """Context beyond which a mixer attends to no more tokens."""
    return float(mixer.saturates_at or math.inf)


def replica_batch(scenario: Scenario, load: Load) -> Number:
    """Sequences of one data-parallel replica."""
    return load.batch / scenario.parallelism.dp_size


def decode_steps(load: Load) -> Number:
    """Steps after the prefill, which produces the first token."""
    return maximum(load.gen_len - 1, 0)
