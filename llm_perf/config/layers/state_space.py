"""Layers that keep a state per head: Mamba-2 and gated DeltaNet."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.linear import Linear
from llm_perf.config.layers.recurrent import Recurrent, outer_product_flops

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class StateSpace(Recurrent):
    """A layer that keeps a state instead of keys and values: Mamba-2 or, with ``delta_rule``, gated DeltaNet.

    ``num_heads`` heads of ``head_dim`` values each hold a state of ``key_dim`` x ``head_dim``; ``key_heads`` heads of keys
    and queries (Mamba-2's groups of B and C) are shared by groups of them. A convolution over ``conv_width`` tokens comes
    first. ``proj_bias``: the projections into and out of the layer have biases; ``gated_norm``: what the gate multiplies is
    normalised. Sources: arXiv 2405.21060 (Mamba-2), arXiv 2412.06464 (gated DeltaNet).
    """

    kind: Literal["state_space"] = "state_space"
    num_heads: PositiveInt
    head_dim: PositiveInt
    key_heads: PositiveInt
    key_dim: PositiveInt
    conv_width: PositiveInt = 4
    conv_bias: bool = False
    delta_rule: bool = False
    proj_bias: bool = False
    gated_norm: bool = True

    @model_validator(mode="after")
    def _key_heads_divide(self) -> "StateSpace":
        if self.num_heads % self.key_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of key_heads {self.key_heads}")
        return self

    @classmethod
    def from_config(cls, c: "Config", **facts: Any) -> "StateSpace":
        """Gated DeltaNet under the names of Qwen3-Next's config; Mamba-2 under those of the family's facts."""
        if not facts.get("delta_rule"):
            return super().from_config(c, **facts)
        return cls(
            num_heads=c.size("linear_num_value_heads"),
            head_dim=c.size("linear_value_head_dim"),
            key_heads=c.size("linear_num_key_heads"),
            key_dim=c.size("linear_key_head_dim"),
            conv_width=c.size("linear_conv_kernel_dim"),
            **facts,
        )

    @property
    def scan_kernels(self) -> Literal["mamba", "chunked"]:
        """Mamba-2's own, but of delta rules."""
        return "chunked" if self.delta_rule else "mamba"

    @property
    def conv_channels(self) -> int:
        """Values, keys and queries, which the convolution runs over."""
        return self.num_heads * self.head_dim + 2 * self.key_heads * self.key_dim

    @property
    def gates_per_head(self) -> int:
        """Scalars per head and token: Mamba-2's step, gated DeltaNet's decay and write strength."""
        return 2 if self.delta_rule else 1

    @property
    def vector_elements(self) -> int:
        """Weights that are no matrices: convolution, decay and step per head (Mamba-2 has a skip as well), gated norm."""
        per_head, norm = (2, self.head_dim) if self.delta_rule else (3, self.num_heads * self.head_dim)
        taps = self.conv_width + (1 if self.conv_bias else 0)
        return taps * self.conv_channels + per_head * self.num_heads + (norm if self.gated_norm else 0)

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Values and their gate, keys and queries, scalars per head, output (arXiv 2405.21060, section 7)."""
        values, keys, bias = self.num_heads * self.head_dim, self.key_heads * self.key_dim, self.proj_bias
        return (
            Linear("qkv", values, hidden, "column", bias),
            Linear("qkv", values, hidden, "column", bias),
            Linear("qkv", keys, hidden, "kv", bias, kv_heads=self.key_heads),
            Linear("qkv", keys, hidden, "kv", bias, kv_heads=self.key_heads),
            Linear("qkv", self.gates_per_head * self.num_heads, hidden, "column", bias),
            Linear("attention_output", hidden, values, "row", bias),
        )

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:
        """FLOPs of one token: through the state itself (``absorbed``, a decode step), or in a scan of chunks."""
        return outer_product_flops(
            self.num_heads / tp, self.key_dim, self.head_dim, absorbed, self.delta_rule
        )

    @property
    def state_size_per_sequence(self) -> int:
        """The states of all heads, and the tokens that the convolution keeps."""
        return self.num_heads * self.key_dim * self.head_dim + self.conv_width * self.conv_channels

    @property
    def scanned_size(self) -> int:
        """What the convolution runs over."""
        return self.conv_channels
