"""The DeepSpeed configuration of a ZeRO-Inference run."""

from __future__ import annotations

import math
from typing import Any

from calibrate.probe.tensors import BYTES
from calibrate.run.quantisation import get_quant_config
from calibrate.run.settings import RunSettings

NVME_BUFFER_COUNT = 5
_LARGEST_BLOCK = 1 << 20
_SMALLEST_BLOCK = 1 << 18
_ALIGNMENT = 4096


def get_ds_config(
    settings: RunSettings,
    hidden_size: int,
    largest_param: int,
    dtype: str,
    device: str,
    nvme_path: str | None,
) -> dict[str, Any]:
    """ZeRO stage 3 as DeepSpeedExamples sets it for inference.

    The prefetch bucket and the live parameters hold 2 h^2 elements (half of an OPT layer's MLP), parameters of at most
    h elements (norms, most biases) stay on every device.

    Args:
        settings: Where weights go, how many bits they have.
        hidden_size: h.
        largest_param: Elements of the largest parameter; each has to fit one NVMe buffer.
        dtype: "fp16", "bf16" or "fp32".
        device: "cuda" or "cpu"; only CUDA has page-locked memory and GPUDirect Storage.
        nvme_path: Folder of the swap files, for ``disk_offload``.
    """
    square = 2 * hidden_size * hidden_size
    zero: dict[str, Any] = {
        "stage": 3,
        "stage3_prefetch_bucket_size": square,
        "stage3_param_persistence_threshold": hidden_size,
        "stage3_max_live_parameters": square,
    }
    config: dict[str, Any] = {
        "fp16": {"enabled": dtype == "fp16"},
        "bf16": {"enabled": dtype == "bf16"},
        "zero_optimization": zero,
        "steps_per_print": 2000,
        "train_batch_size": settings.batch_size,
        "wall_clock_breakdown": False,
    }
    pinned = settings.pin_memory and device == "cuda"
    if settings.cpu_offload:
        zero["offload_param"] = {"device": "cpu", "pin_memory": pinned}
    elif settings.disk_offload:
        zero["offload_param"] = {
            "device": "nvme",
            "pin_memory": pinned,
            "nvme_path": nvme_path,
            "buffer_count": NVME_BUFFER_COUNT,
            "buffer_size": nvme_buffer_elements(largest_param, dtype),
        }
        config["aio"] = {
            "block_size": aio_block_bytes(largest_param, dtype),
            "queue_depth": 8,
            "intra_op_parallelism": 1,
            "single_submit": False,
            "overlap_events": True,
            "use_gds": settings.use_gds,
        }
    if settings.weight_quantize:
        config["weight_quantization"] = get_quant_config(settings.quant_bits, settings.quant_group_size)
    return config


def nvme_buffer_elements(largest_param: int, dtype: str) -> int:
    """Elements (not bytes) of one CPU buffer of the NVMe path: the largest parameter, aligned for direct I/O."""
    step = _ALIGNMENT // BYTES[dtype]
    return math.ceil(largest_param / step) * step


def aio_block_bytes(largest_param: int, dtype: str) -> int:
    """Bytes of one read: 1 MiB, less for small models, since tensors below it would silently stay in memory."""
    return _LARGEST_BLOCK if largest_param * BYTES[dtype] >= 16 * _LARGEST_BLOCK else _SMALLEST_BLOCK
