"""What a user describes: model, accelerator, host, number formats, parallelism, offload, workload."""

from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.gpu import GPUConfig, GPUEfficiency
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import (
    get_dtype_config_by_name,
    get_gpu_config_by_name,
    get_host_config_by_name,
    get_model_config_by_name,
)
from llm_perf.config.model import ModelConfig
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO, ParallelismConfig
from llm_perf.config.workload import OffloadConfig, Shares, Workload

__all__ = [
    "ActivationRecomputation",
    "DSZeRO",
    "DtypeConfig",
    "GPUConfig",
    "GPUEfficiency",
    "HostConfig",
    "ModelConfig",
    "OffloadConfig",
    "ParallelismConfig",
    "Shares",
    "Workload",
    "get_dtype_config_by_name",
    "get_gpu_config_by_name",
    "get_host_config_by_name",
    "get_model_config_by_name",
]
