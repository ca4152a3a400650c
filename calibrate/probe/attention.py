"""Attention: a whole prompt at once, and one query over a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calibrate.probe.sampler import Call, Item
from calibrate.probe.tensors import BYTES, torch_dtype

_CPU_LENGTHS = (64, 256, 512)
_CUDA_LENGTHS = (128, 512, 1024, 2048, 4096)
_CPU_BATCHES, _CUDA_BATCHES = (1, 4), (1, 8, 32)
_HEADS = {"cpu": ((12, 64), (32, 64)), "cuda": ((32, 128), (40, 128))}
"""(heads, width of one) of opt-125m and opt-1.3b; of opt-6.7b and 13b."""


def items(device: Any, dtypes: tuple[str, ...]) -> Iterator[Item]:
    """Prefill and decode by length, batch and heads."""
    cuda = device.kind == "cuda"
    for dtype in dtypes:
        for heads, width in _HEADS[device.kind]:
            for length in _CUDA_LENGTHS if cuda else _CPU_LENGTHS:
                for batch in _CUDA_BATCHES if cuda else _CPU_BATCHES:
                    yield _item(device, dtype, "attention_decode", batch, heads, width, length)
                yield _item(device, dtype, "attention_prefill", 1, heads, width, length)


def _item(device: Any, dtype: str, kind: str, batch: int, heads: int, width: int, length: int) -> Item:
    queries = length if kind == "attention_prefill" else 1
    # Scores and weighted sum; of a prompt only the lower triangle counts, whether a kernel skips the rest or not.
    pairs = length * (length + 1) / 2 if queries > 1 else length
    return Item(
        kind,
        {"dtype": dtype, "batch": batch, "heads": heads, "head_dim": width, "length": length},
        {
            "flops": 4.0 * batch * heads * width * pairs,
            "bytes": 2.0 * batch * heads * length * width * BYTES[dtype],
        },
        lambda: prepare(device, dtype, batch, heads, width, length, queries),
    )


def prepare(device: Any, dtype: str, batch: int, heads: int, width: int, length: int, queries: int) -> Call:
    """The last ``queries`` of ``length`` tokens attend to all of them, or to those before them where they are all."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    kind, where = torch_dtype(dtype), device.torch_device

    def make(tokens: int) -> Any:
        return torch.randn(batch, heads, tokens, width, device=where).to(kind)

    query, key, value = make(queries), make(length), make(length)
    causal = queries > 1
    return lambda _turn: scaled_dot_product_attention(query, key, value, is_causal=causal)
