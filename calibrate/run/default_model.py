"""The model of a run that names none: random weights that fit the device, in a run that ends within two minutes."""

from __future__ import annotations

from typing import Any

from calibrate.run.model_config import TINY_MODEL
from calibrate.run.settings import RunSettings
from llm_perf.config.gpu import GPUConfig
from llm_perf.errors import SpecError

AUTO = "auto"
CANDIDATES = ("opt-6.7b", "opt-2.7b", "opt-1.3b", "opt-125m")
"""For CUDA, the largest first. A CPU takes the embedded model, which runs anywhere in seconds."""

MEMORY_SHARE = 0.6
"""Of a GPU's memory that may be predicted for a run: others may hold some, and the allocator rounds up."""
BUDGET_S = 75.0
"""Predicted seconds of loading, warm-up and loops; the rest of two minutes is for imports, probes, slower machines."""
SECONDS_PER_GIB = 3.0
"""Making, placing and page-locking random weights; a cautious round figure, half a minute for 13 GiB."""


def choose_model(settings: RunSettings, device: Any) -> str:
    """The model for a device.

    It follows from what the driver says of the device alone, so that equal devices of several ranks agree.

    Args:
        settings: The run's settings, whose model is ``AUTO``.
        device: The run's device.
    """
    if device.kind != "cuda":
        return TINY_MODEL
    import torch

    from calibrate.probe.local_machine import known_gpu
    from llm_perf.config.base import GIB

    properties = torch.cuda.get_device_properties(device.index)
    return model_for_gpu(settings, known_gpu(properties.name, properties.total_memory / GIB))


def model_for_gpu(settings: RunSettings, gpu: GPUConfig | None) -> str:
    """The largest candidate whose prediction on a bundled GPU keeps to memory and time; the smallest for an unknown GPU."""
    if gpu is None:
        return CANDIDATES[-1]
    return next((name for name in CANDIDATES if _is_for(name, settings, gpu)), CANDIDATES[-1])


def _is_for(name: str, settings: RunSettings, gpu: GPUConfig) -> bool:
    from llm_perf.analysis.inference import predict_inference
    from llm_perf.analysis.request import InferenceInputs, build_scenario
    from llm_perf.config.base import GIB
    from llm_perf.counts.parameters import total_params

    given = {field: getattr(settings, field) for field in _SHARED}
    try:
        scenario = build_scenario(
            InferenceInputs(model=name, gpu=gpu.name, ds_zero=3, num_gpus=settings.num_gpus_per_node, **given)
        )
        result = predict_inference(scenario)
    except SpecError:  # a context beyond its positions, say: said for the model that is taken in the end
        return False
    loading_s = SECONDS_PER_GIB * float(total_params(result.scenario.model)) * 2 / GIB
    seconds = loading_s + (settings.loops + settings.warmup) * result.total_latency_s
    return (
        result.reason is None
        and result.peak_gpu_memory_bytes <= MEMORY_SHARE * gpu.memory_gib * GIB
        and seconds <= BUDGET_S
    )


_SHARED = (
    "num_nodes", "batch_size", "prompt_len", "gen_len", "cpu_offload", "disk_offload", "kv_offload", "quant_bits",
    "quant_group_size", "pin_memory", "pin_kv_cache", "async_kv_offload",
)  # fmt: skip
