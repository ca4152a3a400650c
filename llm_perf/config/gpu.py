"""GPUConfig: the facts of an accelerator. GPUEfficiency: the measured share of them that software reaches."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from llm_perf.config.base import (
    GB,
    GIB,
    Efficiency,
    Name,
    NonNegativeQuantity,
    PositiveInt,
    Quantity,
    Spec,
    _plain_number,
)
from llm_perf.config.provenance import Provenance, check_fields
from llm_perf.errors import SpecError

PeakDtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4", "fp4"]

UNNAMED_MAKER = "a maker that its file does not name"
"""What messages call the vendor where a file names none."""

_DTYPES_BY_BITS = {4: ("fp4", "int4"), 8: ("fp8", "int8"), 16: ("fp16", "bf16"), 32: ("tf32", "fp32")}
"""Number formats that a product of this width may run in, preferred first; then the next wider width."""


def format_bits(dtype: str) -> int:
    """Width in bits of the operands of a number format (tf32 counts as 32: it is stored so)."""
    return next(width for width, formats in _DTYPES_BY_BITS.items() if dtype in formats)


def _exponent(value: Any) -> Any:
    return math.inf if value in ("inf", ".inf", math.inf) else _plain_number(value)


KneeExponent = Annotated[float, BeforeValidator(_exponent), Field(ge=1, strict=True)]


class GemmEfficiency(Spec):
    """Matrix products of one number format.

    t = floor + ((flops / (peak x e) x (1 + lost / m))^p + (bytes / (bandwidth x e))^p)^(1/p), with p the knee
    exponent. Of m rows beyond the first tile of ``tile_rows``, which is filled up, as many are lost again, up to
    ``half_m``: the number of rows at which large products would have half their compute rate. ``residual`` is the
    geometric-mean ratio error over the measured table, None where assumed. ``tflops_per_w`` is what a watt of the board's
    limit sustains, by architecture where it is known: a chip on a board of less power clocks lower.
    """

    flops_efficiency: Efficiency
    half_m: NonNegativeQuantity = 0.0
    tile_rows: Quantity = 1.0
    memory_efficiency: Efficiency
    floor_us: NonNegativeQuantity = 0.0
    residual: Quantity | None = None
    tflops_per_w: dict[str, Quantity] = Field(default_factory=dict)

    @property
    def floor_s(self) -> float:
        """Least time of one product, seconds."""
        return self.floor_us * 1e-6


class AttentionEfficiency(Spec):
    """Attention kernels: a share of the 16-bit peak in prefill, of the bandwidth in decode.

    Prefill of q new tokens reaches ``prefill_flops_efficiency`` / (1 + ``prefill_half_len`` / q).
    """

    prefill_flops_efficiency: Efficiency
    prefill_half_len: NonNegativeQuantity = 0.0
    decode_memory_efficiency: Efficiency
    floor_us: NonNegativeQuantity = 0.0

    @property
    def floor_s(self) -> float:
        """Least time of one attention kernel, seconds."""
        return self.floor_us * 1e-6


class ElementwiseEfficiency(Spec):
    """Norms, activations, residuals: a floor per kernel and a share of the bandwidth.

    ``l2_speedup`` is how much faster they run where the data stays in the L2 cache.
    """

    memory_efficiency: Efficiency
    floor_us: NonNegativeQuantity = 0.0
    l2_speedup: Quantity = 1.0

    @property
    def floor_s(self) -> float:
        """Least time of one kernel, seconds."""
        return self.floor_us * 1e-6


class CollectiveEfficiency(Spec):
    """Ring all-reduce: alpha(N) + sqrt_term x sqrt(size / 1 MB) + 2 (N-1)/N x size / (link x bus_efficiency).

    ``alpha_us`` by number of ranks N, link per direction. ``bus_efficiency_by_ranks`` replaces ``bus_efficiency`` where
    the share was measured to depend on N (switches that add up, PCIe trees that are shared), ``pcie_bus_efficiency``
    where GPUs of the family talk over PCIe. Other collectives follow from these (`llm_perf.hardware.collective`).

    Over nodes alpha grows by ``inter_node_alpha_us`` with each doubling of them, and ``inter_node_sqrt_term_us`` takes the
    place of ``sqrt_term_us``. Source: nccl-tests' all-reduce of 8 bytes to 64 MB over 2 and 4 nodes of eight H100 with a
    400 Gb/s card each (NVIDIA/nccl-tests issue 309), over 2 nodes of four GH200 on Slingshot (CSCS), and over 2 of eight
    A100 (microsoft/vidur): 13, 12, 14 and 44 us per doubling, 22, 36, 88 and 450 us times the root of the megabytes; the
    three of Hopper together 38. NCCL's own model has 10 us per doubling (tuning.cc, tree, LL: 2 x 5).
    """

    alpha_us: dict[int, NonNegativeQuantity]
    bus_efficiency: Quantity
    bus_efficiency_by_ranks: dict[int, Quantity] = Field(default_factory=dict)
    pcie_bus_efficiency: Quantity | None = None
    sqrt_term_us: NonNegativeQuantity = 0.0
    inter_node_alpha_us: NonNegativeQuantity = 30.0
    inter_node_sqrt_term_us: NonNegativeQuantity = 40.0
    inter_node_efficiency: Efficiency = 0.8

    def bus_share(self, ranks: int, over_pcie: bool = False) -> float:
        """Share of the link's rate that a ring of so many ranks reaches; of the nearest count where this one has none."""
        if over_pcie and self.pcie_bus_efficiency is not None:
            return self.pcie_bus_efficiency
        if not self.bus_efficiency_by_ranks:
            return self.bus_efficiency
        nearest = min(self.bus_efficiency_by_ranks, key=lambda count: abs(math.log2(count / ranks)))
        return self.bus_efficiency_by_ranks[nearest]


class TrainingGemm(Spec):
    """Large products of one number format: 2 m n k / (peak x flops_efficiency) x (1 + half_m/m + half_n/n + half_k/k)."""

    flops_efficiency: Efficiency
    half_m: NonNegativeQuantity = 0.0
    half_n: NonNegativeQuantity = 0.0
    half_k: NonNegativeQuantity = 0.0


class AttentionKernel(Spec):
    """Shares of the 16-bit peak that one fused attention kernel reaches in the forward and the backward pass."""

    forward: Efficiency
    backward: Efficiency


class TrainingPower(Spec):
    """What the parts of a step draw of a board's power limit: it is what bounds products that run for seconds.

    ``static_share`` of the rated power goes into clocks, leakage and links whatever runs. ``pj_per_flop`` is the energy of
    one FLOP of a 16-bit product, in picojoules; that of other formats is taken to be in proportion to their bits.
    ``pj_per_byte`` is that of one byte of device memory.
    """

    static_share: Annotated[float, Field(ge=0, lt=1)]
    pj_per_flop: Quantity
    pj_per_byte: NonNegativeQuantity = 0.0

    def flop_j(self, dtype: str) -> float:
        """Joules of one FLOP in a number format."""
        return 1e-12 * self.pj_per_flop * format_bits(dtype) / 16


class FittedEfficiency(Spec):
    """An efficiency that was fitted to training runs: what operators alone gave, and by what factor runs may differ.

    ``rows`` and ``groups`` as for `llm_perf.config.provenance.Evidence`.
    """

    prior: Quantity
    factor: Annotated[float, Field(gt=1)]
    rows: PositiveInt
    groups: PositiveInt
    source: str = Field(min_length=1)


class TrainingEfficiency(Spec):
    """What training software reaches of a GPU: products of thousands of rows, attention by kernel, collectives.

    ``attention`` by kernel; ``exp_flops`` is what the exponential of one score costs in multiply-adds.
    ``gather_efficiency`` and ``all_to_all_efficiency`` are shares of one direction of the GPU's link, over 8 ranks,
    ``dispatch_efficiency`` that of kernels that send tokens to experts themselves (DeepEP, HybridEP), as the library's
    all-to-all where it is None, ``inter_node_efficiency`` that of the network. ``scan_efficiency`` is the share of the
    16-bit peak that the products of a scan in chunks reach (Mamba-2, gated delta rules), beside what its kernels move;
    ``scan_backward`` what backward kernels reach of that, Mamba-2's own or those of other chunked rules, all of it where
    none is named. ``power`` is None where no sustained rate was measured. ``fitted``: by path with dots, which of these
    numbers were fitted to runs; ``assumed`` names others by path, and what neither names has the provenance of the file.
    """

    gemm: dict[Literal["default", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4", "fp4"], TrainingGemm]
    memory_efficiency: Efficiency
    floor_us: NonNegativeQuantity = 0.0
    attention: dict[Literal["triton_flash", "flash2", "cudnn"], AttentionKernel] = Field(min_length=1)
    exp_flops: NonNegativeQuantity = 14.0
    elementwise_memory_efficiency: Efficiency
    gather_efficiency: Efficiency
    all_to_all_efficiency: Efficiency
    dispatch_efficiency: Efficiency | None = None
    inter_node_efficiency: Efficiency = 0.8
    scan_efficiency: Efficiency = 0.2
    scan_backward: dict[Literal["mamba", "chunked"], Efficiency] = Field(default_factory=dict)
    power: TrainingPower | None = None
    fitted: dict[str, FittedEfficiency] = Field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    evidence: Literal["measured", "partly measured", "assumed"]
    source: str

    @model_validator(mode="after")
    def _fitted_fields_exist(self) -> "TrainingEfficiency":
        check_fields(self, tuple(self.fitted), "fitted")
        check_fields(self, self.assumed)
        return self

    def with_values(self, values: Mapping[str, float]) -> "TrainingEfficiency":
        """The efficiencies with other numbers at some paths, as ``fitted`` names them."""
        data = self.model_dump()
        for path, value in values.items():
            *outer, last = path.split(".")
            here = data
            for part in outer:
                here = here[part]
            here[last] = value
        return TrainingEfficiency(**data)

    def without_fits(self) -> "TrainingEfficiency":
        """The efficiencies as operators alone gave them."""
        return self.with_values({path: one.prior for path, one in self.fitted.items()})

    def gemm_for(self, dtype: str) -> TrainingGemm:
        """The entry of a number format, or the default one."""
        return self.gemm.get(dtype) or self.gemm["default"]  # type: ignore[call-overload]


class GPUEfficiency(Spec):
    """What software reaches of a GPU family's peaks, measured, with its source.

    ``evidence`` says whether the numbers were measured on this family or taken from its nearest relative, ``provenance`` how
    each was found, but for those that ``assumed`` names by path and those that training's ``fitted`` names. ``relative`` is
    a GPU of the nearest family: the nearest generation of the same vendor with the same kind of memory (HBM beside HBM, GDDR
    beside GDDR), the older one of two, one with measurements before one without.
    """

    name: str
    knee_exponent: KneeExponent = 4.0
    gemm: dict[
        Literal["default", "fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4", "fp4"], GemmEfficiency
    ]
    attention: AttentionEfficiency
    elementwise: ElementwiseEfficiency
    collective: CollectiveEfficiency
    training: TrainingEfficiency | None = None
    provenance: Provenance = "measured"
    assumed: tuple[str, ...] = ()
    relative: str | None = None
    evidence: Literal["measured", "partly measured", "assumed"]
    source: str

    @model_validator(mode="after")
    def _has_default(self) -> "GPUEfficiency":
        if "default" not in self.gemm:
            raise ValueError("gemm needs an entry 'default'")
        check_fields(self, self.assumed)
        return self

    def gemm_for(self, dtype: str) -> GemmEfficiency:
        """The entry of a dtype, or the default one."""
        return self.gemm.get(dtype) or self.gemm["default"]  # type: ignore[call-overload]


TEXTBOOK = GPUEfficiency(
    name="textbook roofline",
    knee_exponent=math.inf,
    gemm={"default": GemmEfficiency(flops_efficiency=1.0, memory_efficiency=1.0)},
    attention=AttentionEfficiency(prefill_flops_efficiency=1.0, decode_memory_efficiency=1.0),
    elementwise=ElementwiseEfficiency(memory_efficiency=1.0),
    collective=CollectiveEfficiency(
        alpha_us={},
        bus_efficiency=1.0,
        inter_node_alpha_us=0.0,
        inter_node_sqrt_term_us=0.0,
        inter_node_efficiency=1.0,
    ),
    provenance="documented",
    evidence="assumed",
    source="the limits of the data sheet (Williams et al., Roofline, CACM 52(4), 2009)",
)
"""Efficiency 1 everywhere: a lower bound on time, for GPUs without data and for LLMAnalysis."""


class Link(Spec):
    """What joins the GPUs of a node.

    ``gb_per_s_per_direction`` is per GPU, half of what data sheets print for both directions; None falls back
    to PCIe. ``topology``: ``switch`` any pair at full rate (NVSwitch), ``mesh`` a link to each other GPU
    (xGMI, hybrid cube mesh), ``pairs`` bridges over two cards, ``ring`` and ``torus`` neighbours only.
    ``peers`` is the number of GPUs over which a mesh spreads that rate; all others of the node if None.
    """

    name: str = "none"
    gb_per_s_per_direction: Quantity | None = None
    topology: Literal["none", "switch", "pairs", "mesh", "ring", "torus"] = "none"
    peers: PositiveInt | None = None


_SEED_FIELDS = (
    "name", "mem_per_GPU_in_GB", "hbm_bandwidth_in_GB_per_sec", "intra_node_bandwidth_in_GB_per_sec",
    "intra_node_min_message_latency", "peak_fp16_TFLOPS", "peak_i8_TFLOPS", "peak_i4_TFLOPS",
    "inter_node_bandwidth_in_GB_per_sec",
)  # fmt: skip


class GPUConfig(Spec):
    """The facts of one accelerator. Bandwidths in GB/s (1e9), memory in GiB (2**30), peaks dense in TFLOP/s.

    ``memory_gib`` is the nominal size, ``usable_memory_gib`` what the driver lets a process have (less than what
    nvidia-smi shows): ECC takes 1/16 of GDDR6; contexts and libraries come out of it later. ``pcie_gb_per_s`` is the link to
    the host per direction, whatever it is (NVLink-C2C on Grace), None where CPU and GPU share their memory.
    ``fp16_accumulate_tflops`` is the 16-bit peak with 16-bit accumulation where that is faster (GeForce).
    ``sm_count`` counts AMD's compute units too. ``inter_node_gb_per_s`` is one GPU's share of the network per
    direction. ``efficiency`` holds what software reaches. ``provenance`` holds for every fact here but for those that
    ``assumed`` names.

    The constructor also takes seed 002's arguments (``mem_per_GPU_in_GB, hbm_bandwidth_in_GB_per_sec, …``).
    """

    _positional: ClassVar[tuple[str, ...]] = _SEED_FIELDS

    name: Name
    aliases: tuple[str, ...] = ()
    vendor: str | None = None
    architecture: str | None = None
    year: PositiveInt | None = None
    peak_tflops: dict[PeakDtype, Quantity] = Field(min_length=1)
    fp16_accumulate_tflops: Quantity | None = None
    memory_gib: Quantity
    usable_memory_gib: Quantity
    memory_type: str | None = None
    hbm_bandwidth_gb_per_s: Quantity
    l2_mib: Quantity | None = None
    sm_count: PositiveInt | None = None
    sm_clock_mhz: Quantity | None = None
    pcie: str | None = None
    pcie_gb_per_s: Quantity | None = None
    link: Link = Link()
    inter_node_gb_per_s: Quantity = 25.0
    min_message_latency_us: NonNegativeQuantity = 8.0
    tdp_w: Quantity | None = None
    default_host: str | None = None
    efficiency: GPUEfficiency = TEXTBOOK
    provenance: Provenance = "documented"
    assumed: tuple[str, ...] = ()
    source: str | None = None
    notes: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_seed_arguments(cls, data: Any) -> Any:
        if isinstance(data, dict) and "mem_per_GPU_in_GB" in data:
            return _native_gpu_fields(data)
        return data

    @model_validator(mode="after")
    def _usable_is_part_of_nominal(self) -> "GPUConfig":
        if self.usable_memory_gib > self.memory_gib:
            raise ValueError(
                f"usable_memory_gib {self.usable_memory_gib} is more than memory_gib {self.memory_gib}"
            )
        check_fields(self, self.assumed)
        return self

    def without_fits(self) -> "GPUConfig":
        """The GPU with the efficiencies that operators alone gave, where others were fitted to runs."""
        training = self.efficiency.training
        if training is None or not training.fitted:
            return self
        return self.replace(efficiency=self.efficiency.replace(training=training.without_fits()))

    @property
    def memory_bytes(self) -> float:
        """Nominal memory, bytes."""
        return self.memory_gib * GIB

    @property
    def usable_memory_bytes(self) -> float:
        """Memory that can be allocated, bytes."""
        return self.usable_memory_gib * GIB

    @property
    def hbm_bandwidth_bytes_per_s(self) -> float:
        """Device memory bandwidth of the data sheet, bytes/s."""
        return self.hbm_bandwidth_gb_per_s * GB

    @property
    def pcie_bytes_per_s(self) -> float | None:
        """Raw link rate to the host per direction, bytes/s; None where there is no host link."""
        return None if self.pcie_gb_per_s is None else self.pcie_gb_per_s * GB

    @property
    def intra_node_bytes_per_s(self) -> float:
        """Rate to the other GPUs of a node per direction: the GPU link, else PCIe; 0 without either."""
        return (self.link.gb_per_s_per_direction or self.pcie_gb_per_s or 0.0) * GB

    def dtype_for(self, bits: int) -> str:
        """The number format in which a product of ``bits`` wide operands runs: that width or the next wider.

        Raises:
            SpecError: the GPU has no format that is wide enough.
        """
        for width in (4, 8, 16, 32):
            if width >= bits:
                for dtype in _DTYPES_BY_BITS[width]:
                    if dtype in self.peak_tflops:
                        return dtype
        raise SpecError(f"GPU {self.name} has no matrix format of {bits} bits or wider")

    @property
    def absent(self) -> bool:
        """Whether it stands for no GPU: the host computes."""
        return self.name == NO_GPU.name

    @property
    def maker(self) -> str:
        """The vendor as it is compared: in lower case, empty where the file names none."""
        return (self.vendor or "").lower()

    @property
    def maker_in_words(self) -> str:
        """The same for a message."""
        return self.maker or UNNAMED_MAKER

    @property
    def has_tensor_memory(self) -> bool:
        """Whether tensor cores have a memory of their own for operands: NVIDIA's Blackwell with HBM, not GeForce and RTX."""
        blackwell = self.maker == "nvidia" and (self.architecture or "").startswith("blackwell")
        return blackwell and (self.memory_type or "").startswith("HBM")

    @property
    def warp_lanes(self) -> int:
        """Threads that run in step: 64 on AMD's GCN and CDNA, 32 elsewhere (HIP's and CUDA's guides: warp size)."""
        return 64 if (self.architecture or "").startswith(("gcn", "cdna")) else 32

    def peak_flops_per_s(self, dtype: str) -> float:
        """Dense peak of a number format, FLOP/s."""
        return self.peak_tflops[dtype] * 1e12  # type: ignore[index]

    @property
    def device(self) -> tuple[str, ...]:
        """What a software stack may have versions of its own for: vendor, architecture, architecture with kind of memory."""
        kinds = (self.vendor, self.architecture, f"{self.architecture} {self.memory_type}".lower())
        return tuple(kind for kind in kinds if kind is not None)

    # -- names of seed 002 ---------------------------------------------------------------------------------

    @property
    def mem_per_GPU_in_GB(self) -> float:  # noqa: N802 - seed 002's name
        """Nominal memory in GiB, which seed 002 calls GB."""
        return self.memory_gib

    @property
    def hbm_bandwidth_in_GB_per_sec(self) -> float:  # noqa: N802 - seed 002's name
        """Device memory bandwidth, GB/s."""
        return self.hbm_bandwidth_gb_per_s

    @property
    def intra_node_bandwidth_in_GB_per_sec(self) -> float:  # noqa: N802 - seed 002's name
        """Rate to the other GPUs of a node per direction, GB/s."""
        return self.intra_node_bytes_per_s / GB

    @property
    def intra_node_min_message_latency(self) -> float:
        """Least time of one message inside a node, seconds."""
        return self.min_message_latency_us / 1e6

    @property
    def inter_node_bandwidth_in_GB_per_sec(self) -> float:  # noqa: N802 - seed 002's name
        """One GPU's share of the network, GB/s."""
        return self.inter_node_gb_per_s

    @property
    def peak_fp16_TFLOPS(self) -> float:  # noqa: N802 - seed 002's name
        """Dense 16-bit peak, TFLOP/s."""
        return self.peak_tflops[self.dtype_for(16)]  # type: ignore[index]

    @property
    def peak_i8_TFLOPS(self) -> float:  # noqa: N802 - seed 002's name
        """Dense 8-bit peak, TFLOP/s; the next wider format's where there is none."""
        return self.peak_tflops[self.dtype_for(8)]  # type: ignore[index]

    @property
    def peak_i4_TFLOPS(self) -> float:  # noqa: N802 - seed 002's name
        """Dense 4-bit peak, TFLOP/s; the next wider format's where there is none."""
        return self.peak_tflops[self.dtype_for(4)]  # type: ignore[index]


def _native_gpu_fields(data: dict[str, Any]) -> dict[str, Any]:
    data = dict(data)
    flat = {field: data.pop(field, None) for field in _SEED_FIELDS if field != "name"}
    for field in _SEED_FIELDS[1:6]:
        if flat[field] is None:
            raise SpecError(f"field {field!r} is required")
    for field, value in flat.items():
        number = _plain_number(value)
        if value is not None and (isinstance(number, bool) or not isinstance(number, (int, float))):
            raise SpecError(f"{field} must be a number, got {value!r}")
        may_be_zero = field in ("intra_node_min_message_latency", "peak_i8_TFLOPS", "peak_i4_TFLOPS")
        if value is not None and not (0 < number < math.inf or (number == 0 and may_be_zero)):
            raise SpecError(f"{field} must be positive and finite, got {value!r}")
    fp16 = flat["peak_fp16_TFLOPS"]
    # Not given: the usual multiple of the 16-bit peak. 0, as for llm-analysis' V100: the format does not exist.
    peaks = {"fp16": fp16}
    for dtype, field, multiple in (("int8", "peak_i8_TFLOPS", 2), ("int4", "peak_i4_TFLOPS", 4)):
        peak = multiple * fp16 if flat[field] is None else flat[field]
        if peak > 0:
            peaks[dtype] = peak
    native = {
        "peak_tflops": peaks,
        "memory_gib": flat["mem_per_GPU_in_GB"],
        "usable_memory_gib": flat["mem_per_GPU_in_GB"],
        "hbm_bandwidth_gb_per_s": flat["hbm_bandwidth_in_GB_per_sec"],
        "link": {"name": "intra-node", "gb_per_s_per_direction": flat["intra_node_bandwidth_in_GB_per_sec"]},
        "min_message_latency_us": flat["intra_node_min_message_latency"] * 1e6,
        "inter_node_gb_per_s": flat["inter_node_bandwidth_in_GB_per_sec"] or 200,
    }
    return data | native


NO_GPU = GPUConfig(
    name="none",
    peak_tflops={"fp32": 1.0, "fp16": 1.0, "int8": 1.0},
    memory_gib=1.0,
    usable_memory_gib=1.0,
    hbm_bandwidth_gb_per_s=1.0,
    source="no accelerator: the host computes; its figures stand for nothing",
)
"""``--gpu none``."""
