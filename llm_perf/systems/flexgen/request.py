"""What FlexGen's flags of an inference request mean: number formats and placement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.workload import OffloadConfig
from llm_perf.errors import SpecError
from llm_perf.systems.flexgen.policy import GROUP_SIZE, parse_percent


def stated_offload(inputs: Mapping[str, Any], offload: OffloadConfig) -> OffloadConfig:
    """The placement with FlexGen's percentages, batches and attention device.

    Raises:
        SpecError: percentages that do not sum up, or that contradict another flag of placement.
    """
    changes: dict[str, Any] = {
        "overlap": inputs["overlap"],
        "gpu_batch_size": inputs["gpu_batch_size"],
        "num_gpu_batches": inputs["num_gpu_batches"] or 1,
        "micro_batches": inputs["micro_batches"] or inputs["pp_size"] or 1,
        "attn_sparsity": 1.0 if inputs["attn_sparsity"] is None else inputs["attn_sparsity"],
    }
    if inputs["cpu_cache_compute"] is not None:
        changes["attention_device"] = "cpu" if inputs["cpu_cache_compute"] else "gpu"
    if inputs["percent"] is not None:
        if inputs["cpu_offload"] or inputs["disk_offload"] or inputs["kv_offload"]:
            raise SpecError(
                "--percent says where everything goes: leave --cpu-offload, --disk-offload, --kv-offload out"
            )
        weights, cache, hidden = parse_percent(inputs["percent"])
        changes |= {"weights": weights, "kv_cache": cache, "activations": hidden}
    return offload.replace(**changes)


def compressed_dtype(inputs: Mapping[str, Any], dtype: DtypeConfig) -> DtypeConfig:
    """The number formats with FlexGen's 4-bit compression of weights (both tables included) and cache.

    Raises:
        SpecError: compression together with another width.
    """
    changes: dict[str, Any] = {}
    if inputs["compress_weight"]:
        if dtype.weight_bits not in (4, 16):
            raise SpecError(
                f"--compress-weight stores 4 bits; leave the weight width of {dtype.weight_bits} bits out"
            )
        changes |= {"weight_bits": 4, "quant_group_size": inputs["quant_group_size"]}
    if inputs["compress_cache"]:
        if inputs["kv_bits"] not in (None, 4):
            raise SpecError(f"--compress-cache stores 4 bits; leave --kv-bits {inputs['kv_bits']} out")
        changes |= {"kv_bits": 4, "kv_group_size": GROUP_SIZE}
    elif dtype.kv_bits == 4:
        changes |= {"kv_group_size": GROUP_SIZE}
    narrow = changes.get("weight_bits", dtype.weight_bits) == 4
    if narrow:
        changes |= {"embedding_bits": 4}
    return dtype.replace(**changes) if changes else dtype
