"""The matrices of a layer. Parameters, FLOPs and GEMM shapes are all read off this one description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm_perf.config.model import Attention, DenseMLP, LatentAttention, LayerGroup, MoEMLP, NoMLP, StateSpace

Split = Literal["column", "row", "kv", "replicated"]


@dataclass(frozen=True, slots=True)
class Linear:
    """``copies`` matrices of ``out_features x in_features``, of which a token uses ``active``.

    ``split`` says what tensor parallelism divides (Megatron-LM, arXiv 1909.08053): the outputs (column), the
    inputs (row), the key and value heads (kv, at most ``kv_heads`` ways), or nothing (replicated).
    ``op`` names the product that it is part of: matrices with one input are one product.
    """

    op: str
    out_features: int
    in_features: int
    split: Split
    bias: bool = False
    copies: int = 1
    active: int = 1
    kv_heads: int = 0

    def shards(self, tp: int) -> int:
        """Into how many parts tensor parallelism divides the weight."""
        if self.split == "replicated":
            return 1
        return min(tp, self.kv_heads) if self.split == "kv" else tp

    def shard_shape(self, tp: int) -> tuple[float, float]:
        """(out, in) of one rank's part."""
        parts = self.shards(tp)
        if self.split == "row":
            return self.out_features, self.in_features / parts
        return self.out_features / parts, self.in_features

    @property
    def weights(self) -> int:
        """Elements of one copy, without bias."""
        return self.out_features * self.in_features

    @property
    def params(self) -> int:
        """Elements of all copies, biases included."""
        return self.copies * (self.weights + (self.out_features if self.bias else 0))

    @property
    def active_params(self) -> int:
        """Elements that one token uses, biases included."""
        return self.active * (self.weights + (self.out_features if self.bias else 0))

    def rank_params(self, tp: int) -> float:
        """Elements that one tensor-parallel rank holds. The bias of a row-split matrix is replicated."""
        parts = self.shards(tp)
        bias = self.out_features if self.bias else 0
        return self.copies * (self.weights / parts + (bias if self.split == "row" else bias / parts))


def attention_linears(attention: Attention | LatentAttention, hidden: int) -> tuple[Linear, ...]:
    """The projections of one attention block."""
    if isinstance(attention, LatentAttention):
        return _latent_attention_linears(attention, hidden)
    if isinstance(attention, StateSpace):
        return _state_space_linears(attention, hidden)
    query = attention.num_heads * attention.head_dim
    kv = attention.num_kv_heads * attention.head_dim
    heads = attention.num_kv_heads
    return (
        Linear("qkv", query, hidden, "column", attention.qkv_bias),
        Linear("qkv", kv, hidden, "kv", attention.qkv_bias, kv_heads=heads),
        Linear("qkv", kv, hidden, "kv", attention.qkv_bias, kv_heads=heads),
        Linear("attention_output", hidden, query, "row", attention.output_bias),
    )


def _latent_attention_linears(attention: LatentAttention, hidden: int) -> tuple[Linear, ...]:
    """DeepSeek-V2 (arXiv 2405.04434), section 2.1: low-rank queries (optional), shared latent, up-projections."""
    heads = attention.num_heads
    query = heads * attention.head_dim
    rank = attention.q_lora_rank
    queries = (
        (Linear("q", query, hidden, "column"),)
        if rank is None
        else (Linear("kv_down", rank, hidden, "replicated"), Linear("q", query, rank, "column"))
    )
    return (
        *queries,
        Linear("kv_down", attention.kv_lora_rank + attention.qk_rope_head_dim, hidden, "replicated"),
        Linear(
            "kv_up",
            heads * (attention.qk_nope_head_dim + attention.v_head_dim),
            attention.kv_lora_rank,
            "column",
        ),
        Linear("attention_output", hidden, heads * attention.v_head_dim, "row"),
    )


def _state_space_linears(layer: StateSpace, hidden: int) -> tuple[Linear, ...]:
    """Values and their gate, keys and queries, scalars per head, output (arXiv 2405.21060, section 7)."""
    values, keys = layer.num_heads * layer.head_dim, layer.key_heads * layer.key_dim
    return (
        Linear("qkv", values, hidden, "column"),
        Linear("qkv", values, hidden, "column"),
        Linear("qkv", keys, hidden, "kv", kv_heads=layer.key_heads),
        Linear("qkv", keys, hidden, "kv", kv_heads=layer.key_heads),
        Linear("qkv", layer.gates_per_head * layer.num_heads, hidden, "column"),
        Linear("attention_output", hidden, values, "row"),
    )


def mlp_linears(mlp: DenseMLP | MoEMLP, hidden: int) -> tuple[Linear, ...]:
    """The matrices of one feed-forward block, experts and router included."""
    if isinstance(mlp, NoMLP):
        return ()
    if isinstance(mlp, DenseMLP):
        return _feed_forward("mlp", mlp.ffn_size, hidden, mlp.gated, mlp.bias)
    linears = [Linear("router", mlp.num_experts, hidden, "replicated", mlp.router_bias)]
    linears += _feed_forward("expert", mlp.ffn_size, hidden, mlp.gated, mlp.bias, mlp.num_experts, mlp.top_k)
    if mlp.shared_ffn_size:
        linears += _feed_forward("shared_expert", mlp.shared_ffn_size, hidden, mlp.gated, mlp.bias)
    if mlp.shared_gate:
        linears.append(Linear("router", 1, hidden, "replicated"))
    return tuple(linears)


def _feed_forward(
    name: str, width: int, hidden: int, gated: bool, bias: bool, copies: int = 1, active: int = 1
) -> tuple[Linear, ...]:
    up = Linear(f"{name}_up", width, hidden, "column", bias, copies, active)
    down = Linear(f"{name}_down", hidden, width, "row", bias, copies, active)
    return (up, up, down) if gated else (up, down)


def layer_linears(group: LayerGroup, hidden: int) -> tuple[Linear, ...]:
    """All matrices of one layer of a group."""
    return attention_linears(group.attention, hidden) + mlp_linears(group.mlp, hidden)
