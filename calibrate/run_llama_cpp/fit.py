"""A probe as a profile: constants of a CPU under llama.cpp, fitted to its times through the system's own formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from calibrate.overrides import Overrides
from calibrate.refit import Fit, Parameter, Target, fit
from calibrate.run.environment import cpu_name, usable_cores
from calibrate.run_llama_cpp.prediction import scenario_of
from calibrate.run_llama_cpp.probe import GENERATED, PROMPT, Probe, ProbeRun, quiet_s
from llm_perf import __version__
from llm_perf.analysis.measures import latencies
from llm_perf.config.base import GB
from llm_perf.config.calibration import CalibratedMachine, Calibration
from llm_perf.config.cpu import kernels_of
from llm_perf.config.profiles import Profile
from llm_perf.config.scenario import Scenario
from llm_perf.systems import system_of

SYSTEM = "llama_cpp"
NOISE = 0.03
"""Log ratio that counts as one standard deviation of a time: what quiet repetitions differ by."""
_STREAM_FACTOR = 2.5
"""How far products may be from what plain reads of NumPy reach, either way."""

_CONSTANTS: tuple[tuple[str, float, float], ...] = (
    ("cpu_unpack_k", 0.1, 1.5), ("cpu_unpack_16bit", 0.1, 1.5), ("cpu_expert_share", 0.2, 1.2),
    ("cpu_attention_share", 0.02, 1.2), ("cpu_barrier_us", 0.5, 100.0), ("cpu_layer_us", 0.5, 500.0),
    ("cpu_wide_lost_rows", 0.1, 64.0),
)  # fmt: skip
"""What is fitted beside the rates of memory and of products, and how far it can plausibly go."""
_WIDE = ("cpu_wide_kernels", 3.0, 1.0, 20.0)
"""The same for products of many rows, with where it starts: constants that know no such kernels say 0."""


@dataclass(frozen=True)
class Row:
    """One measured time: seconds of a prompt, or of one generated token."""

    scenario: Scenario
    phase: str
    seconds: float

    def predicted_s(self, scenario: Scenario) -> float:
        """The same of a scenario with other constants."""
        found = latencies(scenario)
        if self.phase == "prefill":
            return float(found.prefill_latency_s)
        return float(found.decode_latency_s) / GENERATED


def rows_of(runs: Sequence[ProbeRun]) -> list[Row]:
    """The times of a probe's runs as rows of a fit."""
    rows = []
    for run in runs:
        if run.prefill_s:
            rows.append(
                Row(scenario_of(run.model, PROMPT, 1, run.threads), "prefill", quiet_s(run.prefill_s))
            )
        decode = scenario_of(run.model, max(run.depth, 1), GENERATED + 1, run.threads)
        rows.append(Row(decode, "decode", quiet_s(run.decode_s)))
    return rows


def parameters_of(scenario: Scenario, stream: Mapping[int, float]) -> list[Parameter]:
    """What the fit may change, each from where it stands.

    Args:
        scenario: Any run on this machine.
        stream: Bytes per second of plain reads by threads.
    """
    constants = system_of(scenario).constants(scenario)
    one, whole = (stream[threads] / GB for threads in (min(stream), max(stream)))
    flops = f"cpu_flops_per_cycle_{kernels_of(scenario.host)}"
    found = [
        Parameter("host.read_gb_per_s", whole, whole / _STREAM_FACTOR, whole * _STREAM_FACTOR),
        Parameter(f"{SYSTEM}.cpu_core_gb_per_s", one, one / _STREAM_FACTOR, one * _STREAM_FACTOR),
        Parameter(f"{SYSTEM}.{flops}", constants[flops], constants[flops] / 6, constants[flops] * 6),
    ]
    found.append(Parameter(f"{SYSTEM}.{_WIDE[0]}", *_WIDE[1:]))
    for name, low, high in _CONSTANTS:
        found.append(Parameter(f"{SYSTEM}.{name}", min(max(constants[name], low), high), low, high))
    return found


def fit_rows(rows: Sequence[Row], stream: Mapping[int, float]) -> tuple[Fit, Profile]:
    """Fit, and the profile without its provenance.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    parameters = parameters_of(rows[0].scenario, stream)
    overrides = Overrides(parameters)

    def predicted(row: Row, values: Mapping[str, float]) -> float:
        return row.predicted_s(overrides.apply(row.scenario, values))

    found = fit(parameters, list(rows), [Target.of(row.seconds) for row in rows], predicted, noise=NOISE)
    values = {name: float(f"{value:.6g}") for name, value in found.values.items()}
    constants = {
        name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{SYSTEM}.")
    }
    profile = Profile(
        name="llama-cpp-here",
        system_constants={SYSTEM: constants},
        host={"read_gb_per_s": values["host.read_gb_per_s"]},
    )
    return found, profile


def profile_of(probe: Probe, facts: Mapping[str, Any], name: str = "llama-cpp-here") -> Profile:
    """The profile of a probe, with where it is from.

    Args:
        probe: What was measured.
        facts: Of llama.cpp's build.
        name: The profile's.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    rows = rows_of(probe.runs)
    found, profile = fit_rows(rows, probe.stream)
    sizes = sorted(abs(ratio) for ratio in found.log_ratios)
    return profile.replace(
        name=name,
        provenance={
            "made_by": f"llm-perf {__version__}",
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "llama_cpp": dict(facts),
            "stream_gb_per_s": {str(threads): round(rate / GB, 3) for threads, rate in probe.stream.items()},
            "runs": [
                f"{run.model.name} {run.weight_format}, {run.threads} threads, depth {run.depth}"
                for run in probe.runs
            ],
            "residuals": {
                "all": {
                    "median_abs_error": sizes[len(sizes) // 2],
                    "max_abs_error": sizes[-1],
                    "bias": sum(found.log_ratios) / len(sizes),
                }
            },
            "not_identified": list(found.unmoved),
            "not_fitted_on": "any model but the probe's three",
        },
        calibration=Calibration(
            machine=CalibratedMachine(
                gpu="none", host=rows[0].scenario.host.name, cpu=cpu_name(), cores=usable_cores()
            ),
            not_identified=found.unmoved,
        ),
    )
