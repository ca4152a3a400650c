"""The clock of measurements: that on the wall, or the CPU seconds of this process.

On a machine that others use too, a process of one thread takes as long as it is let: what it used of a core is what it
would have taken alone, but for caches and memory that it shares. With several threads the clocks measure different things.
"""

from __future__ import annotations

import time
from typing import Literal, TypeAlias

Clock: TypeAlias = Literal["wall", "cpu"]

_chosen: list[Clock] = ["wall"]


def choose_clock(clock: Clock) -> None:
    """Have `now` read this clock from here on, in this process."""
    _chosen[0] = clock


def now() -> float:
    """Seconds on the chosen clock; only differences mean something."""
    return time.process_time() if _chosen[0] == "cpu" else time.perf_counter()
