"""Dense feed-forward blocks, gated or not, and none."""

from typing import Literal

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.linear import Linear


class DenseMLP(FeedForward):
    """A feed-forward block: 2 matrices, or 3 when ``gated`` (GLU variants)."""

    kind: Literal["dense"] = "dense"
    ffn_size: PositiveInt
    gated: bool = False
    bias: bool = False

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Up (twice where gated) and down."""
        return block_linears("mlp", self.ffn_size, hidden, self.gated, self.bias)


class NoMLP(FeedForward):
    """No feed-forward block: pure state-space models have none."""

    kind: Literal["none"] = "none"
    ffn_size: Literal[0] = 0
    gated: bool = False
    bias: bool = False

    def linears(self, hidden: int) -> tuple[Linear, ...]:  # noqa: ARG002 - one interface
        """None."""
        return ()


def block_linears(
    name: str, width: int, hidden: int, gated: bool, bias: bool, copies: int = 1, active: int = 1
) -> tuple[Linear, ...]:
    """The matrices of a block, or of ``copies`` equal experts of which a token uses ``active``."""
    up = Linear(f"{name}_up", width, hidden, "column", bias, copies, active)
    down = Linear(f"{name}_down", hidden, width, "row", bias, copies, active)
    return (up, up, down) if gated else (up, down)
