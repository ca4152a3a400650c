"""Keys that change what a model is, at the values that every row takes for granted unless it reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_perf.config.huggingface.reader import Config

_TAKEN_FOR_GRANTED: Mapping[str, Any] = {
    "add_cross_attention": False,
    "attention_bias": False,
    "attention_head_type": "multihead",
    "cross_attention_layers": (),
    "is_encoder_decoder": False,
    "layer_norm_elementwise_affine": True,
    "mlp_bias": False,
    "qk_layernorm": False,
    "use_bidirectional_attention": False,
    "use_qk_norm": False,
}
"""A null or empty value stands for the one that is taken for granted."""


def refuse_unread(c: Config) -> None:
    """Refuse a config that says something about shapes which its family's row never asked for.

    Raises:
        SpecError: names the key, its value and the value that is counted.
    """
    for name, granted in _TAKEN_FOR_GRANTED.items():
        value = c.fields.get(name)
        if (
            ".".join((*c.path, name)) in c.read
            or value is None
            or value == granted
            or (not value and not granted)
        ):
            continue
        raise c.fault(name, value, f"{granted!r}: model_type {c.family!r} is counted without any other value")
