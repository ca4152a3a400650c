"""How far a stack's kernels for one number format are from those that the GPU's table was measured on.

Shares multiply the rate at which weights are read, or the compute rate, of products by their kernels: on native 8- or 4-bit
operands, with weights unpacked on their way (weight-only), grouped over experts. No share takes a product past the data
sheet.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Final, Literal

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.layers.base import FeedForward
from llm_perf.config.layers.experts import MoEMLP
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.hardware.gpu_time import GemmRates

Kind = Literal[
    "16-bit",
    "native 8-bit",
    "block-scaled 8-bit",
    "native 4-bit",
    "4-bit by 8-bit",
    "weight-only 8-bit",
    "weight-only 4-bit",
]
"""What a product's kernel multiplies: what is stored, or what it unpacks."""

BLOCK_SCALED: Kind = "block-scaled 8-bit"
"""Both operands have scales per block, which the kernel applies while it adds up: another one than for one scale."""

BY_8BIT: Kind = "4-bit by 8-bit"
"""Weights in mxfp4 by activations in mxfp8, which engines run experts in on Blackwell: at the rate of 8-bit operands."""

WALK_STEP: Final = 128
"""Inner elements of one step of such a kernel: those of a block of scales."""

QUANTISED: frozenset[Kind] = frozenset({"native 8-bit", BLOCK_SCALED, "native 4-bit", BY_8BIT})
"""Kinds whose activations are narrowed by a kernel of its own first."""

_NATIVE: Mapping[Kind, tuple[str, str]] = {
    "native 8-bit": ("native_8bit_bandwidth", "native_8bit_flops"),
    BLOCK_SCALED: ("block_8bit_bandwidth", "block_8bit_flops"),
    "native 4-bit": ("native_4bit_bandwidth", "native_4bit_flops"),
    BY_8BIT: ("native_4bit_bandwidth", "native_8bit_flops"),
}
_WALKS: Mapping[Kind, str] = {BLOCK_SCALED: "block_8bit_walk_us", "native 4-bit": "native_4bit_walk_us"}
"""Constants of kernels that walk along the inputs of a product, a block with its scale after the other."""

WEIGHT_ONLY: Mapping[Kind, str] = {
    "weight-only 8-bit": "weight_only_8bit_bandwidth",
    "weight-only 4-bit": "weight_only_4bit_bandwidth",
}
"""Constants of kernels that unpack weights."""
_ONE_SCALE: frozenset[str] = frozenset(
    {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "mxfp4_gguf"}
)
"""Types of llama.cpp whose blocks have one scale each; of others it is the product of two numbers (ggml-common.h)."""
_GROUPED: Mapping[Kind, str] = {
    "16-bit": "expert_16bit_flops",
    "native 8-bit": "expert_8bit_flops",
    BLOCK_SCALED: "expert_8bit_flops",
    "native 4-bit": "expert_4bit_flops",
    BY_8BIT: "expert_mxfp4_flops",
    "weight-only 8-bit": "expert_weight_only_flops",
    "weight-only 4-bit": "expert_weight_only_flops",
}
"""Constants of kernels that are grouped over experts: shares of the data sheet's peak; 0 is as plain products."""

_OF_4BIT: frozenset[Kind] = frozenset({"native 4-bit", BY_8BIT})
"""Kinds of experts in 4 bits: one module (trtllm-gen's kernels) does all of them where tensor cores have a memory,
elsewhere CUTLASS's take ``expert_4bit_us``."""


def one_module(
    constants: Mapping[str, float], kinds: Set[Kind], tensor_memory: bool, mlp: FeedForward
) -> bool:
    """Whether experts with products of these kinds have a module of kernels that does all from the router's logits on.

    That for scales of blocks routes by plain scores or, as DeepSeek, by biased ones in groups, not by biased ones of all
    experts (MiniMax-M2; vllm-project/vllm pull request 36307 says so of trtllm-gen's kernel).
    """
    blocks = constants["fused_block_experts"] and not _biased_without_groups(mlp)
    fused = _OF_4BIT | {BLOCK_SCALED} if blocks else _OF_4BIT
    return tensor_memory and bool(kinds) and kinds <= fused


def _biased_without_groups(mlp: FeedForward) -> bool:
    return isinstance(mlp, MoEMLP) and mlp.router_bias and mlp.router_groups is None


_MOST_IN_GROUP = 32
"""Experts of a group that one thread of a fused routing kernel holds (MAX_VPT in sgl-kernel/csrc/moe/moe_fused_gate.cu)."""


def has_router_kernel(mlp: MoEMLP, own: float) -> bool:
    """Whether one kernel routes to these experts: biased scores need small groups of a power of two, or ``own`` experts."""
    if not mlp.router_bias or mlp.router_groups is None or mlp.num_experts == own:
        return True
    power = mlp.num_experts & (mlp.num_experts - 1) == 0
    return power and mlp.num_experts // mlp.router_groups <= _MOST_IN_GROUP


def routing_us(
    constants: Mapping[str, float], kinds: Set[Kind], tensor_memory: bool, mlp: FeedForward, held: float
) -> float:
    """Microseconds that a module of experts, whose products are of these kinds, takes beside products and rows.

    Kernels with scales of blocks look at each of the ``held`` experts of a rank (`expert_block_each_us`), also at those that
    no token goes to.
    """
    if constants["fused_experts_us"] > 0 and one_module(constants, kinds, tensor_memory, mlp):
        return constants["fused_experts_us"]
    microseconds = constants["moe_us"]
    if isinstance(mlp, MoEMLP) and not has_router_kernel(mlp, constants["router_kernel_experts"]):
        microseconds += constants["ungrouped_router_us"]
    microseconds += constants["expert_weight_only_us"] if kinds & WEIGHT_ONLY.keys() else 0.0
    microseconds += constants["expert_4bit_us"] if kinds & _OF_4BIT else 0.0
    if BLOCK_SCALED in kinds:
        microseconds += constants["expert_block_us"] + held * constants["expert_block_each_us"]
    return microseconds


def unpacked_share(
    constants: Mapping[str, float], kind: Kind, expert: bool, gemm: GemmRates, sm_ghz: float, stored: str = ""
) -> float:
    """Share of the 16-bit kernels' bandwidth at which a kernel reads weights that it unpacks.

    Engines that know no faster layout multiply weights ``stored`` as AWQ packs them by its own kernels (``awq_bandwidth``).
    Grouped kernels unpack in the multiprocessors, which hold them up where the memory is faster (``sm_ghz``: how many there
    are times their clock, 0 where that is not known).
    """
    own = constants["awq_bandwidth"] if stored == "awq" else 0.0
    share, rate = own or constants[WEIGHT_ONLY[kind]], constants["expert_unpack_gb_per_s_per_sm_ghz"]
    if not expert or rate <= 0:
        return share
    share = constants["expert_bandwidth"]
    return min(share, rate * sm_ghz * 1e9 / gemm.bytes_per_s) if sm_ghz else share


def integer_rates(
    constants: Mapping[str, float],
    gemm: GemmRates,
    sm_ghz: float,
    stored: str,
    widest_tile: Number | None = None,
) -> GemmRates:
    """Rates of products that multiply weights as they are stored by activations in blocks of 8-bit integers.

    Those of experts have tiles of one width, ``widest_tile`` at most, whatever rows an expert gets.

    What bounds them is not the integer units: sums of each block are made floating-point numbers and scaled, which each
    multiprocessor does at its own pace (``sm_ghz``: how many there are times their clock). ``gemm`` are those of the stack's
    products of 16 bits, which stand where it has no integer kernels or the GPU's clock is not known.
    """
    rate = constants["integer_gflops_per_sm_per_ghz"] * sm_ghz * 1e9
    if rate <= 0:
        return gemm
    share = 1.0 if stored in _ONE_SCALE else constants["integer_block_share"]
    plain = replace(gemm, flops_per_s=rate * share, half_m=constants["integer_lost_rows"], loads_apart=True)
    tile = constants["integer_tile_rows"]
    if widest_tile is None or tile <= 0:
        return plain
    return replace(plain, tile_rows=minimum(widest_tile, tile), ragged=True)


def tile_reads(constants: Mapping[str, float], rows: Number, copies: Number, uncached: float) -> Number:
    """Times that a product reads its weights: once for each tile of rows, what of a matrix the L2 cache does not hold.

    ``uncached`` is that share of one matrix.
    """
    tile = constants["integer_tile_rows"]
    if tile <= 0:
        return 1.0
    return 1.0 + (maximum(rows / maximum(copies, 1e-9) / tile, 1.0) - 1.0) * uncached


def read_factor(
    constants: Mapping[str, float], kind: Kind, gemm: GemmRates, expert: bool, rows: Number, copies: Number
) -> Number:
    """Times that a product's weights count as read from memory.

    Matrix-vector kernels read weights again for each further row that a copy gets (``reread_per_row``).
    """
    if expert:
        # Grouped kernels are others than plain ones of their format; what is unpacked is counted with its share already.
        unpacked = kind in WEIGHT_ONLY and constants["expert_unpack_gb_per_s_per_sm_ghz"] > 0
        share = 1.0 if unpacked else _expert_bandwidth(constants, kind)
    else:
        share = constants[_NATIVE[kind][0]] if kind in _NATIVE else 1.0
    factor: Number = 1.0 / min(share, gemm.peak_bytes_per_s / gemm.bytes_per_s) if share != 1.0 else 1.0
    again = constants["reread_per_row"]
    if again > 0 and kind == "weight-only 4-bit":
        factor = factor * (1.0 + again * (maximum(rows / maximum(copies, 1e-9), 1.0) - 1.0))
    return factor


def walk_s(constants: Mapping[str, float], kind: Kind, in_features: float) -> float:
    """Least seconds of a product of so many inputs by a kernel whose blocks of threads walk along all of them.

    Few rows fill few multiprocessors: neither arithmetic nor memory is what such a product waits for.
    """
    return constants[_WALKS[kind]] * 1e-6 * in_features / WALK_STEP if kind in _WALKS else 0.0


def _expert_bandwidth(constants: Mapping[str, float], kind: Kind) -> float:
    """Share of the bandwidth of plain products that grouped kernels of a format reach."""
    own = constants["expert_block_bandwidth"] if kind == BLOCK_SCALED else 0.0
    return own if own > 0 else constants["expert_bandwidth"]


def warp_matrix_factor(constants: Mapping[str, float], gpu: GPUConfig, gemm: GemmRates) -> float:
    """Times that arithmetic counts in kernels that unpack weights into the registers of a warp and multiply there.

    On Hopper and later the matrix instructions of one warp reach a part of what those of a group, or of a tensor memory, do.
    """
    memory = gpu.has_tensor_memory
    each = constants["warp_gflops_per_sm_per_ghz_tensor_memory" if memory else "warp_gflops_per_sm_per_ghz"]
    most = each * 1e9 * (gpu.sm_count or 0) * (gpu.sm_clock_mhz or 0.0) / 1000
    return max(gemm.peak_flops_per_s / most, 1.0) if most > 0 else 1.0


def unpacked_in_turn_factor(constants: Mapping[str, float], gpu: GPUConfig, gemm: GemmRates) -> float:
    """Times that arithmetic counts where a warp unpacks weights and multiplies by them one after the other.

    The seconds of both add up: those of the multiprocessors' ordinary units, which no data sheet's peak of matrix products
    says anything of, and those of the tensor cores. So Marlin's experts take about as long per multiprocessor and clock on
    GPUs whose peaks differ four times, and most of the peak where that is low (GeForce).
    """
    unpacking = (
        constants["marlin_gflops_per_sm_per_ghz"] * (gpu.sm_count or 0) * (gpu.sm_clock_mhz or 0.0) * 1e6
    )
    seconds = 1.0 / gemm.peak_flops_per_s + (1.0 / unpacking if unpacking > 0 else 0.0)
    return max(gemm.flops_per_s * seconds, 1.0)


def compute_factor(
    constants: Mapping[str, float],
    kind: Kind,
    gemm: GemmRates,
    gpu: GPUConfig | None,
    expert: bool = False,
    in_turn: bool = False,
) -> float:
    """Times that a product's arithmetic counts; products of experts have kernels of their own.

    Without a ``gpu`` the rates were stated and are those of every kernel. ``in_turn``: warps unpack, then multiply
    (`unpacked_in_turn_factor`).
    """
    if in_turn and gpu is not None:
        return unpacked_in_turn_factor(constants, gpu, gemm)
    grouped = constants[_GROUPED[kind]] if expert else 0.0
    if grouped > 0:
        return gemm.flops_per_s / (grouped * gemm.peak_flops_per_s)
    if kind in WEIGHT_ONLY and gpu is not None:
        return warp_matrix_factor(constants, gpu, gemm)
    if kind not in _NATIVE:
        return 1.0
    share = constants[_NATIVE[kind][1]]
    return 1.0 / min(share, gemm.peak_flops_per_s / gemm.flops_per_s) if share != 1.0 else 1.0
