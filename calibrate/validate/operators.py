"""The efficiency tables of GPU families against measured operators: matrix products and attention, by size.

``measurements/operators.csv`` is a sample of public kernel timings, at most 60 of each GPU, operation, format and source,
spread evenly over the source's own grid; the README beside it says where they come from. Nothing is fitted here.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any, Final

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.hardware.gpu_time import KernelRates, kernel_rates

_BITS: Final[Mapping[str, int]] = {"fp16": 16, "bf16": 16, "fp8": 8}
SIZES: Final[Mapping[str, tuple[float, ...]]] = {
    "gemm": (64, 256, 1024),
    "attention_prefill": (256, 1024, 4096),
    "attention_decode": (1e6, 1e7, 1e8),
}
"""Limits between sizes: rows of a product, tokens of a prompt, bytes of cache that a decode step reads."""


@dataclass(frozen=True)
class Operator:
    """One measured kernel. Sizes that an operation does not have are 0.

    Attributes:
        row_id: Number of the row in its source table.
        source: Public repository.
        framework: Whose kernel, with its version; empty where not stated.
        gpu: Name of the spec.
        op: ``gemm`` (m x k times k x n), ``attention_prefill`` or ``attention_decode``.
        dtype: Number format of the operands.
        m: Rows.
        n: Columns of the weight.
        k: Inner dimension.
        batch: Sequences.
        seq_len: New tokens per sequence.
        kv_len: Tokens that are attended to.
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head_dim: Elements per head.
        latency_s: Measured seconds.
    """

    row_id: int
    source: str
    framework: str
    gpu: str
    op: str
    dtype: str
    m: int
    n: int
    k: int
    batch: int
    seq_len: int
    kv_len: int
    heads: int
    kv_heads: int
    head_dim: int
    latency_s: float

    @property
    def cache_bytes(self) -> float:
        """Keys and values that attention reads."""
        width = _BITS[self.dtype] / 8
        return 2.0 * self.batch * max(self.kv_len, self.seq_len) * self.kv_heads * self.head_dim * width

    @property
    def size(self) -> float:
        """What decides how well a kernel fills the GPU, see `SIZES`."""
        sizes = {"gemm": float(self.m), "attention_prefill": float(self.seq_len)}
        return sizes.get(self.op, self.cache_bytes)


@lru_cache(maxsize=1)
def load_operators() -> tuple[Operator, ...]:
    """All rows that ship."""
    text = (resources.files("calibrate") / "measurements" / "operators.csv").read_text("utf-8")
    return tuple(_operator(row) for row in csv.DictReader(text.splitlines()))


def _operator(row: Mapping[str, str]) -> Operator:
    counts = ("m", "n", "k", "batch", "seq_len", "kv_len", "heads", "kv_heads", "head_dim")
    return Operator(
        row_id=int(row["row_id"]),
        source=row["source_repo"],
        framework=row["framework"],
        gpu=row["gpu"],
        op=row["op"],
        dtype=row["dtype"],
        latency_s=float(row["latency_us"]) * 1e-6,
        **{name: int(row[name] or 0) for name in counts},
    )


def predicted_s(one: Operator, gpu: GPUConfig) -> float:
    """Seconds of a kernel by a GPU's efficiency table."""
    rates = kernel_rates(gpu, _BITS[one.dtype], dtype=one.dtype if one.dtype in gpu.peak_tflops else None)
    return _LAWS[one.op](one, rates)


def _gemm_s(one: Operator, rates: KernelRates) -> float:
    width = _BITS[one.dtype] / 8
    weights = float(one.n) * one.k
    # Inputs in the format, outputs in 16 bits.
    activations = one.m * (one.k * width + one.n * 2)
    gemm = rates.gemm
    return float(
        gemm.time_s(gemm.compute_s(float(one.m), weights), gemm.memory_s(weights * width, activations, one.m))
    )


def _prefill_s(one: Operator, rates: KernelRates) -> float:
    pairs = one.batch * one.seq_len * (one.seq_len + 1) / 2
    flops = 4.0 * one.heads * one.head_dim * pairs
    return float(rates.prefill_attention_s(flops, one.seq_len, one.cache_bytes))


def _decode_s(one: Operator, rates: KernelRates) -> float:
    flops = 4.0 * one.batch * one.heads * one.head_dim
    per_token = rates.decode_attention_s_per_token(flops, one.cache_bytes / one.kv_len)
    return float(rates.attention_floor_s + one.kv_len * per_token)


_LAWS: Final[Mapping[str, Callable[[Operator, KernelRates], float]]] = {
    "gemm": _gemm_s,
    "attention_prefill": _prefill_s,
    "attention_decode": _decode_s,
}


def residual(operators: Iterable[Operator], family: GPUConfig | None = None) -> float:
    """Geometric mean of max(predicted / measured, measured / predicted); with another GPU's efficiencies where given."""
    logs = []
    for one in operators:
        gpu = get_gpu_config_by_name(one.gpu)
        if family is not None:
            gpu = gpu.replace(efficiency=family.efficiency)
        logs.append(abs(math.log(predicted_s(one, gpu) / one.latency_s)))
    return math.exp(statistics.fmean(logs))


def operator_residuals() -> list[dict[str, Any]]:
    """For each GPU, operation and format: rows, gm over all and by size, bias, and where its constants come from."""
    groups: dict[tuple[str, str, str], list[Operator]] = {}
    for one in load_operators():
        groups.setdefault((one.op, one.gpu, one.dtype), []).append(one)
    return [_residuals(*key, rows) for key, rows in sorted(groups.items())]


def _residuals(op: str, name: str, dtype: str, rows: list[Operator]) -> dict[str, Any]:
    gpu = get_gpu_config_by_name(name)
    ratios = [predicted_s(one, gpu) / one.latency_s for one in rows]
    limits = (0.0, *SIZES[op], math.inf)
    by_size = [[one for one in rows if low < one.size <= high] for low, high in pairwise(limits)]
    return {
        "op": op,
        "gpu": name,
        "dtype": dtype,
        "rows": len(rows),
        "gm": residual(rows),
        "bias": statistics.median(ratios) - 1,
        "gm_by_size": [residual(part) if part else None for part in by_size],
        "family": gpu.efficiency.name,
        "evidence": gpu.efficiency.evidence,
        "sources": sorted({one.source for one in rows}),
    }
