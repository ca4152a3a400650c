"""Speculation: something small drafts tokens that the large model checks in one pass."""

from typing import Final, Literal

from pydantic import model_validator

from llm_perf.config.base import Fraction, PositiveInt, Spec
from llm_perf.config.layers.joined import Joined
from llm_perf.config.model import DenseMLP, ModelConfig
from llm_perf.errors import SpecError

Module = Literal["mtp", "eagle"]

MODULES: Final[tuple[Module, ...]] = ("mtp", "eagle")
"""What drafts beside models of their own: a layer that goes on from the large model's last hidden state."""


class Speculation(Spec):
    """Speculative decoding (Leviathan et al., arXiv 2211.17192).

    Each round the draft model proposes ``tokens`` tokens one by one, and the model checks all of them in one pass, which
    gives one token more.

    Attributes:
        draft: the model that drafts.
        tokens: tokens drafted per round, k.
        acceptance_rate: accepted over drafted tokens, as engines count and print it.
        token_acceptance: the chance that a drafted token is kept where those before it were (the paper's alpha), the same
            for each.
        acceptance: the share of rounds in which each of the k tokens is kept, as vLLM prints it by position. Exactly one
            of the three is given.
        module: the draft is a module of the model ("mtp") or trained on its hidden states ("eagle"): it has the model's
            token table and head, and is divided as the model is.
    """

    draft: ModelConfig
    tokens: PositiveInt = 4
    acceptance_rate: Fraction | None = None
    token_acceptance: Fraction | None = None
    acceptance: tuple[Fraction, ...] | None = None
    module: Module | None = None

    @model_validator(mode="after")
    def _one_of_the_three(self) -> "Speculation":
        stated = (self.acceptance_rate, self.token_acceptance, self.acceptance)
        if sum(one is not None for one in stated) != 1:
            raise ValueError(
                "exactly one of acceptance_rate (accepted / drafted tokens), token_acceptance (chance of a token "
                "whose predecessors were kept) and acceptance (share of rounds that keep each position) is needed"
            )
        if self.acceptance is not None:
            if len(self.acceptance) != self.tokens:
                raise ValueError(
                    f"acceptance has {len(self.acceptance)} positions, {self.tokens} are drafted"
                )
            if any(
                later > before for before, later in zip(self.acceptance, self.acceptance[1:], strict=False)
            ):
                raise ValueError(
                    "acceptance rises: a position is kept only where those before it are, so its share is at most theirs"
                )
        return self

    @property
    def tokens_per_round(self) -> float:
        """Expected tokens of one round: what is kept of k drafted ones, and the one that the check itself gives.

        1 + k x rate by definition of the rate, 1 + the sum of the shares by position; 1 + a + ... + a^k with a chance a
        per token (equation 1 of the paper).
        """
        if self.acceptance_rate is not None:
            return 1 + self.tokens * self.acceptance_rate
        if self.acceptance is not None:
            return 1 + sum(self.acceptance)
        assert self.token_acceptance is not None
        return float(sum(self.token_acceptance**kept for kept in range(self.tokens + 1)))

    @property
    def share_kept(self) -> float:
        """Accepted over drafted tokens."""
        return (self.tokens_per_round - 1) / self.tokens


def draft_module(kind: Module, model: ModelConfig) -> ModelConfig:
    """The layer that drafts, as a model of one layer with the token table and the head that it shares.

    Raises:
        SpecError: the model has no such module, or none whose shape is known.
    """
    last = model.layer_groups[-1]
    if kind == "mtp" and not model.mtp_layers:
        raise SpecError(
            f"--draft-model mtp: {model.name} says no multi-token prediction module (mtp_layers); possible: "
            f"{'' if last.mlp.routed_experts else 'eagle, or '}a model that drafts, by its name or as a file"
        )
    if not last.attention.parts or last.attention.recurrent:
        raise SpecError(
            f"--draft-model {kind}: the last layer of {model.name} is no attention layer to draft with, and what shape its "
            "module has instead is not known; possible: a model that drafts, by its name or as a file"
        )
    block = last.mlp
    if kind == "eagle":
        if block.routed_experts:
            raise SpecError(
                f"--draft-model eagle: heads of models with experts have widths of their own; give the one of "
                f"{model.name} as a file of a model with one layer"
            )
        block = DenseMLP(ffn_size=block.ffn_size, gated=block.gated, bias=block.bias)
    layer = last.replace(count=1, mlp=Joined(block=block), cross_attention=None)
    names = {"mtp": "MTP module", "eagle": "EAGLE head"}
    return model.replace(
        name=f"{model.name} {names[kind]}",
        aliases=(),
        layer_groups=(layer,),
        learned_positions=0,
        other_params=0,
        beside_params=0,
        quantization=None,
        stored_formats=None,
        mtp_layers=0,
        checkpoint_bytes=None,
        published_params=None,
        published_active_params=None,
        left_out=None,
    )
