"""The matrices of a layer. Parameters, FLOPs and GEMM shapes are all read off this one description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["column", "row", "kv", "replicated"]


@dataclass(frozen=True, slots=True)
class Linear:
    """``copies`` matrices of ``out_features x in_features``, of which a token uses ``active``.

    ``split`` says what tensor parallelism divides (Megatron-LM, arXiv 1909.08053): the outputs (column), the
    inputs (row), the key and value heads (kv, at most ``kv_heads`` ways), or nothing (replicated).
    ``op`` names the product that it is part of: matrices with one input are one product. No copies means that the
    layer multiplies with a matrix that an earlier layer stores (Zamba). ``modules`` are the names that checkpoints give the
    module inside its layer, where these do not follow from ``op``; ``wide``: checkpoints leave it in 16 bits whatever the
    format of the others.
    """

    op: str
    out_features: int
    in_features: int
    split: Split
    bias: bool = False
    copies: int = 1
    active: int = 1
    kv_heads: int = 0
    modules: tuple[str, ...] = ()
    wide: bool = False

    def shards(self, tp: int) -> int:
        """Into how many parts tensor parallelism divides the weight."""
        if self.split == "replicated":
            return 1
        return min(tp, self.kv_heads) if self.split == "kv" else tp

    def shard_shape(self, tp: int) -> tuple[float, float]:
        """(out, in) of one rank's part."""
        parts = self.shards(tp)
        if self.split == "row":
            return self.out_features, self.in_features / parts
        return self.out_features / parts, self.in_features

    @property
    def weights(self) -> int:
        """Elements of one copy, without bias."""
        return self.out_features * self.in_features

    @property
    def params(self) -> int:
        """Elements of all copies, biases included."""
        return self.copies * (self.weights + (self.out_features if self.bias else 0))

    @property
    def active_params(self) -> int:
        """Elements that one token uses, biases included."""
        active = self.active if self.copies else 0
        return active * (self.weights + (self.out_features if self.bias else 0))

    def rank_params(self, tp: int) -> float:
        """Elements that one tensor-parallel rank holds. The bias of a row-split matrix is replicated."""
        parts = self.shards(tp)
        bias = self.out_features if self.bias else 0
        return self.copies * (self.weights / parts + (bias if self.split == "row" else bias / parts))
