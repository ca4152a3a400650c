"""Seconds of one forward pass: the textbook roofline, layer by layer. Functions of a `Setup`.

Attention and feed-forward block each take the longer of their arithmetic and their memory traffic (weights once,
activations once). Norms and embeddings are bound by memory. Communication is not overlapped, except ZeRO's
gathering of the next layer's weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.parallelism import DSZeRO
from llm_perf.counts.attention import attended, cached_tokens
from llm_perf.counts.flops import lm_head_flops
from llm_perf.counts.quadrature import sum_over_context
from llm_perf.hardware.collective import Fabric
from llm_perf.hardware.roofline import roofline_time
from llm_perf.llm_analysis.memory import (
    attention_activation_bytes,
    layer_weight_bytes,
    mlp_activation_bytes,
    norm_activation_bytes,
)
from llm_perf.llm_analysis.setup import Layer, Setup


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: ``seq_len`` new tokens of each of ``batch`` sequences.

    ``keys[layer.index]`` is the number of keys that a query is multiplied with on average. A pass that reads a
    KV cache has ``decode`` set.
    """

    batch: float
    seq_len: float
    keys: tuple[float, ...]
    decode: bool = False

    @property
    def tokens(self) -> float:
        """New tokens of all sequences."""
        return self.batch * self.seq_len


def whole_pass(setup: Setup, batch: float, seq_len: float) -> Pass:
    """A pass over whole sequences. The causal mask halves nothing: every query meets every key of its window.

    Source: Narayanan et al., arXiv 2104.04473, appendix, which llm-analysis follows.
    """
    return Pass(batch, seq_len, tuple(cached_tokens(layer.group, seq_len) for layer in setup.layers))


def decode_pass(setup: Setup, batch: float, prompt_len: int, gen_len: int) -> Pass:
    """The mean of the gen_len - 1 decode steps that follow a prefill, from context prompt_len + 1 on."""
    return Pass(
        batch, 1, tuple(_mean_keys(layer, prompt_len, gen_len) for layer in setup.layers), decode=True
    )


def _mean_keys(layer: Layer, prompt_len: int, gen_len: int) -> float:
    attention = layer.group.attention
    limit = attention.saturates_at
    if limit is None:
        return prompt_len + gen_len / 2
    steps = gen_len - 1
    return float(
        sum_over_context(lambda context: attended(attention, context), prompt_len + 1, steps, (limit,))
        / steps
    )


# -- FLOPs --------------------------------------------------------------------------------------------------


def attention_flops(layer: Layer, step: Pass) -> float:
    """FLOPs of one layer's projections, scores and weighted sums over all ranks."""
    return step.tokens * layer.projection_flops + attention_core_flops(layer, step)


def attention_core_flops(layer: Layer, step: Pass) -> float:
    """FLOPs of one layer's scores and weighted sums alone."""
    per_pair = layer.decode_score_flops if step.decode else layer.score_flops
    return step.tokens * step.keys[layer.index] * per_pair


def mlp_flops(layer: Layer, step: Pass) -> float:
    """FLOPs of one layer's feed-forward block over all ranks: the experts that the tokens use."""
    return step.tokens * layer.mlp_flops


def forward_flops(setup: Setup, step: Pass) -> float:
    """FLOPs of the whole model, logits of every new token included."""
    layers = setup.total(lambda layer: attention_flops(layer, step) + mlp_flops(layer, step))
    return float(layers + lm_head_flops(setup.model, step.tokens))


# -- modules of one layer -----------------------------------------------------------------------------------


def attention_time(setup: Setup, layer: Layer, step: Pass, inference: bool = True) -> float:
    """Seconds of one layer's attention. What the backward pass keeps does not change what the forward moves."""
    flops = attention_flops(layer, step) / setup.parallelism.tp_size
    moved = layer.rank.attention * setup.weight_bytes
    moved += attention_activation_bytes(setup, layer, step.batch, step.seq_len, inference)
    return float(roofline_time(flops, moved, setup.flops_per_s, setup.bytes_per_s))


def mlp_time(setup: Setup, layer: Layer, step: Pass, inference: bool = True) -> float:
    """Seconds of one layer's feed-forward block, with the two all-to-alls around its experts."""
    flops = mlp_flops(layer, step) / setup.parallelism.tp_size
    moved = mlp_weight_bytes_read(setup, layer, step.tokens)
    moved += mlp_activation_bytes(setup, layer, step.batch, step.seq_len, inference)
    return float(
        roofline_time(flops, moved, setup.flops_per_s, setup.bytes_per_s)
        + 2 * all_to_all_time(setup, layer, step.tokens)
    )


def mlp_weight_bytes_read(setup: Setup, layer: Layer, tokens: float) -> float:
    """Feed-forward weights that one rank reads: of its experts only those that some token was sent to."""
    parallelism = setup.parallelism
    batches = min(parallelism.ep_size, parallelism.dp_size)
    read = sum(product.touched(tokens, batches) * product.weights for product in layer.mlp_products)
    return float(read * setup.weight_bytes)


def all_to_all_time(setup: Setup, layer: Layer, tokens: float) -> float:
    """Seconds of one all-to-all: every token's hidden state goes to the ranks of its experts."""
    parallelism = setup.parallelism
    if parallelism.ep_size == 1 or not layer.routed_experts:
        return 0.0
    span = parallelism.tp_size * min(parallelism.ep_size, parallelism.dp_size)
    size = tokens * layer.routed_experts * setup.model.hidden_size * setup.activation_bytes
    return float(Fabric(parallelism.ep_size, 0.0, setup.link_bytes_per_s(span)).all_to_all_s(size))


def norm_time(setup: Setup, step: Pass, element_bytes: float) -> float:
    """Seconds of one norm: its input read once."""
    return norm_activation_bytes(setup, step.batch, step.seq_len, element_bytes) / setup.bytes_per_s


def all_reduce_time(setup: Setup, tokens: float, element_bytes: float) -> float:
    """Seconds of one ring all-reduce of hidden states over the tensor-parallel ranks, or of its least message."""
    tp = setup.parallelism.tp_size
    if tp == 1:
        return 0.0
    ring = Fabric(tp, 0.0, setup.link_bytes_per_s(tp))
    wire = ring.all_reduce_s(tokens * setup.model.hidden_size * element_bytes)
    return float(max(wire, setup.gpu.intra_node_min_message_latency))


def weight_gather_time(setup: Setup, layer: Layer) -> float:
    """Seconds in which ZeRO stage 3 gathers one layer's weights, those of one tensor-parallel rank.

    Experts are gathered over the ranks that hold the same ones, everything else over all replicas.
    """
    return replica_gather_time(setup, layer, setup.weight_bytes)


def replica_gather_time(setup: Setup, layer: Layer, element_bytes: float) -> float:
    """Seconds of an all-gather, or of a reduce-scatter, of one layer's elements over those who hold the same ones."""
    rate, elements = (
        replica_link_bytes_per_s(setup),
        layer_weight_bytes(setup, layer).total / setup.weight_bytes,
    )
    experts = Fabric(layer.expert_replicas, 0.0, rate).all_gather_s(layer.rank.experts * element_bytes)
    others = (elements - layer.rank.experts) * element_bytes
    return float(experts + Fabric(setup.parallelism.dp_size, 0.0, rate).all_gather_s(others))


def replica_link_bytes_per_s(setup: Setup) -> float:
    """Rate of a ring over all replicas: ranks of one are neighbours, so it spans dp x tp GPUs."""
    return setup.link_bytes_per_s(setup.parallelism.dp_size * setup.parallelism.tp_size)


# -- the whole layer, and the whole pass --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Seconds of one layer. ``sharded_dp_comm`` runs beside the others: ``total`` is the longer of both."""

    attn: float
    mlp: float
    layernorm: float
    tp_comm: float
    sharded_dp_comm: float

    @property
    def total(self) -> float:
        """The layer."""
        return max(self.attn + self.mlp + self.layernorm + self.tp_comm, self.sharded_dp_comm)


def layer_times(
    setup: Setup,
    layer: Layer,
    step: Pass,
    layernorm_dtype_bytes: float,
    stage: DSZeRO = DSZeRO.NONE,
    inference: bool = True,
) -> LayerTimes:
    """Seconds of one layer by module."""
    return LayerTimes(
        attn=attention_time(setup, layer, step, inference),
        mlp=mlp_time(setup, layer, step, inference),
        layernorm=layer.group.norms * norm_time(setup, step, layernorm_dtype_bytes),
        tp_comm=layer.all_reduces * all_reduce_time(setup, step.tokens, setup.activation_bytes),
        sharded_dp_comm=weight_gather_time(setup, layer) if stage is DSZeRO.STAGE_3 else 0.0,
    )


@dataclass(frozen=True, slots=True)
class PassTimes:
    """Seconds of a forward pass through all layers and all pipeline stages; ``total_s`` is the pass."""

    total_s: float
    attn: float
    mlp: float
    layernorm: float
    tp_comm: float
    sharded_dp_comm: float
    input_embedding: float
    output_embedding_loss: float
    pp_comm: float

    def breakdown(self, prefix: str, pipelined: bool) -> dict[str, float]:
        """The parts under llm-analysis' keys; the transfer between stages only where there are some."""
        parts = {
            "attn": self.attn,
            "mlp": self.mlp,
            "layernorm": self.layernorm,
            "tp_comm": self.tp_comm,
            "sharded_dp_comm": self.sharded_dp_comm,
            "input_embedding": self.input_embedding,
            "output_embedding_loss": self.output_embedding_loss,
        }
        if pipelined:
            parts["pp_comm"] = self.pp_comm
        return {f"{prefix}latency_fwd_{name}": seconds for name, seconds in parts.items()}


def pass_times(
    setup: Setup,
    step: Pass,
    layernorm_dtype_bytes: float,
    stage: DSZeRO = DSZeRO.NONE,
    inference: bool = True,
) -> PassTimes:
    """Seconds of one forward pass of one batch: every layer, one pipeline stage after the other."""
    layers = [
        (layer.count, layer_times(setup, layer, step, layernorm_dtype_bytes, stage, inference))
        for layer in setup.layers
    ]
    input_embedding = input_embedding_time(setup, step.tokens, setup.embedding_bytes)
    output_embedding = output_embedding_time(setup, step.tokens)
    pp_comm = stage_transfer_time(setup, step.tokens)
    return PassTimes(
        total_s=sum(count * one.total for count, one in layers)
        + input_embedding
        + output_embedding
        + pp_comm,
        attn=sum(count * one.attn for count, one in layers),
        mlp=sum(count * one.mlp for count, one in layers),
        layernorm=sum(count * one.layernorm for count, one in layers),
        tp_comm=sum(count * one.tp_comm for count, one in layers),
        sharded_dp_comm=sum(count * one.sharded_dp_comm for count, one in layers),
        input_embedding=input_embedding,
        output_embedding_loss=output_embedding,
        pp_comm=pp_comm,
    )


def input_embedding_time(setup: Setup, tokens: float, element_bytes: float) -> float:
    """Seconds of the look-up of ``tokens`` rows, and of the all-reduce that joins the vocabulary's shards."""
    rows = tokens * (setup.model.embedding_size or setup.model.hidden_size) * element_bytes
    return rows / setup.bytes_per_s + all_reduce_time(setup, tokens, element_bytes)


def output_embedding_time(setup: Setup, tokens: float) -> float:
    """Seconds of the logits: their arithmetic, or reading the head's weights. Done by the last stage alone."""
    flops = lm_head_flops(setup.model, tokens) / setup.parallelism.tp_size
    weights = setup.lm_head_rank_weights * setup.embedding_bytes
    return float(roofline_time(flops, weights, setup.flops_per_s, setup.bytes_per_s))


def stage_transfer_time(setup: Setup, tokens: float) -> float:
    """Seconds in which the hidden states cross all boundaries between pipeline stages."""
    parallelism = setup.parallelism
    if parallelism.pp_size == 1:
        return 0.0
    message = Fabric(2, 0.0, setup.link_bytes_per_s(parallelism.num_gpus))
    hop = message.send_s(tokens * setup.model.hidden_size * setup.activation_bytes)
    return float((parallelism.pp_size - 1) * max(hop, setup.gpu.intra_node_min_message_latency))


def kv_read_time(setup: Setup, step: Pass, element_bytes: float) -> float:
    """Seconds of reading the cache once in a decode step, all layers of all stages."""
    elements = setup.total(lambda layer: layer.kv_elements * step.keys[layer.index])
    return float(step.batch * elements * element_bytes / setup.bytes_per_s)
