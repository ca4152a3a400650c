"""Optimizer state and gradients in training, and what each ZeRO stage shards."""

from __future__ import annotations

from typing import Literal

from llm_perf.config.parallelism import DSZeRO
from llm_perf.counts.arrays import Number

ADAM_MOMENTS_BYTES = 8
"""Bytes per parameter of Adam's momentum and variance in 32 bits (Kingma and Ba, arXiv 1412.6980)."""

Sharded = Literal["optimizer", "gradients", "weights"]

_FIRST_STAGE: dict[Sharded, int] = {"optimizer": 1, "gradients": 2, "weights": 3}
"""The ZeRO stage from which on each is sharded (Rajbhandari et al., arXiv 1910.02054, section 5)."""


def zero_shards(what: Sharded, stage: DSZeRO, ranks: float) -> float:
    """Ways in which ``ranks`` ranks with equal weights share one kind of state under a ZeRO stage."""
    return ranks if stage.value >= _FIRST_STAGE[what] else 1


def optimizer_state_bytes(
    params: Number, master_weights_bytes: Number, other_bytes: Number | None = None
) -> Number:
    """Bytes of master weights and of what else the optimizer keeps; None means Adam's two moments."""
    return params * (master_weights_bytes + (ADAM_MOMENTS_BYTES if other_bytes is None else other_bytes))


def gradient_bytes(params: Number, master_weights_bytes: Number) -> Number:
    """Bytes of gradients, kept as wide as the master weights that they are applied to."""
    return params * master_weights_bytes
