"""The machine and the software of a run, recorded with its result."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from calibrate.probe.usage import device_uuid
from llm_perf import __version__

_PACKAGES = ("torch", "deepspeed", "transformers", "accelerate", "numpy")
_NVIDIA_FIELDS = (
    "name", "driver_version", "memory.total", "clocks.max.sm", "clocks.max.mem", "clocks.sm", "clocks.mem",
    "pcie.link.gen.max", "pcie.link.gen.current", "pcie.link.width.max", "pcie.link.width.current", "power.limit",
)  # fmt: skip


def describe_environment(device: Any, dtype: str, offload_dir: Path) -> dict[str, Any]:
    """Device, driver, clocks, link, CPU, memory, disk, versions, git revision, settings that change times."""
    import torch

    about = describe_machine(torch.get_num_threads(), offload_dir)
    device_facts = _cuda(device) if device.kind == "cuda" else {"name": cpu_name()}
    return {"device": {"kind": device.kind, **device_facts}, "dtype": dtype} | about


def describe_machine(threads: int, folder: Path) -> dict[str, Any]:
    """CPU, memory, disk, versions, git revision, settings that change times.

    Args:
        threads: That the run uses.
        folder: Whose disk it uses.
    """
    return {
        "cpu": {
            "name": cpu_name(),
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "threads": threads,
            "frequency_mhz": cpu_mhz(),
        },
        "memory": memory_bytes(),
        "disk": {**disk_bytes(folder), **disk_device(folder)},
        "versions": {"llm_perf": __version__, "python": platform.python_version(), **package_versions()},
        "system": {"platform": platform.platform(), "machine": platform.machine()},
        "git_revision": git_revision(),
        "settings": {
            name: os.environ.get(name)
            for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PYTORCH_CUDA_ALLOC_CONF", "DS_ACCELERATOR")
        },
    }


def package_versions() -> dict[str, str | None]:
    """Versions of what a run depends on."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_mhz() -> dict[str, float] | None:
    """Current and largest clock of the processor, where the system tells."""
    import psutil

    with contextlib.suppress(Exception):
        found = psutil.cpu_freq()
        return None if found is None else {"current": found.current, "max": found.max}
    return None


def usable_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def memory_bytes() -> dict[str, int]:
    """Installed and free memory of the host, within the limit of this process's control group."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    limit = _group_limit()
    if limit is not None and limit < total:
        total, available = limit, min(available, max(0, limit - _group_usage()))
    return {"total_bytes": total, "available_bytes": available}


def _group_limit() -> int | None:
    return _group_number("memory.max")


def _group_usage() -> int:
    return _group_number("memory.current") or 0


def _group_number(name: str) -> int | None:
    with contextlib.suppress(OSError):
        text = (Path("/sys/fs/cgroup") / name).read_text("ascii").strip()
        return int(text) if text.isdigit() else None
    return None


def disk_bytes(folder: Path) -> dict[str, int]:
    """Size and free bytes of the disk that a folder is, or will be, on."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    usage = shutil.disk_usage(existing)
    return {"total_bytes": usage.total, "free_bytes": usage.free}


def disk_device(folder: Path) -> dict[str, str | None]:
    """Device and file system that a folder is, or will be, on."""
    import psutil

    real = folder.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if real.is_relative_to(part.mountpoint)]
    if not mounts:
        return {"device": None, "filesystem": None}
    nearest = max(mounts, key=lambda part: len(part.mountpoint))
    return {"device": nearest.device, "filesystem": nearest.fstype}


def git_revision() -> str | None:
    """Revision of the checkout that this file is in, with "+" where it was changed; None outside of one."""
    here = Path(__file__).resolve().parent
    revision = _run("git", "-C", str(here), "rev-parse", "HEAD")
    if revision is None:
        return None
    return revision + ("+" if _run("git", "-C", str(here), "status", "--porcelain", "-uno") else "")


def _cuda(device: Any) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device.index)
    found: dict[str, Any] = {
        "name": properties.name,
        "memory_bytes": int(properties.total_memory),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }
    text = nvidia_smi(*_NVIDIA_FIELDS, device=device_uuid(device))
    if text:
        found["nvidia_smi"] = dict(
            zip(_NVIDIA_FIELDS, (part.strip() for part in text.split(",")), strict=False)
        )
    return found


def nvidia_smi(*fields: str, device: str | None = None) -> str | None:
    """What the driver's program says of a device, or of each, comma-separated; None where there is none."""
    which = () if device is None else ("-i", device)
    return _run("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", *which)


def _run(*command: str) -> str | None:
    """Output of a program, or None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
