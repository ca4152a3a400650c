"""The real run: a generation under DeepSpeed ZeRO-Inference on whatever device is there, timed and recorded.

Importing this package needs the base installation only; what runs a model is loaded by the functions that do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibrate.run.generation import measure_generation, run_generation

__all__ = ["measure_generation", "run_generation"]


def __getattr__(name: str) -> Any:
    """Both functions when first asked for: a module of this package that is run by itself is then loaded once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from calibrate.run import generation

    return getattr(generation, name)
