"""Intervals of models divided between GPU and CPU: how far published rates were off when their host was in no fit."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from llm_perf.analysis.calibrated import PredictionInterval, around
from llm_perf.config import files
from llm_perf.config.calibration import INTERVAL_LEVEL
from llm_perf.config.scenario import Scenario
from llm_perf.systems import Placement, system_of

__all__ = ["hybrid_interval", "is_divided"]

_FILE = "hybrid_widths.yaml"


@cache
def _widths() -> dict[str, Any]:
    text = (resources.files("llm_perf.analysis") / _FILE).read_text("utf-8")
    return files.parse_mapping(text, _FILE)


def is_divided(scenario: Scenario, placement: Placement) -> bool:
    """Whether a CPU computes a part of the model; systems that copy all that is away are others."""
    file = system_of(scenario).file
    known = file.constants.get("misses_copied")
    return known is not None and not known.value and float(placement.weights.gpu) < 1


def hybrid_interval(scenario: Scenario, seconds: tuple[float, float | None, float]) -> PredictionInterval:
    """The interval around predicted prefill, decode (None without steps) and total.

    The total's width is that of the phase that is off by more.
    """
    entries = _widths()["cpu" if scenario.gpu.absent else "cpu and gpu"]
    prefill_s, decode_s, total_s = seconds
    prefill, decode = (float(entries[phase]["width"]) for phase in ("prefill", "decode"))
    used = [entries["prefill"]] if decode_s is None else [entries["prefill"], entries["decode"]]
    return PredictionInterval(
        level=INTERVAL_LEVEL,
        profile=None,
        method="published runs whose CPU computes, predicted by fits without their host",
        groups=min(int(entry["hosts"]) for entry in used),
        outside=1.0,
        prefill_s=around(prefill_s, prefill),
        decode_s=around(decode_s, decode),
        total_s=around(total_s, prefill if decode_s is None else max(prefill, decode)),
        coverage=sum(entry["held"] for entry in used) / sum(entry["tested"] for entry in used),
    )
