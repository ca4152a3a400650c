"""The functions `infer` and `train`: an analysis from names."""

from __future__ import annotations

import logging
import os
from typing import Any

from llm_perf.config.loading import (
    get_dtype_config_by_name,
    get_gpu_config_by_name,
    get_model_config_by_name,
)
from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO, ParallelismConfig
from llm_perf.errors import bad_value
from llm_perf.llm_analysis import LOGGER
from llm_perf.llm_analysis.llm_analysis import LLMAnalysis
from llm_perf.llm_analysis.training_request import replicas_of


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

    Args:
        model_name: A model by name, or a path of its YAML, JSON or Hugging Face ``config.json``.
        gpu_name: A GPU by name, or a path of its YAML or JSON.
        dtype_name: Bits of weights, activations and embeddings, such as ``w16a16e16``.
        log_level: From which level on llm-perf's analyses log; at INFO the summary is logged.
        batch_size_per_gpu: Sequences per GPU.
        ds_zero: ZeRO stage, 0 to 3.
        dp_size: Replicas.
        tp_size: Tensor-parallel ranks.
        pp_size: Pipeline stages.
        sp_size: Sequence-parallel ranks; None for ``tp_size``.
        seq_len: Tokens of each prompt.
        num_tokens_to_generate: Tokens to generate for each prompt.
        use_kv_cache: Whether keys and values are kept.
        layernorm_dtype_bytes: Bytes per element of the norms' inputs.
        kv_cache_dtype_bytes: Bytes per cache element; None for those of the number format.
        achieved_tflops: TFLOP/s that are reached.
        achieved_memory_bandwidth_GBs: GB/s that are reached.
        flops_efficiency: Share of the peak; None for 1.
        hbm_memory_efficiency: Share of the memory bandwidth; None for 1.
        intra_node_memory_efficiency: Share of the bandwidth within a node.
        inter_node_memory_efficiency: Share of the bandwidth between nodes.
        cost_per_gpu_hour: Price of one GPU for one hour.
        output_dir: Folder for the summary's files.
        output_file_suffix: What their names have after the configuration.
        allow_long_context: Whether prompt and generation may exceed the model's positions.

    Returns:
        The summary of `LLMAnalysis.inference`.

    Raises:
        SpecError: an unknown name, or an argument out of range.
        DoesNotFitError: the model does not fit.
        OutputError: the files cannot be written.
    """
    _set_log_level(log_level)
    analysis = LLMAnalysis(
        get_model_config_by_name(model_name),
        get_gpu_config_by_name(gpu_name),
        get_dtype_config_by_name(dtype_name),
        ParallelismConfig(
            tp_size=tp_size,
            pp_size=pp_size,
            dp_size=dp_size,
            sp_size=tp_size if sp_size is None else sp_size,
        ),
        achieved_tflops=achieved_tflops,
        achieved_memory_bandwidth_GBs=achieved_memory_bandwidth_GBs,
        flops_efficiency=flops_efficiency,
        hbm_memory_efficiency=hbm_memory_efficiency,
        intra_node_memory_efficiency=intra_node_memory_efficiency,
        inter_node_memory_efficiency=inter_node_memory_efficiency,
    )
    return analysis.inference(
        batch_size_per_gpu=batch_size_per_gpu,
        seq_len=seq_len,
        num_tokens_to_generate=num_tokens_to_generate,
        use_kv_cache=use_kv_cache,
        ds_zero=DSZeRO.of(ds_zero),
        layernorm_dtype_bytes=layernorm_dtype_bytes,
        kv_cache_dtype_bytes=kv_cache_dtype_bytes,
        cost_per_gpu_hour=cost_per_gpu_hour,
        output_dir=output_dir,
        output_file_suffix=output_file_suffix,
        allow_long_context=allow_long_context,
    )


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

    Args:
        model_name: A model by name, or a path of its YAML, JSON or Hugging Face ``config.json``.
        gpu_name: A GPU by name, or a path of its YAML or JSON.
        dtype_name: Bits of weights, activations and embeddings, such as ``w16a16e16``.
        log_level: From which level on llm-perf's analyses log; at INFO the summary is logged.
        batch_size_per_gpu: Sequences of one micro-batch of one replica.
        gradient_accumulation_steps: Micro-batches per step of the optimizer.
        global_batch_size: Sequences per step over all replicas.
        seq_len: Tokens per sequence; None for the model's positions.
        total_num_tokens: Tokens of the whole training.
        activation_recomputation: What is not kept for the backward pass, 0 to 4.
        ds_zero: ZeRO stage, 0 to 3.
        dp_size: Replicas; None for what ``total_num_gpus`` leaves, or 1.
        tp_size: Tensor-parallel ranks, at most ``num_gpus_per_node``.
        pp_size: Pipeline stages.
        sp_size: Sequence-parallel ranks; None for ``tp_size``.
        ep_size: Expert-parallel ranks.
        total_num_gpus: GPUs of all replicas.
        layernorm_dtype_bytes: Bytes per element of the norms' inputs.
        master_weights_dtype_bytes: Bytes of a master weight and of a gradient.
        other_op_bytes: What else the optimizer keeps per parameter; None for Adam's two moments, 8 bytes.
        flash_attn: Whether a fused kernel keeps softmax statistics in place of scores.
        softmax_dropout: Whether scores have a dropout mask.
        mlp_activation_quant_bits: Bits of all kept inputs of the feed-forward block.
        mlp_1linear_quant_bits: Bits of the first product's input.
        mlp_gelu_input_quant_bits: Bits of the activation function's input.
        mlp_2linear_quant_bits: Bits of the second product's input.
        mlp_recompute_gelu: Whether the activation function is computed again in the backward pass.
        achieved_tflops: TFLOP/s that are reached.
        flops_efficiency: Share of the peak; None for 1.
        hbm_memory_efficiency: Share of the memory bandwidth; None for 1.
        intra_node_memory_efficiency: Share of the bandwidth within a node.
        inter_node_memory_efficiency: Share of the bandwidth between nodes.
        num_gpus_per_node: GPUs that one node's links join.
        output_dir: Folder for the summary's files.
        output_file_suffix: What their names have after the configuration.
        allow_long_context: Whether ``seq_len`` may exceed the model's positions.

    Returns:
        The summary of `LLMAnalysis.training`.

    Raises:
        SpecError: an unknown name, or an argument out of range.
        DoesNotFitError: the model does not fit.
        OutputError: the files cannot be written.
    """
    _set_log_level(log_level)
    replicas = replicas_of(dp_size, tp_size, pp_size, total_num_gpus, num_gpus_per_node)
    analysis = LLMAnalysis(
        get_model_config_by_name(model_name),
        get_gpu_config_by_name(gpu_name),
        get_dtype_config_by_name(dtype_name),
        ParallelismConfig(
            tp_size=tp_size,
            pp_size=pp_size,
            dp_size=replicas,
            ep_size=ep_size,
            sp_size=tp_size if sp_size is None else sp_size,
        ),
        achieved_tflops=achieved_tflops,
        flops_efficiency=flops_efficiency,
        hbm_memory_efficiency=hbm_memory_efficiency,
        intra_node_memory_efficiency=intra_node_memory_efficiency,
        inter_node_memory_efficiency=inter_node_memory_efficiency,
        num_gpus_per_node=num_gpus_per_node,
    )
    return analysis.training(
        batch_size_per_gpu=batch_size_per_gpu,
        gradient_accumulation_steps=gradient_accumulation_steps,
        global_batch_size=global_batch_size,
        seq_len=seq_len,
        total_num_tokens=total_num_tokens,
        activation_recomputation=ActivationRecomputation.of(activation_recomputation),
        ds_zero=DSZeRO.of(ds_zero),
        layernorm_dtype_bytes=layernorm_dtype_bytes,
        master_weights_dtype_bytes=master_weights_dtype_bytes,
        other_op_bytes=other_op_bytes,
        flash_attn=flash_attn,
        softmax_dropout=softmax_dropout,
        mlp_activation_quant_bits=mlp_activation_quant_bits,
        mlp_1linear_quant_bits=mlp_1linear_quant_bits,
        mlp_gelu_input_quant_bits=mlp_gelu_input_quant_bits,
        mlp_2linear_quant_bits=mlp_2linear_quant_bits,
        mlp_recompute_gelu=mlp_recompute_gelu,
        output_dir=output_dir,
        output_file_suffix=output_file_suffix,
        allow_long_context=allow_long_context,
    )


def _set_log_level(level: str) -> None:
    names = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    if not isinstance(level, str) or level.upper() not in names:
        raise bad_value("log_level", level, f"one of {', '.join(names)}")
    logging.getLogger(LOGGER).setLevel(level.upper())
