"""What a run used: memory of device and host, bytes read from disk, energy, and signs that others were at work."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

DISTURBED_CORES = 0.15
"""Cores that others may use during a repeat before it counts as disturbed (tools and findings of the calibration study)."""


def reset_peak_rss() -> None:
    """Begin counting the peak of the resident memory anew, where the system can (Linux).

    What probes and writing a checkpoint took belongs to no run.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_rss_bytes() -> int:
    """Largest resident memory of this process since ``reset_peak_rss``, or ever where that has no effect; bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """Resident memory of this process now, bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def release_unused(device: Any) -> None:
    """Give memory that probes have used back to the device: else the allocator's reserve would count as the run's."""
    import gc

    from calibrate.probe.process import give_memory_back

    gc.collect()
    give_memory_back()
    if device.kind == "cuda":
        import torch

        torch.cuda.empty_cache()


def reset_peak_memory(device: Any) -> None:
    """Begin counting the device's peak memory anew."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().reset_peak_memory_stats(device.index if device.kind == "cuda" else None)


def peak_memory(device: Any) -> dict[str, int | None]:
    """Peak bytes of the device's allocator. On a CPU the accelerator reports this process's resident memory."""
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    if device.kind == "cuda":
        return {
            "allocated_bytes": int(accelerator.max_memory_allocated(device.index)),
            "reserved_bytes": int(accelerator.max_memory_reserved(device.index)),
        }
    return {"allocated_bytes": int(accelerator.max_memory_allocated()), "reserved_bytes": None}


def disk_read_bytes() -> int | None:
    """Bytes that this process really read from block devices so far; None where the system does not count them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/io").read_text("ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "read_bytes":
                return int(value)
    return None


def folder_bytes(folder: Path) -> int:
    """Bytes of the files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Repeat:
    """Everything about one timed repeat but its latencies. Use it as a context manager.

    Attributes:
        found: JSON-ready figures, filled at the end.
    """

    def __init__(self, meter: DeviceMeter) -> None:
        self.found: dict[str, Any] = {}
        self._meter = meter

    def __enter__(self) -> Repeat:
        self._start = _counters()
        self._joules = self._meter.joules()
        return self

    def __exit__(self, *_exc: object) -> None:
        end, start = _counters(), self._start
        wall = end["wall_s"] - start["wall_s"]
        own = end["own_cpu_s"] - start["own_cpu_s"]
        others = None
        if end["machine_busy_s"] is not None and start["machine_busy_s"] is not None and wall > 0:
            # The machine's clock ticks every 10 ms: a short repeat may seem to have done more than the machine.
            others = max(0.0, (end["machine_busy_s"] - start["machine_busy_s"] - own) / wall)
        joules = self._meter.joules()
        self.found = {
            "wall_s": wall,
            "own_cpu_s": own,
            "others_cores": others,
            "disturbed": others is not None and wall > 0.1 and others > DISTURBED_CORES,
            "involuntary_switches": end["switches"] - start["switches"],
            "major_page_faults": end["faults"] - start["faults"],
            "disk_read_bytes": None if end["read"] is None else end["read"] - start["read"],
            "energy_j": None if joules is None or self._joules is None else joules - self._joules,
            "device_state": self._meter.state(),
        }


def _counters() -> dict[str, Any]:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    # Programs that this process has started and seen to their end are not others.
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "wall_s": time.perf_counter(),
        "own_cpu_s": usage.ru_utime + usage.ru_stime + ended.ru_utime + ended.ru_stime,
        "machine_busy_s": _machine_busy_s(),
        "switches": usage.ru_nivcsw,
        "faults": usage.ru_majflt,
        "read": disk_read_bytes(),
    }


def _machine_busy_s() -> float | None:
    """Seconds that all cores of the machine together have been busy."""
    try:
        fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[1:]
        user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in fields[:7])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


class DeviceMeter:
    """Energy and clocks of one NVIDIA device through NVML; no figures where there is none."""

    def __init__(self, device: Any) -> None:
        self._handle: Any = None
        if device.kind != "cuda":
            return
        with contextlib.suppress(Exception):
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            # By its own name: NVML counts all devices of the machine, torch those that CUDA_VISIBLE_DEVICES leaves.
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(device_uuid(device))

    def joules(self) -> float | None:
        """Energy since the driver was loaded."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def state(self) -> dict[str, float | None] | None:
        """Clocks and link as they are at this moment: asked for behind a repeat, before the device calms down."""
        if self._handle is None:
            return None
        return {
            "sm_clock_mhz": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            "memory_clock_mhz": self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            "pcie_generation": self._ask("nvmlDeviceGetCurrPcieLinkGeneration"),
            "pcie_width": self._ask("nvmlDeviceGetCurrPcieLinkWidth"),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
        }

    def _ask(self, function: str, *arguments: Any) -> float | None:
        if self._handle is None:
            return None
        try:
            return float(getattr(self._nvml, function)(self._handle, *arguments))
        except Exception:  # noqa: BLE001 - not every board tells everything
            return None


def device_uuid(device: Any) -> str:
    """A CUDA device's name that does not depend on which devices are visible: "GPU-" and its number."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device.index).uuid}"
