"""Streams: what can be busy at the same time in one machine; `llm_perf.hardware.transfer` has the paths over them.

A schedule (`llm_perf.systems.schedule`) is made of work on these streams. Work on one stream is served one after the
other, work on different streams may overlap if the system lets it.
"""

from __future__ import annotations

from typing import Final

COMPUTE: Final = "compute"
HBM: Final = "hbm"
H2D: Final = "h2d"
D2H: Final = "d2h"
CPU: Final = "cpu"
CPU_MEMORY: Final = "cpu_memory"
DISK_READ: Final = "disk_read"
DISK_WRITE: Final = "disk_write"
INTERCONNECT: Final = "interconnect"
NETWORK: Final = "network"
HOST: Final = "host"

STREAMS: Final[dict[str, str]] = {
    COMPUTE: "GPU arithmetic",
    HBM: "GPU memory",
    H2D: "copies to the GPU",
    D2H: "copies from the GPU",
    CPU: "computing on the CPU",
    CPU_MEMORY: "copies in host memory",
    DISK_READ: "disk reads",
    DISK_WRITE: "disk writes",
    INTERCONNECT: "GPU-to-GPU links",
    NETWORK: "network between nodes",
    HOST: "framework time on the CPU",
}
"""Every stream with its title. ``host`` is the framework's own thread: launches, bookkeeping."""
