"""The indexer of sparse attention: it scores all tokens, so that attention need not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.compressed_attention import compressor, compressor_vectors
from llm_perf.config.layers.linear import Linear

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config

KeysOf = Literal["tokens", "means", "gated", "overlapping"]
"""What has a key: each token; the mean of ``pool`` tokens' keys; their mean by learned weights; the same with an overlap."""

_KEY_BITS, _SCALE_BITS = 8, 32
"""Of an element of a key, and of the scale that a key has."""


class Indexer(Mixer):
    """The lightning indexer of DeepSeek sparse attention (DeepSeek-V3.2-Exp, section 2.1; arXiv 2512.02556) and its kin.

    ``num_heads`` small heads of ``head_dim`` score one key per token, which is cached; their queries come from the
    ``query_rank`` elements that attention projects its own from, or, without it, from the hidden states. It returns no
    values: it stands beside the attention that reads the tokens it selects. Every tensor-parallel rank runs all of it.

    With ``pool`` a key stands for so many tokens: their mean (Qwen3.8-Flash-Next), their mean by weights that are learned
    (GLM-5.3-Flash), the same with two vectors per token (DeepSeek-V4). ``head_weights``: the heads' scores are added by
    weights that each query has; without them the largest counts (MiniMax-M3), or their sum.
    """

    kind: Literal["indexer"] = "indexer"
    num_heads: PositiveInt
    head_dim: PositiveInt
    query_rank: PositiveInt | None = None
    pool: PositiveInt = 1
    keys_of: KeysOf = "tokens"
    head_weights: bool = True

    @model_validator(mode="after")
    def _pools_have_keys(self) -> Indexer:
        if (self.pool > 1) != (self.keys_of != "tokens"):
            raise ValueError(f"keys of {self.keys_of} and a pool of {self.pool} do not go together")
        return self

    @classmethod
    def from_config(cls, c: Config, **facts: Any) -> Indexer:
        """Under the names of DeepSeek V3.2's config."""
        keys = {"num_heads": "index_n_heads", "head_dim": "index_head_dim", "query_rank": "q_lora_rank"}
        read = {name: c.size(key) for name, key in keys.items() if name not in facts}
        return cls(**{**read, **facts})

    @property
    def num_kv_heads(self) -> int:
        """One key for all heads."""
        return 1

    @property
    def key_readers(self) -> float:
        """Once: a kernel multiplies all heads of a query with a key in one tile."""
        return 1.0

    @property
    def replicated(self) -> bool:
        """It is not divided."""
        return True

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Queries from the latent; the key and the weight of every head from the hidden states, and weights of a pool."""
        op, width, rank = "attention_index_keys", self.head_dim, self.query_rank
        queries = Linear(
            op if rank is None else "attention_index_queries",
            self.num_heads * width,
            rank or hidden,
            "replicated",
            modules=("self_attn.indexer.wq_b", "self_attn.indexer.q_proj"),
        )
        keys: tuple[Linear, ...]
        if self.keys_of == "overlapping":
            keys = compressor(op, width, hidden, overlapping=True, module="compressor.indexer")
        else:
            key = ("self_attn.indexer.wk", "self_attn.indexer.k_proj")
            keys = (Linear(op, width, hidden, "replicated", modules=key),)
            if self.keys_of == "gated":
                keys += (Linear(op, width, hidden, "replicated", wide=True),)
        weights = Linear(
            op, self.num_heads, hidden, "replicated", modules=("self_attn.indexer.weights_proj",), wide=True
        )
        return (queries, *keys, *((weights,) if self.head_weights else ()))

    @property
    def vector_elements(self) -> int:
        """The norm of the key (and of a query, or its bias), and the biases of a pool's places."""
        if self.keys_of == "overlapping":
            return compressor_vectors(self.head_dim, self.pool, overlapping=True)
        places = self.pool * self.head_dim if self.keys_of == "gated" else 0
        return 2 * self.head_dim + places

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - whole on every rank
        """A product and a sum per element of a query; per head a product with its weight and a sum. A pool shares them."""
        weighted = 1 if self.head_weights else 0
        return 2 * self.num_heads * (self.head_dim + weighted) / self.pool

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - whole on every rank
        """One key, or a token's share of one."""
        return self.head_dim / self.pool

    def kept_bits(self, cache_bits: float, state_bits: float = 16) -> float:  # noqa: ARG002 - one interface
        """Bits per element of a key: those of 8-bit keys with a scale, whatever the format of the cache beside it.

        So DeepSeek's own code, vLLM and SGLang keep them (128 bytes and a 32-bit scale); keys without weights of heads
        are kept as the cache is.
        """
        return _KEY_BITS + _SCALE_BITS / self.head_dim if self.head_weights else cache_bits

    def live_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - whole on every rank
        """Queries and the key."""
        return (self.num_heads + 1) * self.head_dim
