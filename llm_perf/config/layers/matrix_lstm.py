"""The matrix memory of xLSTM (mLSTM)."""

from __future__ import annotations

from typing import Literal

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.linear import Linear
from llm_perf.config.layers.recurrent import Recurrent, outer_product_flops


class MatrixLSTM(Recurrent):
    """mLSTM (xLSTM, arXiv 2405.04517; of the 7B model, arXiv 2503.13427): a memory of ``key_dim`` x ``head_dim`` per head.

    Beside it stands a normaliser of ``key_dim`` and the largest gate so far. Input and forget gates have biases;
    ``bias``: all projections have.
    """

    kind: Literal["matrix_lstm"] = "matrix_lstm"
    num_heads: PositiveInt
    head_dim: PositiveInt
    key_dim: PositiveInt
    bias: bool = False

    @property
    def vector_elements(self) -> int:
        """The norm of every head's result."""
        return self.num_heads * self.head_dim

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Queries and keys, values and output gate, gates of input and memory, output."""
        keys, values = self.num_heads * self.key_dim, self.num_heads * self.head_dim
        return (
            Linear("qkv", 2 * keys, hidden, "column", self.bias),
            Linear("qkv", 2 * values, hidden, "column", self.bias),
            Linear("qkv", 2 * self.num_heads, hidden, "column", bias=True),
            Linear("attention_output", hidden, values, "row", self.bias),
        )

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:
        """FLOPs of one token; the normaliser is one more column of the memory."""
        return outer_product_flops(self.num_heads / tp, self.key_dim, self.head_dim + 1, absorbed)

    @property
    def state_size_per_sequence(self) -> int:
        """Memory, normaliser and largest gate of all heads."""
        return self.num_heads * (self.key_dim * (self.head_dim + 1) + 1)

    @property
    def scanned_size(self) -> int:
        """Queries, keys and values."""
        return self.num_heads * (2 * self.key_dim + self.head_dim)
