"""The model under DeepSpeed's training engine, and one step of its optimizer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from calibrate.run.train.settings import TrainRunSettings

LEARNING_RATE = 1e-4


def get_train_config(settings: TrainRunSettings, dtype: str) -> dict[str, Any]:
    """DeepSpeed's configuration of a training run.

    torch's own AdamW updates on either device, so that no operator has to be compiled; its rate on the CPU is measured
    for the prediction.
    """
    zero: dict[str, Any] = {"stage": settings.ds_zero}
    if settings.optimizer_offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    if settings.ds_zero == 3:
        zero["stage3_param_persistence_threshold"] = 0
    return {
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bf16"},
        "fp16": {"enabled": dtype == "fp16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }


@contextlib.contextmanager
def training_engine(config: Any, settings: TrainRunSettings, dtype: str, device: Any) -> Iterator[Any]:
    """A model with random weights, ready to train, let go of at the end.

    Args:
        config: The transformers config.
        settings: Stage, batch, offload.
        dtype: "bf16", "fp16" or "fp32".
        device: The run's device.
    """
    import deepspeed
    import torch

    from calibrate.probe.tensors import torch_dtype

    torch.manual_seed(settings.seed)
    model = _model(without_dropout(config), torch_dtype(dtype))
    if settings.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.to(device.torch_device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=get_train_config(settings, dtype))[
        0
    ]
    engine.train()
    try:
        yield engine
    finally:
        engine.destroy()


def _model(config: Any, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def without_dropout(config: Any) -> Any:
    """The config with every dropout off, as large models are trained, and without a cache."""
    for name, value in config.to_dict().items():
        if ("drop" in name or name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")) and isinstance(
            value, float
        ):
            setattr(config, name, 0.0)
    config.use_cache = False
    return config


def random_batches(settings: TrainRunSettings, vocab_size: int, device: Any, rank: int) -> list[Any]:
    """Token numbers of one step: (micro_batch_size, seq_len) for each pass, other ones on every rank."""
    import torch

    generator = torch.Generator().manual_seed(settings.seed + 1000 * rank)
    shape = (settings.micro_batch_size, settings.seq_len)
    return [
        torch.randint(0, vocab_size, shape, generator=generator).to(device.torch_device)
        for _ in range(settings.gradient_accumulation_steps)
    ]


def step_s(engine: Any, batches: list[Any], synchronize: Any) -> tuple[float, float]:
    """(seconds, mean loss) of one step: all passes over the batches, and the update that follows the last of them."""
    losses = []
    if synchronize is not None:
        synchronize()
    start = time.perf_counter()
    for tokens in batches:
        output = engine(input_ids=tokens, labels=tokens, use_cache=False)
        engine.backward(output.loss)
        engine.step()
        losses.append(output.loss.detach())
    if synchronize is not None:
        synchronize()
    seconds = time.perf_counter() - start
    return seconds, sum(float(loss) for loss in losses) / len(losses)
