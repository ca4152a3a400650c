"""Host time per layer of a forward pass: hooks, bookkeeping and calls, measured on tiny models of the same family.

It does not depend on how wide a layer is, so two models of 64 columns and unequal depth show it; a microbenchmark of
an empty module does not.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

from calibrate.run.greedy import generate_arguments
from calibrate.run.settings import RunSettings

_DEPTHS = (2, 6)
_FEW, _MANY, _REPEATS = 2, 12, 5
_SMALL = {
    "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "intermediate_size": 128, "n_embd": 64, "n_inner": 128,
    "num_attention_heads": 4, "n_head": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128,
    "num_hidden_layers": 0, "n_layer": 0, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerOverhead:
    """Seconds of a pass: ``per_layer_s`` x layers + ``per_pass_s``."""

    per_layer_s: float
    per_pass_s: float


_known: dict[tuple[Any, ...], LayerOverhead | None] = {}
"""What this process has measured already."""


def small_config(config: Any, layers: int) -> Any:
    """A tiny config of the same family."""
    small = copy.deepcopy(config)
    for name, value in _SMALL.items():
        if name in small.to_dict() or name in getattr(small, "attribute_map", {}):
            setattr(small, name, layers if name in ("num_hidden_layers", "n_layer") else value)
    if getattr(small, "layer_types", None):
        small.layer_types = list(small.layer_types)[:1] * layers
    return small


def measure_layer_overhead(
    config: Any, settings: RunSettings, dtype: Any, device: Any
) -> LayerOverhead | None:
    """Time decode steps of two tiny models as the run will run its own; None where the family cannot be made tiny.

    Args:
        config: The run's transformers config.
        settings: The run's settings.
        dtype: The torch dtype.
        device: The run's device.
    """
    key = (config.model_type, settings.system, str(dtype), device.kind, settings.ranks)
    if key not in _known:
        _known[key] = measure_once(config, settings, dtype, device)
    return _known[key]


def measure_once(config: Any, settings: RunSettings, dtype: Any, device: Any) -> LayerOverhead | None:
    """As ``measure_layer_overhead``, without remembering what was found."""
    try:
        seconds = [_step_s(small_config(config, depth), settings, dtype, device) for depth in _DEPTHS]
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return None
    per_layer = max(0.0, (seconds[1] - seconds[0]) / (_DEPTHS[1] - _DEPTHS[0]))
    return LayerOverhead(per_layer, max(0.0, seconds[0] - _DEPTHS[0] * per_layer))


def _step_s(config: Any, settings: RunSettings, dtype: Any, device: Any) -> float:
    """Seconds of one decode step of a generation."""
    import torch

    from calibrate.run.ds_model import get_ds_model

    model: Any
    if settings.system == "transformers":
        from transformers import AutoModelForCausalLM

        model, close = (
            AutoModelForCausalLM.from_config(config, dtype=dtype).to(device.torch_device).eval(),
            None,
        )
    else:
        # No offload and no quantisation: their own terms are predicted apart.
        bare = {
            "fp16": {"enabled": dtype == torch.float16},
            "bf16": {"enabled": dtype == torch.bfloat16},
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
            "train_micro_batch_size_per_gpu": 1,
        }
        zero = get_ds_model(config, None, dtype, bare)
        model, close = zero.module, zero.close
    try:
        return _timed_steps(model, device)
    finally:
        if close is not None:
            close()


def _timed_steps(model: Any, device: Any) -> float:
    """Seconds that one more step adds to a generation, what happens between two forward passes included."""
    import torch

    ids = torch.full((1, 8), 5, device=device.torch_device)
    sync = device.synchronize or (lambda: None)

    def generation_s(tokens: int) -> float:
        sync()
        start: float = time.perf_counter()
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **generate_arguments(model, tokens)
        )
        sync()
        return time.perf_counter() - start

    with torch.no_grad():
        generation_s(_FEW)
        pairs = [(generation_s(_FEW), generation_s(_MANY)) for _ in range(_REPEATS)]
    # Others only ever add time: the least of each is what this machine needs.
    few, many = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    return max(0.0, many - few) / (_MANY - _FEW)
