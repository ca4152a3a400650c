"""Seconds of one layer's kernels on one rank, forward and backward, and of the head with the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from llm_perf.config.model import LayerGroup
from llm_perf.config.parallelism import ActivationRecomputation
from llm_perf.config.training import KEPT_SHARES, TrainingScenario, matrix_format
from llm_perf.counts.arrays import Number
from llm_perf.counts.attention import prefill_pairs, score_flops_per_pair
from llm_perf.counts.linears import Linear
from llm_perf.counts.parameters import expert_tensor_shards
from llm_perf.counts.products import Product, layer_products, lm_head_products
from llm_perf.counts.trained import adapted_linears
from llm_perf.hardware.training_time import TrainingRates, training_rates
from llm_perf.systems.terms import Factor, Quantity
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.loss import Loss

_PROJECTIONS = frozenset({"qkv", "q", "kv_down", "kv_up", "attention_output"})
_UNFUSED_BACKWARD_PRODUCTS = 2.0
_FUSED_BACKWARD_PRODUCTS = 2.5
"""Products of attention's backward pass over those of its forward pass: the fused kernel computes the scores again."""
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


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Seconds of one layer by part, on one rank and micro-batch. ``again`` is what is recomputed of the forward pass."""

    forward: dict[str, Number]
    backward: dict[str, Number]
    again: dict[str, Number]


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
        tokens = self.rank_tokens(load)
        forward: dict[str, Number] = {"attention_projections": 0.0, "mlp": 0.0}
        backward: dict[str, Number] = {"attention_projections": 0.0, "mlp": 0.0}
        adapted = self.adapted(group)
        for product in layer_products(self.model, group, self.p.tp_size, self.p.ep_size, self._replicas):
            part = "attention_projections" if product.op in _PROJECTIONS else "mlp"
            there, back = self._product(product, tokens, adapted)
            forward[part] = forward[part] + there
            backward[part] = backward[part] + back
        forward["attention"], backward["attention"] = self._attention(group, load)
        for part, passes in self._traffic(group).items():
            forward[part], backward[part] = (
                tokens * vectors * self.plan.wide_bytes / self.rates.elementwise_bytes_per_s
                for vectors in passes
            )
        again = _LEVELS[self.plan.activation_recomputation]
        repeated = {part: self._not_kept(part) * forward[part] for part in forward if part in again}
        return LayerTimes(forward, backward, repeated)

    def _not_kept(self, part: str) -> float:
        """Share of a part that recomputation repeats where outputs of products are kept; attention's is then kept whole."""
        kept = KEPT_SHARES[self.plan.kept_products]
        if part in ("attention_projections", "mlp"):
            return 1.0 - kept
        return 0.0 if part == "attention" and kept else 1.0

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
        self, product: Product, tokens: Number, adapted: Mapping[str, list[Linear]]
    ) -> tuple[Number, Number]:
        """(forward, backward) seconds of one product with its quantisation and adapters."""
        c, n, k = self.c, product.out_features, product.in_features
        wide = product.op == "router"
        gemm = self.rates.wide_gemm if wide else self.rates.gemm
        copies, rows, scale = 1.0, tokens, 1.0
        if product.is_expert:
            copies, scale = product.copies, c["grouped_gemm_scale"]
            rows = tokens * product.active * self._expert_share * self.p.expert_imbalance / copies
        trained = not self.plan.lora_rank
        forward = gemm.product_s(rows, n, k, copies, scale)
        # What slows a backward pass is the gradient of the weights, which frozen ones have none of.
        slowed = c["backward_gemm_scale"] if trained else 1.0
        backward = gemm.backward_s(rows, n, k, copies, scale * slowed, trained)
        if self.dtype in _QUANTISED and not wide:
            per_byte = self._quantisation_bytes / self.rates.elementwise_bytes_per_s
            forward = forward + copies * (rows * k + n * k) * per_byte
            backward = backward + copies * rows * n * per_byte
        if not trained and not wide:
            for linear in adapted.get(product.op, ()):
                outputs, inputs = linear.shard_shape(self.p.tp_size)
                there, back = self._adapter(rows, outputs, inputs, copies)
                forward, backward = forward + there, backward + back
        return forward + self._unpacked_s(copies * n * k), backward + self._unpacked_s(copies * n * k)

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
        moved = c["adapter_output_passes"] * n + c["adapter_input_passes"] * k
        added = copies * rows * moved * self.plan.wide_bytes / self.rates.elementwise_bytes_per_s
        forward = gemm.product_s(rows, rank, k, copies) + gemm.product_s(rows, n, rank, copies) + added
        backward = gemm.backward_s(rows, rank, k, copies) + gemm.backward_s(rows, n, rank, copies) + added
        if self.plan.adapter == "dora":
            # The weight and its update, added and squared in 32 bits, row by row (arXiv 2402.09353, section 4.3).
            normed = copies * n * k * (2 * self.plan.wide_bytes + 8) / self.rates.elementwise_bytes_per_s
            forward = forward + gemm.product_s(n, k, rank, copies) + normed
        return forward, backward

    # -- attention ---------------------------------------------------------------------------------------------

    def _attention(self, group: LayerGroup, load: TrainingLoad) -> tuple[Number, Number]:
        """(forward, backward) seconds between the projections."""
        if self.plan.flash_attn:
            return self._fused_attention(group, load)
        return self._unfused_attention(group, load)

    def _fused_attention(self, group: LayerGroup, load: TrainingLoad) -> tuple[Number, Number]:
        """Score FLOPs of the pairs that are computed, and the exponential of each, at the kernel's share of the peak."""
        attention, tp, rates = group.attention, self.p.tp_size, self.rates
        pairs = load.micro_batch * prefill_pairs(attention, load.seq_len, causal=not self.model.encoder)
        per_pair = score_flops_per_pair(attention, tp) + 2 * rates.exp_flops * attention.num_heads / tp
        flops = pairs / self.p.cp_size * per_pair
        forward = flops / (rates.attention_forward_flops_per_s * self.c["attention_forward_scale"])
        slowed = rates.attention_backward_flops_per_s * self.c["attention_backward_scale"]
        return forward, _FUSED_BACKWARD_PRODUCTS * flops / slowed

    def _unfused_attention(self, group: LayerGroup, load: TrainingLoad) -> tuple[Number, Number]:
        """Batched products over the whole square, and passes over all scores for softmax, mask and dropout."""
        attention, tp, gemm = group.attention, self.p.tp_size, self.rates.wide_gemm
        scores = load.micro_batch * load.seq_len * load.seq_len / self.p.cp_size
        flops = scores * score_flops_per_pair(attention, tp)
        products = flops / (gemm.flops_per_s * self.c["unfused_product_scale"])
        moved = scores * attention.num_heads / tp / self.rates.elementwise_bytes_per_s
        forward = products + moved * self.c["score_bytes_forward"]
        return forward, _UNFUSED_BACKWARD_PRODUCTS * products + moved * self.c["score_bytes_backward"]

    # -- everything else ---------------------------------------------------------------------------------------

    def _traffic(self, group: LayerGroup) -> dict[str, tuple[float, float]]:
        """Elements per token that kernels beside the products move, (forward, backward) by part.

        Norms, residuals, casts and biases count in hidden vectors, divided by tensor parallelism only with sequence
        parallelism; activation functions in feed-forward vectors; routing in copies of the hidden state.
        """
        c, hidden, mlp = self.c, self.model.hidden_size, group.mlp
        norms = hidden / self.p.sp_size * group.norms / 2
        found = {"norms": (norms * c["hidden_vectors_forward"], norms * c["hidden_vectors_backward"])}
        # Forward: the input (two where gated) is read, the output written. Backward: both are read again with the
        # gradient, and the gradients of the inputs written.
        there, back = (3.0, 5.0) if mlp.gated else (2.0, 3.0)
        if not self.plan.compile:
            there, back = there + c["inner_vectors_forward"], back + c["inner_vectors_backward"]
        width, routed = mlp.dense_width / self.p.tp_size, mlp.routed_width / self.p.tp_size
        unfused = c["biased_expert_passes"] if mlp.routed_experts and mlp.bias else 1.0
        inner = width + routed * unfused * c["expert_traffic_scale"]
        found["activation_function"] = (there * inner, back * inner)
        if mlp.routed_experts:
            copied = (
                c["permutation_vectors"]
                * mlp.experts_per_token
                * hidden
                / self.p.tp_size
                * c["expert_traffic_scale"]
            )
            found["experts_routing"] = (copied, copied)
        return found

    def head(self, load: TrainingLoad) -> tuple[Number, Number]:
        """(forward, backward) seconds of logits and loss on the last stage."""
        tokens = self.rank_tokens(load)
        gemm, c = self.rates.wide_gemm, self.c
        forward: Number = 0.0
        backward: Number = 0.0
        products = lm_head_products(self.model, self.p.tp_size)
        for product in products:
            n, k = product.out_features, product.in_features
            forward = forward + gemm.product_s(tokens, n, k)
            backward = backward + gemm.backward_s(
                tokens,
                n,
                k,
                scale=c["backward_gemm_scale"],
                weights=not self.plan.lora_rank or self.plan.lora_ends,
            )
        moved = self.loss.traffic_per_logit
        logits = tokens * products[-1].out_features * moved / self.rates.elementwise_bytes_per_s
        return forward + logits / 2, backward + logits / 2
