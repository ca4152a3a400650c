"""The prediction of a training job: batch, memory, the time of one optimizer step, utilisation, the whole run."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_perf.analysis.floor import least_training_step_s, training_below_the_roof
from llm_perf.analysis.inference import largest_fitting
from llm_perf.analysis.intervals import training_interval
from llm_perf.analysis.result import Found, Result
from llm_perf.analysis.tuning_intervals import memory_interval
from llm_perf.config.gpu import format_bits
from llm_perf.config.training import KEPT_SHARES, TrainingScenario
from llm_perf.counts.arrays import Number
from llm_perf.counts.flops import recomputed_flops, training_flops
from llm_perf.errors import SpecError
from llm_perf.systems import PhaseCost
from llm_perf.systems.constants import no_fit_note
from llm_perf.systems.devices import machine_note, runs_note
from llm_perf.systems.terms import Quantity, Term
from llm_perf.systems.training.base import TrainingLoad, TrainingMemory
from llm_perf.systems.training.framework import Framework, get_framework
from llm_perf.systems.training.memory import recomputing_share
from llm_perf.systems.training.step import TrainingStep

_LARGEST_SEARCH = 2**24
_HOUR_S, _DAY_S = 3600, 86400


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Sequences of one optimizer step: micro_batch_size x gradient_accumulation_steps x dp_size = global_batch_size."""

    micro_batch_size: int
    gradient_accumulation_steps: int
    global_batch_size: int


@dataclass(frozen=True, slots=True)
class WholeRun:
    """A run of so many tokens."""

    num_tokens: int
    num_steps: float
    time_s: float
    gpu_hours: float

    @property
    def days(self) -> float:
        """Wall-clock days."""
        return self.time_s / _DAY_S


@dataclass(frozen=True)
class TrainingResult(Result):
    """A prediction with everything that a report needs. Times are given even where it does not fit.

    ``breakdown_s`` are exposed seconds that sum to ``step_time_s``; ``busy_s`` seconds per stream, hidden or not.
    ``model_flops_per_s_per_gpu`` counts nothing that is recomputed, ``hardware_flops_per_s_per_gpu`` does; ``mfu`` and
    ``hfu`` are their shares of the peak of ``peak_dtype``. ``max_micro_batch_size`` is the largest that fits with this
    accumulation, 0 if none, ``sure_micro_batch_size`` the largest whose interval fits as well.
    ``run`` is None unless the plan says how many tokens.
    """

    scenario: TrainingScenario
    batch: TrainingBatch
    feasible: bool
    reason: str | None
    memory: TrainingMemory
    step_time_s: float
    breakdown_s: dict[str, float]
    busy_s: dict[str, float]
    bottleneck: str
    throughput_tokens_per_s: float
    model_flops_per_step: float
    hardware_flops_per_step: float
    peak_dtype: str
    peak_flops_per_s: float
    max_micro_batch_size: int
    run: WholeRun | None
    step: PhaseCost = field(compare=False, repr=False)
    sure_micro_batch_size: int = 0
    warnings: tuple[str, ...] = field(default=())
    quantities: tuple[Quantity, ...] = field(default=(), repr=False)

    @property
    def terms(self) -> tuple[Term, ...]:
        """What the step's time consists of, part by part; made when asked for."""
        return self.step.explained()

    def _find_interval(self) -> Found:
        found, missing = training_interval(self.scenario, self.step_time_s, self.launches_s)
        if found is not None:
            sequences = self.batch.global_batch_size
            least = least_training_step_s(self.scenario, sequences, self.peak_flops_per_s)
            found = found.above(min(least, self.step_time_s), None)
        return found, missing

    @property
    def launches_s(self) -> float:
        """Seconds of the step that wait for launches which the framework could make as CUDA graphs, and is not asked to."""
        graphed = self.scenario.plan.cuda_graphs != "none" or not self.software.graphs
        return 0.0 if graphed or not self.scenario.model.routes else self.breakdown_s.get("framework", 0.0)

    @property
    def memory_interval_bytes(self) -> tuple[float, float]:
        """Where the peak of a GPU lies in nine of ten runs, whatever the framework."""
        return memory_interval(float(self.memory.gpu.total_bytes))

    @property
    def latency_s(self) -> float:
        """Seconds of one optimizer step."""
        return self.step_time_s

    @property
    def tokens_per_s(self) -> float:
        """Trained tokens per second."""
        return self.throughput_tokens_per_s

    @property
    def software(self) -> Framework:
        """The version of the framework."""
        return get_framework(self.scenario.framework)

    @property
    def throughput_tokens_per_s_per_gpu(self) -> float:
        """Trained tokens per second and GPU."""
        return self.throughput_tokens_per_s / self.scenario.num_gpus

    @property
    def model_flops_per_s_per_gpu(self) -> float:
        """FLOP/s per GPU without what is recomputed."""
        return self.model_flops_per_step / self.step_time_s / self.scenario.num_gpus

    @property
    def hardware_flops_per_s_per_gpu(self) -> float:
        """FLOP/s per GPU with what is recomputed."""
        return self.hardware_flops_per_step / self.step_time_s / self.scenario.num_gpus

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: share of the peak."""
        return self.model_flops_per_s_per_gpu / self.peak_flops_per_s

    @property
    def hfu(self) -> float:
        """Hardware FLOPs utilisation: share of the peak, recomputation counted."""
        return self.hardware_flops_per_s_per_gpu / self.peak_flops_per_s


def predict_training(scenario: TrainingScenario) -> TrainingResult:
    """Predict one training job.

    Raises:
        SpecError: batch sizes that contradict each other, or something that is not modelled.
    """
    framework = get_framework(scenario.framework)
    model = TrainingStep(scenario, framework)
    batch = solve_batch(scenario, model)
    load = TrainingLoad(
        float(batch.micro_batch_size), float(batch.gradient_accumulation_steps), float(scenario.plan.seq_len)
    )
    evaluation = model.evaluate(load)
    step = evaluation.step
    latency = float(step.latency_s)
    breakdown = {name: float(seconds) for name, seconds in step.parts_s.items() if seconds != 0}
    dtype = model.kernels.dtype
    tokens = batch.global_batch_size * scenario.plan.seq_len
    flops = float(
        training_flops(
            scenario.model, batch.global_batch_size, scenario.plan.seq_len, scenario.plan.lora_rank > 0
        )
    )
    again = recomputed_flops(
        scenario.model,
        batch.global_batch_size,
        scenario.plan.seq_len,
        scenario.plan.activation_recomputation,
        KEPT_SHARES[scenario.plan.kept_products],
    )
    return TrainingResult(
        scenario=scenario,
        batch=batch,
        feasible=bool(evaluation.memory.fits),
        reason=evaluation.memory.missing,
        memory=evaluation.memory,
        step_time_s=latency,
        breakdown_s=breakdown,
        busy_s={name: float(seconds) for name, seconds in step.busy_s.items() if seconds != 0},
        bottleneck=max(breakdown, key=lambda name: breakdown[name]),
        throughput_tokens_per_s=tokens / latency,
        model_flops_per_step=flops,
        hardware_flops_per_step=flops + recomputing_share(scenario) * float(again),
        peak_dtype=dtype,
        peak_flops_per_s=scenario.gpu.peak_flops_per_s(dtype),
        max_micro_batch_size=_largest_micro_batch(model, load.accumulation),
        sure_micro_batch_size=_largest_micro_batch(model, load.accumulation, memory_interval(1.0)[1]),
        run=_whole_run(scenario, tokens, latency),
        warnings=(
            *filter(None, (training_below_the_roof(scenario, batch.global_batch_size, latency),)),
            *evaluation.notes,
            *((scenario.model.left_out,) if scenario.model.left_out else ()),
            *_warnings(scenario, dtype, framework, model),
            *(() if scenario.fits else (no_fit_note(framework, scenario.host, scenario.gpu),)),
        ),
        quantities=tuple(model.footprint.quantities(load)),
        step=step,
    )


# -- the batch ------------------------------------------------------------------------------------------------


def solve_batch(scenario: TrainingScenario, model: TrainingStep) -> TrainingBatch:
    """The batch sizes that the plan leaves open, from those that it gives; where too few are given, the largest that fits.

    A global batch alone is cut into the largest micro-batch that fits, divides it and leaves each pipeline stage one. Where
    nothing fits the batch is one sequence, and the memory says what is missing: never a negative batch.

    Raises:
        SpecError: the sizes that are given do not multiply.
    """
    plan, dp = scenario.plan, scenario.parallelism.dp_size
    micro, steps, whole = plan.micro_batch_size, plan.gradient_accumulation_steps, plan.global_batch_size
    if whole is not None and whole % dp:
        raise SpecError(f"global_batch_size {whole} is not a multiple of dp_size {dp}")
    if whole is not None:
        micro, steps = _of_replica(whole // dp, micro, steps, dp, model)
    if steps is None:
        # A pipeline with fewer micro-batches than stages would idle for most of a step.
        steps = scenario.parallelism.pp_size
    if micro is None:
        micro = max(_largest_micro_batch(model, float(steps)), 1)
    return TrainingBatch(micro, steps, micro * steps * dp)


def _of_replica(
    sequences: int, micro: int | None, steps: int | None, dp: int, model: TrainingStep
) -> tuple[int, int]:
    """(micro-batch, accumulation steps) of one replica's ``sequences``."""
    if micro is not None and steps is not None and micro * steps != sequences:
        raise SpecError(
            f"micro_batch_size {micro} x gradient_accumulation_steps {steps} x dp_size {dp} = {micro * steps * dp},"
            f" but global_batch_size is {sequences * dp}"
        )
    for name, size in (("micro_batch_size", micro), ("gradient_accumulation_steps", steps)):
        if size is not None and sequences % size:
            raise SpecError(
                f"{name} {size} does not divide the {sequences} sequences that each of {dp} replicas has"
            )
    if micro is not None:
        return micro, sequences // micro
    if steps is not None:
        return sequences // steps, steps
    largest = 1
    # Fewer micro-batches than pipeline stages would leave stages idle, however large they are.
    most = max(sequences // model.p.pp_size, 1)
    for candidate in range(1, min(most, 2**16) + 1):
        if sequences % candidate:
            continue
        load = TrainingLoad(float(candidate), float(sequences // candidate), float(model.plan.seq_len))
        if not model.footprint.memory(load).fits:
            break
        largest = candidate
    return largest, sequences // largest


def _largest_micro_batch(model: TrainingStep, accumulation: float, times: float = 1.0) -> int:
    """The largest that fits if a GPU's peak is so many times what is predicted; 0 if none does."""

    def fits(micro: Number) -> Number:
        memory = model.footprint.memory(TrainingLoad(micro, accumulation, float(model.plan.seq_len)))
        return memory.fits & (memory.gpu.total_bytes * times <= memory.gpu.capacity_bytes)

    return largest_fitting(fits, _LARGEST_SEARCH)


# -- the rest -------------------------------------------------------------------------------------------------


def _whole_run(scenario: TrainingScenario, tokens_per_step: int, step_s: float) -> WholeRun | None:
    tokens = scenario.plan.total_num_tokens
    if tokens is None:
        return None
    steps = tokens / tokens_per_step
    seconds = steps * step_s
    return WholeRun(tokens, steps, seconds, seconds / _HOUR_S * scenario.num_gpus)


def _warnings(
    scenario: TrainingScenario, dtype: str, framework: Framework, model: TrainingStep
) -> tuple[str, ...]:
    device = runs_note(f"framework {framework.name}", framework.runs_on, scenario.gpu)
    notes = (framework.caveat, device, machine_note(scenario.gpu, scenario.host))
    found = [text for text in notes if text is not None]
    gpu, asked = scenario.gpu, scenario.plan.compute_dtype
    if format_bits(dtype) > format_bits(asked):
        found.append(f"{gpu.name} has no {asked} matrix format, so products run in {dtype}")
    if model.kernels.rates.efficiency.evidence == "assumed":
        found.append(
            f"the training efficiencies of {gpu.name} are assumed from its inference kernels, not measured"
        )
    p = scenario.parallelism
    if framework.pipeline_stage is not None and p.pp_size > 1 and p.dp_size > 1:
        found.append(
            f"beside a pipeline {framework.name} keeps a stage's weights and gradients whole until its last micro-batch, as "
            f"ds_zero {framework.pipeline_stage} does"
        )
    if scenario.plan.mtp_depth:
        found.append(
            "blocks of multi-token prediction are in the time, neither in the memory nor in the model's FLOPs"
        )
    return tuple(found)
