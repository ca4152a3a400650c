"""The CPU as a device: seconds of products and of attention that cores compute out of host memory.

A product reads its matrices at a share of what reads of the memory reach, and multiplies at a rate per core that its
instruction sets and the number format set; the two overlap like the roofs of a GPU's products. Threads meet at barriers
between the operations of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llm_perf.config.base import GB
from llm_perf.config.cpu import X86, CpuFacts, Kernels, cpu_facts
from llm_perf.config.formats import MatrixFormat
from llm_perf.config.host import HostConfig
from llm_perf.counts.arrays import Number, maximum, minimum, where
from llm_perf.counts.products import Product
from llm_perf.hardware.roofline import p_norm

_PER_CYCLE: dict[Kernels, str] = {
    "amx": "cpu_flops_per_cycle_amx",
    "avx512": "cpu_flops_per_cycle_avx512",
    "avx2": "cpu_flops_per_cycle_avx2",
    "neon": "cpu_flops_per_cycle_neon",
    "rvv": "cpu_flops_per_cycle_rvv",
    "scalar": "cpu_flops_per_cycle_scalar",
}
"""The constant of each class of instruction sets."""

_UNPACKING: dict[str, str] = {
    "8bit": "cpu_unpack_8bit",
    "fp8": "cpu_unpack_8bit",
    "4bit": "cpu_unpack_8bit",
    "16bit": "cpu_unpack_16bit",
    "k": "cpu_unpack_k",
    "planes": "cpu_unpack_k",
    "iq4": "cpu_unpack_iq4",
    "iq3": "cpu_unpack_iq3",
    "iq2": "cpu_unpack_iq2",
}
"""The constant of each class of number formats."""

_WIDE: dict[str, str] = {
    "8bit": "cpu_wide_8bit",
    "fp8": "cpu_wide_8bit",
    "4bit": "cpu_wide_4bit",
    "16bit": "cpu_wide_16bit",
    "k": "cpu_wide_k",
    "planes": "cpu_wide_planes",
    "iq4": "cpu_wide_iq4",
    "iq3": "cpu_wide_iq3",
    "iq2": "cpu_wide_iq2",
}
"""The constant of each class of number formats in kernels that unpack once for many rows."""

_WIDE_OF: dict[Kernels, str] = {
    "avx2": "cpu_wide_avx2",
    "neon": "cpu_wide_neon",
    "rvv": "cpu_wide_riscv",
    "scalar": "cpu_wide_riscv",
}
"""The constant by which kernels that unpack once for many rows gain more or less than with AVX-512, by class."""

_BY_KERNELS: dict[tuple[str, Kernels], str] = {
    ("fp8", "amx"): "cpu_fp8_amx",
    ("fp8", "avx512"): "cpu_fp8_avx512",
    ("16bit", "avx512"): "cpu_16bit_avx512",
}
"""The constant by which a class of number formats is faster or slower with a class of instruction sets than elsewhere."""

_WIDE_BY_KERNELS: dict[tuple[str, Kernels], str] = {
    ("8bit", "neon"): "cpu_wide_neon_8bit",
    ("4bit", "neon"): "cpu_wide_neon_4bit",
    ("k", "neon"): "cpu_wide_neon_k",
    ("planes", "neon"): "cpu_wide_neon_planes",
}
"""Where instruction sets have kernels of their own for a class of formats: the constant of those that unpack once for many
rows, over plain ones of easy formats. It counts instead of the class's."""

_WITH_PLAIN_DOTS = ("avx2", "avx512")
"""Classes whose dot products of 8 and 16 bits run on 256 bits at a time, whatever the cores could do."""

_ROUNDING = 1.0 + 1e-9
"""Experts that one token touches come out of a power, a rounding below the rows that they multiply."""

TypeClass = Literal["8bit", "fp8", "4bit", "k", "planes", "iq4", "iq3", "iq2", "16bit"]
"""Number formats whose weights take about the same work to unpack: blocks with one scale, those of them of 4 bits whose rows
may be interleaved for many rows (Q4_0, IQ4_NL), with scales of scales (K-types
of 2 and 4 bits), with the bits of a weight in two places (3, 5 and 6 bits: a low part of 2 or 4 and a high one), with a
table of values (IQ4 and ik_llama.cpp's own), with codebooks (IQ2; IQ3, IQ1 and trellises take longer), and plain 16
bits; 8-bit floats, which are converted for products of 16 bits."""

_INTERLEAVED_4BIT = ("q4_0", "iq4_nl")
_IN_TWO_PLANES = ("q3_k", "q5_k", "q6_k", "q5_0", "q5_1")


def type_class(stored: MatrixFormat | None, bits: float) -> TypeClass:
    """The class of a matrix's format; by its width where it has no name."""
    name = "" if stored is None else stored.name
    if name.startswith("iq") and name.rpartition("_")[2] in ("k", "ks", "kl"):
        return "iq4"  # tables of values, at whatever width
    if name.startswith(("iq1", "iq3")) or name.endswith("_kt"):
        return "iq3"
    if name.startswith("iq2"):
        return "iq2"
    if name.startswith(("iq4_xs", "mxfp4")):
        return "iq4"
    if name.startswith(_INTERLEAVED_4BIT):
        return "4bit"
    if name.startswith(_IN_TWO_PLANES):
        return "planes"
    if name.endswith("_k"):
        return "k"
    if name.startswith("fp8"):
        return "fp8"
    return "16bit" if bits >= 16 else "8bit"


def read_bytes_per_s(facts: CpuFacts, constants: Mapping[str, float], threads: float, copies: bool) -> float:
    """Bytes per second that reads of host memory reach with so many threads.

    The least of what the channels deliver (measured, else a share of channels x transfers), what the links of the cores
    take in, and what each core loads: less the more of a socket's cores load at once, since each miss takes longer. A
    second socket adds little where a tensor lies on one of them: only with ``copies`` of the weights on every socket do
    all read at once. Where reads were measured, the same measurement says what a core loads.
    """
    sockets = facts.sockets
    channels = facts.channels_bytes_per_s
    if facts.cores_bytes_per_s is not None:
        left = constants["cpu_virtual_link_share"] if facts.virtual else 1.0
        channels = min(channels, facts.cores_bytes_per_s * left)
    one = channels * constants["cpu_stream_share"]
    if facts.measured_bytes_per_s is not None:
        one = facts.measured_bytes_per_s / sockets
    more = 1.0 if copies else constants["cpu_second_socket_share"]
    used = 1.0 + (sockets - 1) * more
    at_once = threads / sockets
    per_core = constants["cpu_core_gb_per_s"] * GB / (1.0 + at_once / constants["cpu_core_half_cores"])
    if facts.core_bytes_per_s is not None and facts.measured_bytes_per_s is None:
        per_core = min(per_core, facts.core_bytes_per_s)
    return min(one * used, threads * per_core)


@dataclass(frozen=True, slots=True)
class CpuRates:
    """Rates of one host's cores under one version of a program.

    ``read_bytes_per_s`` is what reads of its memory reach.
    Weights times rows per second of all threads: ``plain`` of kernels that unpack for every row, of formats that unpack
    easily, ``wide`` of those that unpack once for many, which multiply ``wide_vectors`` times as many in wide units;
    ``row_16bit`` and ``row_8bit`` bound the kernels of one row of 16 bits and of blocks of 8.
    """

    constants: Mapping[str, float]
    threads: float
    read_bytes_per_s: float
    plain_per_s: float
    wide_per_s: float
    row_16bit_per_s: float = math.inf
    row_8bit_per_s: float = math.inf
    many_rows: float = 1.0
    wide_vectors: float = 1.0
    native_16bit: bool = True
    kernels: Kernels = "avx2"

    def product_s(self, product: Product, rows: Number, copies: Number, bits: float) -> Number:
        """Seconds of a product of so many rows in all with ``copies`` of its matrices of so many bits per weight."""
        c = self.constants
        rate = self.expert_bytes_per_s if product.is_expert else self.read_bytes_per_s * c["cpu_dense_share"]
        read = copies * product.weights * bits / 8 / rate
        kind = type_class(product.stored, bits)
        widened = kind == "16bit" and not self.native_16bit
        unpacking = c["cpu_unpack_16bit_widened"] if widened else c[_UNPACKING[kind]]
        if kind == "planes":
            unpacking *= c["cpu_unpack_planes"]
        own = 1.0 if widened else c.get(_BY_KERNELS.get((kind, self.kernels), ""), 1.0)
        unpacking *= own
        lost = c["cpu_expert_lost_rows"] if product.is_expert else 0.0
        plain = product.weights * rows / (self.plain_per_s * unpacking * c["cpu_row_kernels"])
        of_row = self.row_8bit_per_s
        by_row = {"16bit": self.row_16bit_per_s, "8bit": of_row, "fp8": of_row, "4bit": of_row}.get(
            kind, math.inf
        )
        if kind == "16bit" or (product.stored is not None and product.stored.name.startswith("q8_0")):
            # Few rows are never faster than one, whose kernel may be slower than those that prompts run in.
            plain = maximum(plain, product.weights * minimum(rows, copies) / by_row)
        row_by_row = (
            product.is_expert and kind in ("8bit", "fp8", "4bit", "16bit", "k") and not c["cpu_wide_experts"]
        )
        wide_share = c["cpu_wide_16bit_widened"] if widened else c[_WIDE[kind]] * own
        if kind not in ("8bit", "fp8"):
            wide_share *= self.wide_vectors
        wide_per_s = self.wide_per_s
        own_wide = (
            c[_WIDE_BY_KERNELS[kind, self.kernels]] if (kind, self.kernels) in _WIDE_BY_KERNELS else 0.0
        )
        if own_wide > 0:
            wide_per_s, wide_share = self.plain_per_s, own_wide
        if (
            row_by_row
        ):  # the weights of all rows but the first of sixteen lie in the cache: no row waits for memory
            plain = maximum(plain, product.weights * rows / by_row)
        if wide_per_s <= 0 or wide_share <= 0 or row_by_row:
            many = maximum(rows - copies, 0.0)
            plain = plain + product.weights * minimum(many, copies * lost) / (self.plain_per_s * unpacking)
            return p_norm(read, plain, c["cpu_product_knee"])
        wide = product.weights * (rows + copies * (lost + c["cpu_wide_lost_rows"] / unpacking)) / wide_per_s
        wide = wide / wide_share
        few = c["cpu_plain_rows"] * _ROUNDING
        used = where(rows <= few * copies, plain, wide) if few > 0 else minimum(plain, wide)
        return p_norm(read, used, c["cpu_product_knee"])

    @property
    def expert_bytes_per_s(self) -> float:
        """Bytes per second of experts.

        Matrices that are small and scattered do not keep the many channels of a server busy, of which a smaller share counts
        beyond what the two channels of a desktop deliver.
        """
        c, few = self.constants, min(self.read_bytes_per_s, self.constants["cpu_few_channels_gb_per_s"] * GB)
        return max(few * c["cpu_expert_share"], self.read_bytes_per_s * c["cpu_expert_share_many_channels"])

    def attention_s(self, flops: Number, kv_bytes: Number) -> Number:
        """Seconds of attention of a decode step: keys and values are read, scores computed."""
        read = kv_bytes / (self.read_bytes_per_s * self.constants["cpu_attention_share"])
        scores = flops / (2.0 * self.plain_per_s * self.constants["cpu_decode_score_share"])
        return p_norm(read, scores, self.constants["cpu_product_knee"])

    def scores_s(self, flops: Number) -> Number:
        """Seconds of the scores of a prompt."""
        return flops / (2.0 * self.plain_per_s * self.constants["cpu_score_share"] * self.many_rows)

    @property
    def layer_s(self) -> float:
        """Seconds of one layer beside its bytes and products: all threads meet after every operation."""
        return self.threads * self.constants["cpu_barrier_us"] * 1e-6 + self.constants["cpu_layer_us"] * 1e-6


def _cores_that_multiply(at_once: float, sockets: int, constants: Mapping[str, float]) -> float:
    """Cores at the rate of one that works alone, of ``at_once`` busy cores in each of the sockets.

    Clocks fall the more cores of a socket work, and the cores of a further socket read operands over the link between them.
    """
    of_one = at_once / (1.0 + at_once / constants["cpu_product_half_cores"])
    return of_one * (1.0 + (sockets - 1) * constants["cpu_second_socket_products"])


def cpu_rates(
    host: HostConfig, constants: Mapping[str, float], threads: int | None = None, copies: bool = False
) -> CpuRates:
    """The rates of a host; ``threads`` if None are as many as it has cores, or fast ones where a program counts these.

    Raises:
        SpecError: cores or memory channels of the host are not known.
    """
    facts = cpu_facts(host)
    fast_alone = constants["cpu_fast_cores_alone"] and facts.fast_cores and facts.kernels in X86
    usual = facts.fast_cores if fast_alone else facts.cores
    used = float(min(threads or usual, facts.cores))
    multiplying = _cores_that_multiply(facts.fast_of(used) / facts.sockets, facts.sockets, constants)
    # A weight times a row is two operations.
    hertz = (facts.ghz or constants["cpu_usual_ghz"]) * 1e9
    units = facts.neon_share if facts.kernels == "neon" else 1.0
    giga = constants[_PER_CYCLE[facts.kernels]] * units * hertz / 2
    wide = constants["cpu_wide_kernels"] * constants.get(_WIDE_OF.get(facts.kernels, ""), 1.0)
    row_16bit = constants["cpu_one_row_flops_per_cycle"] * facts.vector_bits / 256
    row_8bit = constants["cpu_cached_row_flops_per_cycle"]
    plain_dots = facts.kernels in _WITH_PLAIN_DOTS
    return CpuRates(
        constants=constants,
        threads=used,
        read_bytes_per_s=read_bytes_per_s(facts, constants, used, copies),
        plain_per_s=giga * multiplying,
        wide_per_s=giga * multiplying * wide,
        row_16bit_per_s=row_16bit * hertz / 2 * multiplying if row_16bit and plain_dots else math.inf,
        row_8bit_per_s=row_8bit * hertz / 2 * multiplying if row_8bit and plain_dots else math.inf,
        many_rows=constants["cpu_wide_avx2"] if facts.kernels == "avx2" else 1.0,
        wide_vectors=constants["cpu_wide_512"] if facts.vector_bits == 512 else 1.0,
        native_16bit=facts.native_16bit,
        kernels=facts.kernels,
    )
