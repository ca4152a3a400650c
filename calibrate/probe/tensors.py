"""Names of number formats, here and in torch."""

from __future__ import annotations

from typing import Any

BYTES = {"fp16": 2, "bf16": 2, "fp32": 4}
_TORCH_NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


def torch_dtype(dtype: str) -> Any:
    """The torch dtype of "fp16", "bf16" or "fp32"."""
    import torch

    return getattr(torch, _TORCH_NAMES[dtype])
