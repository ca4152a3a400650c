"""Device time of one forward pass on one rank, by part: what every system is built on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm_perf.config.formats import MatrixFormat
from llm_perf.config.model import LayerGroup, Mixer, ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.counts.parameters import expert_tensor_shards, token_table_params
from llm_perf.counts.products import Product, layer_products, lm_head_products, routed_experts
from llm_perf.counts.routing import Routing
from llm_perf.hardware.gpu_time import GemmRates, KernelRates, KernelStyle, kernel_rates
from llm_perf.systems.attention import (
    Attention,
    Chunk,
    DecodeAttention,
    attention_s,
    context_when,
    windows_of,
)
from llm_perf.systems.base import Load
from llm_perf.systems.costs import Costs, part_of
from llm_perf.systems.eager_operations import more_kernels
from llm_perf.systems.exchanges import Exchanges
from llm_perf.systems.format_kernels import (
    BLOCK_SCALED,
    BY_8BIT,
    QUANTISED,
    WEIGHT_ONLY,
    Kind,
    compute_factor,
    integer_rates,
    read_factor,
    routing_us,
    tile_reads,
    unpacked_share,
    walk_s,
)
from llm_perf.systems.padded_experts import empty_blocks, loaded_bytes, pads_experts
from llm_perf.systems.products import (
    ProductTime,
    elementwise,
    layer_terms,
    product_time,
)
from llm_perf.systems.terms import Factor, Quantity, Terms, one_term

_NATIVE_KINDS: dict[int, Kind] = {4: "native 4-bit", 8: "native 8-bit", 16: "16-bit", 32: "16-bit"}
_LEAST_8BIT = 7.0
"""Stored bits from which a format's kernels are those of 8-bit weights: types of 6.56 bits unpack like those of 4."""
_STREAM_PASSES = 3
"""A stream of hidden states is read to mix a block's input, and read and written when the output is mixed into it."""
_MIXING_KERNELS = 1
"""Beside the product that finds how to mix: the input of a block of several streams is mixed by a kernel, the output by the
one that adds a residual elsewhere."""


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
        self._load_variation = constants["expert_load_variation"]
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
        self._table_rates = scenario.flops_efficiency is None
        self._floor_share = constants["floor_scale"] * constants["graph_floor_scale"]
        self.floor_s = self.rates.gemm.floor_s * self._floor_share
        self._gemms = {"": self.rates.gemm} | self._gemms_of_formats()
        self._take_groups(
            tuple(
                (group, layer_products(self.model, group, self.tp, self.ep, self.dp, row))
                for group, row in zip(self.model.layer_groups, self._format_rows, strict=True)
            )
        )
        self.head = lm_head_products(self.model, self.tp, self._head_format)
        self.exchanges = Exchanges(scenario, constants)
        self.attention = Attention(scenario, constants, self.rates, self.exchanges.context)

    def _take_groups(self, groups: tuple[tuple[LayerGroup, tuple[Product, ...]], ...]) -> None:
        """The layers that run here, with their products, and what follows from these."""
        self.groups = groups
        gpu = self.scenario.gpu
        self._sm_ghz = (gpu.sm_count or 0) * (gpu.sm_clock_mhz or 0.0) / 1000
        self._extra_s = tuple(self._extra_kernels_s(group, products) for group, products in groups)
        self._expert_vectors = tuple(self._vectors_of_experts(products) for _, products in groups)
        self.last_mlp = mlp_of(groups[-1][1]) if groups and self.constants["last_mlp_of_logits"] else ()

    # -- a whole pass -----------------------------------------------------------------------------------------

    def prefill(self, batch: Number, new_tokens: Number, cached: Number = 0, with_head: bool = True) -> Costs:
        """Device seconds of one pass over ``new_tokens`` new tokens of ``batch`` sequences.

        ``cached`` tokens per sequence came before them, and their keys and values are in the cache. ``with_head`` is off
        for a pass that ends inside the prompts: nobody needs its logits. Context-parallel ranks take an equal part of
        the new tokens each.
        """
        costs = Costs()
        chunk = Chunk(batch, new_tokens, cached)
        tokens = chunk.tokens / self.cp
        self.layers(
            costs, tokens, batch, lambda mixer, count: self.attention.prefill(costs, mixer, count, (chunk,))
        )
        if with_head:
            self.head_of(costs, tokens if self.constants["logits_all_positions"] else batch)
        self.pipeline_transfer(costs, tokens)
        return costs

    def decode_step(self, batch: Number, queries: int = 1) -> tuple[Costs, list[DecodeAttention]]:
        """Device seconds of one decode step without attention over the context, and that attention per token.

        ``queries`` tokens of every sequence are computed at once: one, or as many as speculation checks.
        """
        costs = Costs()
        attention: list[DecodeAttention] = []
        tokens = batch * queries
        self.layers(
            costs,
            tokens,
            batch,
            lambda mixer, count: attention.append(self.attention.decode(costs, mixer, count, batch, queries)),
        )
        self.head_of(costs, tokens)
        self.pipeline_transfer(costs, tokens)
        return costs, attention

    def mixed_step(
        self, chunks: Sequence[Chunk], batch: Number, ends: Number, queries: int = 1
    ) -> tuple[Costs, list[DecodeAttention]]:
        """Device seconds of one step of prompts' chunks beside ``batch`` decoding sequences.

        Products and what follows them see all tokens of the step at once; chunks attend as prompts do, in one kernel, and
        the other sequences as in a decode step, whose attention over the context is left out. Logits are those of the
        decoding sequences and of the prompts that end here, ``ends``. With chunks alone, or without any, this is `prefill`
        or `decode_step`.
        """
        costs = Costs()
        attention: list[DecodeAttention] = []
        read = sum((chunk.tokens for chunk in chunks), 0.0) / self.cp
        tokens = read + batch * queries

        def attend(mixer: Mixer, count: int) -> None:
            if chunks:
                self.attention.prefill(costs, mixer, count, chunks)
            if batch:
                attention.append(self.attention.decode(costs, mixer, count, batch, queries))

        self.layers(costs, tokens, batch + sum((chunk.sequences for chunk in chunks), 0.0), attend)
        positions = batch * queries + (read if self.constants["logits_all_positions"] else ends)
        if positions:
            self.head_of(costs, positions)
        self.pipeline_transfer(costs, tokens)
        return costs, attention

    def layers(
        self,
        costs: Costs,
        tokens: Number,
        sequences: Number,
        attend: Callable[[Mixer, int], None] = lambda mixer, count: None,  # noqa: ARG005
    ) -> None:
        """All layers on ``tokens`` tokens of ``sequences`` sequences; ``attend`` adds the attention of equal mixers.

        A stack may leave out the MLP of the last layer, which then belongs to the tokens whose logits are asked for.
        """
        routed = tokens * self._distinct_share(sequences)
        last = len(self.groups) - 1
        for index, ((group, products), vectors, extra_s) in enumerate(
            zip(self.groups, self._expert_vectors, self._extra_s, strict=True)
        ):
            left = self.last_mlp if index == last else ()
            if left:
                self._products(costs, left, tokens, group.count - 1, routed)
                products = tuple(product for product in products if product not in left)
            self._products(costs, products, tokens, group.count, routed)
            for mixer in group.attention.parts:
                attend(mixer, group.count)
            self._elementwise(costs, group, tokens, extra_s)
            if vectors:
                self._routed_rows(costs, group, tokens, vectors)
            self._layer_communication(costs, group, tokens)

    def _distinct_share(self, batch: Number) -> Number:
        """Share of a replica's tokens that differ: equal prompts send theirs to the same experts."""
        distinct = self.scenario.workload.distinct_prompts
        return 1.0 if distinct is None else minimum(distinct / (batch * self.dp), 1.0)

    @property
    def windows(self) -> tuple[float, ...]:
        """Contexts at which some layers stop attending to more."""
        return windows_of(mixer for group in self.model.layer_groups for mixer in group.attention.parts)

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
        integers = self.constants["integer_gflops_per_sm_per_ghz"] > 0
        for kernels, dtype in (("16-bit", None), ("fp8", "fp8"), ("int8", "int8"), ("fp4", "fp4")):
            if dtype is None or (dtype in scenario.gpu.peak_tflops and not integers):
                found[kernels] = kernel_rates(
                    scenario.gpu,
                    scenario.dtype.compute_bits,
                    scenario.flops_efficiency,
                    scenario.hbm_memory_efficiency,
                    style,
                    dtype,
                ).gemm
        return found

    def _gemm(self, product: Product, tokens: Number | None = None) -> GemmRates:
        """Rates of a product's kernel; those of experts may depend on the tokens of the pass."""
        if self._by_8bit(product):
            return self._gemms["fp8"]
        gemm = self._gemms.get("" if product.stored is None else product.stored.kernels, self.rates.gemm)
        if product.stored is None or not self._table_rates or not self._narrow(product):
            return gemm
        widest = None
        if product.is_expert and tokens is not None:
            mean = self.constants["integer_expert_tile_of_mean"]
            rows = product.rows(tokens) / maximum(product.touched(tokens), 1.0)
            widest = maximum(mean * rows, self.rates.gemm.tile_rows) if mean > 0 else tokens
        return integer_rates(self.constants, gemm, self._sm_ghz, product.stored.name, widest)

    def _by_8bit(self, product: Product) -> bool:
        """Whether 4-bit weights are multiplied by 8-bit activations: experts in mxfp4, by the engines of NVIDIA's GPUs."""
        stored = product.stored
        if stored is None or stored.name != "mxfp4" or not product.is_expert:
            return False
        return "fp4" in self._gemms and "fp8" in self._gemms and self.scenario.gpu.maker == "nvidia"

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
        name = "" if product.stored is None else product.stored.name
        gemm = self._gemm(product)
        share = unpacked_share(self.constants, kind, product.is_expert, gemm, self._sm_ghz, name)
        return where(self._unpacks(product, rows), self.activation_bytes, stored / share)

    def _stored_bytes(self, product: Product) -> float:
        """Bytes that one weight takes in memory, which a product reads at least."""
        dtype, stored = self.scenario.dtype, product.stored
        if stored is not None:
            return stored.bits / 8
        if part_of(product.op) == "lm_head":
            return dtype.stored_embedding_bits / 8
        return self.activation_bytes if product.op == "router" else dtype.stored_weight_bits / 8

    def experts(self, costs: Costs, tokens: Number) -> None:
        """Products of routed experts alone, of all layers: what a step of replicas that share them spreads over all."""
        for group, products in self.groups:
            routed = tuple(product for product in products if product.is_expert)
            self._products(costs, routed, tokens, group.count)

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
            self._empty_blocks(costs, product, tokens, layers, routed)

    def product_s(self, product: Product, tokens: Number, routed: Number | None = None) -> ProductTime:
        """One product on so many tokens, of which ``routed`` differ (all if None): they decide which experts are read."""
        gemm, kind = self._gemm(product, tokens), self._kernel_kind(product)
        rows = product.rows(tokens)
        copies = self.touched(product, tokens if routed is None else routed)
        if product.is_expert:
            busiest = self._busiest(product.active, product.all_copies, tokens if routed is None else routed)
            rows = rows * self.expert_share * busiest
        # However good its kernels, no product reads what is stored faster than the data sheet's memory.
        least = self._stored_bytes(product) * gemm.bytes_per_s / gemm.peak_bytes_per_s
        matrix = product.weights * self._stored_bytes(product)
        uncached = max(1.0 - self.rates.l2_bytes / matrix, 0.0) if matrix else 0.0

        def bytes_per_weight(rows: Number) -> Number:
            reads = read_factor(self.constants, kind, gemm, product.is_expert, rows, copies)
            reads = reads * (
                tile_reads(self.constants, rows, copies, uncached) if kind in WEIGHT_ONLY else 1.0
            )
            return maximum(self.weight_bytes_per_element(product, rows) * reads, least)

        most = gemm.matvec_max_rows
        return product_time(
            gemm,
            product,
            rows,
            copies,
            bytes_per_weight(rows),
            self.activation_bytes,
            gemm.floor_s * self._floor_share + self._scales_s(product, kind),
            compute_factor(self.constants, kind, gemm, product.is_expert and self._table_rates),
            bytes_per_weight(minimum(rows, most)) if most else None,
            walk_s(self.constants, kind, product.in_features),
        )

    def touched(self, product: Product, tokens: Number) -> Number:
        """Copies of a product that the busiest rank reads for so many tokens of each replica: all experts where it is 1."""
        if not product.is_expert or self._load_variation <= 0:
            return product.touched(tokens, self.expert_batches)
        routing = Routing(product.active, product.all_copies, self._load_variation)
        return routing.busiest_touched(tokens * self.expert_batches, self.ep)

    def _busiest(self, active: int, experts: int, tokens: Number) -> Number:
        """Rows of the busiest rank over what `expert_share` gives it: what was asked for stands, if it is more."""
        if self.ep == 1 or self._load_variation <= 0:
            return 1.0
        routing = Routing(active, experts, self._load_variation)
        rows = routing.busiest_rows(tokens * self.expert_batches, self.ep)
        return maximum(rows / self.scenario.parallelism.expert_imbalance, 1.0)

    def _scales_s(self, product: Product, kind: Kind) -> float:
        """What scales of blocks add to a kernel's floor: activations are scaled first. Experts' are, in their routing."""
        return (
            self.constants["block_8bit_us"] * 1e-6 if kind == BLOCK_SCALED and not product.is_expert else 0.0
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
        if self._by_8bit(product):
            return BY_8BIT
        if stored.name == "fp8_block" and self.constants["block_8bit_flops"] > 0:
            return BLOCK_SCALED
        return _NATIVE_KINDS[{"16-bit": 16, "fp4": 4}.get(stored.kernels, 8)]

    def _unpack(self, costs: Costs, product: Product, tokens: Number, layers: int, routed: Number) -> None:
        """Kernels that unpack quantised weights into 16 bits before the product move bytes per weight and pass."""
        unpacks = self._unpacks(product, product.rows(tokens))
        if unpacks is False:
            return
        weights = self.touched(product, routed) * product.weights
        moved = where(unpacks, weights * self.constants["unpack_bytes_per_weight"], 0.0)
        seconds = layers * moved / self.rates.elementwise_bytes_per_s
        rate = self.rates.elementwise_bytes_per_s
        unpacked = (Factor("layers", layers), Factor("bytes", moved), Factor("bytes/s", rate, divides=True))
        costs.part(
            "dequantisation", seconds, one_term("dequantisation", product.op.replace("_", " "), *unpacked)
        )
        costs.busy("hbm", seconds)

    def _empty_blocks(
        self, costs: Costs, product: Product, tokens: Number, layers: int, routed: Number
    ) -> None:
        """Blocks of rows that a grouped kernel works off for experts that no token is sent to."""
        c, kind = self.constants, self._kernel_kind(product)
        shards = expert_tensor_shards(self.tp, self.dp, self.ep)
        if not product.is_expert or not self._sm_ghz or not pads_experts(c, kind, shards):
            return
        rows = product.rows(tokens) * self.expert_share
        blocks = empty_blocks(c["padded_expert_rows"], product.copies, rows, self.touched(product, routed))
        moved, rate = loaded_bytes(product, blocks), c["padded_gb_per_s_per_sm_ghz"] * self._sm_ghz * 1e9
        seconds = layers * moved / rate
        part, name = part_of(product.op), "empty blocks of experts"
        factors = (Factor("layers", layers), Factor("bytes", moved), Factor("bytes/s", rate, divides=True))
        costs.part(part, seconds, one_term(part, name, *factors))
        costs.busy("compute", seconds)

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

    def head_of(self, costs: Costs, positions: Number) -> None:
        """The head on so many positions, and the MLP of the last layer where it belongs to them."""
        self._products(costs, self.last_mlp, positions, 1)
        self._products(costs, self.head, positions, 1)
        self._unpack_tables(costs)
        if self.tp > 1:
            logits = positions * self.model.vocab_size * self.activation_bytes
            costs.collective("all_gather", 1, self.exchanges.tensor.all_gather_s(logits))

    # -- attention over the context of decode steps -----------------------------------------------------------

    def attention_s(self, attention: list[DecodeAttention], context: Number) -> Number:
        """Seconds of decode attention, floors left out, at a context."""
        return attention_s(attention, context)

    def context_when(self, attention: list[DecodeAttention], seconds: Number) -> Number:
        """The context at which decode attention, floors left out, has come to take ``seconds``."""
        return context_when(attention, seconds)

    def attention_terms(
        self, attention: list[DecodeAttention], nodes: list[tuple[Number, Number]], times: Number = 1.0
    ) -> Terms:
        """Decode attention, floors left out, of steps at contexts with weights."""
        return self.attention.terms(attention, nodes, times)

    # -- everything else --------------------------------------------------------------------------------------

    def _elementwise(self, costs: Costs, group: LayerGroup, tokens: Number, extra_s: float) -> None:
        """Norms, residuals, rotary embeddings (replicated over tp), the activation function (sharded), ``extra_s`` more.

        A layer of one block, mixer or MLP alone, has half of what a layer of both has. Streams beside the first move by
        themselves around each block.
        """
        c = self.constants
        blocks = (bool(group.attention.parts) + bool(group.mlp.ffn_size)) / 2
        streams = 1 if group.streams is None else group.streams.count
        vectors = c["elementwise_hidden_vectors"] + 2 * _STREAM_PASSES * (streams - 1)
        hidden = blocks * vectors * self.model.hidden_size * self._sequence_share(tokens)
        experts = routed_experts(group) or 1
        ffn = c["elementwise_ffn_vectors"] * group.mlp.ffn_size * experts / self.tp
        moved = tokens * (hidden + ffn) * self.activation_bytes
        working_set = 2 * tokens * self.model.hidden_size * self.activation_bytes
        traffic = self.rates.elementwise_s(moved, working_set)
        kernels = c["kernels_per_layer"] + (2 * _MIXING_KERNELS if streams > 1 else 0)
        floors = blocks * kernels * self.rates.elementwise_floor_s * c["graph_floor_scale"]
        floors = floors + extra_s
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

    def _extra_kernels_s(self, group: LayerGroup, products: Sequence[Product]) -> float:
        """Kernels of one layer beside products and norms: routing and sorting for experts, scans, bookkeeping."""
        microseconds = self.constants["layer_us"]
        if routed_experts(group):
            kinds = self.expert_kinds(products)
            microseconds += routing_us(self.constants, kinds, self.scenario.gpu.has_tensor_memory)
        if any(part.recurrent for part in group.attention.parts):
            microseconds += self.constants["state_space_us"]
        kernels = more_kernels(group, products) if self.constants["more_kernels"] else 0
        floor_s = self.rates.elementwise_floor_s * self.constants["graph_floor_scale"]
        return microseconds * 1e-6 + kernels * floor_s

    def narrowing_products(self, products: Sequence[Product]) -> int:
        """How many products narrow their activations first, each by a kernel of its own."""
        return sum(self._kernel_kind(product) in QUANTISED for product in products)

    def expert_kinds(self, products: Sequence[Product]) -> set[Kind]:
        """The kinds of kernels that multiply with experts; none where there are no experts."""
        return {self._kernel_kind(product) for product in products if product.is_expert}

    def _vectors_of_experts(self, products: Sequence[Product]) -> float:
        """Hidden vectors that each row of experts moves beside its products: copied to its expert, quantised, added up."""
        kinds = self.expert_kinds(products)
        narrowed = kinds & {"native 8-bit", BLOCK_SCALED, BY_8BIT}
        more = self.constants["expert_8bit_vectors"] if narrowed else 0.0
        return self.constants["expert_hidden_vectors"] + more if kinds else 0.0

    def _routed_rows(self, costs: Costs, group: LayerGroup, tokens: Number, vectors: float) -> None:
        """Copies of activations on their way to experts and back, one per token and expert."""
        busiest = self._busiest(routed_experts(group), group.mlp.routed_experts, tokens)
        rows = tokens * routed_experts(group) * self.expert_share * busiest
        moved = rows * vectors * self.model.hidden_size * self.activation_bytes
        rate = self.rates.elementwise_bytes_per_s
        factors = (
            Factor("layers", group.count), Factor("bytes", moved), Factor("bytes/s", rate, divides=True)
        )  # fmt: skip
        seconds = group.count * moved / rate
        costs.part("elementwise", seconds, one_term("elementwise", "rows of experts", *factors))
        costs.busy("hbm", seconds)

    def _sequence_share(self, tokens: Number) -> Number:
        """Part of the tokens that one rank normalises and adds: 1/sp of them, a whole token at least."""
        return maximum(1.0 / self.sp, minimum(1.0 / tokens, 1.0)) if self.sp > 1 else 1.0

    def _layer_communication(self, costs: Costs, group: LayerGroup, tokens: Number) -> None:
        size = self._hidden_bytes(tokens)
        self.exchanges.of_tensor_ranks(costs, group, size)
        if self.expert_batches > 1 and routed_experts(group):
            # Tensor ranks that share the experts have every token already, and add up after them.
            busiest = self._busiest(routed_experts(group), group.mlp.routed_experts, tokens)
            routed = size * routed_experts(group) * self.expert_share * busiest
            costs.collective("all_to_all", 2 * group.count, self.exchanges.experts.all_to_all_s(routed))

    def pipeline_transfer(self, costs: Costs, tokens: Number) -> None:
        """A request passes every stage; hidden states cross each boundary between stages."""
        self.exchanges.of_stages(costs, self._hidden_bytes(tokens))

    def _hidden_bytes(self, tokens: Number) -> Number:
        return tokens * self.model.hidden_size * self.activation_bytes


def mlp_of(products: Sequence[Product]) -> tuple[Product, ...]:
    """The products of a layer behind its attention."""
    return tuple(product for product in products if part_of(product.op) == "mlp")


def replica_batch(scenario: Scenario, load: Load) -> Number:
    """Sequences of one data-parallel replica."""
    return load.batch / scenario.parallelism.dp_size


def decode_steps(load: Load) -> Number:
    """Steps after the prefill, which produces the first token."""
    return maximum(load.gen_len - 1, 0)
