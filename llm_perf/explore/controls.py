"""What the page lets people choose: inputs of ``llm-perf infer`` and ``train``, with the bundled names."""

from __future__ import annotations

from typing import Any, Final

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.training_request import TrainingInputs
from llm_perf.config.formats import KV_FORMATS
from llm_perf.config.loading import known_names, published_models
from llm_perf.systems.registry import system_names
from llm_perf.systems.training.framework import FRAMEWORKS

START: Final = {"model": "facebook/opt-175b", "gpu": "t4-16gb", "system": "zero_inference"}
"""The question that the page opens with."""
EXAMPLES: Final = (
    ("OPT-175B on one T4", "model=facebook/opt-175b&gpu=t4-16gb&system=zero_inference"),
    ("Llama-3.1-70B on four H100", "model=meta-llama/Llama-3.1-70B&gpu=h100-sxm-80gb&batch_size=8&tp_size=4"),
    (
        "Llama-3.1-8B: L4, A100 or H200?",
        "model=meta-llama/Llama-3.1-8B&gpu=l4-24gb&gpu=a100-sxm-80gb&gpu=h200-sxm-141gb&batch_size=16",
    ),
    (
        "Mixtral 8x7B in 4 bits on one L40S",
        "model=mistralai/Mixtral-8x7B-v0.1&gpu=l40s-48gb&weight_format=awq",
    ),
    (
        "Qwen3-30B on an RTX 4090 and its CPU",
        "model=Qwen/Qwen3-30B-A3B&gpu=rtx-4090-24gb&system=llama_cpp&weight_format=q4_k_m&host=ryzen-9-7950x&n_cpu_moe=all",
    ),
    ("OPT-30B beyond a T4, with FlexGen", "model=facebook/opt-30b&gpu=t4-16gb&system=flexgen&batch_size=32"),
)
"""Questions that people come with, as queries."""

TRAINING_EXAMPLES: Final = (
    (
        "Llama-3-8B on eight A100, FSDP",
        "task=train&model=meta-llama/Meta-Llama-3-8B&gpu=a100-sxm-80gb&framework=fsdp&num_gpus=8",
    ),
    (
        "QLoRA of 8B on one RTX 4090",
        "task=train&model=meta-llama/Llama-3.1-8B&gpu=rtx-4090-24gb&framework=hf_trainer&lora_rank=16&base_weight_bits=4"
        "&seq_len=2048&activation_recomputation=full",
    ),
)
"""Questions about training."""

_ON: Final = [{"value": "", "text": "automatic"}, {"value": "on", "text": "on"}]
_WEIGHTS: Final = (
    "fp16",
    "fp8",
    "int8_weight_only",
    "awq",
    "gptq",
    "nf4",
    "mxfp4",
    "nvfp4",
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q4_k_m",
    "q3_k_m",
)
"""Formats that checkpoints are mostly had in; the address takes every other."""
_LEVELS: Final = ("none", "attn_compute", "attn", "norm_attn_norm", "full")


def options() -> dict[str, Any]:
    """The controls of each task in their order, the question that the page begins with, and others to begin with."""
    examples = (*EXAMPLES, *TRAINING_EXAMPLES)
    return {
        "start": START,
        "examples": [{"text": text, "query": query} for text, query in examples],
        "tasks": [
            {"value": "", "text": "Inference", "controls": _controls()},
            {"value": TRAIN, "text": "Training", "controls": _training_controls()},
        ],
    }


TRAIN: Final = "train"
"""Value of ``task`` in a query about training."""


def _controls() -> list[dict[str, Any]]:
    return [
        _choice("model", "Model", published_models(), None),
        _choice("gpu", "GPU", known_names("GPU"), None),
        _choice("system", "System", system_names(), "resident"),
        _number("batch_size", "Batch size", InferenceInputs.model_fields["batch_size"].default),
        _number("prompt_len", "Prompt tokens", InferenceInputs.model_fields["prompt_len"].default),
        _number("gen_len", "Tokens to generate", InferenceInputs.model_fields["gen_len"].default),
        _choice("weight_format", "Weights", _WEIGHTS, "as released"),
        _choice("kv_format", "KV cache", [name for name in KV_FORMATS if name != "bf16"], "automatic"),
        _choice("host", "Host", known_names("host"), "the GPU's usual one"),
        _number("n_gpu_layers", "Layers on the GPU", "all", least=0),
        _number("n_cpu_moe", "Experts on the CPU", "none", least=0),
        _number("tp_size", "Tensor-parallel ranks", 1),
        _number("pp_size", "Pipeline stages", 1),
        _number("dp_size", "Replicas", 1),
        _flag("cpu_offload", "Weights in host memory"),
        _flag("disk_offload", "Weights on NVMe"),
        _flag("kv_offload", "KV cache in host memory"),
    ]


def _training_controls() -> list[dict[str, Any]]:
    return [
        _choice("model", "Model", published_models(), None),
        _choice("gpu", "GPU", known_names("GPU"), None),
        _choice(
            "framework", "Framework", sorted(FRAMEWORKS), TrainingInputs.model_fields["framework"].default
        ),
        _number("num_gpus", "GPUs of a node", 1),
        _number("num_nodes", "Nodes", 1),
        _number("seq_len", "Tokens of a sequence", "4096 or the model's"),
        _number("micro_batch_size", "Micro-batch", "the largest that fits"),
        _number("global_batch_size", "Sequences per step", "as many as run at once"),
        _choice("precision", "Precision", ["fp16", "fp32", "fp8", "mxfp8"], "bf16"),
        _choice("activation_recomputation", "Recomputation", _LEVELS, "the framework's"),
        _choice("ds_zero", "ZeRO stage", ["0", "1", "2", "3"], "the framework's"),
        _number("lora_rank", "LoRA rank", "full training"),
        _choice("base_weight_bits", "Frozen weights", ["8", "4"], "16 bit", " bit"),
        _choice("optimizer_device", "Optimizer state on", ["cpu", "nvme"], "gpu"),
        _number("tp_size", "Tensor-parallel ranks", 1),
        _number("pp_size", "Pipeline stages", 1),
        _number("total_num_tokens", "Tokens of the run", "one step"),
    ]


def _choice(name: str, label: str, values: Any, automatic: str | None, unit: str = "") -> dict[str, Any]:
    """A list of names; ``automatic`` is the text of giving none, None where one is required."""
    none = [] if automatic is None else [{"value": "", "text": automatic}]
    given = [{"value": value, "text": f"{value}{unit}"} for value in values if value != automatic]
    return {"name": name, "label": label, "kind": "choice", "choices": none + given}


def _number(name: str, label: str, default: int | str, least: int = 1) -> dict[str, Any]:
    """A whole number; ``default`` says what stands where none is given."""
    return {"name": name, "label": label, "kind": "number", "default": default, "least": least}


def _flag(name: str, label: str) -> dict[str, Any]:
    return {"name": name, "label": label, "kind": "choice", "choices": _ON}
