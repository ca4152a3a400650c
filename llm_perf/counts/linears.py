"""The matrices of a layer, as its kinds describe them."""

from __future__ import annotations

from functools import lru_cache

from llm_perf.config.layers.linear import Linear, Split
from llm_perf.config.model import FeedForward, LayerGroup, Mixer

__all__ = ["Linear", "Split", "attention_linears", "layer_linears", "mlp_linears"]


def attention_linears(attention: Mixer, hidden: int) -> tuple[Linear, ...]:
    """The projections of one attention block."""
    return attention.linears(hidden)


def mlp_linears(mlp: FeedForward, hidden: int) -> tuple[Linear, ...]:
    """The matrices of one feed-forward block, experts and router included."""
    return mlp.linears(hidden)


@lru_cache(maxsize=1024)  # a plan asks the same of every GPU
def layer_linears(group: LayerGroup, hidden: int) -> tuple[Linear, ...]:
    """All matrices of one layer of a group."""
    cross = () if group.cross_attention is None else group.cross_attention.linears(hidden)
    streams = () if group.streams is None else group.streams.linears(hidden)
    return group.attention.linears(hidden) + cross + group.mlp.linears(hidden) + streams
