"""Speculation: a small model drafts tokens that the large one checks in one pass."""

from __future__ import annotations

from pydantic import model_validator

from llm_perf.config.base import Fraction, PositiveInt, Spec
from llm_perf.config.model import ModelConfig


class Speculation(Spec):
    """Speculative decoding (Leviathan et al., arXiv 2211.17192).

    Each round the draft model proposes ``tokens`` tokens one by one, and the model checks all of them in one pass, which
    gives one token more.

    Attributes:
        draft: the model that drafts.
        tokens: tokens drafted per round, k.
        acceptance_rate: accepted over drafted tokens, as engines count and print it.
        token_acceptance: the chance that a drafted token is kept where those before it were (the paper's alpha), the same
            for each. Exactly one of the two is given.
    """

    draft: ModelConfig
    tokens: PositiveInt = 4
    acceptance_rate: Fraction | None = None
    token_acceptance: Fraction | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Speculation:
        if (self.acceptance_rate is None) == (self.token_acceptance is None):
            raise ValueError(
                "exactly one of acceptance_rate (accepted / drafted tokens) and token_acceptance (chance of a token "
                "whose predecessors were kept) is needed"
            )
        return self

    @property
    def tokens_per_round(self) -> float:
        """Expected tokens of one round: what is kept of k drafted ones, and the one that the check itself gives.

        1 + k x rate by definition of the rate; 1 + a + ... + a^k with a chance a per token (equation 1 of the paper).
        """
        if self.acceptance_rate is not None:
            return 1 + self.tokens * self.acceptance_rate
        assert self.token_acceptance is not None
        return float(sum(self.token_acceptance**kept for kept in range(self.tokens + 1)))

    @property
    def share_kept(self) -> float:
        """Accepted over drafted tokens."""
        return (self.tokens_per_round - 1) / self.tokens
