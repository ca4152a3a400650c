"""Layers that draft: what is before them joins the last hidden state and the next token's embedding."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, SerializeAsAny

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.linear import Linear


class Joined(FeedForward):
    """A block of a layer before which ``inputs`` vectors of the hidden size become one, by a matrix.

    A multi-token prediction module (DeepSeek-V3, arXiv 2412.19437, equation 21) and an EAGLE head (arXiv 2401.15077,
    section 4.1) join two: the hidden state of the token before, and the embedding of the token.
    """

    kind: Literal["joined"] = "joined"
    block: Annotated[SerializeAsAny[FeedForward], BeforeValidator(FeedForward.of)]
    inputs: PositiveInt = 2

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """The matrix that joins, and those of the block."""
        return (Linear("join", hidden, self.inputs * hidden, "replicated"), *self.block.linears(hidden))

    @property
    def ffn_size(self) -> int:
        """As the block's."""
        return self.block.ffn_size

    @property
    def gated(self) -> bool:
        """As the block's."""
        return self.block.gated

    @property
    def bias(self) -> bool:
        """As the block's."""
        return self.block.bias

    @property
    def routed_experts(self) -> int:
        """As the block's."""
        return self.block.routed_experts

    @property
    def experts_per_token(self) -> int:
        """As the block's."""
        return self.block.experts_per_token

    @property
    def dense_width(self) -> int:
        """As the block's."""
        return self.block.dense_width

    @property
    def routed_width(self) -> int:
        """As the block's."""
        return self.block.routed_width
