"""The real run: generation under DeepSpeed ZeRO-Inference, microbenchmarks, and the fit of a profile to them.

Importing this package needs the base installation only; torch, deepspeed and transformers (the extra
``calibrate``) are loaded by the functions that use them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from calibrate.old_names import install

if TYPE_CHECKING:
    from calibrate.run.generation import measure_generation, run_generation

__all__ = ["measure_generation", "run_generation"]

install()

_HOME = dict.fromkeys(__all__, "calibrate.run.generation")


def __getattr__(name: str) -> Any:
    """Load a function when it is first asked for: `llm_perf.cli` reads the measurements here at every start."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
