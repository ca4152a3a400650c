"""A gated convolution over the latest tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.linear import Linear
from llm_perf.config.layers.recurrent import Recurrent, channel_block

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class ShortConvolution(Recurrent):
    """A convolution over ``conv_width`` tokens between two gates, in ``channels`` channels (LFM2, arXiv 2511.23404).

    ``bias``: the convolution and both projections have biases.
    """

    kind: Literal["short_convolution"] = "short_convolution"
    channels: PositiveInt
    conv_width: PositiveInt
    bias: bool = False

    @classmethod
    def from_config(cls, c: Config, **facts: Any) -> ShortConvolution:
        """As wide as the hidden states, under the names of LFM2's config."""
        return cls(channels=c.hidden, conv_width=c.size("conv_L_cache"), bias=c.flag("conv_bias"), **facts)

    @property
    def num_heads(self) -> int:
        """Blocks of channels, which tensor parallelism divides."""
        return self.channels // self.head_dim

    @property
    def head_dim(self) -> int:
        """Channels of one block."""
        return channel_block(self.channels)

    @property
    def vector_elements(self) -> int:
        """Taps of the convolution."""
        return (self.conv_width + (1 if self.bias else 0)) * self.channels

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Channels and both gates as one product, and the output."""
        return (
            Linear("qkv", 3 * self.channels, hidden, "column", self.bias),
            Linear("attention_output", hidden, self.channels, "row", self.bias),
        )

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - a step and a scan alike
        """FLOPs of one token: a product and a sum per tap, a product per gate."""
        return (2 * self.conv_width + 2) * self.channels / tp

    @property
    def state_size_per_sequence(self) -> int:
        """The tokens that the convolution keeps."""
        return self.conv_width * self.channels

    @property
    def scanned_size(self) -> int:
        """Channels and the gate before the convolution."""
        return 2 * self.channels
