"""Linear attention with a fixed decay per head (lightning attention)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.linear import Linear
from llm_perf.config.layers.recurrent import Recurrent, outer_product_flops

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class LinearAttention(Recurrent):
    """Lightning attention (MiniMax-01, arXiv 2501.08313): ``num_heads`` states of ``head_dim`` squared, gate and norm."""

    kind: Literal["linear_attention"] = "linear_attention"
    num_heads: PositiveInt
    head_dim: PositiveInt

    @classmethod
    def from_config(cls, c: Config, **facts: Any) -> LinearAttention:
        """As many heads as full attention has queries, of the same width."""
        return cls(**{"num_heads": c.heads, "head_dim": c.head_dim, **facts})

    @property
    def vector_elements(self) -> int:
        """The norm of the result."""
        return self.num_heads * self.head_dim

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Queries, keys, values and the output gate as one product, and the output."""
        inner = self.num_heads * self.head_dim
        return (
            Linear("qkv", 4 * inner, hidden, "column"),
            Linear("attention_output", hidden, inner, "row"),
        )

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:
        """FLOPs of one token through the states, or in a scan of chunks."""
        return outer_product_flops(self.num_heads / tp, self.head_dim, self.head_dim, absorbed)

    @property
    def state_size_per_sequence(self) -> int:
        """The states of all heads."""
        return self.num_heads * self.head_dim**2

    @property
    def scanned_size(self) -> int:
        """Queries, keys and values."""
        return 3 * self.num_heads * self.head_dim
