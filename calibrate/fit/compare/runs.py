"""Each measured run beside its prediction: latencies, breakdown, memory, decode steps, points of the roofline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from calibrate.evidence.nearest import error
from calibrate.fit.compare.inputs import MeasuredRun
from calibrate.fit.observation import Rejected
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.measures import measure
from llm_perf.config.profiles import NO_PROFILE, Profile
from llm_perf.config.scenario import Scenario
from llm_perf.systems import Load, system_of
from llm_perf.systems.operations import operations

_PHASES = ("prefill", "decode", "total")


@dataclass(frozen=True)
class RunBesidePrediction:
    """One measured run and the prediction of exactly this run."""

    run: MeasuredRun
    result: InferenceResult
    predicted_peak_bytes: float

    @property
    def predicted_s(self) -> dict[str, float | None]:
        """Seconds by phase; decode is None where there are no decode steps."""
        decode = self.result.decode
        return {
            "prefill": self.result.prefill.latency_s,
            "decode": None if decode is None else decode.latency_s,
            "total": self.result.total_latency_s,
        }

    def error(self, phase: str = "total") -> float | None:
        """(predicted - measured) / measured of a phase."""
        return error(self.predicted_s[phase], self.run.observation.measured_s.get(phase))

    def interval_s(self, phase: str) -> tuple[float, float] | None:
        """Prediction interval of a phase, where the profile gives one."""
        interval = self.result.interval
        return None if interval is None else getattr(interval, f"{phase}_s")

    def inside(self, phase: str = "total") -> bool | None:
        """Whether the measured time lies in the interval; None without one."""
        ends, measured = self.interval_s(phase), self.run.observation.measured_s.get(phase)
        return None if ends is None or measured is None else ends[0] <= measured <= ends[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        one, scenario = self.run.observation, self.result.scenario
        workload = scenario.workload
        interval = self.result.interval
        return {
            "source": one.source,
            "system": scenario.system,
            "model": scenario.model.name,
            "gpu": scenario.gpu.name,
            "host": scenario.host.name,
            "num_gpus": scenario.parallelism.num_gpus,
            "weight_bits": scenario.dtype.weight_bits,
            "kv_cache_on": _slowest(self.result.placement.kv_cache),
            "weights_on": _slowest(self.result.placement.weights),
            "batch_size": workload.batch_size,
            "prompt_len": workload.prompt_len,
            "gen_len": workload.gen_len,
            "repeats": one.accepted,
            "repeats_rejected": one.rejected,
            "measured": {f"{phase}_latency_s": one.measured_s.get(phase) for phase in _PHASES},
            "predicted": {f"{phase}_latency_s": self.predicted_s[phase] for phase in _PHASES},
            "error": {f"{phase}_latency": self.error(phase) for phase in _PHASES}
            | {"peak_gpu_memory": error(self.predicted_peak_bytes, self.run.allocated_bytes)},
            "interval": None
            if interval is None
            else {"level": interval.level, "profile": interval.profile}
            | {f"{phase}_latency_s": _listed(self.interval_s(phase)) for phase in _PHASES},
            "breakdown_s": {
                "prefill": self.result.prefill.breakdown_s,
                "decode": {} if self.result.decode is None else self.result.decode.breakdown_s,
            },
            "memory_bytes": self._memory(),
            "decode_steps": self._decode_steps(),
            "roofline": self._roofline(),
            "warnings": list(self.result.warnings),
        }

    def _memory(self) -> dict[str, Any]:
        parts = self.result.memory.gpu
        on_cpu = self.run.device == "cpu"
        return {
            "device": self.run.device,
            "predicted": self.predicted_peak_bytes,
            "predicted_parts": {
                "weights": float(parts.weights_bytes) + _host_part(self.result, "weights_bytes", on_cpu),
                "kv_cache": float(parts.kv_cache_bytes) + _host_part(self.result, "kv_cache_bytes", on_cpu),
                "activations": float(parts.activations_bytes)
                + _host_part(self.result, "activations_bytes", on_cpu),
                "buffers": float(parts.buffers_bytes) + _host_part(self.result, "buffers_bytes", on_cpu),
                "process": self.run.baseline_bytes if on_cpu else 0.0,
            },
            "allocated": self.run.allocated_bytes,
            "reserved": self.run.reserved_bytes,
        }

    def _decode_steps(self) -> dict[str, list[float]] | None:
        """Measured and predicted seconds of each decode step; None where the steps were not recorded."""
        measured = self.run.decode_steps_s
        if not measured:
            return None
        scenario = self.result.scenario
        contexts = scenario.workload.prompt_len + 1 + np.arange(len(measured))
        return {
            "context": [int(context) for context in contexts],
            "measured_s": list(measured),
            "predicted_s": [float(seconds) for seconds in _step_s(scenario, contexts)],
        }

    def _roofline(self) -> dict[str, Any] | None:
        """What the device's roofs are, and each operation of this run below them."""
        scenario = self.result.scenario
        gpu, workload = scenario.gpu, scenario.workload
        constants = system_of(scenario).constants(scenario)
        batch = workload.batch_size / scenario.parallelism.dp_size
        context = workload.prompt_len + workload.gen_len / 2
        dtype = gpu.dtype_for(scenario.dtype.compute_bits)
        return {
            "gpu": gpu.name,
            "dtype": dtype,
            "peak_flops_per_s": gpu.peak_flops_per_s(dtype),
            "bandwidth_bytes_per_s": gpu.hbm_bandwidth_bytes_per_s,
            "operations": [
                {
                    "phase": one.phase,
                    "op": one.op,
                    "flops": one.flops,
                    "bytes": one.moved_bytes,
                    "seconds": one.seconds,
                }
                for one in operations(scenario, constants, batch, float(workload.prompt_len), context)
            ],
        }


@dataclass(frozen=True)
class Comparison:
    """All runs, in the order in which they were given."""

    rows: tuple[RunBesidePrediction, ...]
    rejected: tuple[Rejected, ...]
    profile: str

    def as_dict(self) -> dict[str, Any]:
        """The whole as one JSON object."""
        systems = list(dict.fromkeys(row.result.scenario.system for row in self.rows))
        return {
            "schema_version": 1,
            "profile": self.profile,
            "runs": [row.as_dict() for row in self.rows],
            "rejected": [{"source": one.source, "reason": one.reason} for one in self.rejected],
            "systems": {
                name: summary([row for row in self.rows if row.result.scenario.system == name])
                for name in systems
            },
            "all": summary(self.rows),
        }


def compare_runs(
    runs: Iterable[MeasuredRun], profile: Profile = NO_PROFILE, rejected: Sequence[Rejected] = ()
) -> Comparison:
    """Predict each run at its own settings.

    Raises:
        SpecError: the profile does not go with a run.
    """
    rows = tuple(_beside(run, profile) for run in runs)
    return Comparison(rows, tuple(rejected), profile.name)


def _beside(run: MeasuredRun, profile: Profile) -> RunBesidePrediction:
    scenario = run.scenario(profile)
    if run.device is None:
        result = predict_inference(scenario)
        return RunBesidePrediction(run, result, result.peak_gpu_memory_bytes)
    from calibrate.run.prediction import predict_run

    prediction = predict_run(scenario, run.device, run.baseline_bytes)
    return RunBesidePrediction(run, prediction.result, float(prediction.peak_memory_bytes))


def summary(rows: Sequence[RunBesidePrediction]) -> dict[str, Any]:
    """Errors of a group by phase, and how many measured totals lie in their interval; None where nothing is measured."""
    inside = [held for row in rows if (held := row.inside()) is not None]
    found: dict[str, Any] = {"runs": len(rows)}
    for phase in _PHASES:
        errors = [value for row in rows if (value := row.error(phase)) is not None]
        found[phase] = {
            "runs": len(errors),
            "median_abs_error": median(map(abs, errors)) if errors else None,
            "bias": median(errors) if errors else None,
            "within_10": sum(abs(value) <= 0.1 for value in errors) / len(errors) if errors else None,
        }
    found["interval_coverage"] = sum(inside) / len(inside) if inside else None
    return found


def _step_s(scenario: Scenario, contexts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Seconds of one decode step at each context: a generation of two tokens has one step, on prompt + 1 tokens."""
    load = Load(float(scenario.workload.batch_size), contexts - 1.0, 2.0)
    steps_s = measure(scenario, load).decode_latency_s
    return np.broadcast_to(np.asarray(steps_s, dtype=float), contexts.shape)


def _host_part(result: InferenceResult, part: str, on_cpu: bool) -> float:
    """On a CPU the accelerator's memory is the host's, so that both tiers are one."""
    if not on_cpu:
        return 0.0
    return float(getattr(result.memory.cpu, part))


def _slowest(shares: Any) -> str:
    return "nvme" if shares.nvme > 0 else "cpu" if shares.cpu > 0 else "gpu"


def _listed(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else list(ends)
