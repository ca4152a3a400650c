"""Cost and energy of a prediction: US dollars from a price per GPU-hour, joules from TDP and utilisation."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.config.economics import Price, load_power_model, load_prices
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum
from llm_perf.hardware.power import board_power_w
from llm_perf.systems import PhaseCost

_ARITHMETIC, _MEMORY = "compute", "hbm"
_NO_TIME_S = 1e-12


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of the GPUs of one batch. Power is one GPU's mean board power in each phase.

    ``decode_power_w`` is None without decode steps. Hosts, fans, network and cooling are not in it.
    """

    prefill_power_w: float
    decode_power_w: float | None
    total_j: float
    j_per_token: float


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars, all GPUs of the deployment paid while the batch runs.

    Per thousand tokens of each phase as llm-analysis counts them: prompt tokens of the prefill, generated ones of the
    decode and of the whole.
    """

    price: Price | None
    per_gpu_hour: float
    total: float
    prefill_per_1k_tokens: float
    decode_per_1k_tokens: float | None
    total_per_1k_tokens: float

    @property
    def per_million_tokens(self) -> float:
        """US dollars of a million generated tokens (of a million tokens read, for encoders)."""
        return self.total_per_1k_tokens * 1000


def gpu_price(gpu: str, per_gpu_hour: float | None, prices_file: str | None) -> Price | float | None:
    """What one GPU costs per hour: as told, else the user's list, else the bundled one; None if none has it.

    Raises:
        SpecError: the user's list cannot be read or is malformed.
    """
    if per_gpu_hour is not None:
        return per_gpu_hour
    return load_prices(prices_file).of(gpu)


def cost_of(result: InferenceResult, price: Price | float) -> Cost:
    """US dollars of one batch: price x GPUs x latency."""
    hourly = price.per_gpu_hour if isinstance(price, Price) else price
    per_second = hourly * result.scenario.parallelism.num_gpus / 3600

    def per_1k(phase: Phase) -> float:
        return per_second / phase.throughput_tokens_per_s * 1000

    return Cost(
        price=price if isinstance(price, Price) else None,
        per_gpu_hour=hourly,
        total=per_second * result.total_latency_s,
        prefill_per_1k_tokens=per_1k(result.prefill),
        decode_per_1k_tokens=per_1k(result.decode) if result.decode else None,
        total_per_1k_tokens=per_second / result.total_throughput_tokens_per_s * 1000,
    )


def energy_of(result: InferenceResult) -> Energy | None:
    """Joules of one batch: GPUs x (prefill power x time + decode power x time); None where the TDP is not known."""
    scenario = result.scenario
    if scenario.gpu.tdp_w is None:
        return None
    prefill = float(power_w(scenario, result.prefill))
    decode = float(power_w(scenario, result.decode)) if result.decode else None
    total = float(joules(scenario, result.prefill, result.decode))
    tokens = float(result.measures.tokens)
    return Energy(prefill, decode, total, total / tokens)


def joules(scenario: Scenario, prefill: Phase | PhaseCost, decode: Phase | PhaseCost | None) -> Number:
    """Energy of all GPUs over both phases, which may be arrays over workloads. The GPU's TDP must be known."""
    found = power_w(scenario, prefill) * prefill.latency_s
    if decode is not None:
        found = found + power_w(scenario, decode) * decode.latency_s
    return found * scenario.parallelism.num_gpus


def power_w(scenario: Scenario, phase: Phase | PhaseCost) -> Number:
    """One GPU's mean board power. Stages of a pipeline take turns, so that each is busy for its share."""
    share = phase.stages_busy / scenario.parallelism.pp_size

    def busy(resource: str) -> Number:
        # A phase of no steps takes no time, and draws what an idle board draws.
        return phase.busy_s.get(resource, 0.0) / maximum(phase.latency_s, _NO_TIME_S) * share

    return board_power_w(scenario.gpu.tdp_w or 0.0, load_power_model(), busy(_ARITHMETIC), busy(_MEMORY))
