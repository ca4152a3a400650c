"""A machine whose law is known: its microbenchmarks, and runs on it with noise from outside the repeats."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrate.fit import kernels
from calibrate.fit.calibrator import predicted_s
from calibrate.fit.run_json import run_observation
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import HostConfig
from llm_perf.config.profiles import Profile

FLOPS_PER_S, BYTES_PER_S, FLOOR_S = 420e9, 20e9, 32e-6
PREFILL_FLOPS_PER_S, CACHE_BYTES_PER_S = 38e9, 3e9
TRUTH = {
    "resident.python_us_per_layer": 900.0,
    "resident.step_ms": 1.6,
    "zero_inference.layer_overhead_ms": 3.6,
    "zero_inference.pass_overhead_ms": 2.5,
}
ENVIRONMENT: dict[str, Any] = {
    "device": {"kind": "cpu", "name": "Test CPU"},
    "dtype": "bf16",
    "cpu": {"name": "Test CPU", "cores": 2, "usable_cores": 2, "threads": 2},
    "memory": {"total_bytes": 32 << 30, "available_bytes": 30 << 30},
    "disk": {"total_bytes": 100 << 30, "free_bytes": 50 << 30},
    "versions": {"llm_perf": "0", "torch": "2.13.0", "transformers": "5.23.0", "deepspeed": "0.19.8"},
}


def item(kind: str, settings: dict[str, Any], work: dict[str, float], seconds: float) -> dict[str, Any]:
    return {
        "kind": kind, "settings": settings, "work": work, "median_s": seconds, "samples_s": [seconds] * 7,
        "converged": True, "disturbed": False,
    }  # fmt: skip


def microbench(noise: float = 0.0, seed: int = 1) -> dict[str, Any]:
    """What the suite would have measured: products whose arithmetic and memory follow one another."""
    draw = random.Random(seed)
    found = []
    for m in (1, 4, 16, 64, 256, 1024):
        for k, n in ((768, 768), (768, 3072), (2048, 2048), (2048, 8192)):
            flops, moved = 2.0 * m * k * n, 2.0 * (k * n + m * k + m * n)
            seconds = FLOOR_S + flops / FLOPS_PER_S + moved / BYTES_PER_S
            seconds *= math.exp(noise * draw.gauss(0, 1))
            found.append(
                item(
                    "gemm",
                    {"dtype": "bf16", "m": m, "k": k, "n": n},
                    {"flops": flops, "bytes": moved},
                    seconds,
                )
            )
    for length in (64, 256, 512):
        settings = {"dtype": "bf16", "batch": 1, "heads": 12, "head_dim": 64, "length": length}
        moved = 2.0 * 12 * length * 64 * 2
        flops = 4.0 * 12 * 64 * length * (length + 1) / 2
        prefill = flops / PREFILL_FLOPS_PER_S + moved / CACHE_BYTES_PER_S
        found.append(item("attention_prefill", settings, {"flops": flops, "bytes": moved}, prefill))
        decode = 4.0 * 12 * 64 * length / FLOPS_PER_S + moved / CACHE_BYTES_PER_S
        found.append(
            item("attention_decode", settings, {"flops": 4.0 * 12 * 64 * length, "bytes": moved}, decode)
        )
    found.append(item("copy", {"bytes": 256 << 20}, {"bytes": 2.0 * (256 << 20)}, 2.0 * (256 << 20) / 28e9))
    # Tiny models show less framework time than real ones: the fit has something to find.
    for system, layer, once in (("transformers", 6e-4, 6e-4), ("zero_inference", 3e-3, 1.2e-3)):
        settings = {"system": system, "dtype": "bf16", "family": "opt-125m"}
        found.append(
            {"kind": "layer", "settings": settings, "work": {}, "per_layer_s": layer, "per_pass_s": once}
        )
    return {
        "schema_version": 1, "kind": "microbench", "status": "done", "created": "2026-11-01T00:00:00+00:00",
        "device": "cpu", "dtypes": ["bf16"], "budget_s": 60, "spent_s": 50.0, "environment": ENVIRONMENT,
        "items": found,
    }  # fmt: skip


def true_profile(truth: dict[str, float] | None = None) -> Profile:
    """The machine as it is: the law of its products and its true framework times."""
    record = microbench()
    constants = kernels.system_constants(record)
    for name, value in (truth or TRUTH).items():
        system, _, constant = name.partition(".")
        constants[system][constant] = value
    return Profile(
        name="truth",
        gpu=kernels.gpu_fields(record),
        host=kernels.host_fields(record),
        system_constants=constants,
    )


def run_record(
    model: str, system: str, batch: int, prompt: int, gen: int = 8, noise: float = 0.0, seed: int = 0,
    truth: dict[str, float] | None = None, disturbed: Sequence[bool] = (False, False, False),
    slow: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """A run's JSON, its latencies made by the true machine; ``slow`` is how much longer disturbed repeats last."""
    profile = true_profile(truth)
    gpu = GPUConfig(**profile.gpu)
    record: dict[str, Any] = {
        "schema_version": 1,
        "status": "done",
        "run": {
            "model_name": model, "batch_size": batch, "prompt_len": prompt, "gen_len": gen, "dummy": True,
            "cpu_offload": system == "zero_inference", "system": system, "dtype": "bf16", "device": "cpu", "ranks": 1,
        },
        "raw": {"loops": [{"prefill_s": 1.0, "total_s": 2.0, "disturbed": False}]},
        "environment": json.loads(json.dumps(ENVIRONMENT)),
        "machine": {
            "gpu": json.loads(json.dumps(gpu.model_dump(mode="json"))),
            "host": json.loads(json.dumps(HostConfig(**profile.host).model_dump(mode="json", exclude_none=True))),
            "layer_overhead_s": 3e-3 if system == "zero_inference" else 6e-4,
            "pass_overhead_s": 1e-3,
        },
    }  # fmt: skip
    scenario = profile.apply(run_observation(record, "made").scenario)  # type: ignore[union-attr]
    seconds = predicted_s(scenario)
    draw = random.Random(f"{model} {system} {batch} {prompt} {seed}")
    level = math.exp(noise * draw.gauss(0, 1))
    loops = []
    for was_disturbed in disturbed:
        factor = level * math.exp(noise / 5 * draw.gauss(0, 1)) * (slow if was_disturbed else 1.0)
        prefill, decode = seconds["prefill"] * factor, seconds["decode"] * factor
        loops.append(
            {
                "prefill_s": prefill,
                "total_s": prefill + decode,
                "decode_steps_s": [decode / max(gen - 1, 1)] * (gen - 1),
                "wall_s": prefill + decode + 0.01,
                "others_cores": 0.8 if was_disturbed else 0.02,
                "disturbed": was_disturbed,
            }
        )
    record["raw"] = {"loops": loops}
    return record


CASES = ((1, 64), (4, 64), (1, 256))


def write_runs(
    folder: Path, models: Sequence[str] = ("facebook_opt-125m", "facebook_opt-350m"), **how: Any
) -> list[Path]:
    """Runs of every model, system and case as files."""
    paths = []
    for model in models:
        for system in ("transformers", "zero_inference"):
            for batch, prompt in CASES:
                path = folder / f"{model}-{system}-{batch}-{prompt}.json"
                path.write_text(json.dumps(run_record(model, system, batch, prompt, **how)))
                paths.append(path)
    return paths


def write_microbench(folder: Path, **how: Any) -> Path:
    path = folder / "microbench.json"
    path.write_text(json.dumps(microbench(**how)))
    return path
