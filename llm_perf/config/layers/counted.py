"""Layers of a class that transformers built: their tensors are known, what they do with them is not."""

from typing import Literal

from llm_perf.config.arrays import Number, minimum
from llm_perf.config.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear


class Matrix(Spec):
    """``copies`` matrices of one module of a layer, of which a token uses ``active``."""

    module: str
    out_features: PositiveInt
    in_features: PositiveInt
    copies: PositiveInt = 1
    active: PositiveInt = 1


class KeptTokens(Spec):
    """A part of a layer's cache: elements per token, and of how many tokens, or of all."""

    per_token: PositiveFloat
    window: PositiveInt | None = None


class Counted(Mixer):
    """All that one layer holds, as the tensors of its class, and what its cache grew by.

    It is counted, and not timed: which product each matrix is a part of is not known.

    Attributes:
        matrices: Its matrices, experts' copies together.
        vectors: Elements that are in no matrix.
        kept: What a token adds to the cache.
        state: Elements that one sequence keeps however long it is.
    """

    kind: Literal["counted"] = "counted"
    matrices: tuple[Matrix, ...] = ()
    vectors: NonNegativeInt = 0
    kept: tuple[KeptTokens, ...] = ()
    state: NonNegativeFloat = 0.0
    num_heads: Literal[0] = 0
    num_kv_heads: Literal[0] = 0
    head_dim: Literal[0] = 0

    @property
    def counted_only(self) -> bool:
        """Yes."""
        return True

    @property
    def parts(self) -> tuple[Mixer, ...]:
        """Nothing of which scores are known."""
        return ()

    def linears(self, hidden: int) -> tuple[Linear, ...]:  # noqa: ARG002 - one interface
        """Its matrices under their modules' names, which nothing is known to divide."""
        return tuple(
            Linear(
                each.module,
                each.out_features,
                each.in_features,
                "replicated",
                False,
                each.copies,
                each.active,
            )
            for each in self.matrices
        )

    @property
    def vector_elements(self) -> int:
        """What is in no matrix."""
        return self.vectors

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:  # noqa: ARG002 - one interface
        """Not known, and never asked for."""
        return 0.0

    def cache_elements_per_token(self, tp: int = 1) -> float:  # noqa: ARG002 - one interface
        """What a token adds to the cache, until windows are full."""
        return sum(part.per_token for part in self.kept)

    def state_elements_per_sequence(self, tp: int = 1) -> float:  # noqa: ARG002 - one interface
        """What is kept of any sequence."""
        return self.state

    def cache_elements(self, context: Number, tp: int = 1) -> Number:  # noqa: ARG002 - one interface
        """Cache of the tokens that are kept, and the state."""
        total: Number = self.state
        for part in self.kept:
            total = total + part.per_token * (
                context if part.window is None else minimum(context, part.window)
            )
        return total
