"""The products of a layer as one rank runs them: shapes, rows, bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llm_perf.config.formats import MatrixFormat
from llm_perf.config.model import LayerGroup, ModelConfig
from llm_perf.counts.arrays import Number, expm1, log1p
from llm_perf.counts.linears import Linear, layer_linears
from llm_perf.counts.parameters import expert_tensor_shards, lm_head_linears


@dataclass(frozen=True, slots=True)
class Product:
    """Matrices with one input, run as one product per copy.

    ``weights`` are elements of one copy on one rank, ``in_features`` and ``out_features`` its sides.
    ``stored`` is the number format of its weights (mean bits), None where the model has one width for all.
    ``copies`` on this rank (experts) of which a token uses ``active`` over all ranks; 1 and 1 for dense products.
    """

    op: str
    weights: float
    in_features: float
    out_features: float
    copies: float = 1
    active: int = 1
    all_copies: int = 1
    stored: MatrixFormat | None = None

    @property
    def is_expert(self) -> bool:
        """Whether tokens are routed to some of the copies."""
        return self.all_copies > 1

    def rows(self, tokens: Number) -> Number:
        """Rows of all copies together on one rank, experts spread over replicas at most; routing is taken as even."""
        return tokens * self.active

    def touched(self, tokens: Number, ep: int = 1) -> Number:
        """Copies on this rank that ``tokens`` tokens of each of ``ep`` replicas touch on average.

        A token picks ``active`` of ``all_copies`` experts; with even routing an expert is left alone by n tokens
        with probability (1 - active / all)^n, where n counts the tokens of all these replicas.
        """
        if not self.is_expert:
            return 1.0
        if self.active == self.all_copies:
            return self.copies
        untouched = log1p(-self.active / self.all_copies) * (tokens * ep)
        return -self.copies * expm1(untouched)


def layer_products(
    model: ModelConfig,
    group: LayerGroup,
    tp: int = 1,
    ep: int = 1,
    dp: int = 1,
    formats: tuple[MatrixFormat, ...] | None = None,
) -> tuple[Product, ...]:
    """The products of one layer of a group on one rank, in the order of execution.

    ``formats`` has the number format of each matrix, in the order of `layer_linears`.
    """
    expert_tp = expert_tensor_shards(tp, dp, ep)
    by_op: dict[str, list[Linear]] = {}
    linears = layer_linears(group, model.hidden_size)
    for linear in linears:
        by_op.setdefault(linear.op, []).append(linear)
    products = tuple(_product(op, parts, tp, ep, expert_tp) for op, parts in by_op.items())
    if formats is None:
        return products
    rows = tuple(zip(linears, formats, strict=True))
    return tuple(replace(product, stored=_joined(product.op, rows)) for product in products)


def _joined(op: str, rows: tuple[tuple[Linear, MatrixFormat], ...]) -> MatrixFormat:
    """The format of a product of several matrices: their mean width, and the kernels of the largest."""
    parts = [(linear.weights, entry) for linear, entry in rows if linear.op == op]
    bits = sum(weights * entry.bits for weights, entry in parts) / sum(weights for weights, _ in parts)
    largest = max(parts, key=lambda part: part[0])[1]
    return replace(largest, bits=bits)


def _product(op: str, linears: list[Linear], tp: int, ep: int, expert_tp: int) -> Product:
    expert = linears[0].copies > 1
    shapes = [linear.shard_shape(expert_tp if expert else tp) for linear in linears]
    weights = sum(out * inner for out, inner in shapes)
    outputs = sum(out for out, _ in shapes)
    inner = shapes[0][1]
    if not expert:
        return Product(op, weights, inner, outputs)
    return Product(op, weights, inner, outputs, linears[0].copies / ep, linears[0].active, linears[0].copies)


def lm_head_products(
    model: ModelConfig, tp: int = 1, stored: MatrixFormat | None = None
) -> tuple[Product, ...]:
    """The products after the last layer on one rank."""
    products = (_product(linear.op, [linear], tp, 1, tp) for linear in lm_head_linears(model))
    return tuple(product if stored is None else replace(product, stored=stored) for product in products)


def routed_experts(group: LayerGroup) -> int:
    """Experts that one token is sent to; 0 for a dense block."""
    return group.mlp.experts_per_token
