"""Forward hooks on the outermost module that tell the prefill from the decode steps and time both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PREFILL, DECODE = "prefill", "decode"


def add_model_hooks(model: Any, sync_func: Callable[[], object] | None = None) -> list[Any]:
    """Time every forward pass of a model.

    After ``set_model_stage(model, "prefill")`` the first pass is the prefill: its seconds are kept in
    ``model.__duration__`` and the stage becomes "decode". Seconds of the passes after it are appended to
    ``model.__step_durations__``. Only the outermost module is hooked, and the device is waited for at its borders only.

    Args:
        model: A ``torch.nn.Module``.
        sync_func: Waits for the device; None where calls return when the work is done.

    Returns:
        The handles, whose ``remove()`` takes the hooks away.
    """

    def start(module: Any, _inputs: Any) -> None:
        if sync_func is not None:
            sync_func()
        module.__start_time__ = time.perf_counter()

    def end(module: Any, _inputs: Any, _output: Any) -> None:
        if sync_func is not None:
            sync_func()
        seconds = time.perf_counter() - module.__start_time__
        if module.stage == PREFILL:
            module.__duration__ = seconds
            module.stage = DECODE
        else:
            module.__step_durations__.append(seconds)

    set_model_stage(model, PREFILL)
    return [model.register_forward_pre_hook(start), model.register_forward_hook(end)]


def set_model_stage(model: Any, stage: str) -> None:
    """Say what the next forward pass is: "prefill" begins a new generation and forgets the last one's times."""
    model.stage = stage
    if stage == PREFILL:
        model.__duration__ = None
        model.__step_durations__ = []
