"""What the page lets people choose: the inputs of ``llm-perf infer``, with the bundled names."""

from __future__ import annotations

from typing import Any, Final

from llm_perf.analysis.request import InferenceInputs
from llm_perf.config.loading import known_names
from llm_perf.systems.registry import system_names

START: Final = {"model": "facebook/opt-175b", "gpu": "t4-16gb", "system": "zero_inference"}
"""The question that the page opens with."""
EXAMPLES: Final = (
    ("OPT-175B on one T4", "model=facebook/opt-175b&gpu=t4-16gb&system=zero_inference"),
    ("Llama-3.1-70B on four H100", "model=meta-llama/Llama-3.1-70B&gpu=h100-sxm-80gb&batch_size=8&tp_size=4"),
    (
        "Llama-3.1-8B: L4, A100 or H200?",
        "model=meta-llama/Llama-3.1-8B&gpu=l4-24gb&gpu=a100-sxm-80gb&gpu=h200-sxm-141gb&batch_size=16",
    ),
    ("Mixtral 8x7B in 4 bits on one L40S", "model=mistralai/Mixtral-8x7B-v0.1&gpu=l40s-48gb&quant_bits=4"),
    ("OPT-30B beyond a T4, with FlexGen", "model=facebook/opt-30b&gpu=t4-16gb&system=flexgen&batch_size=32"),
)
"""Questions that people come with, as queries."""

_ON: Final = [{"value": "", "text": "automatic"}, {"value": "on", "text": "on"}]


def options() -> dict[str, Any]:
    """The controls in their order, the question that the page begins with, and others to begin with."""
    return {
        "start": START,
        "examples": [{"text": text, "query": query} for text, query in EXAMPLES],
        "controls": _controls(),
    }


def _controls() -> list[dict[str, Any]]:
    return [
        _choice("model", "Model", [name.replace("_", "/", 1) for name in known_names("model")], None),
        _choice("gpu", "GPU", known_names("GPU"), None),
        _choice("system", "System", system_names(), "resident"),
        _number("batch_size", "Batch size", InferenceInputs.model_fields["batch_size"].default),
        _number("prompt_len", "Prompt tokens", InferenceInputs.model_fields["prompt_len"].default),
        _number("gen_len", "Tokens to generate", InferenceInputs.model_fields["gen_len"].default),
        _choice("quant_bits", "Weights", ["8", "4"], "as released", " bit"),
        _choice("kv_bits", "KV cache", ["8", "4"], "16 bit", " bit"),
        _number("tp_size", "Tensor-parallel ranks", 1),
        _number("pp_size", "Pipeline stages", 1),
        _number("dp_size", "Replicas", 1),
        _choice("host", "Host", known_names("host"), "the GPU's usual one"),
        _flag("cpu_offload", "Weights in host memory"),
        _flag("disk_offload", "Weights on NVMe"),
        _flag("kv_offload", "KV cache in host memory"),
    ]


def _choice(name: str, label: str, values: Any, automatic: str | None, unit: str = "") -> dict[str, Any]:
    """A list of names; ``automatic`` is the text of giving none, None where one is required."""
    none = [] if automatic is None else [{"value": "", "text": automatic}]
    given = [{"value": value, "text": f"{value}{unit}"} for value in values if value != automatic]
    return {"name": name, "label": label, "kind": "choice", "choices": none + given}


def _number(name: str, label: str, default: int) -> dict[str, Any]:
    return {"name": name, "label": label, "kind": "number", "default": default}


def _flag(name: str, label: str) -> dict[str, Any]:
    return {"name": name, "label": label, "kind": "choice", "choices": _ON}
