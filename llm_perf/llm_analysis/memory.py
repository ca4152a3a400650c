"""Bytes of one GPU: weights, KV cache, activations, gradients and optimizer state. Functions of a `Setup`."""

from __future__ import annotations

from typing import NamedTuple

from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.counts.activations import (
    MLPBytes,
    attention_core_bytes,
    attention_forward_bytes,
    attention_kept_bytes,
    mlp_forward_bytes,
    mlp_kept_bytes,
    norm_kept_bytes,
)
from llm_perf.counts.attention import cached_tokens
from llm_perf.counts.optimizer import Sharded, gradient_bytes, optimizer_state_bytes, zero_shards
from llm_perf.llm_analysis.setup import Layer, Setup

# -- weights ------------------------------------------------------------------------------------------------


class LayerBytes(NamedTuple):
    """Bytes of one layer by module. ``mlp`` includes experts and router, ``norms`` all of a layer's norms.

    ``total`` is their sum, except for activations in inference, where it is the largest of them.
    """

    total: float
    attention: float
    mlp: float
    norms: float


def layer_weight_bytes(setup: Setup, layer: Layer, stage: DSZeRO = DSZeRO.NONE) -> LayerBytes:
    """Weights of one layer on one GPU. ZeRO stage 3 shards them over the ranks that hold the same ones.

    The router counts as sharded over the tensor-parallel ranks, like the experts that it belongs to.
    """
    rank, replicas = layer.rank, zero_shards("weights", stage, setup.parallelism.dp_size)
    expert_replicas = zero_shards("weights", stage, layer.expert_replicas)
    routed = rank.experts + rank.router / setup.parallelism.tp_size
    attention = rank.attention * setup.weight_bytes / replicas
    mlp = (rank.dense_mlp / replicas + routed / expert_replicas) * setup.weight_bytes
    norms = rank.norms * setup.weight_bytes / replicas
    return LayerBytes(attention + mlp + norms, attention, mlp, norms)


def last_norm_weight_bytes(setup: Setup, stage: DSZeRO = DSZeRO.NONE) -> float:
    """Weights of the norm after the last layer, counted as sharded over the tensor-parallel ranks."""
    ranks = setup.parallelism.tp_size * zero_shards("weights", stage, setup.parallelism.dp_size)
    return setup.last_norm_params * setup.weight_bytes / ranks


def embedding_weight_bytes(setup: Setup, stage: DSZeRO = DSZeRO.NONE) -> float:
    """Token table, positions and an untied LM head on one tensor-parallel rank that holds them all."""
    params = setup.embedding_rank_params + setup.head_rank_params
    return params * setup.embedding_bytes / zero_shards("weights", stage, setup.parallelism.dp_size)


def stage_embedding_params(setup: Setup) -> float:
    """Elements of the embedding that the fuller of first and last pipeline stage holds: the table, or the head.

    A head that is tied to the table is a copy of it where the last stage is another GPU than the first.
    """
    if setup.parallelism.pp_size == 1:
        return setup.embedding_rank_params + setup.head_rank_params
    tied_copy = setup.vocabulary_rank_rows * (setup.model.embedding_size or setup.model.hidden_size)
    head = setup.head_rank_params + (tied_copy if setup.model.tied_embeddings else 0)
    return max(setup.embedding_rank_params, head)


def stage_embedding_bytes(setup: Setup, stage: DSZeRO = DSZeRO.NONE) -> float:
    """Bytes of `stage_embedding_params` on one GPU."""
    shards = zero_shards("weights", stage, setup.parallelism.dp_size)
    return stage_embedding_params(setup) * setup.embedding_bytes / shards


def stage_weight_bytes(setup: Setup, stage: DSZeRO = DSZeRO.NONE) -> float:
    """Weights of the fullest GPU: the layers of the longest pipeline stage, its embedding, the last norm."""
    layers = setup.mean(lambda layer: layer_weight_bytes(setup, layer, stage).total) * setup.stage_layers
    return float(layers + stage_embedding_bytes(setup, stage) + last_norm_weight_bytes(setup, stage))


# -- KV cache -----------------------------------------------------------------------------------------------


def kv_bytes_per_element(setup: Setup, given: float | None) -> float:
    """Bytes of one cache element: as given, else those of the number format."""
    return setup.dtype.stored_kv_bits / 8 if given is None else given


def layer_kv_bytes(layer: Layer, batch: float, context: float, element_bytes: float) -> float:
    """Keys and values of one layer for ``batch`` sequences of ``context`` tokens on one GPU."""
    tokens = cached_tokens(layer.group, context)
    return float(batch * layer.kv_elements * tokens * element_bytes)


def stage_kv_bytes(setup: Setup, batch: float, context: float, element_bytes: float) -> float:
    """Keys and values of the longest pipeline stage; encoders keep none."""
    if setup.model.encoder:
        return 0.0
    per_layer = setup.mean(lambda layer: layer_kv_bytes(layer, batch, context, element_bytes))
    return float(per_layer * setup.stage_layers)


# -- activations --------------------------------------------------------------------------------------------


class ActivationOptions(NamedTuple):
    """How a layer keeps its activations; the names and meanings are those of `LLMAnalysis`' arguments."""

    recompute: ActivationRecomputation = ActivationRecomputation.NONE
    layernorm_dtype_bytes: float = 4
    flash_attn: bool = True
    softmax_dropout: bool = False
    attn_dropout: bool = True
    mlp_activation_quant_bits: int | None = None
    mlp_1linear_quant_bits: int | None = None
    mlp_gelu_input_quant_bits: int | None = None
    mlp_2linear_quant_bits: int | None = None
    mlp_recompute_gelu: bool = False
    mlp_dropout: bool = False

    def mlp_bytes(self, activation_bytes: float) -> MLPBytes:
        """Bytes per element of what the feed-forward block keeps; bits for all go before bits for one."""
        single = (self.mlp_1linear_quant_bits, self.mlp_gelu_input_quant_bits, self.mlp_2linear_quant_bits)
        bits = (self.mlp_activation_quant_bits or one for one in single)
        return MLPBytes(*(activation_bytes if kept is None else kept / 8 for kept in bits))


PLAIN = ActivationOptions()
"""Nothing recomputed, FlashAttention, no quantised activations: what a forward pass is timed with."""


def attention_activation_bytes(
    setup: Setup,
    layer: Layer,
    batch: float,
    seq_len: float,
    inference: bool,
    options: ActivationOptions = PLAIN,
) -> float:
    """Activations of one layer's attention: the widest buffers in inference, all that is kept in training."""
    element, tokens = setup.activation_bytes, batch * seq_len
    core = attention_core_bytes(
        layer.widths, batch, seq_len, element, options.flash_attn, options.softmax_dropout
    )
    if inference:
        return float(attention_forward_bytes(layer.widths, tokens, element, core))
    sp, recompute = setup.parallelism.sp_size, options.recompute
    return float(
        attention_kept_bytes(layer.widths, tokens, element, core, sp, recompute, options.attn_dropout)
    )


def mlp_activation_bytes(
    setup: Setup,
    layer: Layer,
    batch: float,
    seq_len: float,
    inference: bool,
    options: ActivationOptions = PLAIN,
    gated: bool | None = None,
) -> float:
    """Activations of one layer's feed-forward block; ``gated`` None takes the model's own kind."""
    element, tokens, parallelism = setup.activation_bytes, batch * seq_len, setup.parallelism
    kept = options.mlp_bytes(element)
    if inference:
        return float(mlp_forward_bytes(layer.widths, tokens, kept, parallelism.tp_size))
    if options.recompute is ActivationRecomputation.FULL:
        return 0.0
    is_gated = layer.widths.gated if gated is None else gated
    recompute, dropout = options.mlp_recompute_gelu, options.mlp_dropout
    sp = parallelism.sp_size
    return float(mlp_kept_bytes(layer.widths, tokens, element, kept, sp, recompute, is_gated, dropout))


def norm_activation_bytes(setup: Setup, batch: float, seq_len: float, element_bytes: float) -> float:
    """Input of one norm, spread over the ranks of sequence parallelism."""
    tokens, sp = batch * seq_len, setup.parallelism.sp_size
    return float(norm_kept_bytes(setup.model.hidden_size, tokens, element_bytes, sp))


def logits_bytes(setup: Setup, batch: float, seq_len: float) -> float:
    """Logits of ``seq_len`` positions per sequence on one tensor-parallel rank."""
    return batch * seq_len * setup.vocabulary_rank_rows * setup.activation_bytes


def layer_activation_bytes(
    setup: Setup,
    layer: Layer,
    batch: float,
    seq_len: float,
    inference: bool,
    options: ActivationOptions = PLAIN,
) -> LayerBytes:
    """Activations of one layer. With everything recomputed, only its input is kept."""
    if options.recompute is ActivationRecomputation.FULL and not inference:
        kept = batch * seq_len * setup.model.hidden_size * setup.activation_bytes / setup.parallelism.tp_size
        return LayerBytes(kept, 0.0, 0.0, kept)
    attention = attention_activation_bytes(setup, layer, batch, seq_len, inference, options)
    mlp = mlp_activation_bytes(setup, layer, batch, seq_len, inference, options)
    norm = norm_activation_bytes(setup, batch, seq_len, options.layernorm_dtype_bytes)
    if inference:
        return LayerBytes(max(attention, mlp, norm), attention, mlp, norm)
    norms = norm if options.recompute is ActivationRecomputation.NORM_ATTN_NORM else 2 * norm
    return LayerBytes(attention + mlp + norms, attention, mlp, norms)


def forward_activation_bytes(
    setup: Setup, batch: float, seq_len: float, layernorm_dtype_bytes: float
) -> float:
    """The widest buffer of any layer in a forward pass whose buffers are used again."""
    options = PLAIN._replace(layernorm_dtype_bytes=layernorm_dtype_bytes)
    return max(
        layer_activation_bytes(setup, layer, batch, seq_len, True, options).total for layer in setup.layers
    )


# -- training -----------------------------------------------------------------------------------------------


class TrainingBytes(NamedTuple):
    """Optimizer state and gradients of one GPU."""

    optimizer_state: float
    gradients: float


def training_bytes(
    setup: Setup,
    params: float,
    stage: DSZeRO,
    master_weights_bytes: float,
    other_bytes: float | None,
    expert_params: float = 0.0,
    expert_replicas: int = 1,
) -> TrainingBytes:
    """Optimizer state and gradients of ``params`` elements that every replica holds, and of its experts."""
    replicas = setup.parallelism.dp_size

    def sharded(what: Sharded) -> float:
        experts = expert_params / zero_shards(what, stage, expert_replicas)
        return params / zero_shards(what, stage, replicas) + experts

    return TrainingBytes(
        optimizer_state_bytes(sharded("optimizer"), master_weights_bytes, other_bytes),
        gradient_bytes(sharded("gradients"), master_weights_bytes),
    )


def layer_training_bytes(
    setup: Setup, layer: Layer, stage: DSZeRO, master_weights_bytes: float, other_bytes: float | None
) -> TrainingBytes:
    """Optimizer state and gradients of one layer; router and norms count as sharded over the tp ranks."""
    rank = layer.rank
    params = rank.attention + rank.dense_mlp + (rank.router + rank.norms) / setup.parallelism.tp_size
    return training_bytes(
        setup, params, stage, master_weights_bytes, other_bytes, rank.experts, layer.expert_replicas
    )
