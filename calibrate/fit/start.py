"""Where a fit without microbenchmarks starts."""

from __future__ import annotations

from collections.abc import Sequence

from calibrate.fit.kernels import Record, system_constants
from calibrate.fit.observation import Observation
from llm_perf.config.profiles import Profile


def start_from_runs(observations: Sequence[Observation]) -> Profile:
    """Where a fit without microbenchmarks starts: a CPU as its first run measured it, a GPU as its files say.

    The rates of a CPU are measured anew before each run; all runs have to be predicted from the same.
    """
    first = observations[0]
    if not first.facts or not first.machine.gpu.startswith("this CPU"):
        return Profile(name="specs")
    layer, once = first.facts.get("layer_overhead_s"), first.facts.get("pass_overhead_s")
    record: Record = {"device": "cpu", "items": []}
    if layer is not None:
        record["items"] = [
            {"kind": "layer", "settings": {"system": system}, "per_layer_s": layer, "per_pass_s": once or 0.0}
            for system in ("transformers", "zero_inference")
        ]
    return Profile(
        name="first run",
        gpu=first.scenario.gpu.model_dump(),
        host=first.scenario.host.model_dump(exclude_none=True) | {"layer_overhead_ms": {}},
        system_constants=system_constants(record),
    )
