"""Layers that mix no tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config


class NoMixer(Mixer):
    """No mixer: a layer that is a feed-forward block alone (Nemotron-H counts each block as a layer)."""

    kind: Literal["none"] = "none"
    num_heads: Literal[0] = 0
    num_kv_heads: Literal[0] = 0
    head_dim: Literal[0] = 0

    @classmethod
    def from_config(cls, c: Config, **facts: Any) -> NoMixer:  # noqa: ARG003 - one interface
        """Nothing is read."""
        return cls()

    @property
    def parts(self) -> tuple[Mixer, ...]:
        """Nothing attends or scans."""
        return ()

    def linears(self, hidden: int) -> tuple[Linear, ...]:  # noqa: ARG002 - one interface
        """None."""
        return ()

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - one interface
        """None."""
        return 0.0

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - one interface
        """None."""
        return 0.0
