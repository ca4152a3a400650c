"""The machine at hand as specs: a bundled GPU by its name, or rates measured on the spot; the host always measured.

Once per process, in about two seconds: matrix products with many rows and with one, copies, attention, and where asked
for the disk. The operations are those of `calibrate.probe.suite`, which times more sizes of them for a minute; here a few
repeats have to do. Rates are of one process with the threads that the run has.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from calibrate.probe import attention, dequantise, gemm, memory, transfer
from calibrate.probe.clock import now
from calibrate.probe.devices import Device
from calibrate.probe.environment import cpu_name, disk_bytes, memory_bytes, usable_cores
from calibrate.probe.sampler import Call
from calibrate.probe.tensors import BYTES, torch_dtype
from llm_perf.config.base import GB, GIB, LARGEST_QUANTITY
from llm_perf.config.gpu import (
    TEXTBOOK,
    AttentionEfficiency,
    ElementwiseEfficiency,
    GemmEfficiency,
    GPUConfig,
    GPUEfficiency,
    Link,
)
from llm_perf.config.host import Disk, HostConfig, Rate
from llm_perf.config.loading import get_gpu_config_by_name, known_names, resolve_name
from llm_perf.config.names import normalise
from llm_perf.errors import EnvironmentFailure, SpecError

_SOURCE = "measured on this machine before the run"
_DISK_PROBE_BYTES = 64 << 20
_SMALLEST_PROBE_BYTES = 1 << 20
_CPU = Device("cpu", 0)


@dataclass(frozen=True, slots=True)
class LocalMachine:
    """Specs of this machine and the figures that they are made of, for the record."""

    gpu: GPUConfig
    host: HostConfig
    figures: dict[str, Any] = field(default_factory=dict)


def describe_local_machine(
    device: Any, dtype: str, ranks_here: int, offload_dir: Path, disk: bool
) -> LocalMachine:
    """Measure this machine.

    Args:
        device: The run's device.
        dtype: The number format of the run.
        ranks_here: Processes that share the machine.
        offload_dir: Folder whose disk is measured.
        disk: Whether the run reads from it.
    """
    if device.kind == "cuda":
        gpu, figures = _cuda_gpu(device, dtype)
    else:
        gpu, figures = _cpu_as_gpu(dtype, ranks_here)
    rates = _copy_rates(device)
    figures |= {f"{name}_gb_per_s": rate / GB for name, rate in rates.items()}
    host = _host(device, rates, ranks_here, offload_dir, disk, figures)
    return LocalMachine(gpu, host, figures)


def with_gather_rate(machine: LocalMachine, bytes_per_s: float) -> LocalMachine:
    """The machine with the measured rate at which its ranks gather tensors from one another."""
    link = Link(name="measured all-gather", gb_per_s_per_direction=bytes_per_s / GB, topology="switch")
    gpu = machine.gpu.replace(link=link)
    return LocalMachine(gpu, machine.host, machine.figures | {"all_gather_gb_per_s": bytes_per_s / GB})


# -- the CPU as an accelerator ------------------------------------------------------------------------------


def _cpu_as_gpu(dtype: str, ranks_here: int) -> tuple[GPUConfig, dict[str, Any]]:
    """A CPU as a GPUConfig: what its products, copies and attention reach, efficiencies relative to the best."""
    fitted = _gemm_law(dtype)
    copy = _copy_bytes_per_s()
    bandwidth = max(2 * copy, fitted.bytes_per_s)  # a copy reads and writes
    attended = _attention_rates(dtype)
    held = memory_bytes()
    efficiency = GPUEfficiency(
        name="measured CPU",
        knee_exponent=1.0,  # the library packs weights before it multiplies: one after the other, not overlapped
        gemm={
            "default": GemmEfficiency(
                flops_efficiency=1.0,
                memory_efficiency=min(1.0, fitted.bytes_per_s / bandwidth),
                floor_us=fitted.floor_s * 1e6,
            )
        },
        attention=AttentionEfficiency(
            prefill_flops_efficiency=min(1.0, attended["prefill_flops_per_s"] / fitted.flops_per_s),
            decode_memory_efficiency=min(1.0, attended["decode_bytes_per_s"] / bandwidth),
        ),
        elementwise=ElementwiseEfficiency(memory_efficiency=min(1.0, 2 * copy / bandwidth)),
        collective=TEXTBOOK.collective,
        evidence="measured",
        source=_SOURCE,
    )
    total_gib = held["total_bytes"] / GIB / ranks_here
    gpu = GPUConfig(
        name=f"this CPU ({cpu_name()}, {usable_cores()} cores)",
        peak_tflops=_peak(dtype, fitted.flops_per_s),
        memory_gib=total_gib,
        usable_memory_gib=min(total_gib, max(held["available_bytes"] / GIB / ranks_here, 1e-3)),
        hbm_bandwidth_gb_per_s=bandwidth / GB,
        # One rank's shard is its parameter, so that nothing is copied and no link limits it; see _host.
        pcie_gb_per_s=LARGEST_QUANTITY,
        efficiency=efficiency,
        source=_SOURCE,
    )
    figures = {
        "gemm_flops_per_s": fitted.flops_per_s,
        "gemm_bytes_per_s": fitted.bytes_per_s,
        "gemm_floor_s": fitted.floor_s,
        "copy_bytes_per_s": copy,
        **{f"attention_{name}": value for name, value in attended.items()},
    }
    return gpu, figures


def _peak(dtype: str, flops_per_s: float) -> dict[Any, float]:
    return {dtype: flops_per_s / 1e12}


@dataclass(frozen=True, slots=True)
class _GemmLaw:
    """t = floor + 2 M K N / flops_per_s + weight bytes / bytes_per_s."""

    flops_per_s: float
    bytes_per_s: float
    floor_s: float


@lru_cache
def _gemm_law(dtype: str) -> _GemmLaw:
    """The law through three points: a tiny product, one row, and 256 rows. Weights come from memory, not from a cache."""
    import torch

    size, rows = 2048, 256
    small = torch.randn(8, 8).to(torch_dtype(dtype))
    floor = _quiet_s(lambda _turn: torch.mm(small, small), 50)
    one = _quiet_s(gemm.prepare(_CPU, dtype, 1, size, size), 24)
    many = _quiet_s(gemm.prepare(_CPU, dtype, rows, size, size), 12)
    flops = 2.0 * size * size
    # Two equations, many and one row, in arithmetic per row and in the pass over the weights.
    per_row = max((many - one) / (rows - 1), flops / 1e16)
    weights_s = max(one - floor - per_row, 0.05 * one)
    return _GemmLaw(flops / per_row, size * size * BYTES[dtype] / weights_s, floor)


@lru_cache
def _attention_rates(dtype: str) -> dict[str, float]:
    heads, width, length = 12, 64, 512
    prefill = _quiet_s(attention.prepare(_CPU, dtype, 1, heads, width, length, length), 5)
    decode = _quiet_s(attention.prepare(_CPU, dtype, 1, heads, width, length, 1), 20)
    return {
        # Scores and weighted sum, over the lower triangle only.
        "prefill_flops_per_s": 2.0 * heads * length * length * width / prefill,
        "decode_bytes_per_s": 2.0 * heads * length * width * BYTES[dtype] / decode,
    }


@lru_cache
def _copy_bytes_per_s(size: int = 128 << 20) -> float:
    return size / _quiet_s(memory.prepare(_CPU, size), 5)


@lru_cache
def dequantisation_s_per_weight(bits: int, group_size: int, dtype: str) -> float:
    """Seconds to unpack one quantised weight on this CPU, by DeepSpeed's own code."""
    size = 2048
    width = max(group_size, size // group_size * group_size)
    return _quiet_s(dequantise.prepare(_CPU, dtype, bits, group_size, size, width), 5) / (size * width)


# -- CUDA -----------------------------------------------------------------------------------------------------


def _cuda_gpu(device: Any, dtype: str) -> tuple[GPUConfig, dict[str, Any]]:
    """The bundled GPU of this name with the memory that is really free; one made of measured rates if none matches."""
    import torch

    properties = torch.cuda.get_device_properties(device.index)
    free, total = torch.cuda.mem_get_info(device.index)
    known = known_gpu(properties.name, total / GIB)
    if known is not None:
        usable = min(known.memory_gib, free / GIB)
        return known.replace(usable_memory_gib=usable), {
            "gpu_spec": known.name,
            "free_gpu_memory_bytes": free,
        }
    flops, copy = _cuda_rates(device, dtype)
    gpu = GPUConfig(
        name=properties.name,
        peak_tflops=_peak(dtype, flops),
        memory_gib=total / GIB,
        usable_memory_gib=free / GIB,
        hbm_bandwidth_gb_per_s=2 * copy / GB,
        pcie_gb_per_s=_copy_rates(device)["pinned_h2d"] / GB,
        sm_count=properties.multi_processor_count,
        source=_SOURCE,
    )
    return gpu, {
        "gpu_spec": None,
        "gemm_flops_per_s": flops,
        "copy_bytes_per_s": copy,
        "free_gpu_memory_bytes": free,
    }


def known_gpu(name: str, memory_gib: float) -> GPUConfig | None:
    """The bundled GPU that a driver's name means ("NVIDIA H200", "Tesla T4", "NVIDIA A100-SXM4-80GB"), if any.

    Args:
        name: As the driver gives it.
        memory_gib: Total memory, which tells variants of one chip apart.
    """
    plain = (
        name.replace("NVIDIA", "").replace("Tesla", "").replace("GeForce", "").replace("SXM4", "SXM").strip()
    )
    with contextlib.suppress(SpecError):
        return get_gpu_config_by_name(resolve_name("GPU", plain))
    words = plain.lower().replace("-", " ").split()
    candidates = [
        get_gpu_config_by_name(stem) for stem in known_names("GPU") if stem.split("-")[0] == words[0]
    ]
    near = [gpu for gpu in candidates if abs(gpu.memory_gib - memory_gib) < 0.1 * gpu.memory_gib]
    if not near:
        return None

    def likeness(gpu: GPUConfig) -> tuple[int, bool]:
        parts = normalise(gpu.name).split("-")
        # A board that says no more than its chip is the SXM one: PCIe boards say so.
        return sum(word in parts for word in words), "sxm" in parts

    return max(near, key=likeness)


def _cuda_rates(device: Any, dtype: str) -> tuple[float, float]:
    """(FLOP/s of a large product, bytes/s of a copy) on an unknown GPU."""
    size, copied = 8192, 1 << 30
    product_s = _quiet_s(gemm.prepare(device, dtype, size, size, size), 10, device.synchronize)
    copy_s = _quiet_s(memory.prepare(device, copied), 10, device.synchronize)
    return 2.0 * size**3 / product_s, copied / copy_s


# -- the host -------------------------------------------------------------------------------------------------


def _copy_rates(device: Any) -> dict[str, float]:
    """Bytes/s of the copies between host and device, by the names of HostConfig."""
    if device.kind == "cpu":
        return {}
    size = 256 << 20
    return {
        f"{'pinned' if pinned else 'pageable'}_{way}": size
        / _quiet_s(transfer.one_way(device, size, pinned, way)(), 5, device.synchronize)
        for pinned in (True, False)
        for way in ("h2d", "d2h")
    }


def _host(
    device: Any,
    rates: dict[str, float],
    ranks_here: int,
    offload_dir: Path,
    disk: bool,
    figures: dict[str, Any],
) -> HostConfig:
    held = memory_bytes()
    total_gib = held["total_bytes"] / GIB
    copies = {f"zero_inference.{name}": _measured(rate) for name, rate in rates.items()}
    if device.kind == "cpu":
        free = Rate(
            gb_per_s=LARGEST_QUANTITY,
            provenance="measured",
            source="on a CPU a rank's shard and the gathered parameter are in the same memory: no host-to-device copy",
        )
        for path in ("pinned_h2d", "pageable_h2d"):
            copies[f"zero_inference.{path}"] = free
        copy = figures["copy_bytes_per_s"]
        for path in ("pinned_d2h", "pageable_d2h"):
            copies[f"zero_inference.{path}"] = _measured(copy)
        # Fetched from the cache's buffer, joined with the new token, then attended to.
        seconds_per_byte = 2 / copy + 1 / figures["attention_decode_bytes_per_s"]
        copies["zero_inference.cpu_attention_kv"] = _measured(1 / seconds_per_byte)
    return HostConfig(
        name="this machine",
        memory_gib=total_gib,
        usable_memory_gib=min(total_gib, max(held["available_bytes"] / GIB, 1e-3)),
        cpu=cpu_name(),
        pcie_gb_per_s=max(rates.values()) / GB if rates else LARGEST_QUANTITY,
        copies=copies,
        disk=_disk(offload_dir, disk, figures),
        gpus_per_node=ranks_here,
        source=_SOURCE,
    )


def _measured(bytes_per_s: float) -> Rate:
    return Rate(gb_per_s=bytes_per_s / GB, provenance="measured", source=_SOURCE)


def _disk(folder: Path, measure: bool, figures: dict[str, Any]) -> Disk:
    free = max(disk_bytes(folder)["free_bytes"], 1)
    if not measure:
        return Disk(capacity_gib=free / GIB, stated_read_gb_per_s=1.0)  # not read from in this run
    try:
        read, write, direct = disk_rates(
            folder, min(_DISK_PROBE_BYTES, max(_SMALLEST_PROBE_BYTES, free // 4))
        )
    except OSError as error:
        raise EnvironmentFailure(
            f"--offload-dir {folder}: its disk cannot be measured: {error.strerror or error}"
        ) from None
    figures |= {"disk_read_bytes_per_s": read, "disk_write_bytes_per_s": write, "disk_direct": direct}
    return Disk(
        capacity_gib=free / GIB,
        stated_read_gb_per_s=read / GB,
        direct_read=_measured(read),
        direct_write=_measured(write),
    )


def disk_rates(folder: Path, size: int = _DISK_PROBE_BYTES) -> tuple[float, float, bool]:
    """(read bytes/s, write bytes/s, whether past the page cache) of a folder's disk, by a file of ``size`` bytes."""
    probe = folder / f".llm-perf-disk-probe-{os.getpid()}"
    block = 1 << 20
    buffer = mmap.mmap(-1, block)  # page-aligned, as direct I/O wants it
    buffer.write(os.urandom(block))
    direct = getattr(os, "O_DIRECT", 0)
    try:
        try:
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | direct, 0o600)
        except OSError:  # tmpfs and some network file systems know no direct I/O
            direct = 0
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            start = time.perf_counter()
            for _ in range(size // block):
                os.write(descriptor, buffer)
            os.fsync(descriptor)
            written = time.perf_counter() - start
        finally:
            os.close(descriptor)
        descriptor = os.open(probe, os.O_RDONLY | direct)
        try:
            start = time.perf_counter()
            while os.readv(descriptor, [buffer]):
                pass
            read = time.perf_counter() - start
        finally:
            os.close(descriptor)
    finally:
        probe.unlink(missing_ok=True)
        buffer.close()
    return size / read, size / written, bool(direct)


def _quiet_s(call: Call, repeats: int, sync: Callable[[], object] | None = None) -> float:
    """Seconds of a call that is told its turn, where nobody disturbs it: the lower quartile. Two calls before do not count.

    Other processes only ever add time, up to forty-fold, so that a median says more of them than of this machine.
    """
    seconds = []
    for turn in range(-2, repeats):
        if sync is not None:
            sync()
        start = now()
        call(turn)
        if sync is not None:
            sync()
        if turn >= 0:
            seconds.append(now() - start)
    return sorted(seconds)[len(seconds) // 4]
