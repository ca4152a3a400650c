"""Multi-head latent attention (MLA)."""

from typing import TYPE_CHECKING, Any, Literal

from llm_perf.config.arrays import Number
from llm_perf.config.base import NonNegativeInt, PositiveInt
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class LatentAttention(Mixer):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the cache holds one latent per token.

    ``down_bias``: the projections to the latents have biases; ``output_bias``: the one back to the hidden size has.
    ``selected`` tokens at most are attended to where an indexer picks them; the cache holds all (DeepSeek V3.2).
    ``head_gate``: one gate per head on what it returns (Bailing hybrid); ``output_gate`` one per element and ``sinks`` a
    learned logit per head (Hunyuan 4). Without rotary elements, nothing tells where a token stands (GLM-5.3-Flash).
    """

    kind: Literal["latent_attention"] = "latent_attention"
    num_heads: PositiveInt
    q_lora_rank: PositiveInt | None = None
    kv_lora_rank: PositiveInt
    qk_nope_head_dim: PositiveInt
    qk_rope_head_dim: NonNegativeInt
    v_head_dim: PositiveInt
    down_bias: bool = False
    output_bias: bool = False
    selected: PositiveInt | None = None
    head_gate: bool = False
    output_gate: bool = False
    sinks: bool = False

    @property
    def num_kv_heads(self) -> int:
        """Every head has its own key and value once the latent is expanded."""
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """Elements of one query head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def value_dim(self) -> int:
        """Elements of one value head."""
        return self.v_head_dim

    @classmethod
    def from_config(cls, c: "Config", **facts: Any) -> "LatentAttention":
        """Ranks and widths under the names of DeepSeek's configs."""
        rotary = facts.pop("qk_rope_head_dim", None)
        return cls(
            num_heads=c.heads,
            q_lora_rank=c.optional("q_lora_rank"),
            kv_lora_rank=c.size("kv_lora_rank"),
            qk_nope_head_dim=c.size("qk_nope_head_dim"),
            qk_rope_head_dim=c.size("qk_rope_head_dim") if rotary is None else rotary,
            v_head_dim=c.size("v_head_dim"),
            **facts,
        )

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """DeepSeek-V2 (arXiv 2405.04434), section 2.1: low-rank queries (optional), shared latent, up-projections."""
        heads, rank = self.num_heads, self.q_lora_rank
        query = heads * self.head_dim
        queries = (
            (Linear("q", query, hidden, "column"),)
            if rank is None
            else (
                Linear("kv_down", rank, hidden, "replicated", self.down_bias),
                Linear("q", query, rank, "column"),
            )
        )
        expanded = heads * (self.qk_nope_head_dim + self.v_head_dim)
        return (
            *queries,
            Linear(
                "kv_down", self.kv_lora_rank + self.qk_rope_head_dim, hidden, "replicated", self.down_bias
            ),
            Linear("kv_up", expanded, self.kv_lora_rank, "column"),
            *((Linear("attention_gate", heads, hidden, "column"),) if self.head_gate else ()),
            *(
                (Linear("attention_gate", heads * self.v_head_dim, hidden, "column"),)
                if self.output_gate
                else ()
            ),
            Linear("attention_output", hidden, heads * self.v_head_dim, "row", self.output_bias),
        )

    @property
    def vector_elements(self) -> int:
        """The norms of both latents, and sinks."""
        return (self.q_lora_rank or 0) + self.kv_lora_rank + (self.num_heads if self.sinks else 0)

    @property
    def saturates_at(self) -> int | None:
        """As many tokens as are selected."""
        return self.selected

    def cached_tokens(self, context: Number) -> Number:
        """All tokens, whichever are selected."""
        return context

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:
        """At decode (``absorbed``) on the latents directly (arXiv 2405.04434, section 2.1.2)."""
        heads = self.num_heads / tp
        if absorbed:
            return 2 * heads * (2 * self.kv_lora_rank + self.qk_rope_head_dim)
        return 2 * heads * (self.head_dim + self.v_head_dim)

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - one interface
        """The latent and the rotary key, which every rank keeps whole."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def key_value_elements(self, tp: int = 1) -> float:
        """Keys and values of all heads once the latent is expanded."""
        return self.num_heads / tp * (self.head_dim + self.v_head_dim)

    def assembled_elements(self, tp: int = 1) -> float:
        """Queries and keys of all heads joined from a part with and one without rotation, values copied out of both."""
        return 2 * self.num_heads / tp * (2 * self.head_dim + self.v_head_dim)
