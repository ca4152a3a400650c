"""Layers that keep a state of fixed size: Mamba-2 and gated DeltaNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator

from llm_perf.config.arrays import Number
from llm_perf.config.base import PositiveInt
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear

SCAN_CHUNK = 256
"""Tokens that a scan over a prompt works on at once (Mamba-2's kernels, arXiv 2405.21060, section 6)."""

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class StateSpace(Mixer):
    """A layer that keeps a state instead of keys and values: Mamba-2 or, with ``delta_rule``, gated DeltaNet.

    ``num_heads`` heads of ``head_dim`` values each hold a state of ``key_dim`` x ``head_dim``; ``key_heads`` heads of keys
    and queries (Mamba-2's groups of B and C) are shared by groups of them. A convolution over ``conv_width`` tokens comes
    first. Sources: arXiv 2405.21060 (Mamba-2), arXiv 2412.06464 (gated DeltaNet).
    """

    recurrent: ClassVar[bool] = True

    kind: Literal["state_space"] = "state_space"
    num_heads: PositiveInt
    head_dim: PositiveInt
    key_heads: PositiveInt
    key_dim: PositiveInt
    conv_width: PositiveInt = 4
    conv_bias: bool = False
    delta_rule: bool = False

    @model_validator(mode="after")
    def _key_heads_divide(self) -> StateSpace:
        if self.num_heads % self.key_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of key_heads {self.key_heads}")
        return self

    @classmethod
    def from_config(cls, c: Config, **facts: Any) -> StateSpace:
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
    def num_kv_heads(self) -> int:
        """Every head has its state."""
        return self.num_heads

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
        return taps * self.conv_channels + per_head * self.num_heads + norm

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Values and their gate, keys and queries, scalars per head, output (arXiv 2405.21060, section 7)."""
        values, keys = self.num_heads * self.head_dim, self.key_heads * self.key_dim
        return (
            Linear("qkv", values, hidden, "column"),
            Linear("qkv", values, hidden, "column"),
            Linear("qkv", keys, hidden, "kv", kv_heads=self.key_heads),
            Linear("qkv", keys, hidden, "kv", kv_heads=self.key_heads),
            Linear("qkv", self.gates_per_head * self.num_heads, hidden, "column"),
            Linear("attention_output", hidden, values, "row"),
        )

    @property
    def saturates_at(self) -> int:
        """One: there is one state, from the first token on."""
        return 1

    def keys_read(self, new_tokens: Number, cached: Number) -> Number:  # noqa: ARG002 - one interface
        """The state is moved once per chunk of a scan."""
        return -(-new_tokens // SCAN_CHUNK)

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:
        """FLOPs of one token: through the state itself (``absorbed``, a decode step), or in a scan of chunks.

        A step decays the state, adds the outer product of key and value, and reads it with the query: 5 per element;
        the delta rule reads it with the key first, 2 more. A scan has 4 per element, and attention inside its chunk, of
        which half is causal, twice with the delta rule's inverse.
        """
        heads, state = self.num_heads / tp, self.key_dim * self.head_dim
        if absorbed:
            return heads * ((7 if self.delta_rule else 5) * state)
        inside = SCAN_CHUNK * (self.key_dim + self.head_dim)
        return heads * (4 * state + (2 if self.delta_rule else 1) * inside)

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - one interface
        """None: the state holds what came before."""
        return 0.0

    def state_elements_per_sequence(self, tp: int = 1) -> float:
        """The state, and the tokens that the convolution keeps."""
        kept = (self.conv_width - 1) * self.conv_channels
        return (self.num_heads * self.key_dim * self.head_dim + kept) / tp

    def key_value_elements(self, tp: int = 1) -> float:
        """What the convolution runs over."""
        return self.conv_channels / tp

    def live_elements_per_token(self, tp: int = 1) -> float:
        """What the convolution runs over, and the gate."""
        return (self.conv_channels + self.num_heads * self.head_dim) / tp
