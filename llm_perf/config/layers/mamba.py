"""Mamba: a selective scan over channels, each with a state of its own."""

from __future__ import annotations

from typing import Literal

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.linear import Linear
from llm_perf.config.layers.recurrent import Recurrent, channel_block


class Mamba(Recurrent):
    """A selective state space (Mamba, arXiv 2312.00752): ``inner_size`` channels of ``state_size`` elements each.

    A convolution over ``conv_width`` tokens comes first. Step sizes pass through ``step_rank`` elements, which with the
    inputs and outputs of the state are projected from the convolved channels; ``inner_norms`` normalises these (Jamba).
    ``proj_bias``: the projections into and out of the layer have biases.
    """

    kind: Literal["mamba"] = "mamba"
    inner_size: PositiveInt
    state_size: PositiveInt
    step_rank: PositiveInt
    conv_width: PositiveInt = 4
    conv_bias: bool = True
    proj_bias: bool = False
    inner_norms: bool = False

    @property
    def num_heads(self) -> int:
        """Blocks of channels: there are no heads, and tensor parallelism divides the channels."""
        return self.inner_size // self.head_dim

    @property
    def head_dim(self) -> int:
        """Channels of one block."""
        return channel_block(self.inner_size)

    @property
    def selected_size(self) -> int:
        """Elements that are projected from the convolved channels: of the step, the input and the output of the state."""
        return self.step_rank + 2 * self.state_size

    @property
    def vector_elements(self) -> int:
        """Convolution, decay of every state element, skip per channel, norms."""
        taps = self.conv_width + (1 if self.conv_bias else 0)
        norms = self.selected_size if self.inner_norms else 0
        return (taps + self.state_size + 1) * self.inner_size + norms

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Channels and their gate; step, input and output of the state; steps; output (arXiv 2312.00752, section 3.4)."""
        inner = self.inner_size
        return (
            Linear("qkv", 2 * inner, hidden, "column", self.proj_bias),
            Linear("attention_selection", self.selected_size, inner, "row"),
            Linear("attention_steps", inner, self.step_rank, "column", bias=True),
            Linear("attention_output", hidden, inner, "row", self.proj_bias),
        )

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - a scan is steps
        """FLOPs of one token: 7 per state element.

        The decay of an element depends on the step (a product and an exponential), then it decays, takes the input (a
        product and a sum) and is read (a product and a sum). Other than in Mamba-2 no product of matrices does this.
        """
        return 7 * self.inner_size * self.state_size / tp

    @property
    def state_size_per_sequence(self) -> int:
        """States of all channels, and the tokens that the convolution keeps."""
        return self.inner_size * (self.state_size + self.conv_width)

    @property
    def scanned_size(self) -> int:
        """The channels, and what selects."""
        return self.inner_size + self.selected_size
