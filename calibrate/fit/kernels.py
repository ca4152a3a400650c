"""From microbenchmarks to the rates of a GPUConfig and a HostConfig: laws over size, fitted to their points.

A product takes t = t0 + ((2 K N (M + h) / P)^p + (bytes / B)^p)^(1/p). How arithmetic and memory go together, p, is
chosen among the exponents below: 1 is one after the other (CPU libraries pack the weights first), 4 and more is
overlap. Attention is fitted likewise, with a rate of its own for prompts and for caches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_perf.config.base import GB, GIB, LARGEST_QUANTITY
from llm_perf.config.gpu import TEXTBOOK, GPUConfig
from llm_perf.config.loading import get_gpu_config_by_name
from llm_perf.errors import SpecError
from llm_perf.hardware.gpu_time import lost_rows
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems.constants import load_constants

EXPONENTS = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 8.0)
_SERIAL = 1.0
SOURCE = "microbenchmarks of llm-perf on this machine"

Record = dict[str, Any]


@dataclass(frozen=True)
class GemmLaw:
    """Products of one number format. ``residual`` is the geometric mean of max(t / law, law / t)."""

    flops_per_s: float
    bytes_per_s: float
    floor_s: float
    half_m: float
    exponent: float
    residual: float


@dataclass(frozen=True)
class AttentionLaw:
    """Attention of one number format: a rate for prompts, half of it at ``half_len`` tokens; a rate for caches."""

    flops_per_s: float
    half_len: float
    bytes_per_s: float
    floor_s: float
    residual: float


def measured_items(record: Record, kind: str, **settings: Any) -> list[Record]:
    """Items of a kind with samples. Those that others disturbed are left out where half or more are without them."""
    found = [
        item
        for item in record["items"]
        if item["kind"] == kind
        and not item.get("error")
        and all(item["settings"].get(name) == value for name, value in settings.items())
    ]
    calm = [item for item in found if not item.get("disturbed")]
    return calm if 2 * len(calm) >= len(found) else found


def gemm_law(items: Sequence[Record], exponents: Sequence[float] = EXPONENTS) -> GemmLaw:
    """The law through products of one format.

    Raises:
        SpecError: there are too few points, or all have the same number of rows.
    """
    rows = {item["settings"]["m"] for item in items}
    if len(items) < 6 or min(rows, default=1) * 16 > max(rows, default=1):
        raise SpecError(
            f"microbenchmarks: {len(items)} products with {len(rows)} numbers of rows do not tell arithmetic from "
            "memory: at least 6 points with rows 16-fold apart are needed; give --budget more time"
        )
    m, k, n = (np.array([float(item["settings"][name]) for item in items]) for name in ("m", "k", "n"))
    moved = np.array([item["work"]["bytes"] for item in items])
    seconds = np.array([item["median_s"] for item in items])
    best: GemmLaw | None = None
    for exponent in exponents:
        # One after the other, rows that are lost and the pass over the weights are the same term.
        with_half = exponent > _SERIAL

        def law(logs: np.ndarray, exponent: float = exponent, with_half: bool = with_half) -> np.ndarray:
            flops_per_s, bytes_per_s, floor_s = np.exp(logs[:3])
            half_m = math.exp(logs[3]) if with_half else 0.0
            compute = 2.0 * k * n * (m + lost_rows(m, 1.0, half_m)) / flops_per_s
            return np.asarray(floor_s + p_norm(compute, moved / bytes_per_s, exponent))

        start = [max(2.0 * m * k * n / seconds), max(moved / seconds), 0.2 * min(seconds)]
        low, high = (
            [s * f for s, f in zip(start, (0.3, 0.3, 1e-3), strict=True)],
            [s * f for s, f in zip(start, (3.0, 3.0, 5.0), strict=True)],
        )
        if with_half:
            start, low, high = [*start, 16.0], [*low, 0.1], [*high, 512.0]
        found, residual = _fit_logs(law, seconds, start, low, high)
        half = float(found[3]) if with_half else 0.0
        candidate = GemmLaw(float(found[0]), float(found[1]), float(found[2]), half, exponent, residual)
        if best is None or candidate.residual < best.residual * 0.995:
            best = candidate
    assert best is not None
    return best


def attention_law(prompts: Sequence[Record], caches: Sequence[Record], gemm: GemmLaw) -> AttentionLaw:
    """The law through attention of one format, as `llm_perf.hardware.gpu_time` composes it.

    Raises:
        SpecError: there are too few points.
    """
    if len(prompts) < 2 or len(caches) < 2:
        raise SpecError("microbenchmarks: attention was not measured; give --budget more time")

    def column(items: Sequence[Record], part: str, name: str) -> np.ndarray:
        return np.array([float(item[part][name]) for item in items])

    flops, length = column(prompts, "work", "flops"), column(prompts, "settings", "length")
    read = column(prompts, "work", "bytes")
    cache_flops, cache_bytes = column(caches, "work", "flops"), column(caches, "work", "bytes")
    seconds = np.array([item["median_s"] for item in (*prompts, *caches)])

    def law(logs: np.ndarray) -> np.ndarray:
        flops_per_s, half_len, bytes_per_s, floor_s = np.exp(logs)
        prefill = p_norm(flops * (1 + half_len / length) / flops_per_s, read / bytes_per_s, gemm.exponent)
        decode = p_norm(cache_flops / gemm.flops_per_s, cache_bytes / bytes_per_s, gemm.exponent)
        return np.asarray(floor_s + np.concatenate([prefill, decode]))

    many = len(prompts)
    start = [
        max(flops / seconds[:many]), 30.0, max(cache_bytes / seconds[many:]), 0.3 * min(seconds[many:])
    ]  # fmt: skip
    low, high = [start[0] * 0.5, 0.01, start[2] * 0.5, start[3] * 1e-2], [
        start[0] * 5, 4000.0, start[2] * 5, start[3] * 4
    ]  # fmt: skip
    found, residual = _fit_logs(law, seconds, start, low, high)
    return AttentionLaw(float(found[0]), float(found[1]), float(found[2]), float(found[3]), residual)


def _fit_logs(
    law: Callable[[np.ndarray], np.ndarray],
    seconds: np.ndarray,
    start: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> tuple[np.ndarray, float]:
    """Positive parameters of a law by robust least squares on log ratios, and the geometric-mean ratio that is left."""
    from calibrate.fit.refit import require_scipy

    require_scipy("a fit")
    from scipy.optimize import least_squares

    def residuals(logs: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(law(logs) / seconds))

    bounds = np.log(np.array(low)), np.log(np.array(high))
    found = least_squares(residuals, np.log(np.array(start)), bounds=bounds, loss="soft_l1", f_scale=0.05)
    left = residuals(found.x)
    return np.exp(found.x), float(np.exp(np.mean(np.abs(left))))


# -- profile content ------------------------------------------------------------------------------------------


def gpu_fields(record: Record) -> dict[str, Any]:
    """Fields of a GPUConfig: all of them for a CPU, the efficiencies of the bundled spec for a GPU.

    Raises:
        SpecError: too little was measured, or the GPU is not a bundled one.
    """
    dtypes = record["dtypes"]
    laws: dict[str, GemmLaw] = {}
    for dtype in dtypes:
        exponents = EXPONENTS if not laws else (laws[dtypes[0]].exponent,)  # one per GPU
        items = measured_items(record, "gemm", dtype=dtype)
        if laws and len(items) < 6:
            continue
        laws[dtype] = gemm_law(items, exponents)
    main = laws[dtypes[0]]
    attention = attention_law(
        measured_items(record, "attention_prefill", dtype=dtypes[0]),
        measured_items(record, "attention_decode", dtype=dtypes[0]),
        main,
    )
    copies = measured_items(record, "copy")
    copy = max((item["work"]["bytes"] / item["median_s"] for item in copies), default=main.bytes_per_s)
    known = _bundled(record)
    fields = {} if known is not None else _cpu_fields(record, laws, copy)
    peaks = {dtype: law.flops_per_s for dtype, law in laws.items()}
    bandwidth = max(copy, *(law.bytes_per_s for law in laws.values()))
    if known is not None:
        peaks = {dtype: known.peak_flops_per_s(dtype) for dtype in laws}
        bandwidth = known.hbm_bandwidth_bytes_per_s
    floor = next((item["median_s"] for item in measured_items(record, "kernel_floor")), 0.0)
    wide = peaks[dtypes[0]]
    gemm: dict[str, Any] = {
        dtype: {
            "flops_efficiency": min(1.0, law.flops_per_s / peaks[dtype]),
            "half_m": law.half_m,
            "memory_efficiency": min(1.0, law.bytes_per_s / bandwidth),
            "floor_us": law.floor_s * 1e6,
            "residual": law.residual,
        }
        for dtype, law in laws.items()
    }
    fields["efficiency"] = {
        "name": f"measured: {record['environment']['device']['name']}",
        "knee_exponent": main.exponent,
        "gemm": {"default": gemm[dtypes[0]]} | gemm,
        "attention": {
            "prefill_flops_efficiency": min(1.0, attention.flops_per_s / wide),
            "prefill_half_len": attention.half_len,
            "decode_memory_efficiency": min(1.0, attention.bytes_per_s / bandwidth),
            "floor_us": attention.floor_s * 1e6,
        },
        "elementwise": {"memory_efficiency": min(1.0, copy / bandwidth), "floor_us": floor * 1e6},
        "evidence": "measured",
        "source": SOURCE,
    }
    if known is None:
        fields["efficiency"]["collective"] = TEXTBOOK.collective.model_dump(mode="json")
    return fields


def _cpu_fields(record: Record, laws: dict[str, GemmLaw], copy: float) -> dict[str, Any]:
    """A CPU as an accelerator: its peaks are what its products reach."""
    environment = record["environment"]
    memory_gib = environment["memory"]["total_bytes"] / GIB
    return {
        "name": machine_name(environment),
        "peak_tflops": {dtype: law.flops_per_s / 1e12 for dtype, law in laws.items()},
        "memory_gib": memory_gib,
        "usable_memory_gib": memory_gib * 0.95,
        "hbm_bandwidth_gb_per_s": max(copy, *(law.bytes_per_s for law in laws.values())) / GB,
        "pcie_gb_per_s": LARGEST_QUANTITY,  # shard and gathered parameter are the same memory: no link limits
        "source": SOURCE,
    }


def machine_name(environment: dict[str, Any]) -> str:
    """The name of a run's device as a GPU spec; a CPU's is that of `calibrate.probe.local_machine`."""
    if environment["device"]["kind"] == "cuda":
        known = _known(environment)
        return environment["device"]["name"] if known is None else known.name
    return f"this CPU ({environment['cpu']['name']}, {environment['cpu']['usable_cores']} cores)"


def _known(environment: dict[str, Any]) -> GPUConfig | None:
    from calibrate.probe.local_machine import known_gpu

    device = environment["device"]
    found = known_gpu(device["name"], device["memory_bytes"] / GIB)
    return None if found is None else get_gpu_config_by_name(found.name)


def _bundled(record: Record) -> GPUConfig | None:
    """The bundled spec of a CUDA device; None for a CPU.

    Raises:
        SpecError: a GPU that is not bundled, so that its peaks are not known.
    """
    if record["device"] != "cuda":
        return None
    known = _known(record["environment"])
    if known is None:
        name = record["environment"]["device"]["name"]
        raise SpecError(f"microbenchmarks: GPU {name!r} is not a bundled one; write a file for it first")
    return known


def host_fields(record: Record) -> dict[str, Any]:
    """Fields of a HostConfig: copies and disk as measured; a CPU's whole host."""
    disk = _disk_fields(record)
    fields: dict[str, Any] = {"disk": disk} if disk else {}
    reads = [item["work"]["bytes"] / item["median_s"] for item in measured_items(record, "host_read")]
    if reads:  # what products on the CPU read at most, under any system that computes there
        fields["read_gb_per_s"] = max(reads) / GB
    if record["device"] == "cuda":
        rates = _copy_rates(record)
        fields |= {path: rate for path, rate in rates.items() if path.startswith("pinned")}
        fields["copies"] = {f"zero_inference.{path}": rate for path, rate in rates.items()}
        if "pageable_h2d" in rates:  # the driver's own copy, which is what Accelerate waits for
            fields["copies"]["accelerate.mmap_h2d"] = rates["pageable_h2d"]
        return fields
    memory_gib = record["environment"]["memory"]["total_bytes"] / GIB
    free = _rate(LARGEST_QUANTITY * GB) | {
        "source": "on a CPU shard and gathered parameter are the same memory"
    }
    copies = {f"zero_inference.{path}": free for path in ("pinned_h2d", "pageable_h2d")}
    copy = measured_items(record, "copy")
    half = copy[0]["work"]["bytes"] / copy[0]["median_s"] / 2 if copy else GB
    copies |= {f"zero_inference.{path}": _rate(half) for path in ("pinned_d2h", "pageable_d2h")}
    return fields | {
        "name": "this machine",
        "memory_gib": memory_gib,
        "usable_memory_gib": memory_gib * 0.95,
        "cpu": record["environment"]["cpu"]["name"],
        "pcie_gb_per_s": LARGEST_QUANTITY,
        "copies": copies,
        "gpus_per_node": 1,
        "source": SOURCE,
    }


def _copy_rates(record: Record) -> dict[str, dict[str, Any]]:
    """Copies by path: the rate of the largest with a table by size, so that a prediction knows what small ones lose."""
    by_path: dict[str, dict[float, float]] = {}
    for item in measured_items(record, "transfer"):
        settings = item["settings"]
        if settings["direction"] != "both":
            path = f"{'pinned' if settings['pinned'] else 'pageable'}_{settings['direction']}"
            by_path.setdefault(path, {})[item["work"]["bytes"]] = item["work"]["bytes"] / item["median_s"]
    found = {}
    for path, rates in by_path.items():
        sizes = sorted(rates)
        found[path] = _rate(rates[sizes[-1]])
        if len(sizes) > 1:
            found[path]["by_size"] = [{"bytes": size, "gb_per_s": rates[size] / GB} for size in sizes]
    return found


def _disk_fields(record: Record) -> dict[str, Any] | None:
    rates: dict[str, float] = {}
    for item in measured_items(record, "disk"):
        if item["settings"].get("direct") is False:
            continue  # through the page cache: the rate of memory, not of a disk
        path = f"direct_{item['settings']['direction']}"
        rates[path] = max(rates.get(path, 0.0), item["work"]["bytes"] / item["median_s"])
    if "direct_read" not in rates:
        return None
    size = {"capacity_gib": record["environment"]["disk"]["total_bytes"] / GIB}
    stated = {"stated_read_gb_per_s": rates["direct_read"] / GB} if record["device"] == "cpu" else {}
    return (size if stated else {}) | stated | {path: _rate(rate) for path, rate in rates.items()}


def _rate(bytes_per_s: float) -> dict[str, Any]:
    return {"gb_per_s": min(bytes_per_s / GB, LARGEST_QUANTITY), "provenance": "measured", "source": SOURCE}


def system_constants(record: Record) -> dict[str, dict[str, float]]:
    """Constants of the systems that microbenchmarks know: facts of today's libraries, framework times, unpacking."""
    vectors = load_constants("resident").value("elementwise_hidden_vectors")
    today = {"unfused_attention": 0.0, "logits_all_positions": 0.0, "kv_passes": 1.0}
    today["elementwise_hidden_vectors"] = vectors
    plain, streamed = dict(today), dict(today)
    on_cpu = record["device"] == "cpu"
    if on_cpu:
        # Calls return when the work is done: no launches that run ahead, no device that waits for its memory manager.
        plain |= {"kernels_per_layer": 0.0, "launch_us": 0.0, "overlap_exponent": 1.0}
        streamed |= {"kernels_per_layer": 0.0, "host_reserve_gib": 0.0}
        for constants in (plain, streamed):
            constants["process_reserve_gib"] = 0.0
    for item in record["items"]:
        if item["kind"] != "layer":
            continue
        if item["settings"]["system"] == "transformers":
            launches = 0.0 if on_cpu else _launch_s(record) * (_KERNELS_PER_LAYER + 5)
            plain["python_us_per_layer"] = max(0.0, item["per_layer_s"] - launches) * 1e6
            plain["step_ms"] = item["per_pass_s"] * 1e3
        else:
            streamed["layer_overhead_ms"] = item["per_layer_s"] * 1e3
            streamed["pass_overhead_ms"] = item["per_pass_s"] * 1e3
    if not on_cpu:
        plain |= {"kernels_per_layer": _KERNELS_PER_LAYER, "launch_us": _launch_s(record) * 1e6}
    unpack = measured_items(record, "dequantise", bits=4)
    if unpack:
        largest = max(unpack, key=lambda item: item["work"]["weights"])
        moved = largest["median_s"] / largest["work"]["weights"] * _elementwise_bytes_per_s(record)
        streamed["unpack_bytes_per_weight"] = moved
    return {"resident": plain, "transformers": _modules_of_today() | plain, "zero_inference": streamed}


def _modules_of_today() -> dict[str, float]:
    """What the system transformers of 2022 has other than a plain stack, set back: its attention is fused by now."""
    plain, eager = load_constants("resident"), load_constants("transformers")
    return {
        name: plain.value(name)
        for name, constant in eager.constants.items()
        if name in plain.constants and constant.value != plain.value(name)
    }


_KERNELS_PER_LAYER = 25.0
"""Of transformers in eager mode, as llm_perf/systems/stacks/transformers/4.20.yaml counts them."""


def _launch_s(record: Record) -> float:
    found = measured_items(record, "launch")
    return float(found[0]["median_s"]) if found else 0.0


def _elementwise_bytes_per_s(record: Record) -> float:
    fields = gpu_fields(record)
    known = _bundled(record)
    bandwidth = fields["hbm_bandwidth_gb_per_s"] * GB if known is None else known.hbm_bandwidth_bytes_per_s
    return float(bandwidth * fields["efficiency"]["elementwise"]["memory_efficiency"])
