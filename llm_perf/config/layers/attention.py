"""Multi-head attention: full, over a sliding window, or in chunks."""

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
    gate per element of the result, projected with the queries (Qwen3-Next), ``head_gate`` one per head (LFM3).
    ``v_head_dim`` is the width of a value where it is not that of a key (MiMo-V2). ``keys_as_values``: one projection
    gives both (Gemma 4). ``reuses_cache``: the layer reads keys and values of an earlier one and has none of its own
    (Gemma 3n). ``reads_encoder``: keys and values come from an encoder's output, which is kept whole beside the cache
    (Llama 3.2 Vision). ``query_rank``: queries come through so many elements, which are normalised (Step-3).
    ``selected`` tokens at most are attended to where an indexer picks them; the cache holds all (MiniMax-M3).
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
    v_head_dim: PositiveInt | None = None
    keys_as_values: bool = False
    reuses_cache: bool = False
    reads_encoder: bool = False
    query_rank: PositiveInt | None = None
    selected: PositiveInt | None = None

    @model_validator(mode="after")
    def _heads_divide(self) -> "Attention":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.window is not None and self.chunk is not None:
            raise ValueError("a layer has a sliding window or chunked attention, not both")
        if self.selected is not None and (self.window is not None or self.chunk is not None):
            raise ValueError("a layer selects tokens or has a window or chunks, not both")
        return self

    @classmethod
    def from_config(cls, c: "Config", **facts: Any) -> "Attention":
        """Heads by any of their names; biases, norms and sinks are the family's facts."""
        heads = facts.pop("num_kv_heads", None) or c.kv_heads
        width = facts.pop("head_dim", None) or c.head_dim
        return cls(**{"num_heads": c.heads, "num_kv_heads": heads, "head_dim": width, **facts})

    @property
    def value_dim(self) -> int:
        """Elements of one value head."""
        return self.v_head_dim or self.head_dim

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Queries, keys, values as one product, and the output."""
        query, heads = self.num_heads * self.head_dim, self.num_kv_heads
        returned = self.num_heads * self.value_dim
        key = Linear("qkv", heads * self.head_dim, hidden, "kv", self.qkv_bias, kv_heads=heads)
        value = Linear("qkv", heads * self.value_dim, hidden, "kv", self.qkv_bias, kv_heads=heads)
        rank = self.query_rank
        queries = Linear("qkv", rank or query, hidden, "replicated" if rank else "column", self.qkv_bias)
        return (
            queries,
            *(() if self.reuses_cache else (key,)),
            *(() if self.reuses_cache or self.keys_as_values else (value,)),
            *((Linear("qkv", returned, hidden, "column", self.qkv_bias),) if self.output_gate else ()),
            *((Linear("qkv", self.num_heads, hidden, "column"),) if self.head_gate else ()),
            *((Linear("q", query, rank, "column", modules=("self_attn.wq",)),) if rank else ()),
            Linear("attention_output", hidden, returned, "row", self.output_bias),
        )

    @property
    def vector_elements(self) -> int:
        """Query and key norms, that of the queries' latent, and sinks."""
        return self.qk_norm + (self.query_rank or 0) + (self.num_heads if self.sinks else 0)

    @property
    def saturates_at(self) -> int | None:
        """The window, the chunk, or as many tokens as are selected."""
        return self.window or self.chunk or self.selected

    def cached_tokens(self, context: Number) -> Number:
        """All tokens where some are selected: which these are differs by query."""
        return context if self.selected is not None else super().cached_tokens(context)

    def attended(self, context: Number) -> Number:
        """Keys of one query. A chunk holds half its length on average once the context is longer; a window all of it."""
        if self.chunk is not None:
            return where(context <= self.chunk, context, (self.chunk + 1) / 2)
        limit = self.window or self.selected
        return context if limit is None else minimum(context, limit)

    def prefill_pairs(self, tokens: Number, causal: bool = True) -> Number:
        """(query, key) pairs of a prompt: those of a triangle, cut to the window, or of one triangle per chunk."""
        if not causal or self.chunk is None:
            return super().prefill_pairs(tokens, causal)
        chunks, rest = tokens // self.chunk, tokens % self.chunk
        return chunks * (self.chunk * (self.chunk + 1) / 2) + rest * (rest + 1) / 2

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - one interface
        """A multiply and an add per element of a query, and again per element of a value."""
        return 2 * (self.num_heads / tp) * (self.head_dim + self.value_dim)

    def cache_elements_per_token(self, tp: int = 1) -> float:
        """Keys and values. Heads are replicated once tp exceeds their number."""
        if self.reuses_cache or self.reads_encoder:
            return 0.0
        return self.key_value_elements(tp)

    def key_value_elements(self, tp: int = 1) -> float:
        """Keys and values as they enter the scores, its own or an earlier layer's."""
        return self.num_kv_heads / min(tp, self.num_kv_heads) * (self.head_dim + self.value_dim)

    def cache_elements(self, context: Number, tp: int = 1) -> Number:
        """Elements that one sequence keeps, none where the layer reads an earlier one's."""
        return self.cache_elements_per_token(tp) * self.cached_tokens(context)

    def read_elements(self, tp: int = 1) -> float:
        """Keys and values that a query reads of one token, whichever layer keeps them."""
        return self.key_value_elements(tp)
