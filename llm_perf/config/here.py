"""What this machine is: its GPU as a driver names it, its processor as /proc/cpuinfo does. Nothing is measured."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_perf.errors import SpecError

_SECONDS = 10
"""A driver's tool that takes longer is stuck."""

_FLAGS = {
    "avx": "avx", "avx2": "avx2", "avx512f": "avx512", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16",
    "avx_vnni": "avx_vnni", "amx_bf16": "amx_bf16", "amx_int8": "amx_int8", "amx_fp16": "amx_fp16", "asimd": "neon",
    "sve2": "sve2", "i8mm": "i8mm", "sme": "sme",
}  # fmt: skip
"""Flags of /proc/cpuinfo and what `llm_perf.config.host.InstructionSet` calls them."""

_MIB_PER_GIB = 1024


def _output(command: tuple[str, ...]) -> str:
    """What a program prints; empty where it is absent or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def driver_gpus(output: Callable[[tuple[str, ...]], str] = _output) -> list[tuple[str, float | None]]:
    """Name and total memory in GiB of each GPU, as nvidia-smi, rocm-smi or macOS gives them; empty where there is none.

    Args:
        output: Runs a command and returns what it prints.
    """
    query = output(("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"))
    rows = [line.rpartition(",") for line in query.splitlines() if "," in line]
    if rows:
        return [(name.strip(), _number(size, _MIB_PER_GIB)) for name, _, size in rows]
    return _amd(output(("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"))) or _apple(
        output
    )


def _number(text: str, per_gib: float) -> float | None:
    """GiB of a number as text; None where it is none ("[N/A]" on boards that share memory)."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*", text)
    return float(found[1]) / per_gib if found else None


def _amd(text: str) -> list[tuple[str, float | None]]:
    try:
        cards = json.loads(text or "{}")
    except ValueError:
        return []
    found = []
    for card in cards.values() if isinstance(cards, dict) else ():
        fields = (
            {str(key).lower(): str(value) for key, value in card.items()} if isinstance(card, dict) else {}
        )
        name = fields.get("card series") or fields.get("card model")
        if name:
            found.append((name, _number(fields.get("vram total memory (b)", ""), 2**30)))
    return found


def _apple(output: Callable[[tuple[str, ...]], str]) -> list[tuple[str, float | None]]:
    name = output(("sysctl", "-n", "machdep.cpu.brand_string")).strip()
    return (
        [(name, _number(output(("sysctl", "-n", "hw.memsize")), 2**30))] if name.startswith("Apple") else []
    )


def named_here(kind: str, found: list[tuple[str, float | None]]) -> tuple[str, float | None]:
    """The first device, or one line that says how to name one.

    Raises:
        SpecError: there is none.
    """
    if not found:
        raise SpecError(
            f"--{kind} here: no GPU on this machine (neither nvidia-smi nor rocm-smi lists one, and it is no Apple silicon): "
            "name one, such as rtx-4090"
        )
    return found[0]


@dataclass(frozen=True, slots=True)
class ProcessorId:
    """What a processor says of its kind: maker, and family and model by number.

    ``virtual``: a hypervisor is below. ``last_level_caches`` are those that the machine has a part of, 0 where not known.
    """

    vendor: str
    family: int
    model: int
    virtual: bool
    last_level_caches: int = 0


def processor_id(cpuinfo: str, last_level_caches: int = 0) -> ProcessorId | None:
    """The kind of a processor from the text of /proc/cpuinfo; None where that has no numbers of it."""
    first = dict(re.findall(r"^([^:\n]+?)\s*: *(.*)$", cpuinfo.partition("\n\n")[0], re.MULTILINE))
    vendor, family, model = (first.get(key, "") for key in ("vendor_id", "cpu family", "model"))
    if not (vendor and family.isdigit() and model.isdigit()):
        return None
    virtual = "hypervisor" in first.get("flags", "").split()
    return ProcessorId(vendor, int(family), int(model), virtual, last_level_caches)


def processor(cpuinfo: str, meminfo: str) -> dict[str, Any]:
    """Facts of a host from the texts of /proc/cpuinfo and /proc/meminfo, by the names of HostConfig's fields."""
    fields: dict[str, list[str]] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), []).append(value.strip())
    sockets = len(set(fields.get("physical id", ["0"])))
    cores = len(set(zip(fields.get("physical id", []), fields.get("core id", []), strict=False)))
    threads = len(fields.get("processor", ["0"]))
    flags = next(iter(fields.get("flags", fields.get("features", [""])))).split()
    memory = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    usable = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo, re.MULTILINE)
    facts: dict[str, Any] = {
        "cpu": next(iter(fields.get("model name", [])), platform.processor() or platform.machine()),
        "sockets": sockets,
        "cores_per_socket": max((cores or threads) // sockets, 1),
        "instruction_sets": tuple(_FLAGS[flag] for flag in _FLAGS if flag in flags),
    }
    if memory:
        facts["memory_gib"] = int(memory[1]) / 2**20
        facts["usable_memory_gib"] = int(usable[1] if usable else memory[1]) / 2**20
    return facts


def processor_here() -> tuple[dict[str, Any], ProcessorId | None]:
    """`processor` and `processor_id` of this machine.

    Raises:
        SpecError: it has no /proc.
    """
    try:
        cpuinfo, meminfo = (
            Path(f"/proc/{name}").read_text("utf-8", errors="replace") for name in ("cpuinfo", "meminfo")
        )
    except OSError:
        raise SpecError(
            "--host here: this system has no /proc/cpuinfo: name a host, such as desktop-gen4"
        ) from None
    return processor(cpuinfo, meminfo), processor_id(cpuinfo, _last_level_caches())


def _last_level_caches(root: Path = Path("/sys/devices/system/cpu")) -> int:
    """How many caches of the third level there are; 0 where the system does not say."""
    found = set()
    for file in root.glob("cpu[0-9]*/cache/index3/shared_cpu_list"):
        try:
            found.add(file.read_text("utf-8").strip())
        except OSError:
            return 0
    return len(found)
