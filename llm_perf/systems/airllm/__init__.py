"""AirLLM: the whole model passes through the GPU from the disk, layer by layer, in every pass.

Source: lyogavin/airllm, airllm_base.py (files of each layer, the token table and the head; loaded, used and freed in turn).
"""

from __future__ import annotations

from typing import ClassVar

from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems.accelerate import Accelerate
from llm_perf.systems.base import ALL_ON_GPU, Load, Placement, TierShares


class AirLLM(Accelerate):
    """Every layer on the disk; what of it the page cache holds is not counted."""

    name = "airllm"
    streams_ends: ClassVar[bool] = True

    def check(self, scenario: Scenario) -> None:
        """Refuse other placements and hosts without a disk.

        Raises:
            SpecError: with what would work.
        """
        weights = scenario.offload.weights
        if weights is not None and weights.nvme < 1:
            raise SpecError(
                "system airllm reads all layers from the disk: leave the placement of weights out"
            )
        if scenario.host.disk is None:
            raise SpecError(
                f"host {scenario.host.name} has no disk, and system airllm reads its layers from one"
            )
        super().check(scenario)

    def _place(self, scenario: Scenario, load: Load, constants: dict[str, float]) -> Placement:  # noqa: ARG002
        return Placement(
            TierShares(0.0, 0.0, 1.0), ALL_ON_GPU, ALL_ON_GPU, "system airllm reads all layers from the disk"
        )
