"""The functions `infer` and `train`: an analysis from names."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from llm_perf.config.loading import (
    get_dtype_config_by_name,
    get_gpu_config_by_name,
    get_model_config_by_name,
)
from llm_perf.config.parallelism import ParallelismConfig
from llm_perf.errors import bad_value
from llm_perf.llm_analysis import LOGGER
from llm_perf.llm_analysis.arguments import described
from llm_perf.llm_analysis.llm_analysis import LLMAnalysis
from llm_perf.llm_analysis.training_request import replicas_of


@described
def infer(
    model_name: str = "facebook_opt-1.3b",
    gpu_name: str = "a100-sxm-40gb",
    dtype_name: str = "w16a16e16",
    log_level: str = "INFO",
    batch_size_per_gpu: int = 1,
    ds_zero: int = 0,
    dp_size: int = 1,
    tp_size: int = 1,
    pp_size: int = 1,
    sp_size: int | None = None,
    seq_len: int = 512,
    num_tokens_to_generate: int = 32,
    use_kv_cache: bool = True,
    layernorm_dtype_bytes: float = 2,
    kv_cache_dtype_bytes: float | None = None,
    achieved_tflops: float | None = None,
    achieved_memory_bandwidth_GBs: float | None = None,
    flops_efficiency: float | None = None,
    hbm_memory_efficiency: float | None = None,
    intra_node_memory_efficiency: float = 1.0,
    inter_node_memory_efficiency: float = 1.0,
    cost_per_gpu_hour: float | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    output_file_suffix: str = "",
    *,
    allow_long_context: bool = False,
) -> dict[str, Any]:
    """Analyse one inference of named specs; see `LLMAnalysis` and `LLMAnalysis.inference` for the arguments.

    Returns:
        The summary of `LLMAnalysis.inference`.

    Raises:
        SpecError: an unknown name, or an argument out of range.
        DoesNotFitError: the model does not fit.
        OutputError: the files cannot be written.
    """
    asked = dict(locals())
    return _analysis(asked).inference(**_of(LLMAnalysis.inference, asked))


@described
def train(
    model_name: str = "facebook_opt-1.3b",
    gpu_name: str = "a100-sxm-40gb",
    dtype_name: str = "w16a16e16",
    log_level: str = "INFO",
    batch_size_per_gpu: int | None = None,
    gradient_accumulation_steps: int | None = None,
    global_batch_size: int | None = None,
    seq_len: int | None = None,
    total_num_tokens: int | None = None,
    activation_recomputation: int = 0,
    ds_zero: int = 0,
    dp_size: int | None = None,
    tp_size: int = 1,
    pp_size: int = 1,
    sp_size: int | None = None,
    ep_size: int = 1,
    total_num_gpus: int | None = None,
    layernorm_dtype_bytes: float = 4,
    master_weights_dtype_bytes: float = 4,
    other_op_bytes: float | None = None,
    flash_attn: bool = True,
    softmax_dropout: bool = False,
    mlp_activation_quant_bits: int | None = None,
    mlp_1linear_quant_bits: int | None = None,
    mlp_gelu_input_quant_bits: int | None = None,
    mlp_2linear_quant_bits: int | None = None,
    mlp_recompute_gelu: bool = False,
    achieved_tflops: float | None = None,
    flops_efficiency: float | None = None,
    hbm_memory_efficiency: float | None = 1,
    intra_node_memory_efficiency: float = 1.0,
    inter_node_memory_efficiency: float = 1.0,
    num_gpus_per_node: int = 8,
    output_dir: str | os.PathLike[str] | None = None,
    output_file_suffix: str = "",
    *,
    allow_long_context: bool = False,
) -> dict[str, Any]:
    """Analyse one training of named specs; see `LLMAnalysis` and `LLMAnalysis.training` for the arguments.

    Returns:
        The summary of `LLMAnalysis.training`.

    Raises:
        SpecError: an unknown name, or an argument out of range.
        DoesNotFitError: the model does not fit.
        OutputError: the files cannot be written.
    """
    asked = dict(locals())
    asked["dp_size"] = replicas_of(dp_size, tp_size, pp_size, total_num_gpus, num_gpus_per_node)
    return _analysis(asked).training(**_of(LLMAnalysis.training, asked))


def _analysis(asked: Mapping[str, Any]) -> LLMAnalysis:
    """The analysis of named specs, with what the constructor takes of what was asked."""
    _set_log_level(asked["log_level"])
    return LLMAnalysis(
        get_model_config_by_name(asked["model_name"]),
        get_gpu_config_by_name(asked["gpu_name"]),
        get_dtype_config_by_name(asked["dtype_name"]),
        ParallelismConfig(
            tp_size=asked["tp_size"],
            pp_size=asked["pp_size"],
            dp_size=asked["dp_size"],
            ep_size=asked.get("ep_size", 1),
            sp_size=asked["tp_size"] if asked["sp_size"] is None else asked["sp_size"],
        ),
        **_of(LLMAnalysis.__init__, asked),
    )


def _of(function: Callable[..., Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a function takes of what was asked."""
    return {name: asked[name] for name in inspect.signature(function).parameters if name in asked}


def _set_log_level(level: str) -> None:
    names = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    if not isinstance(level, str) or level.upper() not in names:
        raise bad_value("log_level", level, f"one of {', '.join(names)}")
    logging.getLogger(LOGGER).setLevel(level.upper())
