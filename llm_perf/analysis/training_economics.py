"""Cost and energy of a training job: US dollars from GPU-hours, joules from TDP and how busy the GPUs are."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.analysis.training import TrainingResult
from llm_perf.config.economics import Price, dollars_per_hour, load_power_model
from llm_perf.hardware.power import board_power_w
from llm_perf.hardware.streams import COMPUTE

_HOUR_S = 3600
_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """US dollars, all GPUs of the job paid. ``run`` is None where the plan does not say how many tokens."""

    price: Price | None
    per_gpu_hour: float
    per_million_tokens: float
    run: float | None


@dataclass(frozen=True, slots=True)
class TrainingEnergy:
    """Energy of the GPUs alone: hosts, network and cooling are not in it. ``power_w`` is one GPU's mean board power."""

    power_w: float
    j_per_token: float
    run_j: float | None


def training_cost(result: TrainingResult, price: Price | float) -> TrainingCost:
    """Price x GPUs x time."""
    hourly = dollars_per_hour(price)
    per_second = hourly * result.scenario.num_gpus / _HOUR_S
    return TrainingCost(
        price=price if isinstance(price, Price) else None,
        per_gpu_hour=hourly,
        per_million_tokens=per_second / result.throughput_tokens_per_s * _MILLION,
        run=None if result.run is None else hourly * result.run.gpu_hours,
    )


def training_energy(result: TrainingResult) -> TrainingEnergy | None:
    """Mean board power x time; None where the TDP is not known. Kernels count as busy arithmetic, whatever bounds them.

    A board under a limit of its own draws no more than that.
    """
    scenario = result.scenario
    if scenario.gpu.tdp_w is None:
        return None
    busy = result.busy_s.get(COMPUTE, 0.0) / result.step_time_s
    power = float(board_power_w(scenario.gpu.tdp_w, load_power_model(), busy, 0.0))
    power = min(power, scenario.plan.power_limit_w or power)
    whole = power * scenario.num_gpus
    return TrainingEnergy(
        power,
        whole / result.throughput_tokens_per_s,
        None if result.run is None else whole * result.run.time_s,
    )
