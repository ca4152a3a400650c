"""Matrix products on one rank: their work, their seconds, and what these follow from; the same for other kernels.

Every system that runs a product on a GPU at inference takes its time from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from llm_perf.config.model import Mixer
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.counts.attention import score_flops_per_pair
from llm_perf.counts.products import Product
from llm_perf.hardware.gpu_time import GemmRates, KernelRates
from llm_perf.systems.terms import Factor, Quantity, Term, Terms, roofs


class ProductTime(NamedTuple):
    """One product: seconds of its arithmetic, of its memory traffic, and of both together with the kernel's floor.

    ``rows`` and ``copies`` are those of all its matrices on the rank, ``weights`` the elements of one matrix. ``slower``:
    times that its arithmetic counts, where a stack has another kernel for its format than the GPU's table was measured on.
    """

    compute_s: Number
    memory_s: Number
    seconds: Number
    rows: Number
    copies: Number
    weights: float
    moved_bytes: Number
    gemm: GemmRates
    floor_s: float
    slower: float = 1.0

    @property
    def flops(self) -> Number:
        """Floating-point operations: 2 per weight and row."""
        return 2.0 * self.weights * self.rows

    def terms(self, part: str, op: str, times: Number) -> Iterator[Term]:
        """What so many of it take; for a single configuration."""
        name = op.replace("_", " ")
        one = self._roofs(f"one {name} product")
        yield Term(part, name, (Factor("products", times), Factor(one.name, self.seconds, (one,))))

    def _roofs(self, name: str) -> Quantity:
        gemm, (of_compute, of_memory) = self.gemm, gemm_rates_used(self.gemm)
        compute: tuple[Factor, ...] = (
            Factor("FLOPs per weight and row", 2.0),
            Factor("weights", self.weights),
            Factor(
                "rows and rows lost to tiles",
                self.compute_s * gemm.flops_per_s / (2.0 * self.weights * self.slower),
            ),
            Factor("compute rate", gemm.flops_per_s, (of_compute,), divides=True),
        )
        if self.slower != 1.0:
            compute = (*compute, Factor("times that this format's kernel takes", self.slower))
        rate = self.moved_bytes / self.memory_s if self.memory_s else gemm.bytes_per_s
        used = (of_memory,) if math.isclose(float(rate), gemm.bytes_per_s) else ()
        memory = (Factor("bytes", self.moved_bytes), Factor("memory rate", rate, used, divides=True))
        exponent = float(gemm.exponent_of(self.rows))
        return roofs(name, compute, memory, exponent, ((Factor("kernel floor", self.floor_s),),))


def product_time(
    gemm: GemmRates,
    product: Product,
    rows: Number,
    copies: Number,
    bytes_per_weight: Number,
    bytes_per_activation: float,
    floor_s: float,
    slower: float = 1.0,
    matvec_bytes_per_weight: Number | None = None,
    least_s: float = 0.0,
    least_compute_s: Number = 0.0,
) -> ProductTime:
    """A product of ``rows`` rows with ``copies`` matrices that are read: the one formula.

    ``matvec_bytes_per_weight``: what the stack's matrix-vector kernels read, where it has any. Whatever runs in their place
    for more rows, a product takes no less time than one of the most rows that they take. ``least_s``: what a kernel takes
    that walks along the inputs block by block, however little it reads. ``least_compute_s``: its arithmetic where
    multiprocessors have whole tiles, most of whose rows there may not be.
    """

    def memory_of(rows: Number, bytes_per_weight: Number) -> tuple[Number, Number]:
        moved = copies * product.weights * bytes_per_weight
        moved = moved + rows * (product.in_features + product.out_features) * bytes_per_activation
        return moved, gemm.memory_s(moved, 0.0, rows)

    moved, memory = memory_of(rows, bytes_per_weight)
    if matvec_bytes_per_weight is not None:
        few = minimum(rows, gemm.matvec_max_rows)
        memory = maximum(memory, memory_of(few, matvec_bytes_per_weight)[1])
    if least_s:
        memory = maximum(memory, least_s)
    compute = maximum(gemm.compute_s(rows, product.weights, copies) * slower, least_compute_s)
    seconds = gemm.time_s(compute, memory, rows) - gemm.floor_s + floor_s
    return ProductTime(compute, memory, seconds, rows, copies, product.weights, moved, gemm, floor_s, slower)


@lru_cache(maxsize=64)
def gemm_rates_used(gemm: GemmRates) -> tuple[Quantity, Quantity]:
    """(compute, memory) rates of matrix products as shares of the peaks."""
    peak, bandwidth = gemm.peak_flops_per_s, gemm.peak_bytes_per_s
    of_peak, of_bandwidth = gemm.flops_per_s / peak, gemm.bytes_per_s / bandwidth
    compute = (Factor("peak FLOP/s", peak), Factor("efficiency", of_peak))
    memory = (Factor("memory bandwidth", bandwidth), Factor("efficiency", of_bandwidth))
    return (
        Quantity("compute rate of matrix products", (compute,), "FLOP/s", gemm.source),
        Quantity("memory rate of matrix products", (memory,), "bytes/s", gemm.source),
    )


def score_square(
    mixer: Mixer, pairs: Number, flops_per_s: float, score_bytes: float, tp: int = 1
) -> tuple[Number, Number]:
    """(seconds of both products, bytes of scores moved) where unfused kernels compute ``pairs`` scores of each head."""
    products = pairs * score_flops_per_pair(mixer, tp) / flops_per_s
    return products, pairs * (mixer.num_heads / tp) * score_bytes


def layer_terms(part: str, name: str, layers: int, each: Callable[[], Quantity]) -> Terms:
    """So many layers of what ``each`` makes, when it is asked for."""

    def terms() -> Iterator[Term]:
        one = each()
        yield Term(part, name, (Factor("layers", layers), Factor(one.name, one.value, (one,))))

    return terms


def fused_attention(
    rates: KernelRates, flops: Number, query_len: Number, kv_bytes: Number, floors_s: Number
) -> Quantity:
    """What `KernelRates.prefill_attention_s` follows from, for one layer; its kernels' floors are ``floors_s``."""
    slower = 1.0 + rates.attention_half_len / query_len
    compute = (
        Factor("FLOPs of scores", flops),
        Factor("slowdown of short queries", slower),
        Factor("attention FLOP/s", rates.attention_flops_per_s, divides=True),
    )
    memory = (
        Factor("bytes of keys and values", kv_bytes),
        Factor("attention bytes/s", rates.attention_bytes_per_s, divides=True),
    )
    floors = ((Factor("kernel floors", floors_s),),)
    return roofs("attention of the prompt in one layer", compute, memory, rates.knee_exponent, floors)


def decode_attention(rates: KernelRates, compute_s: Number, memory_s: Number) -> Quantity:
    """Seconds of decode attention per token of context, over all layers of a group, from those of its two roofs."""
    compute, memory = rates.gemm.flops_per_s, rates.attention_bytes_per_s
    return roofs(
        "attention per token of context",
        (Factor("FLOPs of scores", compute_s * compute), Factor("compute rate", compute, divides=True)),
        (
            Factor("bytes of keys and values", memory_s * memory),
            Factor("attention bytes/s", memory, divides=True),
        ),
        rates.knee_exponent,
    )


def unfused_attention(
    rates: KernelRates,
    flops: Number,
    flops_per_s: float,
    kv_bytes: Number,
    score_bytes: Number,
    working_set_bytes: Number,
) -> Quantity:
    """One layer: batched products over reads of keys and values, beside passes over all scores."""
    return roofs(
        "unfused attention in one layer",
        (Factor("FLOPs of scores", flops), Factor("FLOP/s of batched products", flops_per_s, divides=True)),
        (
            Factor("bytes of keys and values", kv_bytes),
            Factor("attention bytes/s", rates.attention_bytes_per_s, divides=True),
        ),
        rates.knee_exponent,
        (
            (
                Factor("bytes of scores", score_bytes),
                Factor("share that misses the L2 cache", rates.missed_share(working_set_bytes)),
                Factor("bytes/s", rates.long_rows_bytes_per_s, divides=True),
            ),
            (Factor("kernels", 2), Factor("kernel floor", rates.attention_floor_s)),
        ),
    )


def elementwise(
    rates: KernelRates, moved_bytes: Number, working_set_bytes: Number, floors_s: Number
) -> Quantity:
    """Norms, residuals and activation functions of one layer: bytes over their rate, and the kernels' floors."""
    traffic = (
        Factor("bytes", moved_bytes),
        Factor("share that misses the L2 cache", rates.missed_share(working_set_bytes)),
        Factor("bytes/s", rates.elementwise_bytes_per_s, divides=True),
    )
    floors = ((Factor("kernel floors", floors_s),),) if floors_s else ()
    return Quantity("norms and elementwise kernels of one layer", (traffic, *floors))
