"""Dummy weights: a checkpoint on disk as the original makes it, or values put straight into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm_perf.errors import EnvironmentFailure, first_line

STANDARD_DEVIATION = 0.02
"""Of random weights: what OPT, BLOOM and Llama are initialised with."""

Fill = Callable[[str, Any], None]


def meta_to_cpu(container: Any, dtype: Any = None, fill: Fill | None = None, _name: str = "") -> Any:
    """CPU tensors of the shapes of tensors on the meta device, which have none.

    Args:
        container: A tensor, or a tuple or dict of them, nested as you like.
        dtype: Of floating-point tensors; None keeps theirs.
        fill: Called with a tensor's name and the new tensor to put values in; None leaves whatever the memory held.

    Raises:
        TypeError: something else is in the container.
    """
    import torch

    if isinstance(container, torch.Tensor):
        wanted = dtype if dtype is not None and container.is_floating_point() else container.dtype
        tensor = torch.empty(container.shape, dtype=wanted, device="cpu")
        if fill is not None:
            fill(_name, tensor)
        return tensor
    if isinstance(container, tuple):
        return tuple(
            meta_to_cpu(item, dtype, fill, f"{_name}.{index}") for index, item in enumerate(container)
        )
    if isinstance(container, dict):
        return {key: meta_to_cpu(item, dtype, fill, str(key)) for key, item in container.items()}
    raise TypeError(f"meta_to_cpu: {type(container).__name__} is no tensor, tuple or dict")


def random_fill(seed: int) -> Fill:
    """Values as a fresh model has them: norms 1, biases 0, the rest normal. Every tensor has its own seed.

    Empty memory would do for the time, but holds NaN at times, and these hide errors when tokens are compared.
    """
    import torch

    def fill(name: str, tensor: Any) -> None:
        if not tensor.is_floating_point() or name.endswith("bias"):
            tensor.zero_()
        elif tensor.dim() == 1:
            tensor.fill_(1)
        else:
            own = int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=6).digest(), "big")
            tensor.normal_(0.0, STANDARD_DEVIATION, generator=torch.Generator().manual_seed(own))

    return fill


def empty_model(config: Any) -> Any:
    """The model on the meta device: shapes and no memory."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()  # each got a tensor of its own
    return model


def checkpoint_name(config: Any, dtype: str, seed: int) -> str:
    """Folder name of the dummy checkpoint of a config: equal shapes share one."""
    shapes = json.dumps(
        {k: v for k, v in config.to_dict().items() if k != "_name_or_path"}, sort_keys=True, default=str
    )
    digest = hashlib.blake2b(shapes.encode(), digest_size=4).hexdigest()
    simple = str(config.name_or_path or config.model_type).rpartition("/")[2]
    return f"{simple}-{dtype}-seed{seed}-{digest}-hf-weights"


def write_dummy_checkpoint(model: Any, folder: Path, dtype: Any, seed: int) -> Path:
    """Save random weights for a model as a Hugging Face checkpoint, unless that is there already.

    Tied weights are left out: a checkpoint that held both copies would load different heads in plain and ZeRO-3 runs.
    Has to run before an ``HfDeepSpeedConfig`` exists. The folder appears only when it is complete.

    Args:
        model: The model on the meta device.
        folder: Where it goes.
        dtype: The torch dtype of the weights.
        seed: Of the values.

    Raises:
        EnvironmentFailure: the folder cannot be written.
    """
    if is_complete(folder):
        return folder
    # Of this process alone: another may be writing the same, here or on a machine that shares the disk.
    part = folder.with_name(f"{folder.name}.{socket.gethostname()}-{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        tied = set(getattr(model, "all_tied_weights_keys", None) or ())
        state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
        model.save_pretrained(part, state_dict=meta_to_cpu(state, dtype, random_fill(seed)))
        part.rename(folder)
    except Exception as error:  # noqa: BLE001 - safetensors has errors of its own, which are no OSError
        if is_complete(folder):  # another run was quicker
            return folder
        reason = getattr(error, "strerror", None) or first_line(error)
        raise EnvironmentFailure(f"{folder}: the dummy checkpoint cannot be written: {reason}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether a dummy checkpoint is there: it gets its name only when all of it is written."""
    return (folder / "config.json").is_file()


def build_in_place(config: Any, dtype: Any, ds_config: dict[str, Any], seed: int) -> Any:
    """A model with random weights straight under ``deepspeed.zero.Init``, for checkpoints that no disk would hold.

    Each module is filled, quantised where asked for, and partitioned as soon as it is made, so that only one is ever
    held whole. Needs a live ``HfDeepSpeedConfig`` of ``ds_config``.
    """
    import deepspeed
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.initialization import no_init_weights
    from transformers.modeling_utils import set_zero3_state

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    config.dtype = dtype
    try:
        with (
            _own_rope_dtype(),
            no_init_weights(),
            _filled_modules(seed),
            deepspeed.zero.Init(config_dict_or_path=ds_config),
            set_zero3_state(),
        ):
            model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()
    _fill_the_rest(model, seed)
    return model


def _own_rope_dtype() -> contextlib.AbstractContextManager[Any]:
    """Keep ``zero.Init`` from rounding rotary frequencies to the weights' format, where transformers has a guard for it."""
    try:
        from transformers.integrations.deepspeed import prevent_arange_dtype_change
    except ImportError:  # before 5.20 or so
        return contextlib.nullcontext()
    return prevent_arange_dtype_change()  # type: ignore[no-any-return]


@contextlib.contextmanager
def _filled_modules(seed: int) -> Iterator[None]:
    """Fill linear layers, tables and norms with random values when they are constructed."""
    import torch
    from torch import nn

    generators: dict[Any, Any] = {}

    def matrix(self: Any) -> None:
        device = self.weight.device
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(seed)
        self.weight.data.normal_(0.0, STANDARD_DEVIATION, generator=generators[device])
        if getattr(self, "bias", None) is not None:
            self.bias.data.zero_()
        self.weight.is_filled = True

    def norm(self: Any) -> None:
        if self.elementwise_affine:
            self.weight.data.fill_(1)
            if self.bias is not None:
                self.bias.data.zero_()

    own = {nn.Linear: matrix, nn.Embedding: matrix, nn.LayerNorm: norm}
    originals = {kind: kind.reset_parameters for kind in own}
    try:
        for kind, function in own.items():
            kind.reset_parameters = function  # type: ignore[method-assign, unused-ignore]
        yield
    finally:
        for kind, function in originals.items():
            kind.reset_parameters = function  # type: ignore[method-assign, unused-ignore]


def _fill_the_rest(model: Any, seed: int) -> None:
    """Fill what is no linear layer, table or norm: fused experts, routers, convolutions."""
    import deepspeed

    fill = random_fill(seed)
    for name, param in model.named_parameters():
        # One-dimensional ones are norms and biases, which have their values from their constructors.
        if (
            getattr(param, "is_filled", False)
            or getattr(param, "weight_quantized", False)
            or len(param.ds_shape) < 2
        ):
            continue
        with deepspeed.zero.GatheredParameters([param], modifier_rank=0):
            fill(name, param.data)
