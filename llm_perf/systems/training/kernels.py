"""Seconds of one layer's kernels on one rank, forward and backward, and of the head with the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from llm_perf.config.layers.recurrent import Recurrent
from llm_perf.config.model import FeedForward, LayerGroup, Mixer
from llm_perf.config.parallelism import ActivationRecomputation
from llm_perf.config.training import KEPT_SHARES, TrainingScenario, matrix_format
from llm_perf.counts.arrays import Number, maximum
from llm_perf.counts.attention import prefill_pairs, score_flops_per_pair
from llm_perf.counts.linears import Linear
from llm_perf.counts.parameters import expert_tensor_shards
from llm_perf.counts.products import Product, layer_products, lm_head_products
from llm_perf.counts.trained import adapted_linears
from llm_perf.hardware.training_time import TrainingGemmRates, TrainingRates, training_rates
from llm_perf.systems.terms import Factor, Quantity
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.loss import Loss

_PROJECTIONS = frozenset({"qkv", "q", "kv_down", "kv_up", "attention_output"})
_UNFUSED_BACKWARD_PRODUCTS = 2.0
_FUSED_BACKWARD_PRODUCTS = 2.5
"""Products of attention's backward pass over those of its forward pass: the fused kernel computes the scores again."""
_WIDE = frozenset({"router"})
_QUANTISED = ("fp8", "fp4")
"""Formats into which operands are converted from 16 bit. A GPU without them multiplies what it has."""
_LEVELS: dict[ActivationRecomputation, frozenset[str]] = {
    ActivationRecomputation.NONE: frozenset(),
    ActivationRecomputation.ATTN_COMPUTE: frozenset({"attention"}),
    ActivationRecomputation.ATTN: frozenset({"attention", "attention_projections"}),
    ActivationRecomputation.NORM_ATTN_NORM: frozenset({"attention", "attention_projections", "norms"}),
    ActivationRecomputation.FULL: frozenset(
        {"attention", "attention_projections", "norms", "mlp", "activation_function", "experts_routing"}
    ),
}
"""Parts of the forward pass that each level runs again."""
_MODULES: dict[str, frozenset[str]] = {
    "core_attn": frozenset({"attention"}),
    "layernorm": frozenset({"norms"}),
    "moe_act": frozenset({"activation_function"}),
    "mlp": frozenset({"mlp", "activation_function"}),
    "moe": frozenset({"mlp", "activation_function", "experts_routing"}),
}
"""The same of the modules that are named one by one; experts' modules concern layers with experts."""

_FUSED_ADAPTER_PASSES = 3.0
"""Values of an adapted matrix' output that one kernel of scaling and sum moves: both outputs read, their sum written."""

_FUSED_VECTORS = {
    True: {"forward": 3.0, "backward": 5.0},
    False: {"forward": 2.0, "backward": 3.0},
}
"""Values of the inner width that one kernel of an activation function, gated or not, reads and writes. Forward: its input
(two where gated), and the output. Backward: both are read again with the gradient, and those of the inputs written."""


_INNER_VECTORS = {"forward": "inner_vectors_forward", "backward": "inner_vectors_backward"}
_BIASED_VECTORS = {"forward": "biased_expert_vectors_forward", "backward": "biased_expert_vectors_backward"}
"""Constants of what kernels move beyond one fused function, by the way through the layers; of experts that have biases."""


@dataclass(frozen=True, slots=True)
class KernelPass:
    """Seconds and joules of some kernels in both passes."""

    forward: Number
    backward: Number
    forward_j: Number
    backward_j: Number

    def __add__(self, other: KernelPass) -> KernelPass:
        return KernelPass(
            self.forward + other.forward,
            self.backward + other.backward,
            self.forward_j + other.forward_j,
            self.backward_j + other.backward_j,
        )


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Seconds of one layer by part, on one rank and micro-batch. ``again`` is what is recomputed of the forward pass.

    ``joules`` is the energy of both passes, ``joules_again`` that of what is recomputed; 0 where none is known.
    """

    forward: dict[str, Number]
    backward: dict[str, Number]
    again: dict[str, Number]
    joules: Number = 0.0
    joules_again: Number = 0.0


class Kernels:
    """Kernel times of one scenario under a framework's constants."""

    def __init__(
        self,
        scenario: TrainingScenario,
        constants: dict[str, float],
        attention_kernels: tuple[str, ...],
        loss: Loss | None = None,
    ) -> None:
        self.scenario, self.c = scenario, constants
        self.loss = loss or Loss(scenario, constants)
        self.model, self.plan, self.p = scenario.model, scenario.plan, scenario.parallelism
        self.dtype = matrix_format(scenario.gpu, self.plan.compute_dtype)
        wide = {4: "tf32", 2: "bf16"}[self.plan.wide_bytes] if self.plan.precision != "fp32" else "fp32"
        self.rates: TrainingRates = training_rates(
            scenario.gpu, self.dtype, matrix_format(scenario.gpu, wide), attention_kernels,
            scenario.flops_efficiency, scenario.hbm_memory_efficiency, constants["flops_scale"],
            self.plan.power_limit_w,
        )  # fmt: skip

    @cached_property
    def used(self) -> tuple[Quantity, ...]:
        """The rate of large products, as a share of the peak."""
        peak = self.scenario.gpu.peak_flops_per_s(self.dtype)
        reached = Factor("share that training products reach", self.rates.gemm.flops_per_s / peak)
        source = self.rates.efficiency.source
        return (Quantity("rate of large products", ((Factor("peak", peak), reached),), "FLOP/s", source),)

    def rank_tokens(self, load: TrainingLoad) -> Number:
        """Tokens of one micro-batch on one context-parallel rank."""
        return load.micro_batch * load.seq_len / self.p.cp_size

    def layer(self, group: LayerGroup, load: TrainingLoad) -> LayerTimes:
        """All kernels of one layer."""
        passes = self._passes_of(group, load)
        again = self._recomputed(group)
        forward = {part: one.forward for part, one in passes.items()}
        return LayerTimes(
            forward,
            {part: one.backward for part, one in passes.items()},
            {part: self._not_kept(part) * forward[part] for part in forward if part in again},
            sum(one.forward_j + one.backward_j for one in passes.values()),
            sum((self._not_kept(part) * one.forward_j for part, one in passes.items() if part in again), 0.0),
        )

    def _recomputed(self, group: LayerGroup) -> frozenset[str]:
        """Parts of a layer's forward pass that run again."""
        dense_only, experts_only = {"mlp"}, {"moe", "moe_act"}
        other = dense_only if group.mlp.routed_experts else experts_only
        named = (_MODULES[name] for name in self.plan.recompute_modules if name not in other)
        return _LEVELS[self.plan.activation_recomputation].union(*named)

    def _not_kept(self, part: str) -> float:
        """Share of a part that recomputation repeats where outputs of products are kept; attention's is then kept whole."""
        kept = KEPT_SHARES[self.plan.kept_products]
        if part in ("attention_projections", "mlp"):
            return 1.0 - kept
        return 0.0 if part == "attention" and kept else 1.0

    def _passes_of(self, group: LayerGroup, load: TrainingLoad) -> dict[str, KernelPass]:
        """What each part of a layer takes and draws."""
        tokens, adapted = self.rank_tokens(load), self.adapted(group)
        found: dict[str, KernelPass] = dict.fromkeys(
            ("attention_projections", "mlp"), KernelPass(0.0, 0.0, 0.0, 0.0)
        )
        for product in layer_products(self.model, group, self.p.tp_size, self.p.ep_size, self._replicas):
            part = "attention_projections" if _is_projection(product) else "mlp"
            found[part] = found[part] + self._product(product, load, adapted)
        found["attention"] = self._attention(group, load)
        for part, vectors in self._traffic(group).items():
            found[part] = self._moved(*(tokens * each * self.plan.wide_bytes for each in vectors))
        return found

    def _moved(
        self, forward_bytes: Number, backward_bytes: Number, backward_slower: float = 1.0
    ) -> KernelPass:
        """Kernels that only move so many bytes of device memory."""
        rate, board = self.rates.elementwise_bytes_per_s, self.rates.board
        joules = 0.0 if board is None else board.byte_j
        return KernelPass(
            forward_bytes / rate,
            backward_slower * backward_bytes / rate,
            forward_bytes * joules,
            backward_bytes * joules,
        )

    @property
    def _replicas(self) -> int:
        return self.p.dp_size * self.p.cp_size

    # -- products ----------------------------------------------------------------------------------------------

    @cached_property
    def _expert_share(self) -> float:
        """Routed rows of one rank over tokens x experts per token: one, unless tensor-parallel ranks hold whole experts."""
        tp = self.p.tp_size
        return expert_tensor_shards(tp, self._replicas, self.p.ep_size) / tp

    def _product(
        self, product: Product, load: TrainingLoad, adapted: Mapping[str, list[Linear]]
    ) -> KernelPass:
        """One product with its quantisation and adapters, both passes."""
        tokens = self.rank_tokens(load)
        n, k = product.out_features, product.in_features
        wide = product.op in _WIDE
        gemm = self.rates.wide_gemm if wide else self.rates.gemm
        copies, rows = 1.0, tokens
        if product.is_expert:
            copies = product.copies
            rows = tokens * product.active * self._expert_share * self.p.expert_imbalance / copies
        trained = not self.plan.lora_rank
        forward, backward = self._grouped(gemm, rows, n, k, copies, product.is_expert, trained)
        if self.dtype in _QUANTISED and not wide:
            per_byte = self._quantisation_bytes / self.rates.elementwise_bytes_per_s
            # Weights are quantised by the first micro-batch of a step and kept so for the others.
            forward = forward + copies * (rows * k + n * k / load.accumulation) * per_byte
            backward = backward + copies * rows * n * per_byte
        if not trained and not wide:
            for linear in adapted.get(product.op, ()):
                outputs, inputs = linear.shard_shape(self.p.tp_size)
                there, back = self._adapter(rows, outputs, inputs, copies)
                forward, backward = forward + there, backward + back
        unpacked = self._unpacked_s(copies * n * k)
        joules = 2.0 * rows * n * k * copies * self._flop_j(wide)
        return KernelPass(forward + unpacked, backward + unpacked, joules, joules * (2.0 if trained else 1.0))

    def _grouped(
        self,
        gemm: TrainingGemmRates,
        rows: Number,
        n: float,
        k: float,
        copies: float,
        expert: bool,
        trained: bool,
    ) -> tuple[Number, Number]:
        """(forward, backward) seconds of one product, or of as many as there are experts, which each start anew."""
        c = self.c
        scale, lost, least = (
            (c["grouped_gemm_scale"], c["grouped_lost_rows"], copies * c["grouped_floor_us"] * 1e-6)
            if expert
            else (1.0, 0.0, 0.0)
        )
        # What slows a backward pass is the gradient of the weights, which frozen ones have none of.
        slower = scale * (c["backward_gemm_scale"] if trained else 1.0)
        forward = maximum(gemm.product_s(rows, n, k, copies, scale, lost), least)
        backward = maximum(gemm.product_s(rows, k, n, copies, slower, lost), least)
        if trained:
            added = gemm.transposed_s(rows, n, k, copies, slower, lost, self._weight_gradient_bytes)
            backward = backward + maximum(added, least)
        return forward, backward

    @cached_property
    def _weight_gradient_bytes(self) -> float:
        """Bytes that the product of a weight's gradient moves per element: fewer where gradients add up in 16 bits."""
        moved, usual = self.c["weight_gradient_bytes"], self.c["gradient_bytes"]
        own = self.plan.gradient_dtype_bytes
        return moved if own is None or not usual else moved * min(own / usual, 1.0)

    def _flop_j(self, wide: bool) -> float:
        board = self.rates.board
        return 0.0 if board is None else board.wide_j if wide else board.product_j

    @property
    def _quantisation_bytes(self) -> float:
        return self.c["quantisation_bytes_fp4" if self.dtype == "fp4" else "quantisation_bytes"]

    def _unpacked_s(self, weights: float) -> Number:
        """Frozen weights of 4 or 8 bits are unpacked for each pass: read, and written in 16 bit as often as kernels need."""
        bits = self.plan.base_weight_bits
        if not self.plan.lora_rank or bits is None or bits == 16:
            return 0.0
        moved = bits / 8 + self.plan.wide_bytes * self.c["unpacking_passes"]
        return weights * moved / self.rates.elementwise_bytes_per_s

    def adapted(self, group: LayerGroup) -> dict[str, list[Linear]]:
        """The matrices of a layer with adapters, by the product that they are part of."""
        found: dict[str, list[Linear]] = {}
        if self.plan.lora_rank:
            for linear in adapted_linears(self.model, group, self.plan.lora_targets):
                found.setdefault(linear.op, []).append(linear)
        return found

    def _adapter(self, rows: Number, n: float, k: float, copies: float) -> tuple[Number, Number]:
        """Both products of a low-rank adapter and the sum with its matrix's output; DoRA's norm of both weights' sum."""
        gemm, rank, c = self.rates.wide_gemm, self.plan.lora_rank, self.c
        summed = c["adapter_output_passes"]
        if self.plan.compile:
            summed = min(summed, _FUSED_ADAPTER_PASSES)
        moved = summed * n + c["adapter_input_passes"] * k
        added = copies * rows * moved * self.plan.wide_bytes / self.rates.elementwise_bytes_per_s
        forward = gemm.product_s(rows, rank, k, copies) + gemm.product_s(rows, n, rank, copies) + added
        backward = added
        for outputs, inputs in ((rank, k), (n, rank)):
            backward = backward + gemm.product_s(rows, inputs, outputs, copies)
            backward = backward + gemm.transposed_s(rows, outputs, inputs, copies)
        if self.plan.adapter == "dora":
            # The weight and its update, added and squared in 32 bits, row by row (arXiv 2402.09353, section 4.3).
            normed = copies * n * k * (2 * self.plan.wide_bytes + 8) / self.rates.elementwise_bytes_per_s
            forward = forward + gemm.product_s(n, k, rank, copies) + normed
        return forward, backward

    # -- attention ---------------------------------------------------------------------------------------------

    def _attention(self, group: LayerGroup, load: TrainingLoad) -> KernelPass:
        """What lies between the projections, of all mixers of the layer."""
        found = KernelPass(0.0, 0.0, 0.0, 0.0)
        for part in group.attention.parts:
            if isinstance(part, Recurrent):
                found = found + self._scan(part, load)
            elif self.plan.flash_attn:
                found = found + self._fused_attention(part, load)
            else:
                found = found + self._unfused_attention(part, load)
        return found

    def _scan(self, part: Recurrent, load: TrainingLoad) -> KernelPass:
        """A scan in chunks: its products at the scan kernels' share of the peak, then what convolution, scan and gate move.

        Its backward pass computes the states of all chunks again, as attention's does its scores, by kernels that reach
        ``scan_backward`` of what those of the forward pass do.
        """
        c, tokens, tp = self.c, self.rank_tokens(load), self.p.tp_size
        slower = 1 / self.rates.efficiency.scan_backward.get(part.scan_kernels, 1.0)
        flops = tokens * score_flops_per_pair(part, tp)
        seconds = flops / self.rates.scan_flops_per_s
        joules = flops * self._flop_j(wide=True)
        products = KernelPass(
            seconds, _FUSED_BACKWARD_PRODUCTS * slower * seconds, joules, _FUSED_BACKWARD_PRODUCTS * joules
        )
        moved = tokens * part.live_elements_per_token(tp) * self.plan.wide_bytes
        return products + self._moved(
            moved * c["scan_vectors_forward"], moved * c["scan_vectors_backward"], slower
        )

    def _fused_attention(self, attention: Mixer, load: TrainingLoad) -> KernelPass:
        """Score FLOPs of the pairs that are computed, and the exponential of each, at the kernel's share of the peak.

        In 8 bits products are as much faster as the GPU's peak, exponentials are not, and what enters is quantised.
        """
        tp, rates = self.p.tp_size, self.rates
        pairs = load.micro_batch * prefill_pairs(attention, load.seq_len, causal=not self.model.encoder)
        scores = score_flops_per_pair(attention, tp)
        narrow = self.plan.fp8_attention
        per_pair = scores / (rates.narrow_peak_ratio if narrow else 1.0)
        per_pair += 2 * rates.exp_flops * attention.num_heads / tp
        flops = pairs / self.p.cp_size * per_pair
        forward = flops / (rates.attention_forward_flops_per_s * self.c["attention_forward_scale"])
        slowed = rates.attention_backward_flops_per_s * self.c["attention_backward_scale"]
        joules = pairs / self.p.cp_size * scores * self._flop_j(wide=not narrow)
        found = KernelPass(
            forward,
            _FUSED_BACKWARD_PRODUCTS * flops / slowed,
            joules,
            _FUSED_BACKWARD_PRODUCTS * joules,
        )
        if not narrow:
            return found
        results = attention.num_heads / tp * attention.value_dim
        entered = attention.num_heads / tp * attention.head_dim + attention.key_value_elements(tp)
        # The gradient of the result, and the result, are quantised for the backward pass.
        tokens = self.rank_tokens(load) * self.c["quantisation_bytes"]
        return found + self._moved(tokens * entered, tokens * 2 * results)

    def _unfused_attention(self, attention: Mixer, load: TrainingLoad) -> KernelPass:
        """Batched products over the whole square, and passes over all scores for softmax, mask and dropout."""
        tp, gemm = self.p.tp_size, self.rates.wide_gemm
        scores = load.micro_batch * load.seq_len * load.seq_len / self.p.cp_size
        flops = scores * score_flops_per_pair(attention, tp)
        seconds, joules = (
            flops / (gemm.flops_per_s * self.c["unfused_product_scale"]),
            flops * self._flop_j(True),
        )
        products = KernelPass(
            seconds, _UNFUSED_BACKWARD_PRODUCTS * seconds, joules, _UNFUSED_BACKWARD_PRODUCTS * joules
        )
        over = scores * attention.num_heads / tp
        return products + self._moved(
            over * self.c["score_bytes_forward"], over * self.c["score_bytes_backward"]
        )

    # -- everything else ---------------------------------------------------------------------------------------

    def _traffic(self, group: LayerGroup) -> dict[str, tuple[float, float]]:
        """Elements per token that kernels beside the products move, (forward, backward) by part.

        Norms, residuals, casts and biases count in hidden vectors, divided by tensor parallelism only with sequence
        parallelism; activation functions in feed-forward vectors; routing in copies of the hidden state.
        """
        c, hidden, mlp = self.c, self.model.hidden_size, group.mlp
        norms = hidden / self.p.sp_size * group.norms / 2
        eager = c["hidden_vectors_forward"], c["hidden_vectors_backward"]
        fused = c["compiled_vectors_forward"], c["compiled_vectors_backward"]
        vectors = fused if self.plan.compile and any(fused) else eager
        found = {"norms": (norms * vectors[0], norms * vectors[1])}
        width, routed = mlp.dense_width / self.p.tp_size, mlp.routed_width / self.p.tp_size
        found["activation_function"] = (
            width * self._inner_vectors(mlp, "forward") + routed * self._expert_vectors(mlp, "forward"),
            width * self._inner_vectors(mlp, "backward") + routed * self._expert_vectors(mlp, "backward"),
        )
        assembled = group.attention.assembled_elements(self.p.tp_size)
        if assembled:
            forward, backward = found["norms"]
            found["norms"] = (forward + assembled, backward + assembled)
        if mlp.routed_experts:
            copied = (
                c["permutation_vectors"]
                * mlp.experts_per_token
                * mlp.routed_input_width(hidden)
                / self.p.tp_size
                * self._expert_traffic
            )
            found["experts_routing"] = (copied, copied)
        return found

    @property
    def _expert_traffic(self) -> float:
        """Traffic of routing and of experts' activation functions over what is counted."""
        return self.c["fused_expert_traffic_scale" if self.plan.fused_experts else "expert_traffic_scale"]

    def _inner_vectors(self, mlp: FeedForward, way: str) -> float:
        """Values of its width that an activation function moves: what one kernel has to, and what more kernels do."""
        fused = _FUSED_VECTORS[mlp.gated][way]
        return fused if self.plan.compile or not mlp.gated else fused + self.c[_INNER_VECTORS[way]]

    def _expert_vectors(self, mlp: FeedForward, way: str) -> float:
        """The same of routed experts: those with a bias clamp, and add theirs one by one, unless all of one is one kernel."""
        if self.plan.fused_experts:
            return _FUSED_VECTORS[mlp.gated][way] * self._expert_traffic
        biased = self.c["biased_expert_scale"] * self.c[_BIASED_VECTORS[way]] if mlp.bias else 0.0
        return (self._inner_vectors(mlp, way) + biased) * self._expert_traffic

    def joined(self, load: TrainingLoad) -> KernelPass:
        """Multi-token prediction's projection of a hidden state and the next token's embedding, side by side, to one."""
        hidden = self.model.hidden_size
        product = Product("mtp", 2.0 * hidden * hidden / self.p.tp_size, 2 * hidden, hidden / self.p.tp_size)
        return self._product(product, load, {})

    def head(self, load: TrainingLoad) -> KernelPass:
        """Logits and loss on the last stage."""
        tokens = self.rank_tokens(load)
        gemm, trained = self.rates.wide_gemm, not self.plan.lora_rank or self.plan.lora_ends
        found = KernelPass(0.0, 0.0, 0.0, 0.0)
        products = lm_head_products(self.model, self.p.tp_size)
        for product in products:
            n, k = product.out_features, product.in_features
            forward, backward = self._grouped(gemm, tokens, n, k, 1.0, False, trained)
            joules = 2.0 * tokens * n * k * self._flop_j(wide=True)
            found = found + KernelPass(forward, backward, joules, joules * (2.0 if trained else 1.0))
        logits = tokens * products[-1].out_features * self.loss.traffic_per_logit / 2
        return found + self._moved(logits, logits)


def _is_projection(product: Product) -> bool:
    """Whether it belongs to a layer's mixer; further mixers of one layer number their products."""
    return product.op.partition(":")[0] in _PROJECTIONS
