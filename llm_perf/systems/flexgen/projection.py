"""What FlexGen prints as latency of a run that it cut short: ``--cut-gen-len``."""

from __future__ import annotations

from collections.abc import Sequence

from llm_perf.errors import SpecError

WARMUP_STEPS = 2
"""Decode steps that the projection takes as they are (flexgen/utils.py, project_decode_latency)."""


def project_decode_latency(step_s: Sequence[float], gen_len: int) -> float:
    """Decode latency in seconds that FlexGen extrapolates from the first ``cut_gen_len`` - 1 steps to ``gen_len``.

    The first two steps count once, the mean of the others stands for all the rest. FlexGen takes the mean of an
    empty list where no others are left, which is nan: that is why a run with ``--cut-gen-len 2`` (one decode step)
    prints ``decode latency: nan`` although its costs are numbers. Here the mean of the steps that there are is used.

    Steps of a growing context grow, so a projection from the first few is lower than the full run.

    Raises:
        SpecError: no step, or more steps than the generation has.
    """
    steps = gen_len - 1
    if not 1 <= len(step_s) <= steps:
        raise SpecError(
            f"a projection to gen_len {gen_len} needs 1 to {steps} decode steps, got {len(step_s)}"
        )
    first, rest = list(step_s[:WARMUP_STEPS]), list(step_s[WARMUP_STEPS:]) or list(step_s)
    return sum(first) + sum(rest) / len(rest) * (steps - len(first))
