"""Every argument of the API in one table: what it means, and what it may be. Methods check theirs by it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from llm_perf.config.parallelism import ActivationRecomputation, DSZeRO
from llm_perf.errors import bad_value
from llm_perf.llm_analysis.checks import flag, not_negative, positive, positive_int

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Argument:
    """What an argument means, and the check that returns its value; without one it is checked where it is used."""

    meaning: str
    check: Callable[[str, Any], Any] | None = None


def _stage(field: str, value: Any) -> DSZeRO:  # noqa: ARG001 - DSZeRO's own message names it
    return DSZeRO.of(value)


def _level(field: str, value: Any) -> ActivationRecomputation:  # noqa: ARG001 - the same
    return ActivationRecomputation.of(value)


ARGUMENTS: Final = {
    # What is analysed, by name.
    "model_name": Argument("A model by name, or a path of its YAML, JSON or Hugging Face ``config.json``."),
    "gpu_name": Argument("A GPU by name, or a path of its YAML or JSON."),
    "dtype_name": Argument("Bits of weights, activations and embeddings, such as ``w16a16e16``."),
    "log_level": Argument("From which level on llm-perf's analyses log; at INFO the summary is logged."),
    # Batches and lengths.
    "batch_size": Argument("Sequences; in training those of one micro-batch.", positive_int),
    "batch_size_per_gpu": Argument(
        "Sequences per GPU (per replica of tp x pp GPUs); in training those of one micro-batch.", positive_int
    ),
    "max_batch_size_per_gpu": Argument("Sequences that fit on a GPU."),
    "gradient_accumulation_steps": Argument("Micro-batches per step of the optimizer.", positive_int),
    "global_batch_size": Argument("Sequences per step of the optimizer over all replicas.", positive_int),
    "seq_len": Argument(
        "Tokens per sequence, in inference of each prompt; None for the model's positions.", positive_int
    ),
    "num_tokens_to_generate": Argument("Tokens to generate for each prompt.", positive_int),
    "total_num_tokens": Argument("Tokens of the whole training; None for one step's numbers only.", positive),
    "use_kv_cache": Argument(
        "Whether keys and values are kept; else each step computes the whole sequence again.", flag
    ),
    "allow_long_context": Argument("Whether the context may exceed the model's positions.", flag),
    # Ranks.
    "dp_size": Argument("Replicas; in training None for what ``total_num_gpus`` leaves, or 1."),
    "tp_size": Argument("Tensor-parallel ranks, in training at most ``num_gpus_per_node``."),
    "pp_size": Argument("Pipeline stages."),
    "sp_size": Argument("Sequence-parallel ranks; None for ``tp_size``."),
    "ep_size": Argument("Expert-parallel ranks."),
    "total_num_gpus": Argument("GPUs of all replicas."),
    "num_gpus_per_node": Argument("GPUs that one node's links join."),
    "ds_zero": Argument("ZeRO stage, a member or its number; stage 3 shards and gathers weights.", _stage),
    # What is reached.
    "achieved_tflops": Argument("TFLOP/s that are reached."),
    "achieved_memory_bandwidth_GBs": Argument("GB/s that are reached."),
    "flops_efficiency": Argument("Share of the peak; None for 1."),
    "hbm_memory_efficiency": Argument("Share of the memory bandwidth; None for 1."),
    "intra_node_memory_efficiency": Argument("Share of the bandwidth within a node."),
    "inter_node_memory_efficiency": Argument("Share of the bandwidth between nodes."),
    "cost_per_gpu_hour": Argument(
        "Price of one GPU for one hour; adds the cost of 1000 tokens.", not_negative
    ),
    # Bytes.
    "dtype_bytes": Argument("Bytes per element.", positive),
    "layernorm_dtype_bytes": Argument("Bytes per element of the norms' inputs.", positive),
    "kv_cache_dtype_bytes": Argument(
        "Bytes per cache element; None for those of the number format.", positive
    ),
    "master_weights_dtype_bytes": Argument("Bytes of a master weight and of a gradient.", positive),
    "other_op_bytes": Argument(
        "What else the optimizer keeps per parameter; None for Adam's two moments, 8 bytes.", not_negative
    ),
    # What is kept for the backward pass.
    "is_inference": Argument("Whether buffers are used again; nothing is recomputed then.", flag),
    "activation_recomputation": Argument(
        "What is not kept for the backward pass, a member or its number; with FULL only a layer's input is.",
        _level,
    ),
    "flash_attn": Argument("Whether a fused kernel keeps softmax statistics in place of scores.", flag),
    "softmax_dropout": Argument("Whether scores have a dropout mask.", flag),
    "attn_dropout": Argument("Whether the attention's output has a dropout mask.", flag),
    "with_dropout": Argument("Whether the block's output has a dropout mask.", flag),
    "gated_linear_units": Argument(
        "Whether the block is taken as gated, so that a third inner tensor is kept.", flag
    ),
    "mlp_activation_quant_bits": Argument(
        "Bits of all kept inputs of the feed-forward block; goes before the three that follow.", positive_int
    ),
    "mlp_1linear_quant_bits": Argument("Bits of the first product's input.", positive_int),
    "mlp_gelu_input_quant_bits": Argument("Bits of the activation function's input.", positive_int),
    "mlp_2linear_quant_bits": Argument("Bits of the second product's input.", positive_int),
    "mlp_recompute_gelu": Argument(
        "Whether the activation function is computed again in the backward pass.", flag
    ),
    "recompute_gelu": Argument(
        "Whether the activation function is computed again in the backward pass.", flag
    ),
    # What is returned and written.
    "shared_embedding": Argument(
        "Whether the head is the token table; a model with a head of its own counts it anyway.", flag
    ),
    "return_breakdown": Argument("Whether to return the total and its parts instead of the total.", flag),
    "breakdown_prefix": Argument("What the keys of the parts begin with."),
    "output_dir": Argument("Folder for the summary as JSON and as text."),
    "output_file_suffix": Argument("What the files' names have after the configuration."),
}
"""Argument to its meaning. None is let through where it is an argument's default."""


def checked(function: Function) -> Function:
    """The function with its arguments checked by the table first, and named in its docstring.

    Raises:
        SpecError: of the call, an argument is out of range, or recomputation is asked of an inference.
    """
    signature = inspect.signature(function)
    checks = [
        (name, argument.check, signature.parameters[name].default is None)
        for name, argument in ARGUMENTS.items()
        if name in signature.parameters and argument.check is not None
    ]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        for name, check, may_be_none in checks:
            if not (may_be_none and given[name] is None):
                given[name] = check(name, given[name])
        level = given.get("activation_recomputation", ActivationRecomputation.NONE)
        if given.get("is_inference") and level is not ActivationRecomputation.NONE:
            raise bad_value("activation_recomputation", level.name, "NONE with is_inference=True")
        return function(*bound.args, **bound.kwargs)

    return cast("Function", described(call))


def described(function: Function) -> Function:
    """The function with the meaning of its arguments in its docstring, where help and notebooks show it."""
    names = [name for name in inspect.signature(function).parameters if name in ARGUMENTS]
    lines = [f"    {name}: {ARGUMENTS[name].meaning}" for name in names]
    if lines:
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Args:", *lines])
    return function
