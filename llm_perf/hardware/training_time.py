"""Times of training kernels: products with thousands of rows and their gradients, attention both ways, memory traffic."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.config.gpu import AttentionKernel, GPUConfig, TrainingEfficiency, TrainingGemm
from llm_perf.counts.arrays import Number, minimum
from llm_perf.hardware.roofline import p_norm

_ASSUMED_HALF = 100.0
_ASSUMED_BACKWARD = 0.75
"""What a GPU without training efficiencies is given, marked assumed there: columns and inner size at which a product of a
backward pass reaches half its rate, and attention's backward rate over its forward one. Round figures between the families
that have their own."""
_KERNELS = ("triton_flash", "flash2", "cudnn")


@dataclass(frozen=True, slots=True)
class TrainingGemmRates:
    """What products of one number format reach in training; see :class:`llm_perf.config.gpu.TrainingGemm`."""

    flops_per_s: float
    bytes_per_s: float
    half_m: float
    half_n: float
    half_k: float
    floor_s: float
    knee_exponent: float
    element_bytes: float

    def product_s(
        self, m: Number, n: float, k: float, copies: Number = 1.0, scale: float = 1.0, lost_rows: float = 0.0
    ) -> Number:
        """Seconds of ``copies`` products of (m, k) by (k, n) as one kernel, at ``scale`` times the usual rate.

        ``lost_rows`` is what each copy of a grouped product loses beside what one product loses, in rows.
        """
        lost = 1.0 + (self.half_m + lost_rows) / m + self.half_n / n + self.half_k / k
        compute = 2.0 * m * n * k * copies * lost / (self.flops_per_s * scale)
        moved = self.element_bytes * (m * k + n * k) + 2.0 * m * n
        return self.floor_s + p_norm(compute, copies * moved / self.bytes_per_s, self.knee_exponent)

    def transposed_s(
        self,
        m: Number,
        n: float,
        k: float,
        copies: Number = 1.0,
        scale: float = 1.0,
        lost_rows: float = 0.0,
        gradient_bytes: float = 4.0,
    ) -> Number:
        """Seconds of the gradient of the weights of (m, k) by (k, n): rows are what its products sum over.

        ``gradient_bytes`` are moved per element of it: 4 where it is written in 32 bits, 8 where it is added to what
        other micro-batches left.
        """
        lost = 1.0 + self.half_m / n + self.half_n / k + (self.half_k + lost_rows) / m
        compute = 2.0 * m * n * k * copies * lost / (self.flops_per_s * scale)
        moved = self.element_bytes * (m * k + m * n) + gradient_bytes * n * k
        return self.floor_s + p_norm(compute, copies * moved / self.bytes_per_s, self.knee_exponent)


@dataclass(frozen=True, slots=True)
class BoardPower:
    """What a board's power limit leaves for work: ``work_w`` watts, and the energy of that work."""

    work_w: float
    product_j: float
    wide_j: float
    byte_j: float

    def least_s(self, joules: Number) -> Number:
        """Seconds that so much work takes at least, since its energy comes in at ``work_w``."""
        return joules / self.work_w


@dataclass(frozen=True, slots=True)
class TrainingRates:
    """All rates of one GPU that a training step needs, efficiencies applied.

    ``narrow_peak_ratio`` is the 8-bit peak over that of what stays wide; 1 where there is none.
    """

    gemm: TrainingGemmRates
    wide_gemm: TrainingGemmRates
    attention_forward_flops_per_s: float
    attention_backward_flops_per_s: float
    exp_flops: float
    elementwise_bytes_per_s: float
    scan_flops_per_s: float
    narrow_peak_ratio: float
    efficiency: TrainingEfficiency
    kernel: str
    board: BoardPower | None


def training_rates(
    gpu: GPUConfig,
    dtype: str,
    wide_dtype: str,
    kernels: tuple[str, ...] = _KERNELS,
    flops_efficiency: float | None = None,
    memory_efficiency: float | None = None,
    flops_scale: float = 1.0,
    power_limit_w: float | None = None,
) -> TrainingRates:
    """The rates of a GPU for layers in ``dtype`` and what stays in ``wide_dtype``.

    ``kernels`` are the attention kernels that the framework may use, best first; the first one that the GPU's file knows
    is taken. ``flops_scale`` is the framework's factor on products. ``flops_efficiency`` and
    ``memory_efficiency`` replace the GPU's own constants (floors stay, the power limit goes: a share of the peak is
    what somebody reached under it). ``power_limit_w`` is the board's own, or the GPU's TDP.
    """
    own = training_efficiency(gpu)
    kernel = next((name for name in kernels if name in own.attention), next(reversed(own.attention)))
    shares = own.attention[kernel]
    peak = gpu.peak_flops_per_s(wide_dtype)
    bandwidth = gpu.hbm_bandwidth_bytes_per_s

    def attention(share: float) -> float:
        return peak * (share if flops_efficiency is None else flops_efficiency)

    def rates(name: str) -> TrainingGemmRates:
        return _gemm_rates(gpu, own, name, flops_efficiency, memory_efficiency, flops_scale)

    moving = own.elementwise_memory_efficiency if memory_efficiency is None else memory_efficiency
    return TrainingRates(
        gemm=rates(dtype),
        wide_gemm=rates(wide_dtype),
        attention_forward_flops_per_s=attention(shares.forward),
        attention_backward_flops_per_s=attention(shares.backward),
        exp_flops=own.exp_flops if flops_efficiency is None else 0.0,
        elementwise_bytes_per_s=bandwidth * moving,
        scan_flops_per_s=peak * (own.scan_efficiency if flops_efficiency is None else flops_efficiency),
        narrow_peak_ratio=max(gpu.peak_tflops.get("fp8", 0.0) * 1e12 / peak, 1.0),
        efficiency=own,
        kernel=kernel,
        board=None
        if flops_efficiency is not None
        else _board(gpu, own, dtype, wide_dtype, power_limit_w or gpu.tdp_w),
    )


def _board(
    gpu: GPUConfig, own: TrainingEfficiency, dtype: str, wide_dtype: str, limit_w: float | None
) -> BoardPower | None:
    """The board under a power limit; None where no energies are known. The static draw is that of the rated board."""
    power = own.power
    if power is None or limit_w is None or gpu.tdp_w is None:
        return None
    return BoardPower(
        work_w=max(limit_w - power.static_share * gpu.tdp_w, 1e-3 * gpu.tdp_w),
        product_j=power.flop_j(dtype),
        wide_j=power.flop_j(wide_dtype),
        byte_j=power.pj_per_byte * 1e-12,
    )


_ELEMENT_BYTES = {"fp32": 4.0, "tf32": 4.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5, "int4": 0.5}


def _gemm_rates(
    gpu: GPUConfig,
    own: TrainingEfficiency,
    dtype: str,
    flops_efficiency: float | None,
    memory_efficiency: float | None,
    scale: float,
) -> TrainingGemmRates:
    entry = own.gemm_for(dtype)
    if flops_efficiency is not None:
        entry, scale = TrainingGemm(flops_efficiency=flops_efficiency), 1.0
    moving = own.memory_efficiency if memory_efficiency is None else memory_efficiency
    return TrainingGemmRates(
        flops_per_s=gpu.peak_flops_per_s(dtype) * minimum(entry.flops_efficiency * scale, 1.0),
        bytes_per_s=gpu.hbm_bandwidth_bytes_per_s * moving,
        half_m=entry.half_m,
        half_n=entry.half_n,
        half_k=entry.half_k,
        floor_s=own.floor_us * 1e-6,
        knee_exponent=gpu.efficiency.knee_exponent,
        element_bytes=_ELEMENT_BYTES.get(dtype, 2.0),
    )


def training_efficiency(gpu: GPUConfig) -> TrainingEfficiency:
    """The GPU's training efficiencies; where it has none, those of its inference kernels with an assumed backward pass."""
    known = gpu.efficiency
    if known.training is not None:
        return known.training
    halves = {"half_n": _ASSUMED_HALF, "half_k": _ASSUMED_HALF} if known.name != "textbook roofline" else {}
    gemm = {
        name: TrainingGemm(flops_efficiency=entry.flops_efficiency, half_m=entry.half_m, **halves)
        for name, entry in known.gemm.items()
    }
    forward = known.attention.prefill_flops_efficiency
    entry = known.gemm_for("default")
    return TrainingEfficiency(
        gemm=gemm,
        memory_efficiency=entry.memory_efficiency,
        floor_us=entry.floor_us,
        attention={"flash2": AttentionKernel(forward=forward, backward=forward * _ASSUMED_BACKWARD)},
        exp_flops=0.0,
        elementwise_memory_efficiency=known.elementwise.memory_efficiency,
        gather_efficiency=min(known.collective.bus_efficiency, 1.0),
        all_to_all_efficiency=min(known.collective.bus_efficiency, 1.0),
        inter_node_efficiency=known.collective.inter_node_efficiency,
        evidence="assumed",
        source=f"inference kernels of {known.name}; attention backward at {_ASSUMED_BACKWARD:g} of forward, assumed",
    )
