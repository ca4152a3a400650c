"""Weight quantisation by DeepSpeed: its settings, what it can cover, and what it did cover."""

from __future__ import annotations

from math import gcd
from typing import Any

from llm_perf.errors import SpecError

GROUP_DIM = 1


def get_quant_config(bits: int, group_size: int) -> dict[str, Any]:
    """DeepSpeed's section ``weight_quantization``: asymmetric, in groups along the input features.

    Weights are quantised while the model is built, at 4 as well as at 8 bits, so that they are never held whole.

    Raises:
        SpecError: another width.
    """
    if bits not in (4, 8):
        raise SpecError(f"quant_bits {bits}: weights are quantised to 4 or 8 bits")
    return {
        "quantized_initialization": {
            "num_bits": bits,
            "group_size": group_size,
            "group_dim": GROUP_DIM,
            "symmetric": False,
        }
    }


def check_group_size(model: Any, group_size: int) -> None:
    """Make sure that a group size divides every matrix that will be quantised.

    Args:
        model: The model, on the meta device.
        group_size: Weights that share a scale and a minimum.

    Raises:
        SpecError: it does not; the message names the first such tensor and sizes that would divide all.
    """
    widths = {name: module.weight.shape[GROUP_DIM] for name, module in quantisable(model)}
    wrong = next((name for name, width in widths.items() if width % group_size), None)
    if wrong is not None:
        common = gcd(*widths.values())
        possible = [size for size in (256, 128, 64, 32, 16, 8) if common % size == 0]
        raise SpecError(
            f"quant_group_size {group_size} does not divide the {widths[wrong]} columns of {wrong}.weight; "
            f"possible for this model: {', '.join(map(str, possible or [common]))}"
        )


def needs_kernel(device_kind: str, dtype: str, group_size: int) -> bool:
    """Whether DeepSpeed unpacks with its compiled CUDA kernel; otherwise torch does it."""
    return device_kind == "cuda" and dtype == "fp16" and group_size % 8 == 0


def quantisable(model: Any) -> list[tuple[str, Any]]:
    """Modules that DeepSpeed quantises: exactly ``nn.Linear`` and ``nn.Embedding``, no classes derived from them."""
    from torch import nn

    return [
        (name, module) for name, module in model.named_modules() if type(module) in (nn.Linear, nn.Embedding)
    ]


def quantisation_report(model: Any, bits: int) -> dict[str, Any]:
    """What of a model was quantised and what was not, in tensors and in bytes as they are stored.

    Args:
        model: The model after it was built under ZeRO-3.
        bits: The width asked for; 16 is none.
    """
    done: dict[str, int] = {}
    kept: dict[str, int] = {}
    for name, param in model.named_parameters():
        elements = getattr(param, "ds_numel", param.numel())
        (done if getattr(param, "weight_quantized", False) else kept)[name] = elements * param.element_size()
    return {
        "bits": bits,
        "quantised_tensors": len(done),
        "quantised_bytes": sum(done.values()),
        "unquantised_tensors": len(kept),
        "unquantised_bytes": sum(kept.values()),
        "largest_unquantised": [
            {"name": name, "bytes": kept[name]} for name in sorted(kept, key=lambda name: -kept[name])[:5]
        ],
    }
