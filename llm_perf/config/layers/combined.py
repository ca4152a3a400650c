"""Several mixers in one layer: side by side, one after another, or one that selects what another attends to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal, NoReturn

from pydantic import BeforeValidator, Field, SerializeAsAny

from llm_perf.config.arrays import Number
from llm_perf.config.layers.base import Mixer
from llm_perf.config.layers.linear import Linear

Member = Annotated[SerializeAsAny[Mixer], BeforeValidator(Mixer.of)]


class Combined(Mixer):
    """All of ``mixers`` in every layer: attention and a state (Falcon-H1), latent attention and its indexer (DeepSeek V3.2).

    Parameters, cache and state are sums. What a query attends to differs by member: whoever times or counts scores asks
    `parts`. Heads and widths are those of the first member.
    """

    kind: Literal["combined"] = "combined"
    mixers: tuple[Member, ...] = Field(min_length=2)

    @property
    def parts(self) -> tuple[Mixer, ...]:
        """The members."""
        return tuple(part for mixer in self.mixers for part in mixer.parts)

    @property
    def num_heads(self) -> int:
        """Query heads of the first member."""
        return self.mixers[0].num_heads

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads of the first member."""
        return self.mixers[0].num_kv_heads

    @property
    def head_dim(self) -> int:
        """Elements of one query head of the first member."""
        return self.mixers[0].head_dim

    @property
    def value_dim(self) -> int:
        """Elements of one value head of the first member."""
        return self.mixers[0].value_dim

    @property
    def recurrent(self) -> bool:
        """Whether some member scans."""
        return any(mixer.recurrent for mixer in self.mixers)

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        """Those of all members; each member's are products of their own."""
        first, *others = self.mixers
        later = (
            replace(linear, op=f"{linear.op}:{index}")
            for index, mixer in enumerate(others, 2)
            for linear in mixer.linears(hidden)
        )
        return (*first.linears(hidden), *later)

    @property
    def vector_elements(self) -> int:
        """Those of all members."""
        return sum(mixer.vector_elements for mixer in self.mixers)

    def attended(self, context: Number) -> NoReturn:
        """Differs by member."""
        raise self._ask_parts("attended", context)

    def prefill_pairs(self, tokens: Number, causal: bool = True) -> NoReturn:
        """Differs by member."""
        raise self._ask_parts("prefill_pairs", tokens, causal)

    def keys_read(self, new_tokens: Number, cached: Number) -> NoReturn:
        """Differs by member."""
        raise self._ask_parts("keys_read", new_tokens, cached)

    def cached_tokens(self, context: Number) -> NoReturn:
        """Differs by member."""
        raise self._ask_parts("cached_tokens", context)

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> NoReturn:
        """Differs by member."""
        raise self._ask_parts("score_flops_per_pair", tp, absorbed)

    def _ask_parts(self, name: str, *given: object) -> TypeError:
        return TypeError(f"{name}{given} of several mixers in one layer: ask each of its parts")

    def cache_elements_per_token(self, tp: int = 1) -> float:
        """Cache of all members."""
        return self._sum(lambda mixer: mixer.cache_elements_per_token(tp))

    def state_elements_per_sequence(self, tp: int = 1) -> float:
        """States of all members."""
        return self._sum(lambda mixer: mixer.state_elements_per_sequence(tp))

    def cache_elements(self, context: Number, tp: int = 1) -> Number:
        """What all members keep of one sequence."""
        total: Number = 0.0
        for mixer in self.mixers:
            total = total + mixer.cache_elements(context, tp)
        return total

    def key_value_elements(self, tp: int = 1) -> float:
        """What enters the scores and scans of all members."""
        return self._sum(lambda mixer: mixer.key_value_elements(tp))

    def live_elements_per_token(self, tp: int = 1) -> float:
        """What all members keep beside the hidden states."""
        return self._sum(lambda mixer: mixer.live_elements_per_token(tp))

    def _sum(self, elements: Callable[[Mixer], float]) -> float:
        return sum(elements(mixer) for mixer in self.mixers)
