"""Mixtures of experts."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from llm_perf.config.base import NonNegativeInt, PositiveInt
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.feed_forward import block_linears
from llm_perf.config.layers.linear import Linear

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class MoEMLP(FeedForward):
    """A mixture of experts: ``top_k`` of ``num_experts`` per token, plus experts that every token uses.

    ``shared_ffn_size`` is the width of all shared experts together; ``shared_gate`` a scalar gate on them
    (Qwen1.5-MoE); ``router_bias`` one learned value per expert. ``router_groups`` are equal groups of experts of which a
    token takes the best before it takes experts (DeepSeek-V3's 8; 1 where a config says so), None where routing knows none.
    ``latent_size`` is the width that routed experts work in
    where it is not the hidden size: two matrices lead there and back (Nemotron 3), with a norm between them where
    ``latent_norm`` (Kimi K3). ``zero_experts`` can be picked as well and return what they are given: with routing as even
    as training keeps it, a token uses ``top_k`` x experts / (experts + zero experts) real ones (LongCat, arXiv 2509.01322).
    """

    kind: Literal["moe"] = "moe"
    num_experts: PositiveInt
    top_k: PositiveInt
    ffn_size: PositiveInt
    gated: bool = True
    bias: bool = False
    shared_ffn_size: NonNegativeInt = 0
    shared_gate: bool = False
    router_bias: bool = False
    router_groups: PositiveInt | None = None
    latent_size: PositiveInt | None = None
    latent_norm: bool = False
    zero_experts: NonNegativeInt = 0

    @model_validator(mode="after")
    def _top_k_of_experts(self) -> "MoEMLP":
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k {self.top_k} is more than num_experts {self.num_experts}")
        if self.router_groups is not None and self.num_experts % self.router_groups:
            raise ValueError(
                f"router_groups {self.router_groups} do not divide num_experts {self.num_experts}"
            )
        return self

    @classmethod
    def from_config(cls, c: "Config", **facts: Any) -> "MoEMLP":
        """Experts by any of their names; their width and what stands beside them are the family's facts."""
        return cls(**{"num_experts": c.experts, "top_k": c.experts_per_token, **facts})

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Router, experts, and the shared expert with its gate."""
        linears = [
            Linear("router", self.num_experts + self.zero_experts, hidden, "replicated", self.router_bias)
        ]
        width, latent = self.latent_size or hidden, self.latent_size
        if latent:
            linears.append(Linear("latent_down", latent, hidden, "replicated", self.bias))
        linears += block_linears(
            "expert", self.ffn_size, width, self.gated, self.bias, self.num_experts, self.experts_per_token
        )
        if latent:
            linears.append(Linear("latent_up", hidden, latent, "replicated", self.bias))
        if self.shared_ffn_size:
            linears += block_linears("shared_expert", self.shared_ffn_size, hidden, self.gated, self.bias)
        if self.shared_gate:
            linears.append(Linear("router", 1, hidden, "replicated"))
        return tuple(linears)

    @property
    def routed_experts(self) -> int:
        """All routed experts."""
        return self.num_experts

    @property
    def experts_per_token(self) -> int:
        """Those that one token uses, on average where some of what it picks are none."""
        return max(round(self.top_k * self.num_experts / (self.num_experts + self.zero_experts)), 1)

    @property
    def vector_elements(self) -> int:
        """The norm of a latent."""
        return (self.latent_size or 0) if self.latent_norm else 0

    @property
    def dense_width(self) -> int:
        """Width of the shared experts."""
        return self.shared_ffn_size

    def routed_input_width(self, hidden: int) -> int:
        """The latent's width where experts work in one."""
        return self.latent_size or hidden
