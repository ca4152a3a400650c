"""RWKV-4: time mixing and channel mixing."""

from __future__ import annotations

from typing import Literal

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.linear import Linear
from llm_perf.config.layers.recurrent import Recurrent, channel_block


class TimeMixing(Recurrent):
    """The time mixing of RWKV-4 (arXiv 2305.13048): an average over all tokens, decayed by channel, in ``size`` channels.

    Keys, values and receptances come from the token mixed with the one before it, ``hidden_size`` weights each. The
    token that the channel mixing of the same layer keeps is counted here.
    """

    kind: Literal["time_mixing"] = "time_mixing"
    size: PositiveInt
    hidden_size: PositiveInt

    @property
    def num_heads(self) -> int:
        """Blocks of channels, which tensor parallelism divides."""
        return self.size // self.head_dim

    @property
    def head_dim(self) -> int:
        """Channels of one block."""
        return channel_block(self.size)

    @property
    def vector_elements(self) -> int:
        """Decay and bonus of the newest token per channel, and three mixtures with the token before."""
        return 2 * self.size + 3 * self.hidden_size

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Keys, values and receptances (of three mixtures, counted as one product), and the output."""
        return (
            Linear("qkv", 3 * self.size, hidden, "column"),
            Linear("attention_output", hidden, self.size, "row"),
        )

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - a scan is steps
        """FLOPs of one token: 23 per channel.

        The average of arXiv 2305.13048 with the largest exponent kept apart, so that none overflows: for the output and
        again for the new state a maximum, two differences, two exponentials, three products and two sums; before them
        the bonus and the decay are added; the output is divided once.
        """
        return 23 * self.size / tp

    @property
    def state_size_per_sequence(self) -> int:
        """Numerator, denominator and largest exponent per channel, and the last token of both blocks."""
        return 3 * self.size + 2 * self.hidden_size

    @property
    def scanned_size(self) -> int:
        """Keys, values and receptances."""
        return 3 * self.size


class ChannelMixing(FeedForward):
    """The channel mixing of RWKV-4: two matrices, and a square receptance that gates what they return."""

    kind: Literal["channel_mixing"] = "channel_mixing"
    ffn_size: PositiveInt
    hidden_size: PositiveInt
    gated: bool = False
    bias: bool = False

    @property
    def vector_elements(self) -> int:
        """Two mixtures with the token before."""
        return 2 * self.hidden_size

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Up, gate, down."""
        return (
            Linear("mlp_up", self.ffn_size, hidden, "column"),
            Linear("mlp_up", hidden, hidden, "column"),
            Linear("mlp_down", hidden, self.ffn_size, "row"),
        )
