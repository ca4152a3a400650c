"""Divisions of a model over GPUs, without their batch, and which of them a search for few GPUs need not evaluate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llm_perf.analysis.request import InferenceInputs
from llm_perf.config.scenario import Scenario
from llm_perf.search.sweep import Array
from llm_perf.systems.footprint import layers_weight_bytes


@dataclass(frozen=True)
class Structure:
    """A deployment without its batch: the inputs that describe it, as a question with all defaults, and its scenario."""

    inputs: dict[str, Any]
    asked: InferenceInputs
    scenario: Scenario
    price: float | None


@dataclass
class Alone:
    """One GPU with its weights, and what is known of (prefill, decode step) of one sequence on so many ranks of it.

    Twice the ranks take half as long at best: half of each product and of what is read, and messages beside it.
    """

    structure: Structure
    least_s: tuple[float, float]

    @cached_property
    def weight_bytes(self) -> float:
        """Bytes of the layers' weights, which all GPUs together have to hold."""
        return float(layers_weight_bytes(self.structure.scenario))

    def least_of(self, tp: int) -> tuple[float, float]:
        """Times that no division in ``tp`` tensor ranks is below."""
        return self.least_s[0] / tp, self.least_s[1] / tp

    def learn(self, tp: int, found: dict[str, Array]) -> None:
        """From what a division in ``tp`` ranks takes."""
        taken = (float(np.min(found[name])) * tp for name in ("prefill_latency_s", "latency_per_token_s"))
        prefill_s, step_s = (max(known, time) for known, time in zip(self.least_s, taken, strict=True))
        self.least_s = prefill_s, step_s


class Met:
    """What meets the targets of a search for few GPUs so far."""

    def __init__(self) -> None:
        self._fewest: dict[str, int] = {}
        self._quickest_s: dict[int, float] = {}

    def add(self, gpu: str, columns: Mapping[str, Array], meets: Array) -> None:
        """Points of one division on a kind of GPU."""
        times = np.where(np.isfinite(columns["tpot_s"]), columns["tpot_s"], np.inf)
        for count in np.unique(columns["num_gpus"][meets]):
            gpus, least_s = int(count), float(times[meets & (columns["num_gpus"] == count)].min())
            self._fewest[gpu] = min(gpus, self._fewest.get(gpu, gpus))
            self._quickest_s[gpus] = min(least_s, self._quickest_s.get(gpus, least_s))

    def beats(self, gpu: str, gpus: int, least_s: float) -> bool:
        """Whether a division that takes so many GPUs, and at least so long per token, is of no use any more.

        It is not the least of its kind of GPU where fewer do, nor on the front of time over GPUs where as many are quicker.
        """
        if self._fewest.get(gpu, gpus) >= gpus:
            return False
        return any(count <= gpus and seconds < least_s for count, seconds in self._quickest_s.items())


def batch_sizes(most: int) -> Array:
    """1, 2, 3, 4, 6, 8, 12 ... up to the largest, which is among them."""
    whole = powers(most)
    sizes = {*whole, *(3 * power // 2 for power in whole if power > 1), most}
    return np.array(sorted(size for size in sizes if size <= most), dtype=np.float64)


def powers(most: int) -> list[int]:
    """1, 2, 4 ... up to the largest."""
    return [2**power for power in range(most.bit_length())]
