"""Device time of one forward pass on one rank, by part: what every system is built on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm_perf.config.model import LayerGroup, Mixer
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.counts.products import Product, layer_products, routed_experts
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
from llm_perf.systems.eager_operations import experts_held, kernels_of_experts, more_kernels
from llm_perf.systems.exchanges import Exchanges
from llm_perf.systems.format_kernels import BLOCK_SCALED, BY_8BIT, WEIGHT_ONLY, routing_us
from llm_perf.systems.product_kernels import ProductKernels
from llm_perf.systems.products import elementwise, layer_terms
from llm_perf.systems.terms import Factor, Quantity, Terms, one_term

_STREAM_PASSES = 3
"""A stream of hidden states is read to mix a block's input, and read and written when the output is mixed into it."""
_MIXING_KERNELS = 1
"""Beside the product that finds how to mix: the input of a block of several streams is mixed by a kernel, the output by the
one that adds a residual elsewhere."""


class Forward(ProductKernels):
    """One rank's forward pass of a scenario under a stack's constants.

    Built once per scenario; its methods take batch (sequences of one replica) and lengths, scalars or arrays.
    """

    def __init__(self, scenario: Scenario, constants: dict[str, float]) -> None:
        super().__init__(scenario, constants)
        self._take_groups(
            tuple(
                (group, layer_products(self.model, group, self.tp, self.ep, self.dp, row))
                for group, row in zip(self.model.layer_groups, self._format_rows, strict=True)
            )
        )
        self.exchanges = Exchanges(scenario, constants)
        self.attention = Attention(scenario, constants, self.rates, self.exchanges.context)

    def _take_groups(self, groups: tuple[tuple[LayerGroup, tuple[Product, ...]], ...]) -> None:
        """The layers that run here, with their products, and what follows from these."""
        self.groups = groups
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
            tensor_memory, held = self.scenario.gpu.has_tensor_memory, experts_held(products)
            microseconds += routing_us(self.constants, kinds, tensor_memory, group.mlp, held)
        if any(part.recurrent for part in group.attention.parts):
            microseconds += self.constants["state_space_us"]
        kernels: float = more_kernels(group, products) if self.constants["more_kernels"] else 0
        if self.constants["expert_kernels_apart"] and self.expert_kinds(products) & WEIGHT_ONLY.keys():
            kernels += kernels_of_experts(products)
        floor_s = self.rates.elementwise_floor_s * self.constants["graph_floor_scale"]
        return microseconds * 1e-6 + kernels * floor_s

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
        self.exchanges.of_wide_norms(costs, group, tokens)
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
