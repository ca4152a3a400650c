"""What a GPU's efficiencies would be taken from if its own family had never been measured.

The rule is the project's own for GPUs without data: the nearest generation of the same vendor with the same kind of
memory (HBM beside HBM, GDDR beside GDDR), the older one of two, and one with measurements before one without.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.loading import get_gpu_config_by_name

__all__ = ["RELATIVES", "with_relatives_efficiency"]

RELATIVES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "A100": "h100-sxm-80gb",  # Volta is as near, but was not measured
        "Hopper": "a100-sxm-80gb",
        "H20": "h100-sxm-80gb",
        "Blackwell": "h100-sxm-80gb",
        "Volta": "a100-sxm-80gb",
        "Pascal": "a100-sxm-80gb",
        "Turing": "a40-48gb",
        "GA10x": "l40s-48gb",
        "Ada": "a40-48gb",
        "CDNA 2": "mi300x",
        "CDNA 3": "mi210-64gb",
    }
)
"""Name of an efficiency family -> a GPU of its nearest relative."""


def with_relatives_efficiency(gpu: GPUConfig) -> GPUConfig:
    """The GPU with the efficiencies of its family's nearest relative; unchanged where it has none (Apple, Gaudi, TPU).

    Tables for training are the family's own still: they come from other measurements.
    """
    relative = RELATIVES.get(gpu.efficiency.name)
    if relative is None:
        return gpu
    efficiency = get_gpu_config_by_name(relative).efficiency
    return gpu.replace(efficiency=efficiency.replace(training=gpu.efficiency.training))
