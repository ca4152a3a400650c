"""The prediction of one inference: placement, memory, both phases, and what would make it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from llm_perf.analysis.calibrated import asked_of, profile_warnings
from llm_perf.analysis.floor import below_the_roof, floor_s
from llm_perf.analysis.hybrid_intervals import shared_processor_note
from llm_perf.analysis.intervals import inference_interval
from llm_perf.analysis.measures import Measures
from llm_perf.analysis.result import Found, Result
from llm_perf.analysis.tuning_intervals import memory_interval
from llm_perf.config.gpu import format_bits
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number
from llm_perf.counts.weight_formats import checkpoint_difference
from llm_perf.systems import Load, PhaseCost, Placement, System, checked_system, system_of
from llm_perf.systems.base import MemoryUse
from llm_perf.systems.constants import ConstantsFile, no_fit_note
from llm_perf.systems.devices import machine_note
from llm_perf.systems.kv_cache import KVCapacity, engine_capacity, kv_capacity, scheduler_limit
from llm_perf.systems.registry import device_note, full_name, version_note
from llm_perf.systems.terms import Term

Limit = Literal["memory", "model positions", "scheduler"]
"""What bounds a batch or a context."""

_LARGEST_SEARCH = 2**40
_RUNGS = 256
_LADDER = np.array(
    sorted({int(rung) for rung in np.geomspace(1, _LARGEST_SEARCH, _RUNGS).round()})
)  # np.unique loads np.ma
"""Numbers that a search tries first: all small ones, then each a tenth larger."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of an inference. Throughput counts the tokens of the whole deployment (seed 001).

    ``stages_busy`` pipeline stages work at once on average; ``slowest_stage_s`` is how long the slowest one works for
    this batch, None without stages. ``cost`` is what all of it was read from.
    """

    latency_s: float
    throughput_tokens_per_s: float
    bottleneck: str
    breakdown_s: dict[str, float]
    busy_s: dict[str, float]
    cost: PhaseCost = field(compare=False, repr=False)
    latency_per_token_s: float | None = None
    stages_busy: float = 1.0
    slowest_stage_s: float | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        """What the latency consists of, part by part; made when asked for, which takes as long as a prediction."""
        return self.cost.explained()


@dataclass(frozen=True)
class InferenceResult(Result):
    """A prediction with everything that a report needs. Latencies are given even where it does not fit.

    ``decode`` is None where there are no decode steps (gen_len 1, encoders). ``reason`` says what is missing where
    ``feasible`` is False. What else would fit is found when it is first asked for: it takes as long as the times.
    """

    scenario: Scenario
    feasible: bool
    reason: str | None
    placement: Placement
    memory: MemoryUse
    prefill: Phase
    decode: Phase | None
    total_latency_s: float
    total_throughput_tokens_per_s: float
    warnings: tuple[str, ...] = field(default=())

    def _find_interval(self) -> Found:
        decode_s = None if self.decode is None else self.decode.latency_s
        interval, missing = inference_interval(
            self.scenario,
            self.placement,
            asked_of(self.scenario, self.placement),
            (self.prefill.latency_s, decode_s, self.total_latency_s),
        )
        busy = {} if self.decode is None else self.decode.busy_s
        floor = floor_s(self.scenario, self.placement, (*self.prefill.busy_s, *busy))
        if interval is not None and floor is not None:
            steps = 0.0 if decode_s is None or not self.tpot_s else decode_s / self.tpot_s
            interval = interval.above(floor[0], steps * floor[1])
        return interval, missing

    @property
    def memory_interval_bytes(self) -> tuple[float, float] | None:
        """Of programs that allocate as they go: as wide as that of PyTorch programs that train, whose peaks are published."""
        if not system_of(self.scenario).family.allocates_as_it_goes:
            return None
        return memory_interval(float(self.memory.gpu.total_bytes))

    @property
    def measures(self) -> Measures:
        """The times with every rate that follows from them."""
        decode_s = 0.0 if self.decode is None else self.decode.latency_s
        scenario = self.scenario
        return Measures.of_times(self.prefill.latency_s, decode_s, Load.of(scenario.workload), scenario.model)

    @cached_property
    def max_batch_size(self) -> int:
        """The largest total batch that runs at once at these lengths and this placement; 0 if none does."""
        scenario = self.scenario
        return max_batch_size(system_of(scenario), scenario, Load.of(scenario.workload), self.placement)

    @cached_property
    def max_context_len(self) -> int:
        """The largest prompt + generation, in tokens, that fits at this batch, generation unchanged; 0 if none does."""
        scenario = self.scenario
        return max_context_len(system_of(scenario), scenario, Load.of(scenario.workload), self.placement)

    @property
    def batch_limited_by(self) -> Limit:
        """What bounds ``max_batch_size``."""
        return "scheduler" if self.max_batch_size == scheduler_limit(self.scenario) else "memory"

    @property
    def context_limited_by(self) -> Limit:
        """What bounds ``max_context_len``."""
        return "model positions" if self.max_context_len == _positions(self.scenario) else "memory"

    @cached_property
    def kv_capacity(self) -> KVCapacity | None:
        """What the cache of an engine holds; None for encoders and where the cache is not on the GPUs alone."""
        load = Load.of(self.scenario.workload)
        return kv_capacity(self.scenario, load, self.memory.gpu, self.max_batch_size)

    @cached_property
    def engine_capacity(self) -> KVCapacity | None:
        """What a serving engine of today would hold; None for all but a system that stands for these."""
        return engine_capacity(self.scenario, Load.of(self.scenario.workload), self.memory.gpu)

    @property
    def latency_s(self) -> float:
        """Seconds of the whole batch."""
        return self.total_latency_s

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second, for encoders those that are read."""
        return self.total_throughput_tokens_per_s

    @property
    def software(self) -> ConstantsFile:
        """The version of the system."""
        return system_of(self.scenario).file

    @property
    def ttft_s(self) -> float:
        """Time to first token: the prefill of the batch."""
        return self.prefill.latency_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: the mean decode step of the batch; None without decode steps."""
        return None if self.decode is None else self.decode.latency_per_token_s

    @property
    def system_name(self) -> str:
        """The system with the version that stands for it, as ``--system`` takes it; ``vllm@0.2`` for example."""
        file = self.software
        return file.name if file.stands_for is None else f"{file.name}@{file.release}"

    @property
    def steady_throughput_tokens_per_s(self) -> float | None:
        """Tokens per second once other batches fill the pipeline's bubbles: a batch per turn of the slowest stage.

        None without stages.
        """
        phases = [phase for phase in (self.prefill, self.decode) if phase is not None]
        turns = [phase.slowest_stage_s for phase in phases]
        tokens = float(self.measures.tokens)
        return None if None in turns else tokens / sum(turn or 0.0 for turn in turns)


def predict_inference(scenario: Scenario) -> InferenceResult:
    """Predict one scenario.

    Raises:
        SpecError: the system cannot do what is asked for.
    """
    system = checked_system(scenario)
    load = Load.of(scenario.workload)
    evaluation = system.evaluate(scenario, load)
    measures = Measures.of(evaluation, load, scenario.model)
    decode = None
    if evaluation.decode is not None and measures.steps > 0:
        rate = float(measures.decode_throughput_tokens_per_s)
        decode = _phase(system, evaluation.decode, rate, float(measures.tpot_s))
    return InferenceResult(
        scenario=scenario,
        feasible=bool(evaluation.memory.fits),
        reason=evaluation.memory.missing,
        placement=evaluation.placement,
        memory=evaluation.memory,
        prefill=_phase(system, evaluation.prefill, float(measures.prefill_throughput_tokens_per_s)),
        decode=decode,
        total_latency_s=float(measures.total_latency_s),
        total_throughput_tokens_per_s=float(measures.throughput_tokens_per_s),
        warnings=(
            *filter(
                None,
                (below_the_roof(scenario, evaluation, None if decode is None else float(measures.tpot_s)),),
            ),
            *evaluation.notes,
            *((scenario.model.left_out,) if scenario.model.left_out else ()),
            *_warnings(
                scenario,
                version_note(full_name(scenario), scenario.gpu.device),
                system.file.caveat,
                device_note(scenario),
                machine_note(scenario.gpu, scenario.host),
                shared_processor_note(scenario, evaluation.placement),
            ),
            *(() if scenario.fits else (no_fit_note(system.file, scenario.host, scenario.gpu),)),
            *profile_warnings(scenario, evaluation.placement),
        ),
    )


def _phase(system: System, cost: PhaseCost, tokens_per_s: float, per_token_s: float | None = None) -> Phase:
    busy = {name: float(seconds) for name, seconds in cost.busy_s.items()}
    parts = {name: float(seconds) for name, seconds in cost.parts_s.items() if seconds != 0}
    return Phase(
        latency_s=float(cost.latency_s),
        throughput_tokens_per_s=tokens_per_s,
        bottleneck=_bottleneck(system, parts, busy),
        breakdown_s=parts,
        busy_s=busy,
        latency_per_token_s=per_token_s,
        stages_busy=float(cost.stages_busy),
        slowest_stage_s=None if cost.slowest_stage_s is None else float(cost.slowest_stage_s),
        cost=cost,
    )


def _bottleneck(system: System, parts_s: dict[str, float], busy_s: dict[str, float]) -> str:
    """The resource that is waited for longest.

    Exposed parts that wait for the same resources are added up, and of these resources the busiest one is named.
    Transfers count with all their time, of which the part that computing hides is exposed nowhere; host time does
    not: what hides behind kernels was waited for by nobody.
    """
    waiting: dict[tuple[str, ...], float] = {}
    for name, seconds in parts_s.items():
        candidates = tuple(resource for resource in system.waits_for(name) if resource in busy_s)
        candidates = candidates or tuple(busy_s)
        waiting[candidates] = waiting.get(candidates, 0.0) + seconds
    for candidates, seconds in waiting.items():
        if "host" not in candidates:
            waiting[candidates] = max(seconds, *(busy_s[resource] for resource in candidates))
    longest = max(waiting, key=lambda candidates: waiting[candidates])
    return max(longest, key=lambda resource: busy_s[resource])


def _warnings(scenario: Scenario, *said: str | None) -> tuple[str, ...]:
    found = [text for text in said if text is not None]
    size = checkpoint_difference(scenario.model)
    found += [] if size is None else [size]
    gpu, bits = scenario.gpu, scenario.dtype.compute_bits
    dtype = gpu.dtype_for(bits)
    if format_bits(dtype) > bits:
        found.append(f"{gpu.name} has no {bits}-bit matrix format, so products run in {dtype}")
    if gpu.efficiency.evidence == "assumed" and not gpu.absent:
        found.append(f"the efficiencies of {gpu.name} are assumed from a relative, not measured")
    return tuple(found)


# -- limits ---------------------------------------------------------------------------------------------------


def max_batch_size(system: System, scenario: Scenario, load: Load, placement: Placement) -> int:
    """The largest total batch that runs at once at these lengths and this placement; 0 if none does.

    Bounded by the scheduler of a stack that has one.
    """
    replicas, limit = scenario.parallelism.dp_size, scheduler_limit(scenario)

    def fits(batch: Number) -> Number:
        asked = Load(batch * replicas, load.prompt_len, load.gen_len)
        return system.memory(scenario, asked, placement).at_once

    return replicas * largest_fitting(fits, _LARGEST_SEARCH if limit is None else limit // replicas)


def max_context_len(system: System, scenario: Scenario, load: Load, placement: Placement) -> int:
    """The largest prompt + generation that fits at this batch, generation unchanged; 0 if none does.

    Bounded by the model's positions unless the scenario allows more. Of a batch that the scheduler lets run in parts, a part.
    """
    gen = 0.0 if scenario.model.encoder else load.gen_len
    positions = _positions(scenario)
    most = _LARGEST_SEARCH if positions is None else int(positions - gen)
    if most < 1:
        return 0

    limit = scheduler_limit(scenario)
    batch = load.batch if limit is None else min(float(load.batch), float(limit))

    def fits(prompt: Number) -> Number:
        return system.memory(scenario, Load(batch, prompt, load.gen_len), placement).at_once

    prompt = largest_fitting(fits, most)
    return int(prompt + gen) if prompt else 0


def _positions(scenario: Scenario) -> int | None:
    """The longest context that the model's positions allow; None without a limit."""
    return None if scenario.allow_long_context else scenario.model.max_position_embeddings


def largest_fitting(fits: Callable[[Number], Number], most: int) -> int:
    """The largest n in 1..most for which ``fits`` holds, for a condition that fails from some n on; 0 if none.

    ``fits`` is evaluated on arrays, which cost little more than one number: two calls find a limit of thousands.
    """
    low, high = 0, most + 1  # fits(low) holds or low is 0; fits(high) does not, or is beyond
    if most < _LARGEST_SEARCH:
        if fits(float(most)):
            return most
        high = most
    while high - low > 1:
        if low == 0:
            candidates = _LADDER[high > _LADDER]
        else:
            candidates = np.linspace(low + 1, high - 1, min(high - low - 1, _RUNGS), dtype=np.int64)
        good = np.broadcast_to(fits(candidates.astype(float)), candidates.shape)
        count = int(np.argmin(good)) if not good.all() else len(candidates)
        low, high = (
            int(candidates[count - 1]) if count else low,
            int(candidates[count]) if count < len(candidates) else high,
        )
    return low
