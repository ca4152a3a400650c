"""Multi-head attention: full, over a sliding window, or in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from llm_perf.config.arrays import Number, minimum, where
from llm_perf.config.base import NonNegativeInt, PositiveInt
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class Attention(Mixer):
    """Multi-head attention with ``num_kv_heads`` shared by groups of query heads (MHA, GQA and MQA).

    ``window`` bounds how many of the latest tokens are attended to (sliding window); ``chunk`` bounds it to
    the tokens since the last multiple of ``chunk`` (Llama 4). ``qk_norm`` is the number of weights of the
    norms on queries and keys together (Qwen3: 2 x head_dim). ``sinks`` adds one learned logit per head; ``output_gate`` a
    gate per element of the result, projected with the queries (Qwen3-Next); ``head_gate`` one per head (LFM3).
    """

    kind: Literal["attention"] = "attention"
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: NonNegativeInt = 0
    window: PositiveInt | None = None
    chunk: PositiveInt | None = None
    sinks: bool = False
    output_gate: bool = False
    head_gate: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> Attention:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.window is not None and self.chunk is not None:
            raise ValueError("a layer has a sliding window or chunked attention, not both")
        return self

    @classmethod
    def from_config(cls, c: Config, **facts: Any) -> Attention:
        """Heads by any of their names; biases, norms and sinks are the family's facts."""
        heads = facts.pop("num_kv_heads", None) or c.kv_heads
        return cls(**{"num_heads": c.heads, "num_kv_heads": heads, "head_dim": c.head_dim, **facts})

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Queries, keys, values as one product, and the output."""
        query = self.num_heads * self.head_dim
        kv = self.num_kv_heads * self.head_dim
        heads = self.num_kv_heads
        return (
            Linear("qkv", query, hidden, "column", self.qkv_bias),
            Linear("qkv", kv, hidden, "kv", self.qkv_bias, kv_heads=heads),
            Linear("qkv", kv, hidden, "kv", self.qkv_bias, kv_heads=heads),
            *((Linear("qkv", query, hidden, "column", self.qkv_bias),) if self.output_gate else ()),
            *((Linear("qkv", self.num_heads, hidden, "column"),) if self.head_gate else ()),
            Linear("attention_output", hidden, query, "row", self.output_bias),
        )

    @property
    def vector_elements(self) -> int:
        """Query and key norms, and sinks."""
        return self.qk_norm + (self.num_heads if self.sinks else 0)

    @property
    def saturates_at(self) -> int | None:
        """The window or the chunk."""
        return self.window or self.chunk

    def attended(self, context: Number) -> Number:
        """Keys of one query. A chunk holds half its length on average once the context is longer; a window all of it."""
        if self.chunk is not None:
            return where(context <= self.chunk, context, (self.chunk + 1) / 2)
        return context if self.window is None else minimum(context, self.window)

    def prefill_pairs(self, tokens: Number, causal: bool = True) -> Number:
        """(query, key) pairs of a prompt: those of a triangle, cut to the window, or of one triangle per chunk."""
        if not causal or self.chunk is None:
            return super().prefill_pairs(tokens, causal)
        chunks, rest = tokens // self.chunk, tokens % self.chunk
        return chunks * (self.chunk * (self.chunk + 1) / 2) + rest * (rest + 1) / 2

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - one interface
        """A multiply and an add per element of a query, and again per element of a value."""
        return 2 * (self.num_heads / tp) * 2 * self.head_dim

    def cache_elements_per_token(self, tp: int = 1) -> float:
        """Keys and values. Heads are replicated once tp exceeds their number."""
        return 2 * self.num_kv_heads / min(tp, self.num_kv_heads) * self.head_dim
