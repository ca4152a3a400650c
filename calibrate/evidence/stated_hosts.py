"""The host that a row of the table of hybrid machines describes."""

from __future__ import annotations

import re
from typing import Final

from calibrate.evidence.published.cells import Row
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import Disk, HostConfig
from llm_perf.config.loading import get_host_config_by_name, resolve_name
from llm_perf.config.names import sockets_and_name
from llm_perf.errors import SpecError

_NEAREST: Final = {
    "Intel Xeon (56 cores, W790 class)": "xeon-w9-3495x",
    "Cascade Lake ES": "2x xeon-platinum-8280",
    "Intel Xeon Skylake (48 cores)": "2x xeon-platinum-8168",
    "Intel Xeon Cascade Lake (32 vCPU)": "xeon-platinum-8280",
    "single-socket Xeon": "xeon-gold-6454s",
    "dual-socket Xeon": "2x xeon-gold-6454s",
    "Intel Xeon 6 (type not stated)": "xeon-6980p",
    "Intel Xeon Ice Lake (64 cores)": "2x xeon-platinum-8352y",
    "AMD EPYC (32 cores)": "epyc-7532",
    "desktop": "desktop-gen4",
    "AMD Ryzen 7 7700X / Intel i9-14900K": "ryzen-7-7700x",
    "AMD EPYC 9115 or 9135": "epyc-9135",
    "Intel Xeon 6430": "xeon-gold-6430",
    "Azure NC96ads": "server-gen4",
    "Azure ND-H200": "dgx-h100",
}
"""What descriptions contain that name no processor by its type, and the nearest one of that class."""


_CLASSES: Final = (
    (r"EPYC 9[^ ]*5", "epyc-9655"), (r"EPYC 9", "epyc-9654"), (r"EPYC 7[^ ]*3", "epyc-7763"), (r"EPYC 7", "epyc-7742"),
    (r"Threadripper.*9\d\d\dWX", "threadripper-pro-9995wx"), (r"Threadripper.*7\d\d\d", "threadripper-pro-7975wx"),
    (r"Threadripper.*[35]\d\d\d", "threadripper-pro-5975wx"), (r"Ryzen AI Max", "strix-halo"),
    (r"Ryzen \d 9\d\d\d", "ryzen-9-9950x"), (r"Ryzen \d 7\d\d\d", "ryzen-9-7950x"),
    (r"Ryzen \d [3-5]\d\d\d", "ryzen-9-5950x"),
    (r"Core Ultra", "core-ultra-9-285k"), (r"i\d-1[345]", "core-i9-13900k"), (r"i\d-12", "core-i9-12900k"),
    (r"i\d-\d", "core-i9-9900k"), (r"Xeon w\d|Xeon W-[23]4", "xeon-w9-3495x"), (r"Xeon 6\d", "xeon-6980p"),
    (r"(Gold|Platinum|Silver) [5684]5", "xeon-platinum-8558"),
    (r"(Gold|Platinum|Silver) [5684]4", "xeon-platinum-8480-plus"),
    (r"(Gold|Platinum|Silver) [5684]3", "xeon-platinum-8380"), (r"(Gold|Platinum|Silver) [5684]2", "xeon-platinum-8280"),
    (r"(Gold|Platinum|Silver) [5684]1", "xeon-platinum-8168"), (r"E5-\d{4} ?v[34]", "xeon-e5-2697a-v4"),
    (r"E5-", "xeon-e5-2697-v2"), (r"Apple M\d", "apple"),
)  # fmt: skip
"""Processors whose type has no file, by a pattern of their names, and one of the same generation.

The row says how many cores.
"""


def stated_host(cells: Row, gpu: GPUConfig, computes: bool) -> tuple[HostConfig, int | None]:
    """The host of a row, and the threads that its text says were used.

    Channels, transfers, PCIe generation and disks that the row states replace those of the file. ``computes``: the CPU
    does, so that a row has to name it; else the GPU's usual host stands in.

    Raises:
        SpecError: the row names no host that is known.
    """
    text = cells.text("host_cpu")
    host = _named(text, gpu, computes)
    theory, channels, speed = (
        cells.number(name) for name in ("host_bw_theory_GBps", "cpu_mem_channels", "cpu_mem_speed_MTs")
    )
    if channels and speed:
        theory = theory or channels * speed * 8 / 1000
    changes: dict[str, object] = {}
    if theory:
        changes |= {
            "memory_bandwidth_gb_per_s_per_socket": theory / host.sockets,
            "memory_channels_per_socket": None,
            "memory_mt_per_s": None,
            "assumed": tuple(name for name in host.assumed if not name.startswith("memory_")),
        }
    generation = cells.text("pcie_gen")
    if generation.isdigit():
        # A card of a later generation in a processor of an earlier one: Cascade Lake has PCIe 3.
        possible = min(int(generation), host.pcie_generation or int(generation))
        changes |= {"pcie_generation": possible, "pcie_gb_per_s": None}
    if host.disk is not None and (rate := _disk_gb_per_s(cells)):
        changes |= {
            "disk": Disk(
                capacity_gib=host.disk.capacity_gib, stated_read_gb_per_s=rate, shared=host.disk.shared
            )
        }
    ram = cells.number("host_ram_GB")
    if ram:
        changes |= {"memory_gib": float(ram), "usable_memory_gib": 0.98 * ram}
    used = re.search(r"\((\d+) threads used|(\d+) cores used|(\d+) P-cores used|, (\d+) threads", text)
    threads = None if used is None else int(next(filter(None, used.groups())))
    return host.replace(**changes), threads


_ONE_DISK_GB_PER_S: Final = {"4": 6.5, "5": 6.5}
"""What one NVMe drive of a PCIe generation reads in such machines, where a row states their number alone."""


def _disk_gb_per_s(cells: Row) -> float | None:
    stated = cells.number("disk_read_GBps")
    if stated:
        return float(stated)
    several = re.match(r"(\d+)x Gen(\d) NVMe", cells.text("disk"))
    return None if several is None else int(several[1]) * _ONE_DISK_GB_PER_S.get(several[2], 3.5)


def _named(text: str, gpu: GPUConfig, computes: bool) -> HostConfig:
    if (
        not computes
        and gpu.default_host is not None
        and (not text or "not stated" in text or text.startswith("Grace"))
    ):
        return get_host_config_by_name(gpu.default_host)
    if text in ("", "not stated", "not in excerpt") or text.startswith(
        ("not stated", "VM ", "phone", "4 vCPU")
    ):
        raise SpecError(f"host {text or 'empty'}: the row does not state it")
    for phrase, name in _NEAREST.items():
        if phrase in text:
            times = sockets_and_name(text)[0] if not name.startswith("2x") else 1
            return get_host_config_by_name(name).with_sockets(times)
    bare = re.sub(r"\s*\(.*\)", "", text)
    bare = re.sub(r",? one socket of two", "", bare)
    times, single = sockets_and_name(bare)
    shared = gpu.pcie_bytes_per_s is None and not gpu.absent and gpu.default_host is not None
    for name in (single, single.removesuffix(" CPU").strip()):
        try:
            found = get_host_config_by_name(resolve_name("host", name))
        except SpecError:
            continue
        return found.with_sockets(times)
    if shared:
        return get_host_config_by_name(str(gpu.default_host))
    relative = next((name for pattern, name in _CLASSES if re.search(pattern, bare, re.IGNORECASE)), None)
    if relative is None:
        raise SpecError(f"host {text}: no file describes it")
    cores = re.search(r"(?:\dx)?(\d+) cores", text)
    found = get_host_config_by_name(relative)
    if cores is not None:
        found = found.replace(cores_per_socket=int(cores[1]))
    return found.with_sockets(times)
