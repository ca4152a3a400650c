"""The model under DeepSpeed's training engine, and one step of its optimizer."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

from calibrate.probe.clock import now
from calibrate.probe.usage import peak_rss_bytes, reset_peak_rss, rss_bytes
from calibrate.run.train.settings import TrainRunSettings
from llm_perf.errors import MissingExtraError

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
    import torch

    from calibrate.probe.tensors import torch_dtype

    torch.manual_seed(settings.seed)
    model = _model(without_dropout(config), torch_dtype(dtype))
    if settings.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.lora_rank:
        model = _with_adapters(model, settings.lora_rank)
    model.to(device.torch_device)
    engine = _ENGINES[settings.framework](model, settings, dtype)
    engine.train()
    try:
        yield engine
    finally:
        engine.destroy()


def _optimizer(model: Any) -> Any:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=LEARNING_RATE)


def _deepspeed(model: Any, settings: TrainRunSettings, dtype: str) -> Any:
    import deepspeed

    config = get_train_config(settings, dtype)
    return deepspeed.initialize(model=model, optimizer=_optimizer(model), config=config)[0]


def _fsdp(model: Any, settings: TrainRunSettings, dtype: str) -> Any:  # noqa: ARG001 - one interface
    """FSDP2: every layer is a group of parameters that is gathered and reduced at once, what is left another."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(model.parameters()).device.type, (settings.ranks,))
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():  # gloo sums; it has no mean
        if hasattr(module, "set_force_sum_reduction_for_comms"):
            module.set_force_sum_reduction_for_comms(True)
    return PlainEngine(model, settings.gradient_accumulation_steps)


def _torch(model: Any, settings: TrainRunSettings, dtype: str) -> Any:  # noqa: ARG001 - one interface
    return PlainEngine(model, settings.gradient_accumulation_steps)


_ENGINES: dict[str, Callable[[Any, TrainRunSettings, str], Any]] = {
    "deepspeed": _deepspeed, "fsdp": _fsdp, "torch": _torch,
}  # fmt: skip


class PlainEngine:
    """A training loop of torch alone, with the methods of DeepSpeed's engine that a step calls."""

    def __init__(self, model: Any, passes: int) -> None:
        self.model, self.passes, self.optimizer = model, passes, _optimizer(model)
        self._done = 0

    def __call__(self, **inputs: Any) -> Any:
        """The model's forward pass."""
        return self.model(**inputs)

    def train(self) -> None:
        """Put the model into training mode."""
        self.model.train()

    def backward(self, loss: Any) -> None:
        """The backward pass of one of the step's passes."""
        (loss / self.passes).backward()

    def step(self) -> None:
        """Update after the last of a step's passes, and drop the gradients."""
        self._done += 1
        if self._done % self.passes == 0:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def destroy(self) -> None:
        """Let go of everything."""
        self.model = self.optimizer = None


def _layers(model: Any) -> list[Any]:
    """The layers of a transformers model: the members of its longest list of modules."""
    import torch

    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len)


def _with_adapters(model: Any, rank: int) -> Any:
    """The model with peft's adapters on every matrix but the head.

    Raises:
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("calibrate", "calibrate train --lora-rank") from None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    return get_peft_model(model, config)


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


def peaks_of_a_step(engine: Any, batches: list[Any]) -> dict[str, int]:
    """Largest resident memory of this process in each part of one step, bytes; on Linux, where it can be counted anew.

    Freed memory has to leave the process at once, so that each part shows what it holds itself. What earlier steps left in
    cycles is collected before: when Python does so by itself is chance.
    """
    gc.collect()
    found: dict[str, int] = {}

    def ended(part: str) -> None:
        found[part] = max(found.get(part, 0), peak_rss_bytes(), rss_bytes())
        reset_peak_rss()

    reset_peak_rss()
    for tokens in batches:
        output = engine(input_ids=tokens, labels=tokens, use_cache=False)
        ended("forward")
        engine.backward(output.loss)
        ended("backward")
        engine.step()
        ended("step")
        del output
    return found


def step_s(engine: Any, batches: list[Any], synchronize: Any) -> tuple[float, float]:
    """(seconds, mean loss) of one step: all passes over the batches, and the update that follows the last of them."""
    losses = []
    if synchronize is not None:
        synchronize()
    start = now()
    for tokens in batches:
        output = engine(input_ids=tokens, labels=tokens, use_cache=False)
        engine.backward(output.loss)
        engine.step()
        losses.append(output.loss.detach())
    if synchronize is not None:
        synchronize()
    seconds = now() - start
    return seconds, sum(float(loss) for loss in losses) / len(losses)
