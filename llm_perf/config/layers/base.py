"""What every kind of layer answers, and the register of kinds.

A kind is one class in one module: its facts are the fields of a spec, its counts are methods. Whoever counts, times or
prints a layer asks these methods and knows no kind. A class that derives from `Mixer` or `FeedForward` and names its
``kind`` is registered by that alone, so a spec can use it wherever the class was imported.
"""

from __future__ import annotations

import reprlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from llm_perf.config import layers
from llm_perf.config.arrays import Number, minimum
from llm_perf.config.base import Spec
from llm_perf.config.layers.linear import Linear
from llm_perf.errors import SpecError

if TYPE_CHECKING:
    from llm_perf.config.huggingface.reader import Config

PartT = TypeVar("PartT", bound="LayerPart")


class LayerPart(Spec):
    """One of the two blocks of a layer, of a registered ``kind``."""

    _kinds: ClassVar[dict[str, type[Any]]]
    _default_kind: ClassVar[str]

    if TYPE_CHECKING:
        kind: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        field = cls.model_fields.get("kind")
        if field is not None:
            cls._kinds[field.default] = cls

    @classmethod
    def of(cls: type[PartT], data: Any) -> PartT:
        """The part that a mapping with a ``kind`` describes; a part is returned as it is.

        Raises:
            SpecError: no such kind, or a fault of one of its fields.
        """
        if isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            raise SpecError(f"must be a mapping of fields, got {reprlib.repr(data)}")
        kind = data.get("kind", cls._default_kind)
        if not (isinstance(kind, str) and kind in cls._kinds):
            layers.load_all()
        found = cls._kinds.get(kind) if isinstance(kind, str) else None
        if found is None:
            raise SpecError(f"kind {reprlib.repr(kind)} is none of {', '.join(sorted(cls._kinds))}")
        part: PartT = found(**data)
        return part

    @classmethod
    def from_config(cls: type[PartT], c: Config, **facts: Any) -> PartT:
        """The part that a Hugging Face config describes.

        ``facts`` are what the family's row says; any other field has the value of the key of its name, if there is one.
        A kind whose keys have other names overrides this.
        """
        named = {name: c.plain(name) for name in cls.model_fields if name not in facts and name != "kind"}
        return cls(**facts, **{name: value for name, value in named.items() if value is not None})

    @abstractmethod
    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """The matrices of one block in a model of width ``hidden``, with what tensor parallelism splits of each."""

    @property
    def vector_elements(self) -> int:
        """Weights that are no matrices and that every tensor-parallel rank holds: inner norms, sinks, convolutions."""
        return 0


class Mixer(LayerPart):
    """The block of a layer that mixes tokens: attention of some kind, or a recurrent state.

    A query attends to ``attended(context)`` things: keys and values of tokens, or the one state of a recurrent layer.
    `read_elements` is the size of such a thing on one rank, `score_flops_per_pair` the work of attending to one.
    """

    _kinds: ClassVar[dict[str, type[Any]]] = {}
    _default_kind: ClassVar[str] = "attention"

    if TYPE_CHECKING:

        @property
        def num_heads(self) -> int:
            """Heads of the queries, which tensor parallelism divides."""

        @property
        def num_kv_heads(self) -> int:
            """Heads of keys and values; ``num_heads`` where none are shared."""

        @property
        def head_dim(self) -> int:
            """Elements of one query head."""

    # -- what it consists of ----------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[Mixer, ...]:
        """What attends or scans by itself: the layer, the members of a combination, nothing where there is no mixer."""
        return (self,)

    @property
    def recurrent(self) -> bool:
        """Whether the layer scans tokens into a state of fixed size: no scores, nothing cached per token."""
        return False

    @property
    def counted_only(self) -> bool:
        """Whether its tensors are known and its work is not, so that it cannot be timed."""
        return False

    @property
    def replicated(self) -> bool:
        """Whether every tensor-parallel rank computes all of it, so that its heads need not divide."""
        return False

    @property
    def key_readers(self) -> float:
        """Times that a token's query heads read one key between them: as many as share it, unless a kernel holds them all."""
        return self.num_heads / self.num_kv_heads

    # -- what a query sees ------------------------------------------------------------------------------------

    @property
    def value_dim(self) -> int:
        """Elements of one head of what the block returns."""
        return self.head_dim

    @property
    def saturates_at(self) -> int | None:
        """Context beyond which a query sees no more (a window, a chunk, 1 for a state); None for the whole context."""
        return None

    def attended(self, context: Number) -> Number:
        """Keys that one query sees when ``context`` tokens, itself included, have come so far."""
        return context if self.saturates_at is None else minimum(context, self.saturates_at)

    def prefill_pairs(self, tokens: Number, causal: bool = True) -> Number:
        """(query, key) pairs of a prompt of ``tokens``: t(t+1)/2 if causal, t^2 if not; bounded by ``saturates_at``."""
        if not causal:
            return tokens * tokens
        limit = self.saturates_at
        if limit is None:
            return tokens * (tokens + 1) / 2
        head = minimum(tokens, limit)
        return head * (head + 1) / 2 + (tokens - head) * limit

    def keys_read(self, new_tokens: Number, cached: Number) -> Number:
        """Times that `read_elements` are moved in a pass over ``new_tokens`` after ``cached`` ones: keys in reach."""
        limit = self.saturates_at
        return new_tokens + (cached if limit is None else minimum(cached, limit))

    @abstractmethod
    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:
        """FLOPs of QK^T and of the weighted sum of V for one pair, over one rank's heads; ``absorbed`` at decode."""

    # -- what is kept -----------------------------------------------------------------------------------------

    @abstractmethod
    def cache_elements_per_token(self, tp: int = 1) -> float:
        """Cache elements of one token on one rank; 0 where only a state is kept."""

    def state_elements_per_sequence(self, tp: int = 1) -> float:  # noqa: ARG002 - the interface of all kinds
        """Elements of one sequence's recurrent state on one rank, however long it is."""
        return 0.0

    def kept_bits(self, cache_bits: float, state_bits: float = 16) -> float:  # noqa: ARG002 - the interface of all kinds
        """Bits per element of what the layer keeps, where a cache has ``cache_bits`` and a state ``state_bits``."""
        return cache_bits

    def cached_tokens(self, context: Number) -> Number:
        """Tokens whose cache is kept of ``context``: all of them, or the latest window or chunk."""
        return context if self.saturates_at is None else minimum(context, self.saturates_at)

    def cache_elements(self, context: Number, tp: int = 1) -> Number:
        """Elements that one sequence of ``context`` tokens keeps on one rank, cache and state."""
        return self.read_elements(tp) * self.cached_tokens(context)

    def read_elements(self, tp: int = 1) -> float:
        """Elements of one thing that a query attends to, on one rank: a token's keys and values, or the state."""
        return self.cache_elements_per_token(tp) + self.state_elements_per_sequence(tp)

    # -- activations ------------------------------------------------------------------------------------------

    def key_value_elements(self, tp: int = 1) -> float:
        """Elements per token of keys and values as they enter the scores, on one rank."""
        return self.cache_elements_per_token(tp)

    def assembled_elements(self, tp: int = 1) -> float:  # noqa: ARG002 - the interface of all kinds
        """Elements per token that are read and written to put queries, keys and values together, on one rank."""
        return 0.0

    def live_elements_per_token(self, tp: int = 1) -> float:
        """Elements of one token kept beside the hidden states, on one rank: queries, a copy, keys, values."""
        return 2 * self.num_heads * self.head_dim / tp + self.cache_elements_per_token(tp)


class FeedForward(LayerPart):
    """The block of a layer that works on each token by itself."""

    _kinds: ClassVar[dict[str, type[Any]]] = {}
    _default_kind: ClassVar[str] = "dense"

    if TYPE_CHECKING:

        @property
        def ffn_size(self) -> int:
            """Inner width of the block, or of one expert."""

        @property
        def gated(self) -> bool:
            """Whether the block has three matrices (GLU variants)."""

        @property
        def bias(self) -> bool:
            """Whether its matrices have biases."""

    @property
    def routed_experts(self) -> int:
        """Experts that tokens are routed to; 0 for a dense block."""
        return 0

    @property
    def experts_per_token(self) -> int:
        """Routed experts that one token uses; 0 for a dense block."""
        return 0

    def routed_input_width(self, hidden: int) -> int:
        """Width of what is sent to a routed expert in a model of width ``hidden``."""
        return hidden

    @property
    def dense_width(self) -> int:
        """Inner width of what every token uses."""
        return self.ffn_size

    @property
    def routed_width(self) -> int:
        """Inner width over the routed experts that one token uses."""
        return self.experts_per_token * self.ffn_size
