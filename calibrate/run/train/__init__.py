"""The real training run: a few steps of a model with random weights under DeepSpeed ZeRO, timed, beside the prediction.

Importing this package needs the base installation only; what trains a model is loaded by the functions that do.
"""

from __future__ import annotations

from calibrate.run.train.training import measure_training

__all__ = ["measure_training"]
