"""The framework's own time per layer and per pass, plain and under ZeRO-3: tiny models of unequal depth."""

from __future__ import annotations

import time
from typing import Any

from calibrate.microbench.sampler import median_uncertainty

FAMILY = "opt-125m"
"""Its layers have the modules of every OPT; families differ by how many modules a layer has."""

_LEAST = 3
"""Repeats, each of which takes the quietest of several generations."""


def measure(device: Any, dtype: str, system: str, limit_s: float) -> dict[str, Any] | None:
    """The record of one system; None where the tiny models cannot be run there."""
    from calibrate.run.layer_overhead import measure_once
    from calibrate.run.model_config import get_model_config
    from calibrate.run.settings import RunSettings
    from calibrate.run.tensors import torch_dtype

    config = get_model_config(FAMILY)
    settings = RunSettings(model_name=FAMILY, system=system, dummy=True)  # type: ignore[arg-type]
    layers: list[float] = []
    passes: list[float] = []
    start = time.perf_counter()
    while len(layers) < _LEAST or (
        time.perf_counter() - start < limit_s and median_uncertainty(layers) > 0.02
    ):
        found = measure_once(config, settings, torch_dtype(dtype), device)
        if found is None:
            return None
        layers.append(found.per_layer_s)
        passes.append(found.per_pass_s)
        if time.perf_counter() - start > 2 * limit_s:
            break
    return {
        "kind": "layer",
        "settings": {"system": system, "dtype": dtype, "family": FAMILY},
        "work": {},
        "per_layer_samples_s": layers,
        "per_pass_samples_s": passes,
    }
