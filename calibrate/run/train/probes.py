"""What the prediction of a training run has to know of this machine, measured in seconds before the run.

Host time per layer and step on tiny models of the same family; on a CPU also the backward pass against the forward pass,
and the optimizer's update.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calibrate.probe.clock import now
from calibrate.probe.process import keep_freed_memory
from calibrate.run.layer_overhead import small_config
from calibrate.run.train.engine import random_batches, step_s, training_engine
from calibrate.run.train.settings import TrainRunSettings

_DEPTHS = (2, 6)
_TINY_STEPS = 6
_TINY_TOKENS = 8


@dataclass(frozen=True, slots=True)
class TrainProbe:
    """Measured figures; None where the device's own constants are taken.

    ``host_s_per_layer`` and ``host_s_per_step`` are what a layer's both passes, and a step, take however narrow the
    model. ``backward_scale`` is the rate of a product's two gradients over its own, ``attention_backward_share`` the
    backward pass' share of the peak, ``adam_s_per_param`` the update of one parameter on the CPU.
    """

    host_s_per_layer: float | None = None
    host_s_per_step: float | None = None
    backward_scale: float | None = None
    attention_backward_flops_per_s: float | None = None
    adam_s_per_param: float | None = None


def probe_training(
    config: Any, settings: TrainRunSettings, dtype: str, device: Any, adam: float | None
) -> TrainProbe:
    """Measure this machine for a run with these settings; all ranks of the run take part.

    ``adam`` is what `adam_s_per_param` gave where the run's optimizer is on the CPU.
    """
    host = _host_times(config, settings, dtype, device)
    on_cpu = device.kind == "cpu"
    if not on_cpu:
        return TrainProbe(*host, adam_s_per_param=adam)
    return TrainProbe(
        *host,
        backward_scale=_backward_scale(dtype),
        attention_backward_flops_per_s=_attention_backward_flops_per_s(dtype),
        adam_s_per_param=adam,
    )


def _host_times(
    config: Any, settings: TrainRunSettings, dtype: str, device: Any
) -> tuple[float | None, float | None]:
    """Seconds per layer and pass, and per step, from tiny models of two depths; None where none can be made."""
    try:
        seconds = [_tiny_step_s(small_config(config, depth), settings, dtype, device) for depth in _DEPTHS]
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return None, None
    per_layer = max(0.0, (seconds[1] - seconds[0]) / (_DEPTHS[1] - _DEPTHS[0]))
    return per_layer, max(0.0, seconds[0] - _DEPTHS[0] * per_layer)


def warm_up(config: Any, settings: TrainRunSettings, dtype: str, device: Any) -> None:
    """Train a tiny model of the same kind, where one can be made: libraries load what they need."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, RuntimeError):
        _tiny_step_s(small_config(config, _DEPTHS[0]), settings, dtype, device)


def _tiny_step_s(config: Any, settings: TrainRunSettings, dtype: str, device: Any) -> float:
    """The quietest step of a model that has next to nothing to compute."""
    tiny = settings.replace(
        micro_batch_size=1, gradient_accumulation_steps=1, seq_len=_TINY_TOKENS, allow_long_context=True
    )
    with training_engine(config, tiny, dtype, device) as engine:
        batches = random_batches(tiny, config.vocab_size, device, 0)
        times = [step_s(engine, batches, device.synchronize)[0] for _ in range(_TINY_STEPS)]
    return min(times[1:])


def _backward_scale(dtype: str) -> float:
    """FLOP/s of a product's two gradients over those of the product itself."""
    import torch

    from calibrate.probe.tensors import torch_dtype

    kind = torch_dtype(dtype)
    rows, size = 256, 1024
    inputs, weights = torch.randn(rows, size).to(kind), torch.randn(size, size).to(kind)
    forward = quietest_s(lambda: torch.mm(inputs, weights.t()))
    gradients = torch.randn(rows, size).to(kind)
    backward = quietest_s(lambda: (torch.mm(gradients, weights), torch.mm(gradients.t(), inputs)))
    return 2 * forward / backward


def _attention_backward_flops_per_s(dtype: str) -> float:
    """Rate of the fused attention's backward pass, which has 2.5 times the products of the forward pass."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from calibrate.probe.tensors import torch_dtype

    heads, width, length = 8, 64, 256
    query, key, value = (
        torch.randn(1, heads, length, width).to(torch_dtype(dtype)).requires_grad_() for _ in range(3)
    )
    result = scaled_dot_product_attention(query, key, value, is_causal=True)
    gradient = torch.ones_like(result)
    seconds = quietest_s(
        lambda: torch.autograd.grad(result, (query, key, value), gradient, retain_graph=True)
    )
    # The lower triangle of scores: half of 4 b h s^2 d.
    return 2.5 * 2.0 * heads * length * length * width / seconds


def adam_s_per_param(size: int = 4 << 20, fresh: bool = False) -> float:
    """Seconds of torch's AdamW per 32-bit parameter on the CPU.

    ``fresh``: of one tensor so large that its temporaries find no place in what the process keeps of freed memory, as the
    flat partitions of ZeRO: their pages are new in each step, which takes longer than the update itself.
    """
    import torch

    size = size << 2 if fresh else size
    parameter = torch.nn.Parameter(torch.zeros(size))
    parameter.grad = torch.full((size,), 1e-3)
    optimizer = torch.optim.AdamW([parameter], lr=1e-4)
    optimizer.step()  # makes the moments
    keep_freed_memory(not fresh)
    try:
        return quietest_s(optimizer.step) / size
    finally:
        keep_freed_memory(True)


def quietest_s(call: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the quickest of some calls: others only ever add time."""
    call()
    found = []
    for _ in range(repeats):
        start = now()
        call()
        found.append(now() - start)
    return min(found)
