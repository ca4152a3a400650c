"""What a run used: memory of device and host, bytes read from disk, energy, and signs that others were at work."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

DISTURBED_CORES = 0.15
"""Cores that others may use during a repeat before it counts as disturbed (tools and findings of the calibration study)."""


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far, bytes."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """Resident memory of this process now, bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)


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

    def __init__(self, energy: EnergyMeter) -> None:
        self.found: dict[str, Any] = {}
        self._energy = energy

    def __enter__(self) -> Repeat:
        self._start = _counters()
        self._joules = self._energy.joules()
        return self

    def __exit__(self, *_exc: object) -> None:
        end, start = _counters(), self._start
        wall = end["wall_s"] - start["wall_s"]
        own = end["own_cpu_s"] - start["own_cpu_s"]
        others = None
        if end["machine_busy_s"] is not None and start["machine_busy_s"] is not None and wall > 0:
            # The machine's clock ticks every 10 ms: a short repeat may seem to have done more than the machine.
            others = max(0.0, (end["machine_busy_s"] - start["machine_busy_s"] - own) / wall)
        joules = self._energy.joules()
        self.found = {
            "wall_s": wall,
            "own_cpu_s": own,
            "others_cores": others,
            "disturbed": others is not None and wall > 0.1 and others > DISTURBED_CORES,
            "involuntary_switches": end["switches"] - start["switches"],
            "major_page_faults": end["faults"] - start["faults"],
            "disk_read_bytes": None if end["read"] is None else end["read"] - start["read"],
            "energy_j": None if joules is None or self._joules is None else joules - self._joules,
        }


def _counters() -> dict[str, Any]:
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_s": time.perf_counter(),
        "own_cpu_s": usage.ru_utime + usage.ru_stime,
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


class EnergyMeter:
    """Joules of one NVIDIA device since its driver was loaded, through NVML; no figure where there is none."""

    def __init__(self, device: Any) -> None:
        self._handle: Any = None
        if device.kind != "cuda":
            return
        with contextlib.suppress(Exception):
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(device.index)

    def joules(self) -> float | None:
        """Energy so far."""
        if self._handle is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except Exception:  # noqa: BLE001 - not every board counts energy
            return None
