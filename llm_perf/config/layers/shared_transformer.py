"""A transformer layer of which several layers use the same weights (Zamba)."""

from __future__ import annotations

from typing import Literal

from llm_perf.config.base import NonNegativeInt, PositiveInt
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear


class SharedTransformer(Mixer):
    """Attention and a gated feed-forward block that several layers share (Zamba, arXiv 2405.16712; Zamba2, 2411.15242).

    It reads the hidden states beside the token's embedding, twice the hidden size, and passes its result through a square
    matrix of its own. Each use has its own keys and values. ``stored`` False: an earlier layer has the shared weights,
    which are multiplied with and not stored again. ``adapter_rank`` is the width of the low-rank matrices that every use
    adds to the first product of its feed-forward block, ``attention_adapters`` to queries, keys and values too (Zamba2).
    """

    kind: Literal["shared_transformer"] = "shared_transformer"
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    ffn_size: PositiveInt
    hidden_size: PositiveInt
    stored: bool = True
    adapter_rank: NonNegativeInt = 0
    attention_adapters: bool = False
    mlp_bias: bool = False

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Attention on twice the hidden size, the feed-forward block, adapters, and the matrix of this use."""
        copies, query, kv = (
            int(self.stored),
            self.num_heads * self.head_dim,
            self.num_kv_heads * self.head_dim,
        )
        shared = (
            Linear("qkv", query, 2 * hidden, "column", copies=copies),
            Linear("qkv", kv, 2 * hidden, "kv", copies=copies, kv_heads=self.num_kv_heads),
            Linear("qkv", kv, 2 * hidden, "kv", copies=copies, kv_heads=self.num_kv_heads),
            Linear("attention_output", hidden, query, "row", copies=copies),
            Linear("mlp_up", 2 * self.ffn_size, hidden, "column", self.mlp_bias, copies),
            Linear("mlp_down", hidden, self.ffn_size, "row", self.mlp_bias, copies),
        )
        return (*shared, *self._adapters(hidden), Linear("attention_merge", hidden, hidden, "replicated"))

    def _adapters(self, hidden: int) -> tuple[Linear, ...]:
        rank = self.adapter_rank
        if not rank:
            return ()
        block = (
            Linear("mlp_adapter_down", rank, hidden, "replicated"),
            Linear("mlp_adapter", 2 * self.ffn_size, rank, "column"),
        )
        if not self.attention_adapters:
            return block
        return (
            Linear("attention_adapter_down", 3 * rank, 2 * hidden, "replicated"),
            Linear("attention_adapter", 3 * 2 * hidden, rank, "column"),
            *block,
        )

    @property
    def vector_elements(self) -> int:
        """The norms before both blocks, the first over twice the hidden size."""
        return 3 * self.hidden_size if self.stored else 0

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - one interface
        """A multiply and an add per element of a query, and again per element of a value."""
        return 4 * (self.num_heads / tp) * self.head_dim

    def cache_elements_per_token(self, tp: int = 1) -> float:
        """Keys and values. Heads are replicated once tp exceeds their number."""
        return 2 * self.num_kv_heads / min(tp, self.num_kv_heads) * self.head_dim
