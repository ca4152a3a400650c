"""Attention of DeepSeek-V4: one head that is key and value at once, seen through a window and through compressed entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from llm_perf.config.arrays import Number
from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class SharedKeyAttention(Mixer):
    """Attention to the latest ``window`` tokens, each kept as one vector that is key and value of all heads (DeepSeek-V4).

    Queries come through ``q_lora_rank`` elements. The result's heads lie in ``output_groups`` groups, each of which a
    matrix of its own takes to ``output_rank`` elements before one matrix joins them; every head has a sink. Older tokens
    are seen as `CompressedEntries`, which stand beside it in a combined layer. Source: DeepSeek-V4's report, section 2.3.
    """

    kind: Literal["shared_key_attention"] = "shared_key_attention"
    num_heads: PositiveInt
    head_dim: PositiveInt
    q_lora_rank: PositiveInt
    output_groups: PositiveInt
    output_rank: PositiveInt
    window: PositiveInt

    @model_validator(mode="after")
    def _groups_divide(self) -> SharedKeyAttention:
        if self.num_heads % self.output_groups:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of output_groups {self.output_groups}"
            )
        return self

    @classmethod
    def from_config(cls, c: Config, **facts: Any) -> SharedKeyAttention:
        """Under the names of DeepSeek-V4's config."""
        return cls(
            num_heads=c.heads,
            head_dim=c.head_dim,
            q_lora_rank=c.size("q_lora_rank"),
            output_groups=c.size("o_groups"),
            output_rank=c.size("o_lora_rank"),
            window=c.size("sliding_window"),
            **facts,
        )

    @property
    def num_kv_heads(self) -> int:
        """One for all heads."""
        return 1

    @property
    def key_readers(self) -> float:
        """Once: a kernel holds all heads of a query beside the key, as for latents."""
        return 1.0

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Latent of the queries and the key as one product; queries; both steps back to the hidden size.

        The first step back is block-diagonal: each group's rows meet that group's heads alone.
        """
        width = self.num_heads * self.head_dim
        narrow = self.output_groups * self.output_rank
        return (
            Linear(
                "kv_down", self.q_lora_rank, hidden, "replicated", modules=("self_attn.q_a_proj", "attn.wq_a")
            ),
            Linear("kv_down", self.head_dim, hidden, "replicated", modules=("self_attn.kv_proj", "attn.wkv")),
            Linear("q", width, self.q_lora_rank, "column", modules=("self_attn.q_b_proj", "attn.wq_b")),
            Linear(
                "attention_groups",
                narrow,
                width // self.output_groups,
                "column",
                modules=("self_attn.o_a_proj", "attn.wo_a"),
            ),
            Linear("attention_output", hidden, narrow, "row", modules=("self_attn.o_b_proj", "attn.wo_b")),
        )

    @property
    def vector_elements(self) -> int:
        """Norms of the queries' latent and of the key, and a sink per head."""
        return self.q_lora_rank + self.head_dim + self.num_heads

    @property
    def saturates_at(self) -> int | None:
        """The window."""
        return self.window

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - one interface
        """A multiply and an add per element of a query, and again for the same vector as a value."""
        return 4 * (self.num_heads / tp) * self.head_dim

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - every rank has the one key
        """The vector, which every rank keeps whole."""
        return self.head_dim


class CompressedEntries(Mixer):
    """What stands for tokens beyond the window (DeepSeek-V4): one key and value for every ``ratio`` tokens.

    An entry is the mean of its tokens' vectors, weighted element by element; with ``overlapping`` it reaches over the
    ratio's tokens before it too, and each token has two vectors. ``selected`` entries at most are attended to where an
    indexer picks them, all otherwise. Queries and the way back are those of the attention beside it.

    Everything is told per token, so that an entry is 1/ratio of one: scores and cache are right on average, not at the
    single token that closes an entry.
    """

    kind: Literal["compressed_entries"] = "compressed_entries"
    num_heads: PositiveInt
    head_dim: PositiveInt
    ratio: PositiveInt
    overlapping: bool = False
    selected: PositiveInt | None = None

    @property
    def num_kv_heads(self) -> int:
        """One for all heads."""
        return 1

    @property
    def key_readers(self) -> float:
        """Once: a kernel holds all heads of a query beside the entry."""
        return 1.0

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Vectors and their weights, which checkpoints keep wide."""
        return compressor("attention_compressor", self.head_dim, hidden, self.overlapping, "compressor")

    @property
    def vector_elements(self) -> int:
        """A bias per place in an entry, and the norm of an entry."""
        return compressor_vectors(self.head_dim, self.ratio, self.overlapping)

    @property
    def saturates_at(self) -> int | None:
        """The tokens that the selected entries stand for."""
        return None if self.selected is None else self.selected * self.ratio

    def cached_tokens(self, context: Number) -> Number:
        """All tokens, whichever entries are selected."""
        return context

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - one interface
        """A token's share of the scores of its entry, which is key and value."""
        return 4 * (self.num_heads / tp) * self.head_dim / self.ratio

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - every rank has the one key
        """A token's share of an entry."""
        return self.head_dim / self.ratio

    def live_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - every rank has the one key
        """The vectors of a token and their weights; queries are counted by the attention beside it."""
        return 2 * (2 if self.overlapping else 1) * self.head_dim


def compressor(op: str, width: int, hidden: int, overlapping: bool, module: str) -> tuple[Linear, ...]:
    """The product that gives a token's vectors for its entries, and their weights."""
    out = (2 if overlapping else 1) * width
    return (
        Linear(op, out, hidden, "replicated", modules=(f"self_attn.{module}.kv_proj",), wide=True),
        Linear(op, out, hidden, "replicated", modules=(f"self_attn.{module}.gate_proj",), wide=True),
    )


def compressor_vectors(width: int, ratio: int, overlapping: bool) -> int:
    """Weights of a compressor that are no matrices: a bias per place and element, and a norm."""
    return ratio * (2 if overlapping else 1) * width + width
