"""What a GPU's efficiencies would be taken from if its own family had never been measured: its relative, as its file says."""

from __future__ import annotations

from llm_perf.config.gpu import GPUConfig
from llm_perf.config.loading import get_gpu_config_by_name, known_names


def relatives() -> dict[str, str]:
    """Name of an efficiency family -> a GPU of its nearest relative, for the families that have one."""
    families = (get_gpu_config_by_name(name).efficiency for name in known_names("GPU"))
    return {family.name: family.relative for family in families if family.relative is not None}


def with_relatives_efficiency(gpu: GPUConfig) -> GPUConfig:
    """The GPU with the efficiencies of its family's nearest relative; unchanged where it has none (Apple, Gaudi, TPU).

    Tables for training are the family's own still: they come from other measurements.
    """
    relative = gpu.efficiency.relative
    if relative is None:
        return gpu
    efficiency = get_gpu_config_by_name(relative).efficiency
    return gpu.replace(efficiency=efficiency.replace(training=gpu.efficiency.training))
