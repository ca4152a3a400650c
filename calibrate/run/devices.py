"""The device that a run uses and the number format that it takes there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calibrate.run.tensors import torch_dtype
from llm_perf.errors import EnvironmentFailure


@dataclass(frozen=True, slots=True)
class Device:
    """One rank's device. ``kind`` is "cuda" or "cpu"."""

    kind: str
    index: int

    @property
    def torch_device(self) -> Any:
        """As torch names it."""
        import torch

        return torch.device(self.kind, self.index) if self.kind == "cuda" else torch.device("cpu")

    @property
    def backend(self) -> str:
        """What joins several of them."""
        return "nccl" if self.kind == "cuda" else "gloo"

    @property
    def synchronize(self) -> Callable[[], object] | None:
        """Waits until the device is idle; None where calls return when the work is done."""
        if self.kind == "cpu":
            return None
        import torch

        return torch.cuda.synchronize  # type: ignore[no-any-return, unused-ignore]


def choose_device(asked: str, local_rank: int, ranks_here: int) -> Device:
    """The device that ``--device`` means on this machine. DeepSpeed is told, so call it before importing that.

    Raises:
        EnvironmentFailure: CUDA was asked for and there is none, or too few devices.
    """
    import torch

    present = torch.cuda.is_available()
    if asked == "cuda" and not present:
        built = torch.version.cuda
        why = (
            f"torch {torch.__version__} sees none"
            if built
            else f"torch {torch.__version__} is built without CUDA"
        )
        raise EnvironmentFailure(f"--device cuda: no CUDA device here ({why}); use --device cpu")
    kind = "cuda" if present and asked != "cpu" else "cpu"
    if kind == "cuda":
        count = torch.cuda.device_count()
        if ranks_here > count:
            raise EnvironmentFailure(f"{ranks_here} ranks on this machine, but it has {count} CUDA devices")
        torch.cuda.set_device(local_rank)
    os.environ["DS_ACCELERATOR"] = kind
    return Device(kind, local_rank)


def choose_dtype(asked: str, device: Device) -> str:
    """The number format that ``--dtype`` means: "auto" is fp16, or bf16 with a warning where the device refuses fp16.

    Raises:
        EnvironmentFailure: the device refuses what was asked for.
    """
    from deepspeed.accelerator import get_accelerator

    supported = get_accelerator().supported_dtypes()
    wanted = "fp16" if asked == "auto" else asked
    if torch_dtype(wanted) in supported:
        return wanted
    if asked == "auto":
        warnings.warn(f"DeepSpeed refuses fp16 on this {device.kind}: bf16 is used instead", stacklevel=2)
        return "bf16"
    raise EnvironmentFailure(
        f"--dtype {asked}: DeepSpeed refuses it on this {device.kind}; use bf16, fp32 or auto"
    )
