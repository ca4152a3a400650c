"""The indexer of sparse attention: it scores all tokens, so that attention need not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class Indexer(Mixer):
    """The lightning indexer of DeepSeek sparse attention (DeepSeek-V3.2-Exp, section 2.1; arXiv 2512.02556).

    ``num_heads`` small heads of ``head_dim`` score one key per token, which is cached; their queries come from the
    ``query_rank`` elements that attention projects its own from. It returns no values: it stands beside the attention
    that reads the tokens it selects. Every tensor-parallel rank runs all of it.
    """

    kind: Literal["indexer"] = "indexer"
    num_heads: PositiveInt
    head_dim: PositiveInt
    query_rank: PositiveInt

    @classmethod
    def from_config(cls, c: Config, **facts: Any) -> Indexer:
        """Under the names of DeepSeek V3.2's config."""
        return cls(
            num_heads=c.size("index_n_heads"),
            head_dim=c.size("index_head_dim"),
            query_rank=c.size("q_lora_rank"),
            **facts,
        )

    @property
    def num_kv_heads(self) -> int:
        """One key for all heads."""
        return 1

    @property
    def replicated(self) -> bool:
        """It is not divided."""
        return True

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Queries from the latent; the key and the weight of every head from the hidden states."""
        return (
            Linear("attention_index_queries", self.num_heads * self.head_dim, self.query_rank, "replicated"),
            Linear("attention_index_keys", self.head_dim, hidden, "replicated"),
            Linear("attention_index_keys", self.num_heads, hidden, "replicated"),
        )

    @property
    def vector_elements(self) -> int:
        """The layer norm of the key."""
        return 2 * self.head_dim

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - whole on every rank
        """A product and a sum per element of a query; per head a product with its weight and a sum."""
        return 2 * self.num_heads * (self.head_dim + 1)

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - whole on every rank
        """One key."""
        return self.head_dim

    def live_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - whole on every rank
        """Queries and the key."""
        return (self.num_heads + 1) * self.head_dim
