"""Several streams of hidden states beside each other: hyper-connections."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from llm_perf.config.base import PositiveInt, Spec
from llm_perf.config.layers.linear import Linear


class Streams(Spec):
    """``count`` streams of hidden states (hyper-connections, arXiv 2409.19606).

    Before each of a layer's two blocks its input is mixed from all streams, after it the output goes into all of them, by
    weights that a product finds for each token from all streams together. ``mixes``: the streams are mixed with each other
    as well (DeepSeek-V4's manifold-constrained ones; Hunyuan 4 has none). With ``rank`` the input has a weight per element,
    which come through so many elements, behind a norm over each stream (Qwen3.8-Flash-Next).
    """

    count: Annotated[int, Field(strict=True, ge=2, le=64)]
    mixes: bool = True
    rank: PositiveInt | None = None

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """The products before both blocks, which checkpoints and engines keep wide."""
        return tuple(self._linears(hidden))

    def _linears(self, hidden: int) -> Iterator[Linear]:
        every = self.count * hidden
        for block in ("attention_streams", "streams"):
            if self.rank is None:
                yield Linear(block, self._weights, every, "replicated", wide=True)
            else:
                yield Linear(block, self.rank, every, "replicated", wide=True)
                yield Linear(block, self.count, every, "replicated", wide=True)
                yield Linear(f"{block}_up", every, self.rank, "replicated", wide=True)

    @property
    def _weights(self) -> int:
        """Weights of one token: of the input and of the output per stream, and of each stream for each."""
        return self.count * (2 + (self.count if self.mixes else 0))

    def vector_elements(self, hidden: int) -> int:
        """A bias per weight and a scale per kind of weight; or the norms over each stream."""
        if self.rank is not None:
            return 2 * self.count * hidden
        return 2 * (self._weights + (3 if self.mixes else 2))

    def last_params(self, hidden: int) -> int:
        """Elements of what makes one of the streams after the last layer."""
        every = self.count * hidden
        if self.rank is not None:
            return every + 2 * self.rank * every
        return self.count * every + self.count + 1
