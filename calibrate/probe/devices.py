"""The device that a run uses and the number format that it takes there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calibrate.probe.tensors import torch_dtype
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
    _tell_deepspeed(kind)
    return Device(kind, local_rank)


def _tell_deepspeed(kind: str) -> None:
    """DeepSpeed settles on an accelerator once per process, much of it while it is imported.

    Raises:
        EnvironmentFailure: this process has used it on another kind of device already.
    """
    os.environ["DS_ACCELERATOR"] = kind
    from deepspeed.accelerator import get_accelerator

    settled = get_accelerator().device_name()
    if settled != kind:
        raise EnvironmentFailure(
            f"DeepSpeed runs on {settled} in this process already: start another one for {kind}"
        )


def choose_dtype(asked: str, device: Device, quantised: bool = False) -> str:
    """The number format that ``--dtype`` means: "auto" is fp16, or bf16 with a warning where the device refuses fp16.

    Args:
        asked: The flag.
        device: The run's device.
        quantised: Weights will be; DeepSpeed unpacks to fp16 with a CUDA kernel only.

    Raises:
        EnvironmentFailure: the device refuses what was asked for.
    """
    from deepspeed.accelerator import get_accelerator

    supported = list(get_accelerator().supported_dtypes())
    if quantised and device.kind == "cpu":
        supported = [dtype for dtype in supported if dtype != torch_dtype("fp16")]
    wanted = "fp16" if asked == "auto" else asked
    if torch_dtype(wanted) in supported:
        return wanted
    if asked == "auto":
        warnings.warn(f"DeepSpeed refuses fp16 on this {device.kind}: bf16 is used instead", stacklevel=2)
        return "bf16"
    raise EnvironmentFailure(
        f"--dtype {asked}: DeepSpeed refuses it on this {device.kind}; use bf16, fp32 or auto"
    )
