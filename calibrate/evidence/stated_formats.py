"""What a table calls a number format of weights, and the checkpoint that it means.

A checkpoint's conversion decides more than one width: tools leave the head in 16 bits, and of mixtures of experts the
attention as well where the experts are in 4 bits of floating point (NVIDIA ModelOpt's recipes) or where layers carry a state.
"""

from __future__ import annotations

import re
from typing import Final

from llm_perf.config.formats import WEIGHT_FORMATS, format_name
from llm_perf.config.model import ModelConfig, StateSpace
from llm_perf.config.quantization import Quantization, named_quantization
from llm_perf.errors import SpecError

_NAMES: Final = {
    "fp16/bf16": "bf16", "gptq-int8": "int8_weight_only", "int8-w8a16": "int8_weight_only", "int8-wo": "torchao_int8",
    "int8-w8a8": "int8", "gptq-int4": "gptq", "awq-int4": "awq", "int4-w4a16": "int4", "bfloat16": "bf16", "float16": "fp16",
}  # fmt: skip
_ATTENTION: Final = ("self_attn", "linear_attn")
_DENSE_PARTS: Final = ("mlp.shared_expert", "mlp.shared_experts")


def named_format(stated: str) -> str | None:
    """The format that a cell names; None where it names none that is known."""
    try:
        return format_name(_NAMES.get(stated, stated), WEIGHT_FORMATS, "weight_dtype")
    except SpecError:
        return None


_BLOCK_SCALED_BY: Final = ("qwen", "deepseek-ai", "minimaxai", "moonshotai", "xiaomimimo")
"""Makers whose own checkpoints in 8 bits have scales of 128 x 128 weights; those of others have one per matrix or row."""


def served_format(model: str, stated: str, notes: str) -> str | None:
    """The format of a served checkpoint: ``fp8`` has scales of blocks where notes, or who made the checkpoint, say so."""
    found = named_format(stated)
    if found != "fp8":
        return found
    maker, _, name = model.lower().partition("/")
    own = maker in _BLOCK_SCALED_BY and ("gemm=" not in notes or name.endswith("-fp8"))
    if own or re.search(r"gemm=fp[8#]_block", notes):
        return "fp8_block"
    return found


def checkpoint(model: ModelConfig, name: str) -> ModelConfig:
    """The model as a conversion to a format leaves it, where that is not one format for all matrices."""
    found = named_quantization(name)
    experts = any(group.mlp.experts_per_token for group in model.layer_groups)
    if found is None or not experts:
        return model
    states = any(isinstance(group.attention, StateSpace) for group in model.layer_groups)
    if name == "nvfp4":
        return model.replace(quantization=_with(found, _ATTENTION))
    if states and name in ("awq", "gptq", "int4"):
        return model.replace(quantization=_with(found, (*_ATTENTION, *_DENSE_PARTS)))
    return model


def _with(quantization: Quantization, wide: tuple[str, ...]) -> Quantization:
    return quantization.replace(wide=(*quantization.wide, *wide))
