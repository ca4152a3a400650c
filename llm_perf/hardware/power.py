"""Board power of a GPU from how busy it is."""

from __future__ import annotations

from llm_perf.config.economics import PowerModel
from llm_perf.counts.arrays import Number, minimum


def board_power_w(tdp_w: float, model: PowerModel, compute_busy: Number, memory_busy: Number) -> Number:
    """Watts while arithmetic and memory are busy for these shares of the time.

    P = TDP min(1, idle + memory_share u_mem + compute_share u_compute): linear in utilisation, as measured boards are
    to first order (Kansal et al., Virtual machine power metering, SoCC 2010), capped by the board's limit.
    """
    share = (
        model.idle_share.value
        + model.memory_share.value * minimum(memory_busy, 1.0)
        + model.compute_share.value * minimum(compute_busy, 1.0)
    )
    return tdp_w * minimum(share, 1.0)
