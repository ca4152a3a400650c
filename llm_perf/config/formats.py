"""Number formats of weights: bits per element with scales and zeros, and the kernels that multiply with them.

A format's bytes are those of the file: of GGUF types the block sizes of ggml (``ggml-common.h``), of the others the tensors
that their libraries store beside the weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from llm_perf.errors import SpecError, UnknownNameError

Kernels = Literal["16-bit", "fp8", "int8", "fp4", "weight-only", "dequantise", "converted"]
"""How products run: on 16-bit operands, on FP8, INT8 or FP4 tensor cores (where a GPU has these, else weights are unpacked),
with weights unpacked in the product's registers, or with weights unpacked into a 16-bit copy first: by kernels of the
format's own library, or ``converted`` by an elementwise kernel, whatever the stack."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How a matrix is stored.

    ``group`` elements share ``scale_bits`` and ``zero_bits``; ``super_group`` elements share ``super_bits`` more (double
    quantisation, the scales of scales). A group of 0 is a whole row or matrix, whose scale is nothing beside it.
    ``tables``: the token table and the head are stored so as well.
    """

    name: str
    bits: float
    kernels: Kernels
    group: int = 0
    scale_bits: float = 0.0
    zero_bits: float = 0.0
    super_group: int = 0
    super_bits: float = 0.0
    tables: bool = False

    @property
    def stored_bits(self) -> float:
        """Bits per element with its share of scales and zeros."""
        shared = (self.scale_bits + self.zero_bits) / self.group if self.group else 0.0
        return self.bits + shared + (self.super_bits / self.super_group if self.super_group else 0.0)

    @property
    def nominal_bits(self) -> int:
        """The width that tables of measurements call it by: 4, 8, 16 or 32."""
        return next(width for width in (4, 8, 16, 32) if self.bits < width + 1 or width == 32)

    def grouped(self, group: int) -> NumberFormat:
        """The same with groups of another size."""
        return replace(self, group=group)


GGML_BLOCKS: dict[str, tuple[int, int]] = {
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34), "q8_1": (32, 36),
    "q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210), "q8_k": (256, 292),
    "iq1_s": (256, 50), "iq1_m": (256, 56), "iq2_xxs": (256, 66), "iq2_xs": (256, 74), "iq2_s": (256, 82),
    "iq3_xxs": (256, 98), "iq3_s": (256, 110), "iq4_xs": (256, 136), "iq4_nl": (32, 18), "tq1_0": (256, 54),
    "tq2_0": (256, 66), "mxfp4_gguf": (32, 17),
    # Types of the fork ik_llama.cpp; scales of whole rows are left out.
    "iq2_ks": (256, 70), "iq2_k": (256, 76), "iq2_kl": (256, 86), "iq3_ks": (256, 102), "iq3_k": (256, 110),
    "iq4_ks": (256, 136), "iq4_k": (256, 144), "iq5_ks": (256, 168), "iq5_k": (256, 176), "iq6_k": (256, 212),
    "iq1_kt": (256, 56), "iq2_kt": (256, 68), "iq3_kt": (256, 100), "iq4_kt": (256, 128),
}  # fmt: skip
"""(elements, bytes) of one block of each ggml type."""

_PLAIN = (
    NumberFormat("fp32", 32, "16-bit"),
    NumberFormat("fp16", 16, "16-bit"),
    NumberFormat("bf16", 16, "16-bit"),
    NumberFormat("fp8", 8, "fp8"),
    # DeepSeek-V3 (arXiv 2412.19437, section 3.3.2): a 32-bit scale per 128 x 128 weights.
    NumberFormat("fp8_block", 8, "fp8", group=128 * 128, scale_bits=32),
    NumberFormat("int8", 8, "int8"),
    NumberFormat("bnb_int8", 8, "dequantise"),
    NumberFormat("int8_weight_only", 8, "weight-only"),
    # torchao (quantize_ with Int8WeightOnlyConfig): a product is torch.mm(x, weight.to(x.dtype)) * scale (plain_layout.py,
    # _linear_fp_act_int8_weight_impl; int8_tensor.py from 0.15 on): Inductor makes a conversion and a product of it.
    NumberFormat("torchao_int8", 8, "converted"),
    NumberFormat("int4", 4, "weight-only", group=128, scale_bits=16),
    NumberFormat("awq", 4, "weight-only", group=128, scale_bits=16, zero_bits=4),
    NumberFormat("gptq", 4, "weight-only", group=128, scale_bits=16, zero_bits=4),
    # QLoRA (arXiv 2305.14314): 32-bit scales per 64 weights; double quantisation stores these in 8 bits, 256 to a scale.
    NumberFormat("nf4", 4, "dequantise", group=64, scale_bits=32),
    NumberFormat("nf4_double", 4, "dequantise", group=64, scale_bits=8, super_group=64 * 256, super_bits=32),
    # OCP Microscaling Formats 1.0: an 8-bit power of two per 32; NVFP4: an FP8 scale per 16.
    NumberFormat("mxfp4", 4, "fp4", group=32, scale_bits=8),
    NumberFormat("nvfp4", 4, "fp4", group=16, scale_bits=8),
    NumberFormat("nvfp4_weight_only", 4, "weight-only", group=16, scale_bits=8),
    NumberFormat("mxfp8", 8, "fp8", group=32, scale_bits=8),
    # MLX (mlx.core.quantize, mode affine): a 16-bit scale and offset per 64 weights.
    *(
        NumberFormat(
            f"mlx_{bits}bit", bits, "weight-only", group=64, scale_bits=16, zero_bits=16, tables=True
        )
        for bits in (4, 5, 6, 8)
    ),
)

BY_BITS = ("exl2", "exl3")
"""Formats whose name says how many bits a weight has on average (``exl3-4.25bpw``), or the head has (``exl2-4.0bpw-h8``)."""

FORMATS: dict[str, NumberFormat] = (
    {entry.name: entry for entry in _PLAIN}
    | {name: NumberFormat(name, 4, "weight-only") for name in BY_BITS}
    | {
        name: NumberFormat(name, size * 8 / elements, "weight-only")
        for name, (elements, size) in GGML_BLOCKS.items()
    }
)
"""Formats of one matrix, by name."""

GGUF_MIXTURES = (
    "q2_k_s", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m", "q5_0", "q5_1", "q5_k_s", "q5_k_m",
    "q6_k", "q8_0", "iq4_nl", "iq4_xs", "mxfp4_gguf", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s",
    "iq2_ks", "iq2_k", "iq2_kl", "iq3_ks", "iq3_k", "iq4_ks", "iq4_k", "iq5_ks", "iq5_k", "iq6_k", "iq2_kt", "iq3_kt",
    "iq4_kt",
)  # fmt: skip
"""Files of llama.cpp, named after what most of their matrices are; `llm_perf.counts.weight_formats` knows the rest."""

WEIGHT_FORMATS = tuple(dict.fromkeys((*(entry.name for entry in _PLAIN), *GGUF_MIXTURES)))
"""What a model's weights can be asked to be stored in."""


def stored_bits(name: str) -> float | None:
    """Bits per weight of a format, with its scales; None where they differ from matrix to matrix."""
    found = FORMATS.get(name)
    return None if found is None else found.stored_bits


KV_FORMATS: dict[str, float] = {
    "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "int4": 4.5, "q8_0": 8.5, "q4_0": 4.5, "q8": 8.5, "q6": 6.5, "q4": 4.5,
}  # fmt: skip
"""Bits per element of formats of the KV cache. ``int4`` has a 16-bit scale and minimum per 64,
``q8``, ``q6`` and ``q4`` (ExLlama's caches) a 16-bit scale per 32."""

ONE_SCALE_FP8 = "fp8_dynamic"
"""FP8 with one scale per matrix or row, as compressed-tensors calls it: also of a model that is released in blocks."""

_ALIASES = {
    "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "f16": "fp16", "f32": "fp32", "float8": "fp8",
    "q4_k": "q4_k_m", "q5_k": "q5_k_m", "q3_k": "q3_k_m", "bnb_4bit": "nf4", "bnb4": "nf4", "fp4": "mxfp4", "w8a8": "int8",
    ONE_SCALE_FP8: "fp8", "fp8_per_tensor": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8",
    "w4a16": "int4", "int4_autoround": "int4", "autoround": "int4", "w8a16": "int8_weight_only", "mxfp4_moe": "mxfp4_gguf",
    "w4a16_nvfp4": "nvfp4_weight_only", "nvfp4a16": "nvfp4_weight_only",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MatrixFormat:
    """How one matrix of a layer is stored: bits per weight (the mean over layers, where they differ) and its kernels."""

    bits: float = 16.0
    kernels: Kernels = "16-bit"
    name: str = "bf16"


@dataclass(frozen=True, slots=True)
class WeightFormats:
    """The format of every matrix of a model.

    ``layers`` has one row per layer group, of one entry per matrix in the order of
    `llm_perf.counts.linears.layer_linears`. ``vector_bits`` is the width of norms and biases, ``why`` a sentence
    about where the format is from.
    """

    name: str
    why: str
    layers: tuple[tuple[MatrixFormat, ...], ...]
    embedding: MatrixFormat
    head: MatrixFormat
    vector_bits: float = 16.0


def format_name(name: str, known: tuple[str, ...], field: str) -> str:
    """The format that a name means.

    Raises:
        SpecError: none of ``known``.
    """
    plain = name.strip().lower().replace("-", "_")
    if field == "weight_format" and (found := by_bits(plain)) is not None:
        return found.name
    plain = plain if plain in known else _ALIASES.get(plain, plain)
    if plain not in known and (mixture := nearest_mixture(plain)) in known:
        plain = str(mixture)
    if plain not in known:
        more = ", exl2-4.0bpw or exl3-4.0bpw (any bits)" if field == "weight_format" else ""
        raise SpecError(
            f"{field} {name[:60]!r} is not a known format; use auto or {_nearest_first(plain, known)}{more}"
        )
    return plain


@dataclass(frozen=True, slots=True)
class BitsPerWeight:
    """A format of `BY_BITS`: the mean bits of its matrices and those of the head."""

    format: str
    bits: float
    head_bits: float

    @property
    def name(self) -> str:
        """How it is spelled: ``exl3-4.25bpw``, with ``-h8`` where the head has not the usual width."""
        head = "" if self.head_bits == _HEAD_BITS else f"-h{self.head_bits:g}"
        return f"{self.format}-{self.bits:g}bpw{head}"


_HEAD_BITS = 6.0
"""Bits of the head where a name does not say them: the default of convert.py in exllamav2 and exllamav3 (-hb)."""

_BPW = r"(?P<bits>\d(?:\.\d{1,3})?)[ _-]?bpw(?:[_-]h(?P<head>\d))?"
_SPELLED = tuple(
    re.compile(pattern) for pattern in (rf"(?P<format>exl[23])[_-]{_BPW}", rf"{_BPW}[_-](?P<format>exl[23])")
)
_MOST_BITS = 8


def by_bits(name: str) -> BitsPerWeight | None:
    """The format that a name spells by its bits per weight, None where it does not.

    Raises:
        SpecError: widths that there are none of: 1 to 8 bits.
    """
    for pattern in _SPELLED:
        found = pattern.fullmatch(name.strip().lower())
        if found is not None:
            bits, head = float(found["bits"]), float(found["head"] or _HEAD_BITS)
            if not (1 <= bits <= _MOST_BITS and 1 <= head <= _MOST_BITS):
                raise SpecError(f"weight format {name[:60]!r}: bits per weight are from 1 to {_MOST_BITS}")
            return BitsPerWeight(found["format"], bits, head)
    return None


def nearest_mixture(name: str) -> str | None:
    """The file of llama.cpp's that one of unsloth's mixtures (``UD-Q4_K_XL``) is nearest to in size; None of another name.

    Their layers differ in type from model to model; with the same letters they are within a few per cent of these:
    Llama-3.1-8B UD-Q4_K_XL 4.99 GB, Q4_K_M 4.92 GB; Qwen3-30B-A3B 17.7 and 18.6 GB (the repositories' lists of files).
    """
    whole = name.strip().lower().replace("-", "_")
    plain = whole.removeprefix("ud_")
    own = plain if plain != whole and plain in GGUF_MIXTURES else None
    return _EXTRA_LARGE.get(plain) or own  # the extra large ones are unsloth's alone, said so or not


_EXTRA_LARGE = {
    "q2_k_xl": "q2_k", "q3_k_xl": "q3_k_m", "q4_k_xl": "q4_k_m", "q5_k_xl": "q5_k_m", "q6_k_xl": "q6_k", "q8_k_xl": "q8_0",
}  # fmt: skip


def _nearest_first(name: str, known: tuple[str, ...]) -> str:
    """All of a few formats; of many the nearest, and where all stand."""
    if len(known) <= _FEW_FORMATS:
        return f"one of {', '.join(known)}"
    near = UnknownNameError("format", name, known).suggestions or known[:_FEW_FORMATS]
    return f"one of {', '.join(near)}, … ({len(known)} in all: llm-perf models formats)"


_FEW_FORMATS = 12


def format_of_repository(name: str, publisher: str = "") -> tuple[str, str] | None:
    """(ending, weight format) that a hub repository's name says: ``-AWQ``, ``-GPTQ-Int4``, ``-FP8`` and so on.

    ``publisher`` is who published the model, for a name that does not say it.
    """
    owner, _, plain = re.sub(r"[_\s]+", "-", name.strip().lower()).rpartition("/")
    mixed = _UNSLOTHS.search(plain)
    if mixed is not None and (nearest := nearest_mixture(mixed[1])) is not None:
        return mixed[0], nearest
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if plain.endswith(ending):
            own = _ENDINGS_OF_PUBLISHERS.get(owner or publisher.lower(), {})
            return ending, own.get(ending, _ENDINGS[ending])
    spelled = _ENDING_BY_BITS.search(plain)
    return None if spelled is None else (spelled[0], spelled[1])


_ENDING_BY_BITS = re.compile(
    r"[-.](exl[23]-\d(?:\.\d{1,3})?bpw(?:-h\d)?|\d(?:\.\d{1,3})?bpw(?:-h\d)?-exl[23])$"
)


_ENDINGS = {
    "-awq": "awq", "-awq-int4": "awq", "-gptq": "gptq", "-gptq-int4": "gptq", "-gptq-int8": "int8_weight_only",
    "-fp8": "fp8", "-fp8-dynamic": "fp8", "-fp8-kv": "fp8", "-bnb-4bit": "nf4_double", "-bnb-8bit": "bnb_int8",
    "-gguf": "q4_k_m", "-nvfp4": "nvfp4", "-fp4": "nvfp4", "-mxfp4": "mxfp4", "-mxfp8": "mxfp8", "-w4a16": "int4",
    "-fp8-block": "fp8_block", ".w4a16": "int4", "-w8a8": "int8", ".w8a8": "int8", "-int4": "int4", "-int8": "int8",
    "-bf16": "bf16", "-fp16": "fp16", "-gptq-4bit": "gptq", "-awq-4bit": "awq", "-f16": "fp16",
    # Intel's AutoRound (group 128, symmetric), Yi's 4 and 8 bits (AWQ and GPTQ, their model cards), llm-compressor's words.
    "-int4-autoround": "int4", "-autoround": "int4", "-autoround-int4": "int4", "-4bits": "awq", "-8bits": "int8_weight_only",
    "-int4-awq": "awq", "-int4-gptq": "gptq", "-awq-g128": "awq", "-quantized.w8a8": "int8", "-quantized.w4a16": "int4",
    "-quantized.w8a16": "int8_weight_only", "-w8a16": "int8_weight_only",
    # mlx-community's, whose names end in the width (mlx_lm.convert --q-bits), with a word for how scales were found.
    **{f"{mark}-{bits}bit{how}": f"mlx_{bits}bit" for bits in (4, 5, 6, 8) for mark in ("", "-mlx") for how in ("", "-dwq")},
    **{
        f"-{one.replace('_', '-')}{file}": one
        for one in GGUF_MIXTURES
        if one != "mxfp4_gguf"
        for file in ("", "-gguf")
    },
    # Google's weights trained for four bits, which it packs as Q4_0.
    "-qat": "q4_0", "-qat-gguf": "q4_0", "-qat-q4-0": "q4_0", "-qat-q4-0-gguf": "q4_0", "-qat-q4-0-unquantized": "bf16",
}  # fmt: skip

_UNSLOTHS = re.compile(r"-(ud-[a-z0-9-]+)$")

_ENDINGS_OF_PUBLISHERS = {
    # A scale per 128 x 128 weights (model card of Qwen3-8B-FP8).
    "qwen": {"-fp8": "fp8_block"},
}
"""Endings that a publisher means otherwise, by its name on the hub in lower case."""
