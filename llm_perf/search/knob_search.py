"""The best settings of a system with few knobs: each combination of them is one call on an array of batches.

All combinations that the system offers are tried. Weights go to one tier as a whole, as the flags of ``llm-perf infer``
have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llm_perf.analysis.inference import max_batch_size
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.sweep import sweep_inference
from llm_perf.config.scenario import Scenario
from llm_perf.search.pareto import Floats
from llm_perf.systems import Load, system_of
from llm_perf.systems.base import Policies

_LADDER: Floats = np.unique(np.round(np.power(1.03, np.arange(400.0))))
"""Batches that are tried: whole numbers in steps of three percent, to about 130,000."""


@dataclass(frozen=True)
class Settings:
    """One combination of knobs with the batches that fit and what they take."""

    flags: dict[str, Any]
    batch: Floats
    latency_s: Floats
    throughput_tokens_per_s: Floats


class KnobSearch:
    """One search. ``inputs`` name system, model, machine and lengths, ``knobs`` are the inputs that are tried."""

    def __init__(
        self, inputs: InferenceInputs, knobs: Iterable[dict[str, Any]], max_latency_s: float | None = None
    ) -> None:
        self.inputs, self.knobs, self.max_latency_s = inputs, knobs, max_latency_s
        self.searched = 0

    def run(self) -> Policies:
        """All combinations of which some batch fits, with all such batches."""
        found = [settings for flags in self.knobs if (settings := self._settings(flags)) is not None]
        if not found:
            return Policies(np.zeros(0), np.zeros(0), lambda _: {}, self.searched)
        batch = np.concatenate([settings.batch for settings in found])
        owner = np.repeat(np.arange(len(found)), [len(settings.batch) for settings in found])
        return Policies(
            np.concatenate([settings.latency_s for settings in found]),
            np.concatenate([settings.throughput_tokens_per_s for settings in found]),
            lambda row: {
                **found[owner[row]].flags,
                "batch_size": int(batch[row]),
            },
            self.searched,
        )

    def _settings(self, flags: dict[str, Any]) -> Settings | None:
        if flags.get("disk_offload") and not self._has_disk:
            return None
        scenario = build_scenario(self.inputs.replace(**flags))
        most = self._most(scenario, bool(flags.get("cpu_offload") or flags.get("disk_offload")))
        if not most:
            return None
        batches = self._ranks * np.append(_LADDER[: np.searchsorted(_LADDER, most)], float(most))
        found = self._sweep(scenario, flags, batches)
        if self.max_latency_s is None or found.latency_s[0] > self.max_latency_s:
            return found
        return self._up_to_limit(scenario, flags, found, self.max_latency_s)

    @cached_property
    def _ranks(self) -> int:
        """GPUs, which take equal parts of a batch."""
        return build_scenario(self.inputs).parallelism.dp_size

    @cached_property
    def _has_disk(self) -> bool:
        return build_scenario(self.inputs).host.disk is not None

    def _most(self, scenario: Scenario, offloaded: bool) -> int:
        """The largest batch of one rank that fits; without offload flags, with all weights on the GPU."""
        system = system_of(scenario)
        load = Load(float(self._ranks), float(self.inputs.prompt_len), float(self.inputs.gen_len))
        placement = system.place(scenario, load)
        if not offloaded and placement.weights.gpu < 1:
            return 0
        return min(max_batch_size(system, scenario, load, placement) // self._ranks, int(_LADDER[-1]))

    def _sweep(self, scenario: Scenario, flags: dict[str, Any], batches: Floats) -> Settings:
        swept = sweep_inference(scenario, batches, self.inputs.prompt_len, self.inputs.gen_len)
        self.searched += len(batches)
        fits = swept.feasible
        return Settings(
            flags, batches[fits], swept.total_latency_s[fits], swept.throughput_tokens_per_s[fits]
        )

    def _up_to_limit(
        self, scenario: Scenario, flags: dict[str, Any], found: Settings, limit: float
    ) -> Settings:
        """With all batches between the last one of the ladder that meets the limit and the next one."""
        meets = found.batch[found.latency_s <= limit]
        beyond = found.batch[found.batch > meets[-1]]
        if not len(beyond):
            return found
        steps = np.linspace(meets[-1], beyond[0], 257) / self._ranks
        between: Floats = self._ranks * np.unique(np.round(steps)).astype(np.float64)
        closer = self._sweep(scenario, flags, between)
        return Settings(
            flags,
            np.concatenate((found.batch, closer.batch)),
            np.concatenate((found.latency_s, closer.latency_s)),
            np.concatenate((found.throughput_tokens_per_s, closer.throughput_tokens_per_s)),
        )
