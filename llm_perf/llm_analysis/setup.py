"""Setup: everything an analysis is about, checked, with what follows from shapes alone counted once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from llm_perf.config.base import GB
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.gpu import GPUConfig, format_bits
from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.config.scenario import check_parallelism
from llm_perf.counts.activations import ActivationWidths, activation_widths
from llm_perf.counts.attention import kv_elements_per_token, score_flops_per_pair
from llm_perf.counts.linears import mlp_linears
from llm_perf.counts.modules import (
    LayerModules,
    active_layer_modules,
    attention_projection_flops,
    layer_modules,
    layer_rank_modules,
    mlp_flops,
)
from llm_perf.counts.parameters import (
    ends_rank_params,
    expert_tensor_shards,
    lm_head_linears,
    norm_params,
)
from llm_perf.counts.products import Product, layer_products, routed_experts
from llm_perf.errors import SpecError
from llm_perf.llm_analysis import LOGGER, checks

GPUS_PER_NODE = 8
"""GPUs that one node's links join: the default of llm-analysis' ``num_gpus_per_node``."""

_log = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Efficiencies:
    """Shares of the data sheet that are reached, in (0, 1]; one that is not given is 1.

    ``achieved_tflops`` (1e12 FLOP/s) and ``achieved_memory_bandwidth_GBs`` (1e9 bytes/s) go before the share of
    the same resource.

    Raises:
        SpecError: a value is out of range.
    """

    achieved_tflops: float | None = None
    achieved_memory_bandwidth_GBs: float | None = None  # noqa: N815 - seed 002's name
    flops: float | None = None
    hbm: float | None = None
    intra_node: float = 1.0
    inter_node: float = 1.0

    def __post_init__(self) -> None:
        for field, value in (
            ("achieved_tflops", self.achieved_tflops),
            ("achieved_memory_bandwidth_GBs", self.achieved_memory_bandwidth_GBs),
        ):
            if value is not None:
                checks.positive(field, value)
        for field, value in (("flops_efficiency", self.flops), ("hbm_memory_efficiency", self.hbm)):
            if value is not None:
                checks.fraction(field, value)
        checks.fraction("intra_node_memory_efficiency", self.intra_node)
        checks.fraction("inter_node_memory_efficiency", self.inter_node)


@dataclass(frozen=True, slots=True)
class Layer:
    """What one of ``count`` equal layers weighs and computes. Parameters are elements, FLOPs of the whole layer.

    ``index`` is the group's place in the model. ``projection_flops`` and ``mlp_flops`` are per token, the score
    FLOPs per pair of query and key; at decode latent attention works on its latents. ``rank``, ``widths`` and
    ``kv_elements`` (per token) are what one rank holds. ``expert_replicas`` ranks hold the same part of the same
    experts.
    """

    index: int
    count: int
    group: LayerGroup
    params: LayerModules
    active_params: LayerModules
    rank: LayerModules
    widths: ActivationWidths
    projection_flops: float
    mlp_flops: float
    score_flops: float
    decode_score_flops: float
    kv_elements: float
    mlp_products: tuple[Product, ...]
    routed_experts: int
    expert_replicas: int
    all_reduces: int


@dataclass(frozen=True)
class Setup:
    """A model on GPUs, with number formats, parallelism and efficiencies. Immutable, checked when built.

    Raises:
        SpecError: a part is of the wrong kind or out of range, or the parts do not go together.
    """

    model: ModelConfig
    gpu: GPUConfig
    dtype: DtypeConfig
    parallelism: ParallelismConfig
    efficiencies: Efficiencies
    gpus_per_node: int = GPUS_PER_NODE

    def __post_init__(self) -> None:
        checks.positive_int("num_gpus_per_node", self.gpus_per_node)
        checks.instance("model_config", self.model, ModelConfig)
        checks.instance("gpu_config", self.gpu, GPUConfig)
        checks.instance("dtype_config", self.dtype, DtypeConfig)
        checks.instance("parallelism_config", self.parallelism, ParallelismConfig)
        check_parallelism(self.model, self.parallelism)
        _check_experts_tile_replicas(self.parallelism)
        _ = self.flops_efficiency, self.hbm_memory_efficiency, self.layers
        if format_bits(self.compute_dtype) > self.dtype.compute_bits:
            bits, dtype = self.dtype.compute_bits, self.compute_dtype
            _log.warning("%s has no %d-bit matrix format, so products run in %s", self.gpu.name, bits, dtype)

    # -- rates ----------------------------------------------------------------------------------------------

    @cached_property
    def compute_dtype(self) -> str:
        """The GPU's number format in which products run: as wide as the wider operand."""
        return self.gpu.dtype_for(self.dtype.compute_bits)

    @cached_property
    def flops_efficiency(self) -> float:
        """Share of the peak of the format in use.

        Raises:
            SpecError: more was achieved than the peak.
        """
        achieved, peak = (
            self.efficiencies.achieved_tflops,
            self.gpu.peak_flops_per_s(self.compute_dtype) / 1e12,
        )
        if achieved is None:
            return 1 if self.efficiencies.flops is None else self.efficiencies.flops
        if achieved > peak:
            raise SpecError(
                f"achieved_tflops {achieved:g} exceed the {self.compute_dtype} peak of {peak:g} TFLOP/s"
            )
        return achieved / peak

    @cached_property
    def hbm_memory_efficiency(self) -> float:
        """Share of the memory bandwidth.

        Raises:
            SpecError: more was achieved than the data sheet's bandwidth.
        """
        achieved, peak = self.efficiencies.achieved_memory_bandwidth_GBs, self.gpu.hbm_bandwidth_gb_per_s
        if achieved is None:
            return 1 if self.efficiencies.hbm is None else self.efficiencies.hbm
        if achieved > peak:
            raise SpecError(
                f"achieved_memory_bandwidth_GBs {achieved:g} exceed the {peak:g} GB/s of {self.gpu.name}"
            )
        return achieved / peak

    @cached_property
    def flops_per_s(self) -> float:
        """Reached FLOP/s of matrix products."""
        return self.gpu.peak_flops_per_s(self.compute_dtype) * self.flops_efficiency

    @cached_property
    def bytes_per_s(self) -> float:
        """Reached device memory bandwidth, bytes/s."""
        return self.gpu.hbm_bandwidth_bytes_per_s * self.hbm_memory_efficiency

    @cached_property
    def intra_node_bytes_per_s(self) -> float:
        """Reached rate of one GPU to the others of its node, bytes/s; 0 where nothing joins them."""
        return self.gpu.intra_node_bytes_per_s * self.efficiencies.intra_node

    @cached_property
    def inter_node_bytes_per_s(self) -> float:
        """Reached rate of one GPU to other nodes, bytes/s."""
        return self.gpu.inter_node_gb_per_s * GB * self.efficiencies.inter_node

    def link_bytes_per_s(self, span: int) -> float:
        """Rate of a ring over ``span`` neighbouring GPUs: a node's link, beyond it the slower of both."""
        within = self.intra_node_bytes_per_s or self.inter_node_bytes_per_s
        return within if span <= self.gpus_per_node else min(within, self.inter_node_bytes_per_s)

    # -- bytes per element ----------------------------------------------------------------------------------

    @cached_property
    def weight_bytes(self) -> float:
        """Stored bytes of one weight."""
        return self.dtype.stored_weight_bits / 8

    @cached_property
    def activation_bytes(self) -> float:
        """Bytes of one activation."""
        return self.dtype.activation_bits / 8

    @cached_property
    def embedding_bytes(self) -> float:
        """Stored bytes of one element of the token table and the LM head."""
        return self.dtype.stored_embedding_bits / 8

    # -- shapes ---------------------------------------------------------------------------------------------

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The model's groups of equal layers, counted."""
        return tuple(
            _count_layer(self.model, index, group, self.parallelism)
            for index, group in enumerate(self.model.layer_groups)
        )

    @cached_property
    def stage_layers(self) -> int:
        """Layers of the longest pipeline stage."""
        return -(-self.model.num_layers // self.parallelism.pp_size)

    @cached_property
    def embedding_rank_params(self) -> float:
        """Elements before the first layer that one rank holds."""
        return ends_rank_params(self.model, self.parallelism.tp_size)[0].total

    @cached_property
    def head_rank_params(self) -> float:
        """Elements after the last layer, its norm left out, that one rank holds; 0 for a tied head."""
        return ends_rank_params(self.model, self.parallelism.tp_size)[1].total - self.last_norm_params

    @cached_property
    def last_norm_params(self) -> int:
        """Elements of the norm after the last layer."""
        return norm_params(self.model) if self.model.final_norm else 0

    @cached_property
    def lm_head_rank_weights(self) -> float:
        """Elements of the matrices that one rank multiplies with for the logits, tied or not."""
        tp = self.parallelism.tp_size
        return sum(linear.weights / linear.shards(tp) for linear in lm_head_linears(self.model))

    @cached_property
    def vocabulary_rank_rows(self) -> float:
        """Logits per token that one rank computes."""
        return self.model.vocab_size / self.parallelism.tp_size

    def total(self, of_layer: Callable[[Layer], float]) -> float:
        """Sum over all layers."""
        return sum(layer.count * of_layer(layer) for layer in self.layers)

    def mean(self, of_layer: Callable[[Layer], float]) -> float:
        """Mean over all layers; where they are equal, the value itself."""
        return self.mean_of([of_layer(layer) for layer in self.layers])

    def mean_of(self, values: Sequence[float]) -> float:
        """Mean over all layers of one value per group."""
        if len(values) == 1:
            return values[0]
        weighted = sum(layer.count * value for layer, value in zip(self.layers, values, strict=True))
        return weighted / self.model.num_layers


def _count_layer(model: ModelConfig, index: int, group: LayerGroup, parallelism: ParallelismConfig) -> Layer:
    tp, ep, dp = parallelism.tp_size, parallelism.ep_size, parallelism.dp_size
    if len(group.attention.parts) != 1:
        raise SpecError(
            f"{model.name} has layers with several mixers or none, which LLMAnalysis does not count; llm-perf infer does"
        )
    mlp_ops = {linear.op for linear in mlp_linears(group.mlp, model.hidden_size)}
    return Layer(
        index=index,
        count=group.count,
        group=group,
        params=layer_modules(model, group),
        active_params=active_layer_modules(model, group),
        rank=layer_rank_modules(model, group, tp, ep, dp),
        widths=activation_widths(model, group, tp),
        projection_flops=attention_projection_flops(model, group, 1),
        mlp_flops=mlp_flops(model, group, 1),
        score_flops=score_flops_per_pair(group.attention),
        decode_score_flops=score_flops_per_pair(group.attention, absorbed=True),
        kv_elements=kv_elements_per_token(group.attention, tp),
        mlp_products=tuple(
            product for product in layer_products(model, group, tp, ep, dp) if product.op in mlp_ops
        ),
        routed_experts=routed_experts(group),
        expert_replicas=tp * dp // (ep * expert_tensor_shards(tp, dp, ep)),
        all_reduces=1 if group.parallel_attention else 2,
    )


def _check_experts_tile_replicas(parallelism: ParallelismConfig) -> None:
    ep, dp = parallelism.ep_size, parallelism.dp_size
    if max(ep, dp) % min(ep, dp):
        raise SpecError(
            f"ep_size {ep} and dp_size {dp}: one must divide the other, or experts straddle replicas"
        )
