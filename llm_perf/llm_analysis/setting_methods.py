"""Methods of `LLMAnalysis` that read and replace what it is about."""

from __future__ import annotations

from dataclasses import replace

from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.llm_analysis import checks
from llm_perf.llm_analysis.parameters import parameter_totals
from llm_perf.llm_analysis.setup import Setup


class SettingMethods:
    """Model, GPU, number formats, layout and efficiencies, and their updates."""

    _setup: Setup

    # -- what it is about --------------------------------------------------------------------------------------

    @property
    def model_config(self) -> ModelConfig:
        """The model; replaced by `update_model_config`."""
        return self._setup.model

    @property
    def gpu_config(self) -> GPUConfig:
        """The GPU; replaced by `update_gpu_config`."""
        return self._setup.gpu

    @property
    def dtype_config(self) -> DtypeConfig:
        """Number formats; replaced by `update_dtype_config`."""
        return self._setup.dtype

    @property
    def parallelism_config(self) -> ParallelismConfig:
        """Ranks per kind of parallelism; replaced by `update_parallelism_config`."""
        return self._setup.parallelism

    @property
    def flops_efficiency(self) -> float:
        """Share of the peak in use."""
        return self._setup.flops_efficiency

    @property
    def hbm_memory_efficiency(self) -> float:
        """Share of the device memory bandwidth in use."""
        return self._setup.hbm_memory_efficiency

    @property
    def intra_node_memory_efficiency(self) -> float:
        """Share of the bandwidth within a node in use."""
        return self._setup.efficiencies.intra_node

    @property
    def inter_node_memory_efficiency(self) -> float:
        """Share of the bandwidth between nodes in use."""
        return self._setup.efficiencies.inter_node

    @property
    def total_num_params(self) -> float:
        """Elements of the whole model."""
        return parameter_totals(self._setup).total

    @property
    def total_num_params_mlp(self) -> float:
        """Elements of all feed-forward matrices."""
        return parameter_totals(self._setup).mlp

    @property
    def total_num_params_embedding(self) -> float:
        """Elements of tables and LM head."""
        return parameter_totals(self._setup).embedding

    @property
    def total_num_params_others(self) -> float:
        """Elements of everything else."""
        return parameter_totals(self._setup).others

    @property
    def total_num_active_params(self) -> float:
        """Elements that one token uses."""
        return parameter_totals(self._setup).active

    # -- changes: each replaces one part and checks the whole again; on an error nothing changes ---------------

    def update_model_config(self, model_config: ModelConfig) -> None:
        """Analyse another model."""
        self._setup = replace(self._setup, model=model_config)

    def update_gpu_config(self, gpu_config: GPUConfig) -> None:
        """Analyse another GPU. An ``achieved_*`` argument of the constructor stays what is reached."""
        self._setup = replace(self._setup, gpu=gpu_config)

    def update_dtype_config(self, dtype_config: DtypeConfig) -> None:
        """Analyse other number formats."""
        self._setup = replace(self._setup, dtype=dtype_config)

    def update_parallelism_config(self, parallelism_config: ParallelismConfig) -> None:
        """Analyse another layout over GPUs."""
        self._setup = replace(self._setup, parallelism=parallelism_config)

    def update_float_efficiency(self, flops_efficiency: float) -> None:
        """Set the share of the peak; it goes before an ``achieved_tflops`` given earlier."""
        self._update_efficiencies(
            flops=checks.fraction("flops_efficiency", flops_efficiency), achieved_tflops=None
        )

    def update_hbm_memory_efficiency(self, hbm_memory_efficiency: float) -> None:
        """Set the share of the memory bandwidth; it goes before an ``achieved_memory_bandwidth_GBs``."""
        share = checks.fraction("hbm_memory_efficiency", hbm_memory_efficiency)
        self._update_efficiencies(hbm=share, achieved_memory_bandwidth_GBs=None)

    def update_intra_node_memory_efficiency(self, intra_node_memory_efficiency: float) -> None:
        """Set the share of the bandwidth within a node."""
        self._update_efficiencies(intra_node=intra_node_memory_efficiency)

    def update_inter_node_memory_efficiency(self, inter_node_memory_efficiency: float) -> None:
        """Set the share of the bandwidth between nodes."""
        self._update_efficiencies(inter_node=inter_node_memory_efficiency)

    def _update_efficiencies(self, **changes: float | None) -> None:
        efficiencies = replace(self._setup.efficiencies, **changes)  # type: ignore[arg-type]
        self._setup = replace(self._setup, efficiencies=efficiencies)
