"""Terms: what the seconds of a part are made of, as products of named values that a report can print.

A cost carries a function that makes its terms, and nobody calls it but whoever explains a single configuration: a
sweep over a million configurations pays for a reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from llm_perf.counts.arrays import Number
from llm_perf.hardware.transfer import Path


@dataclass(frozen=True, slots=True)
class Factor:
    """A named value of a product, by which is multiplied, or divided where ``divides``; ``of`` says what it follows from."""

    name: str
    value: Number
    of: tuple[Quantity, ...] = ()
    divides: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class Term:
    """Seconds of a part of the breakdown that one thing is waited for: the product of its factors."""

    part: str
    name: str
    factors: tuple[Factor, ...]

    @property
    def value(self) -> float:
        """The product."""
        return product(self.factors)

    def times(self, factor: Factor) -> Term:
        """So many times as much, which is said first."""
        return replace(self, factors=(factor, *self.factors))


@dataclass(frozen=True, slots=True)
class Quantity:
    """A sum of products of named values with its unit: a rate, a time of one pass.

    With an ``exponent`` p above 1 the products are roofs that bound one another, (a^p + b^p)^(1/p), the largest one for
    infinity; ``beside`` are products that add to that.
    """

    name: str
    products: tuple[tuple[Factor, ...], ...]
    unit: str = "s"
    source: str = ""
    exponent: float = 1.0
    beside: tuple[tuple[Factor, ...], ...] = ()

    @property
    def value(self) -> float:
        """The sum."""
        return self._together() + sum(product(factors) for factors in self.beside)

    def _together(self) -> float:
        values = [product(factors) for factors in self.products]
        if self.exponent == 1:
            return sum(values)
        if self.exponent == math.inf:
            return max(values)
        return float(sum(value**self.exponent for value in values) ** (1.0 / self.exponent))

    def factors(self) -> Iterator[Factor]:
        """All its values."""
        for factors in (*self.products, *self.beside):
            yield from factors

    @property
    def formula(self) -> str:
        """The names of the values, products in a row; products of the same names are said once."""
        products = dict.fromkeys(_written(factors, _name) for factors in self.products)
        beside = [_written(factors, _name) for factors in self.beside]
        if self.exponent == 1:
            return " + ".join([*products, *beside])
        if self.exponent == math.inf:
            return " + ".join([f"the larger of {' and '.join(products)}", *beside])
        p = f"{self.exponent:g}"
        return " + ".join([f"({' + '.join(f'({one})^{p}' for one in products)})^(1/{p})", *beside])

    @property
    def expression(self) -> str:
        """The same with values: plain arithmetic that gives the value."""
        products = [_written(factors, _digits) for factors in self.products]
        beside = [_written(factors, _digits) for factors in self.beside]
        if self.exponent == 1:
            return " + ".join([*products, *beside])
        if self.exponent == math.inf:
            largest = max(self.products, key=product)
            return " + ".join([_written(largest, _digits), *beside])
        p = f"{self.exponent:.12g}"
        return " + ".join([f"({' + '.join(f'({one}) ** {p}' for one in products)}) ** (1 / {p})", *beside])

    def sources(self) -> str:
        """Where it and its values come from."""
        of_factors = (factor.source for factor in self.factors())
        return "; ".join(dict.fromkeys(text for text in (self.source, *of_factors) if text))


Terms = Callable[[], Iterator[Term]]
"""Makes the terms of a cost; for a single configuration."""


def no_terms() -> Iterator[Term]:
    """Of a cost that says nothing but its seconds."""
    return iter(())


def scaled(terms: Terms, name: str, value: Number) -> Terms:
    """So many times the terms, where ``name`` is what is counted."""
    return lambda: (term.times(Factor(name, value)) for term in terms())


def joined(*several: Terms) -> Terms:
    """The terms of several costs, one after the other."""
    return lambda: (term for terms in several for term in terms())


def one_term(part: str, name: str, *values: tuple[str, Number] | Factor) -> Terms:
    """One product of values with their names; its factors are made when it is asked for."""

    def terms() -> Iterator[Term]:
        factors = tuple(value if isinstance(value, Factor) else Factor(*value) for value in values)
        yield Term(part, name, factors)

    return terms


def copies(
    name: str,
    path: Path,
    moved: Sequence[Factor],
    moved_bytes: Number,
    count: Number,
    rate_name: str = "copy rate",
) -> Quantity:
    """Seconds of ``count`` copies over a path: bytes, the product of ``moved``, over its rate, and what each takes beside."""
    beside = path.seconds(moved_bytes, count) - path.seconds(moved_bytes)
    rate = Factor(rate_name, path.bytes_per_s, divides=True, source=f"{rate_name}: {path.source}")
    products: list[tuple[Factor, ...]] = [(*moved, rate)]
    if beside > 0:
        products.append((Factor("copies", count), Factor("latency", beside / count)))
    return Quantity(name, tuple(products))


def roofs(
    name: str,
    compute: Sequence[Factor],
    memory: Sequence[Factor],
    exponent: float,
    beside: Sequence[Sequence[Factor]] = (),
) -> Quantity:
    """Seconds of a kernel: arithmetic and memory traffic, rounded at the knee, and what is added to both."""
    added = tuple(tuple(factors) for factors in beside if product(factors))
    return Quantity(name, (tuple(compute), tuple(memory)), exponent=exponent, beside=added)


def waited(part: str, quantity: Quantity, exposed_s: Number) -> Term:
    """A quantity of which ``exposed_s`` seconds are waited for."""
    whole = quantity.value
    if not whole:
        return Term(part, quantity.name, (Factor("seconds waited for", exposed_s),))
    return Term(
        part,
        quantity.name,
        (Factor("share waited for", exposed_s / whole), Factor(quantity.name, whole, (quantity,))),
    )


def product(factors: Sequence[Factor]) -> float:
    """The product of factors, quotients included."""
    found = 1.0
    for factor in factors:
        found = found / float(factor.value) if factor.divides else found * float(factor.value)
    return found


def number(value: float) -> str:
    """A number with enough digits that sums of such give their value back to 1e-9."""
    return f"{float(value):.12g}"


def _digits(factor: Factor) -> str:
    return number(float(factor.value))


def _name(factor: Factor) -> str:
    return factor.name


def _written(factors: Sequence[Factor], write: Callable[[Factor], str]) -> str:
    signs = (" / ", " * ") if write is _digits else (" / ", " x ")
    # A quotient cannot come first.
    ordered = sorted(factors, key=lambda factor: factor.divides)
    text = "1" if ordered[0].divides else write(ordered[0])
    rest = ordered if ordered[0].divides else ordered[1:]
    for factor in rest:
        text += (signs[0] if factor.divides else signs[1]) + write(factor)
    return text
