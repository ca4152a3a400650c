"""The real run: a generation under DeepSpeed ZeRO-Inference on whatever device is there, timed and recorded.

Importing this package needs the base installation only; what runs a model is loaded by the functions that do.
"""

from __future__ import annotations

from calibrate.run.generation import measure_generation, run_generation

__all__ = ["measure_generation", "run_generation"]
