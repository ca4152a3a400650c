"""A probe as a profile: constants of a CPU under llama.cpp, fitted to its times through the system's own formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from calibrate.fit.overrides import Overrides
from calibrate.fit.refit import Fit, Parameter, Target, fit
from calibrate.probe.environment import cpu_name, usable_cores
from calibrate.run.llama_cpp import SYSTEM
from calibrate.run.llama_cpp.measurement import read_weight_bytes
from calibrate.run.llama_cpp.prediction import scenario_of
from calibrate.run.llama_cpp.probe import GENERATED, Probe, ProbeRun
from calibrate.run.llama_cpp.rounds import quiet_s
from llm_perf import __version__
from llm_perf.config.base import GB
from llm_perf.config.calibration import CalibratedMachine, Calibration
from llm_perf.config.cpu import kernels_of
from llm_perf.config.profiles import Profile
from llm_perf.config.scenario import Scenario
from llm_perf.systems import Load, system_of
from llm_perf.systems.hybrid import HybridForward
from llm_perf.systems.resident import decode_phase
from llm_perf.systems.stacks.llama_cpp import LlamaCpp, offload

NOISE = 0.03
"""Log ratio that counts as one standard deviation of a time: what quiet repetitions differ by."""
PROMPT_NOISE = 0.05
"""The same of a prompt beside tokens: what formulas of kernels of many rows are off by, which tokens must not pay for."""
_RATE_FACTOR = 2.0
"""How far what memory can deliver may be from what the fastest products of the probe read, either way."""

_OF_TOKENS: tuple[tuple[str, float, float], ...] = (
    ("cpu_unpack_k", 0.1, 5.0), ("cpu_unpack_16bit", 0.1, 5.0), ("cpu_unpack_16bit_widened", 0.02, 5.0),
    ("cpu_expert_share", 0.2, 1.5),
    ("cpu_product_knee", 1.0, 8.0), ("cpu_product_half_cores", 1.0, 1000.0),
    ("cpu_attention_share", 0.02, 1.5), ("cpu_decode_score_share", 0.02, 10.0),
    ("cpu_barrier_us", 0.5, 200.0), ("cpu_layer_us", 0.5, 500.0),
)  # fmt: skip
"""What generated tokens show beside the rates of memory and of products, and how far it can plausibly go."""
_OFF: dict[str, float] = {
    "cpu_one_row_flops_per_cycle": 0.0, "cpu_cached_row_flops_per_cycle": 0.0, "cpu_wide_512": 1.0,
}  # fmt: skip
"""What class constants say of kernels and of cores that a probe times itself."""
_OF_PROMPTS: tuple[tuple[str, float, float, float], ...] = (
    ("cpu_wide_kernels", 3.0, 1.0, 20.0), ("cpu_wide_lost_rows", 3.0, 0.1, 32.0), ("cpu_expert_lost_rows", 9.0, 0.1, 64.0),
    ("cpu_score_share", 0.1, 0.002, 2.0), ("cpu_wide_k", 1.0, 0.3, 5.0), ("cpu_wide_16bit", 1.0, 0.3, 5.0),
    ("cpu_wide_16bit_widened", 1.0, 0.2, 5.0),
)  # fmt: skip
"""What prompts show: products of many rows, with where they start, since constants that know no such kernels say 0."""


@dataclass(frozen=True)
class Row:
    """One measured time: seconds of a prompt, or of one generated token."""

    scenario: Scenario
    phase: str
    seconds: float

    @cached_property
    def _forward(self) -> HybridForward:
        constants = system_of(self.scenario).constants(self.scenario)
        division = offload.division_of(self.scenario, constants)
        used = offload.memory_use(self.scenario, Load.of(self.scenario.workload), division, constants)
        return offload.forward_of(self.scenario, constants, division, used)

    def predicted_s(self, scenario: Scenario) -> float:
        """The same of the scenario with other constants of the CPU: its phase alone, since a fit asks thousands of times."""
        system, load = system_of(scenario), Load.of(scenario.workload)
        assert isinstance(system, LlamaCpp)
        forward = self._forward.with_cpu(scenario, system.constants(scenario))
        if self.phase == "prefill":
            return float(system.prefill(forward, load.batch, load).latency_s)
        return float(decode_phase(forward, load.batch, load).latency_s) / GENERATED


def rows_of(runs: Sequence[ProbeRun]) -> list[Row]:
    """The times of a probe's runs as rows of a fit."""
    rows = []
    for run in runs:
        length = run.depth + run.prompt
        prompt = scenario_of(run.model, length, 1, run.threads, prefix_hit_rate=run.depth / length)
        rows.append(Row(prompt, "prefill", quiet_s(run.times.prefill)))
        decode = scenario_of(run.model, max(run.depth, 1), GENERATED + 1, run.threads)
        rows.append(Row(decode, "decode", quiet_s(run.times.decode)))
    return rows


def read_rates(rows: Sequence[Row]) -> dict[int, float]:
    """GB/s that the fastest products of one row read, by threads: where the rates of memory start."""
    found: dict[int, float] = {}
    for row in rows:
        if row.phase == "decode":
            read = read_weight_bytes(row.scenario.model, row.scenario.dtype.formats) / row.seconds / GB
            threads = row.scenario.offload.threads or 1
            found[threads] = max(found.get(threads, 0.0), read)
    return found


def parameters_of(rows: Sequence[Row]) -> list[Parameter]:
    """What tokens may change, each from where it stands."""
    scenario, rates = rows[0].scenario, read_rates(rows)
    constants = system_of(scenario).constants(scenario)
    one, whole = rates[min(rates)] / min(rates), rates[max(rates)]
    flops = f"cpu_flops_per_cycle_{kernels_of(scenario.host)}"
    found = [
        Parameter("host.read_gb_per_s", whole, whole / _RATE_FACTOR, whole * _RATE_FACTOR),
        Parameter(f"{SYSTEM}.cpu_core_gb_per_s", one, one / _RATE_FACTOR, one * _RATE_FACTOR),
        Parameter(f"{SYSTEM}.{flops}", constants[flops], constants[flops] / 6, constants[flops] * 6),
    ]
    for name, low, high in _OF_TOKENS:
        found.append(Parameter(f"{SYSTEM}.{name}", min(max(constants[name], low), high), low, high))
    return found


def _fitted(
    rows: Sequence[Row], parameters: Sequence[Parameter], begin: Mapping[str, float] | None = None
) -> tuple[Fit, list[Row]]:
    """A fit, and the rows with what it found."""
    overrides = Overrides(parameters)

    def predicted(row: Row, values: Mapping[str, float]) -> float:
        return row.predicted_s(overrides.apply(row.scenario, values))

    noise = [NOISE if row.phase == "decode" else PROMPT_NOISE for row in rows]
    targets = [Target.of(row.seconds) for row in rows]
    found = fit(parameters, list(rows), targets, predicted, noise=noise, begin=begin)
    return found, [replace(row, scenario=overrides.apply(row.scenario, found.values)) for row in rows]


@dataclass(frozen=True)
class ProbeFit:
    """What was fitted, the profile without its provenance, and log(predicted / measured) of each row."""

    values: dict[str, float]
    profile: Profile
    log_ratios: tuple[float, ...]
    unmoved: tuple[str, ...]


def fit_rows(rows: Sequence[Row]) -> ProbeFit:
    """Fit tokens first, then prompts, then all at once from there.

    Kernels of many rows say nothing of those of one, so that each has a start of its own; but rows of experts are multiplied
    one by one while their weights lie in the cache, which alone tells what of a token is multiplying and what is reading.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    decode = [index for index, row in enumerate(rows) if row.phase == "decode"]
    parameters = parameters_of(rows)
    stated = tuple(sorted(_OFF.items()))
    rows = [replace(row, scenario=replace(row.scenario, constants=stated)) for row in rows]
    tokens, _ = _fitted([rows[index] for index in decode], parameters)
    known = Overrides(parameters)
    based = [replace(row, scenario=known.apply(row.scenario, tokens.values)) for row in rows]
    mine = [Parameter(f"{SYSTEM}.{name}", value, low, high) for name, value, low, high in _OF_PROMPTS]
    prompts, _ = _fitted(based, mine)
    whole, done = _fitted(rows, [*parameters, *mine], begin=tokens.values | prompts.values)
    values = {name: float(f"{value:.6g}") for name, value in whole.values.items()}
    constants = {
        name.partition(".")[2]: value for name, value in values.items() if name.startswith(f"{SYSTEM}.")
    }
    profile = Profile(
        name="llama-cpp-here",
        system_constants={SYSTEM: constants | _OFF},
        host={"read_gb_per_s": values["host.read_gb_per_s"]},
    )
    ratios = tuple(math.log(row.predicted_s(row.scenario) / row.seconds) for row in done)
    return ProbeFit(values, profile, ratios, whole.unmoved)


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
    found = fit_rows(rows)
    return found.profile.replace(
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
                name: _residuals(
                    [r for r, row in zip(found.log_ratios, rows, strict=True) if row.phase == phase]
                )
                for name, phase in (("tokens", "decode"), ("prompts", "prefill"))
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


def _residuals(ratios: Sequence[float]) -> dict[str, float]:
    sizes = sorted(abs(ratio) for ratio in ratios)
    return {
        "median_abs_error": sizes[len(sizes) // 2],
        "max_abs_error": sizes[-1],
        "bias": sum(ratios) / len(ratios),
    }
