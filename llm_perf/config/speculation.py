"""Speculation: a small model drafts tokens that the large one checks in one pass."""

from __future__ import annotations

from llm_perf.config.base import Fraction, PositiveInt, Spec
from llm_perf.config.model import ModelConfig


class Speculation(Spec):
    """Speculative decoding (Leviathan et al., arXiv 2211.17192).

    Each round the draft model proposes ``tokens`` tokens one by one, and the model checks all of them in one pass, which
    gives one token more. ``acceptance_rate`` is the probability that a proposed token is kept, the same for each.
    """

    draft: ModelConfig
    tokens: PositiveInt = 4
    acceptance_rate: Fraction

    @property
    def tokens_per_round(self) -> float:
        """Expected tokens of one round: 1 + a + … + a^k (arXiv 2211.17192, equation 1); 1 where nothing is kept."""
        return float(sum(self.acceptance_rate**kept for kept in range(self.tokens + 1)))
