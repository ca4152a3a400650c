"""Cost and energy of a prediction: US dollars from a price per GPU-hour, joules from TDP and utilisation."""

from __future__ import annotations

from dataclasses import dataclass

from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.config.economics import Price, dollars_per_hour, load_power_model, load_prices
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.counts.flops import decode_step_flops, prefill_flops
from llm_perf.hardware.gpu_time import kernel_rates
from llm_perf.hardware.power import board_power_w
from llm_perf.systems import Load, PhaseCost
from llm_perf.systems.prompts import cached_tokens

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
    hourly = dollars_per_hour(price)
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
    prefill, decode = phase_power_w(scenario, result.measures.load, result.prefill, result.decode)
    total = float(joules(scenario, result.measures.load, result.prefill, result.decode))
    tokens = float(result.measures.tokens)
    return Energy(float(prefill), None if decode is None else float(decode), total, total / tokens)


def joules(
    scenario: Scenario, load: Load, prefill: Phase | PhaseCost, decode: Phase | PhaseCost | None
) -> Number:
    """Energy of all GPUs over both phases, which may be arrays over loads. The GPU's TDP must be known."""
    prefill_w, decode_w = phase_power_w(scenario, load, prefill, decode)
    found = prefill_w * prefill.latency_s
    if decode is not None and decode_w is not None:
        found = found + decode_w * decode.latency_s
    return found * scenario.parallelism.num_gpus


def phase_power_w(
    scenario: Scenario, load: Load, prefill: Phase | PhaseCost, decode: Phase | PhaseCost | None
) -> tuple[Number, Number | None]:
    """One GPU's mean board power in the prefill and in the decode steps."""
    model = scenario.model
    new = load.prompt_len - cached_tokens(scenario.workload, load.prompt_len)
    prefill_w = _power_w(scenario, prefill, prefill_flops(model, load.batch, new))
    if decode is None:
        return prefill_w, None
    # FLOPs of a step grow with its context in a line: those at the mean are the mean.
    step = decode_step_flops(model, load.batch, load.prompt_len + (load.gen_len + 1) / 2)
    return prefill_w, _power_w(scenario, decode, load.steps(model.encoder) * step)


def _power_w(scenario: Scenario, phase: Phase | PhaseCost, flops: Number) -> Number:
    """One GPU's mean board power while a phase computes so many FLOPs. A phase of no steps draws what an idle board draws.

    Arithmetic draws power for what it multiplies, at most while it is busy: rows of a tile that a small batch leaves empty
    take time, but nothing switches in them.
    """
    latency = maximum(phase.latency_s, _NO_TIME_S)
    # Stages of a pipeline take turns, so that each is busy for its share.
    share = phase.stages_busy / scenario.parallelism.pp_size
    memory, busy = (phase.busy_s.get(name, 0.0) / latency * share for name in (_MEMORY, _ARITHMETIC))
    rates = kernel_rates(
        scenario.gpu, scenario.dtype.compute_bits, scenario.flops_efficiency, scenario.hbm_memory_efficiency
    )
    each = flops / scenario.parallelism.num_gpus / rates.gemm.flops_per_s
    return board_power_w(scenario.gpu.tdp_w or 0.0, load_power_model(), minimum(each / latency, busy), memory)
