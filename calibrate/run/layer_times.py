"""The framework's own time per layer and per pass, plain and under ZeRO-3: tiny models of unequal depth."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from calibrate.probe.sampler import TARGET, median_uncertainty
from llm_perf.errors import EnvironmentFailure

FAMILY = "opt-125m"
"""Its layers have the modules of every OPT; families differ by how many modules a layer has."""

_LEAST = 3
"""Repeats, each of which takes the quietest of several generations."""


def measure(device: Any, dtype: str, system: str, limit_s: float) -> dict[str, Any] | None:
    """The record of one system; None where the tiny models cannot be run there."""
    from calibrate.probe.tensors import torch_dtype
    from calibrate.run.layer_overhead import measure_once
    from calibrate.run.model_config import get_model_config
    from calibrate.run.settings import RunSettings

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


def layer_times(device: Any, dtype: str, budget_s: float) -> list[dict[str, Any]]:
    """Framework time per layer, plain and under ZeRO-3."""
    from calibrate.probe.ranks import process_group, this_rank

    found = [measure(device, dtype, "transformers", budget_s / 2)]
    try:
        with process_group(this_rank(), device.backend):
            found.append(measure(device, dtype, "zero_inference", budget_s / 2))
    except EnvironmentFailure:
        found.append(None)
    records = []
    for one in found:
        if one is None:
            continue
        per_layer, per_pass = one["per_layer_samples_s"], one["per_pass_samples_s"]
        uncertainty = median_uncertainty(per_layer)
        records.append(
            one
            | {
                "per_layer_s": median(per_layer),
                "per_pass_s": median(per_pass),
                "relative_uncertainty": uncertainty if uncertainty != float("inf") else None,
                "converged": uncertainty <= TARGET,
            }
        )
    return records
