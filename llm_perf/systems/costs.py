"""Seconds of a forward pass by part of the breakdown and by resource, added up."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from llm_perf.counts.arrays import Number, is_array
from llm_perf.systems.products import ProductTime
from llm_perf.systems.terms import Term, Terms, joined, one_term, scaled

_GEMM_PARTS = {
    "qkv": "attention_projections",
    "q": "attention_projections",
    "kv_down": "attention_projections",
    "kv_up": "attention_projections",
    "attention_output": "attention_projections",
    "lm_head": "lm_head",
    "lm_head_projection": "lm_head",
}


@cache
def part_of(op: str) -> str:
    """The part of the breakdown that a product belongs to; whatever is not attention or head is the MLP.

    What a mixer has beside the common products is named ``attention_…``; behind a colon stands which of a layer's mixers
    it is of.
    """
    plain = op.partition(":")[0]
    return _GEMM_PARTS.get(plain, "attention_projections" if plain.startswith("attention_") else "mlp")


class Costs:
    """Seconds by part of the breakdown and by busy resource, added up over a pass, and the terms of the parts.

    ``products`` are the matrix products that it is of, with how often each runs; of a single configuration.
    """

    __slots__ = ("_terms", "busy_s", "parts_s", "products")

    def __init__(self) -> None:
        self.parts_s: dict[str, Number] = {}
        self.busy_s: dict[str, Number] = {}
        self.products: list[tuple[str, Number, ProductTime]] = []
        self._terms: list[Terms] = []

    def product(self, op: str, times: Number, one: ProductTime) -> None:
        """Add a product that runs so many times."""
        part, seconds = part_of(op), times * one.seconds
        self.part(part, seconds, lambda: one.terms(part, op, times))
        self.busy("compute", times * one.compute_s)
        self.busy("hbm", times * one.memory_s)
        self.busy("kernel_floors", times * one.floor_s)
        if not is_array(seconds):
            self.products.append((op, times, one))

    def collective(self, part: str, times: int, each_s: Number) -> None:
        """Add a collective that runs so many times."""
        seconds = times * each_s
        self.part(part, seconds, one_term(part, part, ("times", times), ("seconds of one", each_s)))
        self.busy("interconnect", seconds)

    def part(self, name: str, seconds: Number, terms: Terms) -> None:
        """Add exposed seconds to a part, and what they consist of.

        Terms of arrays are dropped: nobody reads them, and they would keep every intermediate array in memory, which
        makes a sweep take up to 2.7 times as long.
        """
        self.parts_s[name] = self.parts_s[name] + seconds if name in self.parts_s else seconds
        if not is_array(seconds):
            self._terms.append(terms)

    def busy(self, resource: str, seconds: Number) -> None:
        """Add busy seconds to a resource."""
        self.busy_s[resource] = self.busy_s[resource] + seconds if resource in self.busy_s else seconds

    def add(self, other: Costs, times: Number) -> None:
        """Add another pass so many times."""
        for name, seconds in other.parts_s.items():
            self.parts_s[name] = self.parts_s.get(name, 0.0) + times * seconds
        for name, seconds in other.busy_s.items():
            self.busy(name, times * seconds)
        if not is_array(times):
            self._terms.append(scaled(other.terms, "passes", times))
            self.products += [(op, times * count, one) for op, count, one in other.products]

    def scaled(self, times: Number) -> Costs:
        """So many times the parts and the busy seconds, of passes that follow one another."""
        found = Costs()
        found.parts_s = {name: times * seconds for name, seconds in self.parts_s.items()}
        found.busy_s = {name: times * seconds for name, seconds in self.busy_s.items()}
        found._terms = [scaled(self.terms, "passes that follow one another", times)]
        return found

    def terms(self) -> Iterator[Term]:
        """What the parts consist of; for a single configuration."""
        return joined(*self._terms)()

    @property
    def total_s(self) -> Number:
        """Sum of the parts."""
        total: Number = 0.0
        for seconds in self.parts_s.values():
            total = total + seconds
        return total
