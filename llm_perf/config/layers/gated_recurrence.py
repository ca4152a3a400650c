"""The real-gated linear recurrent unit (RG-LRU) of Griffin and RecurrentGemma."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.linear import Linear
from llm_perf.config.layers.recurrent import Recurrent


class GatedRecurrence(Recurrent):
    """RG-LRU behind a convolution (Griffin, arXiv 2402.19427): ``width`` channels with one element of state each.

    Its two gates are products by ``num_heads`` blocks of the diagonal. All projections have biases.
    """

    kind: Literal["gated_recurrence"] = "gated_recurrence"
    width: PositiveInt
    num_heads: PositiveInt
    conv_width: PositiveInt = 4

    @model_validator(mode="after")
    def _blocks_divide(self) -> GatedRecurrence:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self

    @property
    def head_dim(self) -> int:
        """Channels of one block of the gates."""
        return self.width // self.num_heads

    @property
    def vector_elements(self) -> int:
        """Convolution with bias, and the decay of every channel."""
        return (self.conv_width + 2) * self.width

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Both branches as one product, the gates of input and decay, and the output."""
        return (
            Linear("qkv", 2 * self.width, hidden, "column", bias=True),
            Linear("attention_gates", 2 * self.width, self.head_dim, "column", bias=True),
            Linear("attention_output", hidden, self.width, "row", bias=True),
        )

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - a scan is steps
        """FLOPs of one token: a product and a sum per tap, and 10 per channel.

        Equations 1-4 of arXiv 2402.19427: the logarithm of the decay and its exponential (2), the square root of
        1 - a^2 (3), the gated and scaled input (2), the new state (2), and the product with the other branch (1).
        """
        return (2 * self.conv_width + 10) * self.width / tp

    @property
    def state_size_per_sequence(self) -> int:
        """One element per channel, and the tokens that the convolution keeps."""
        return (1 + self.conv_width) * self.width

    @property
    def scanned_size(self) -> int:
        """The convolved branch, and both gates."""
        return 3 * self.width
