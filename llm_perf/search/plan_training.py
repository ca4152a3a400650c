"""The cheapest machines for a training run: so many tokens before a deadline, parallelism searched.

All counts of a GPU type are tried that could do it at all: more GPUs spend more time on exchanges, but leave each more
memory, so that the cheapest count is not always the smallest one.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.base import PositiveInt, Spec
from llm_perf.config.economics import load_prices
from llm_perf.config.gpu import format_bits
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import get_gpu_config_by_name, known_names, usual_host
from llm_perf.config.parallelism import ParallelismConfig, fewest_nodes
from llm_perf.config.training import LoraTargets, Precision, TrainingScenario, matrix_format
from llm_perf.counts.flops import training_flops
from llm_perf.errors import LLMPerfError, SpecError
from llm_perf.systems.training.base import TrainingLoad
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep

_UNITS_S: Final = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_HOUR_S: Final = 3600.0
_USUAL_STEP_TOKENS: Final = 4 * 2**20
"""Tokens of an optimizer step where nobody says how many: what models of some billions of parameters are trained with."""
_USUAL_TUNED_SEQUENCES: Final = 64
"""Sequences of an optimizer step where adapters are trained and nobody says how many: those of QLoRA's runs of 33 and 65
billion parameters (arXiv 2305.14314, table 9; 16 for smaller models)."""
_AS_TRAIN_TAKES_THEM: Final = (
    "model", "framework", "seq_len", "precision", "lora_rank", "lora_targets", "adapter", "base_weight_bits",
    "base_double_quant", "optimizer", "allow_long_context",
)  # fmt: skip
"""Fields of a question that are inputs of ``llm-perf train`` as they are."""
_MICRO_BATCHES: Final = (1, 2, 4, 8, 16)
_LARGEST_TP, _LARGEST_PP, _LARGEST_EP = 8, 16, 64


def _tokens(value: Any) -> Any:
    """100e9 and "100e9" as a whole number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"must be a number of tokens such as 100e9, got {value!r}") from None
    if not 1 <= number <= 1e18 or number != int(number):
        raise ValueError(f"must be a whole number of tokens from 1 to 1e18, got {value!r}")
    return int(number)


def _seconds(value: Any) -> Any:
    """Seconds of what is written as 30d, 12h, 2w or 90m; a number is seconds already, as an answer's JSON has them."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([mhdw])\s*", str(value))
    if found is None or float(found[1]) <= 0:
        raise ValueError(f"must be a time such as 30d, 12h, 2w or 90m, got {value!r}")
    return float(found[1]) * _UNITS_S[found[2]]


class TrainingPlanQuestion(Spec):
    """What ``llm-perf plan --train`` can be asked, under the names of its flags.

    Attributes:
        tokens: of the whole run.
        deadline: seconds; written as 30d, 12h, 2w or 90m.
        gpus: types to choose from; all that ship and have a price if empty.
        max_gpus: of the whole job.
        global_batch_size: sequences per optimizer step; None is 4 Mi tokens' worth, 64 sequences for adapters.
        lora_rank, lora_targets, adapter, base_weight_bits, base_double_quant, optimizer: as `llm-perf train` takes them.
        prices: a list of prices of one's own.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model",)
    _label: ClassVar[str | None] = ""

    model: Annotated[str, Field(min_length=1)]
    tokens: Annotated[int, BeforeValidator(_tokens)]
    deadline: Annotated[float, BeforeValidator(_seconds)]
    gpus: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_gpus: PositiveInt = 1024
    framework: Annotated[str, Field(min_length=1)] = "megatron"
    seq_len: PositiveInt | None = None
    global_batch_size: PositiveInt | None = None
    precision: Precision | None = None
    lora_rank: Annotated[int, Field(strict=True, ge=0, le=10**6)] = 0
    lora_targets: LoraTargets | None = None
    adapter: Literal["lora", "dora"] | None = None
    base_weight_bits: Literal[4, 8, 16] | None = None
    base_double_quant: Annotated[bool, Field(strict=True)] | None = None
    optimizer: Annotated[str, Field(min_length=1)] | None = None
    prices: Annotated[str, Field(min_length=1)] | None = None
    allow_long_context: Annotated[bool, Field(strict=True)] = False


@dataclass(frozen=True)
class TrainingCandidate:
    """One way to do it: the inputs of ``llm-perf train``, and what it takes. ``cost`` is in US dollars.

    Of what is answered, ``run_interval_s`` is where a real run's time lies in nine of ten cases, None where no published
    run says so, and ``may_not_fit`` whether the interval of the peak of memory reaches past what is usable.
    ``wider_format`` is the one in which a GPU runs products that it has not in the format asked for; None: it has it.
    """

    inputs: TrainingInputs
    num_gpus: int
    run_s: float
    cost: float
    mfu: float
    run_interval_s: tuple[float, float] | None = None
    may_not_fit: bool = False
    wider_format: str | None = None

    @property
    def gpu_hours(self) -> float:
        """Hours times GPUs."""
        return self.run_s / _HOUR_S * self.num_gpus


@dataclass(frozen=True)
class TrainingPlanAnswer:
    """The outcome: the cheapest of each GPU type that meets the deadline, and the fastest of all where none does.

    ``refused`` says of a GPU type why it cannot train the model at all, ``unpriced`` names those without a price.
    """

    question: TrainingPlanQuestion
    best: tuple[TrainingCandidate, ...]
    nearest: TrainingCandidate | None
    evaluated: int
    unpriced: tuple[str, ...]
    refused: dict[str, str]
    seconds: float


def plan_training(question: TrainingPlanQuestion, top: int = 5) -> TrainingPlanAnswer:
    """Find the cheapest machines.

    Raises:
        SpecError: unknown names, or none of the GPUs has a price.
    """
    start = time.perf_counter()
    prices = load_prices(question.prices)
    names = [get_gpu_config_by_name(name).name for name in question.gpus or known_names("GPU")]
    known = {name: prices.of(name) for name in names}
    hourly = {name: price.per_gpu_hour for name, price in known.items() if price is not None}
    if not hourly:
        raise SpecError(f"no price is known for {', '.join(names[:3])}: give a list with --prices")
    get_framework(question.framework)
    met, missed, refused, evaluated = [], [], {}, 0
    for name, hour in hourly.items():
        try:
            type_ = _GPUType(question, name, hour)
            found, fastest = type_.search()
        except LLMPerfError as error:
            refused[name] = str(error)
            continue
        evaluated += type_.evaluated
        met += [found] if found else []
        missed += [fastest] if fastest else []
    if not met and not missed and refused:
        raise SpecError(next(iter(refused.values())))
    nearest = None if met else min(missed, key=lambda one: one.run_s, default=None)
    return TrainingPlanAnswer(
        question=question,
        best=tuple(_with_interval(one) for one in sorted(met, key=lambda one: one.cost)[:top]),
        nearest=None if nearest is None else _with_interval(nearest),
        evaluated=evaluated,
        unpriced=tuple(name for name in names if name not in hourly),
        refused=refused,
        seconds=time.perf_counter() - start,
    )


def _with_interval(one: TrainingCandidate) -> TrainingCandidate:
    """The candidate with what `llm-perf train` says of its certainty."""
    result = predict_training(build_training_scenario(one.inputs))
    low, high = (None, None) if result.interval is None else result.interval.total_s or (None, None)
    scale = one.run_s / result.step_time_s
    return replace(
        one,
        run_interval_s=None if low is None or high is None else (low * scale, high * scale),
        may_not_fit=result.may_not_fit,
    )


class _GPUType:
    """The search over counts and divisions of one GPU type."""

    def __init__(self, question: TrainingPlanQuestion, gpu: str, price: float) -> None:
        self.question, self.gpu, self.price = question, gpu, price
        fields = {name: getattr(question, name) for name in _AS_TRAIN_TAKES_THEM}
        given = {name: value for name, value in fields.items() if value is not None}
        self.asked = TrainingInputs(gpu=gpu, **given)
        self.base = build_training_scenario(self.asked)
        self.seq_len = self.base.plan.seq_len
        self.evaluated = 0

    @cached_property
    def sequences(self) -> int:
        """Sequences of one optimizer step."""
        if self.question.global_batch_size is not None:
            return self.question.global_batch_size
        if self.question.lora_rank:
            return _USUAL_TUNED_SEQUENCES
        return int(max(_USUAL_STEP_TOKENS // self.seq_len, 1))

    @cached_property
    def flops(self) -> float:
        """Of the whole run, nothing recomputed."""
        steps = self.question.tokens / self.seq_len
        frozen = self.question.lora_rank > 0
        return steps * float(training_flops(self.base.model, 1, self.seq_len, frozen))

    def search(self) -> tuple[TrainingCandidate | None, TrainingCandidate | None]:
        """(the cheapest that meets the deadline, the fastest of what does not)."""
        peak = self.base.gpu.peak_flops_per_s(matrix_format(self.base.gpu, self.base.plan.compute_dtype))
        met: list[TrainingCandidate] = []
        fastest: TrainingCandidate | None = None
        for count in self._counts():
            if (
                not met
                and count * 2 <= self.question.max_gpus
                and self.flops / (count * peak) > self.question.deadline
            ):
                continue  # not even at the peak
            found = self._best_of(count)
            if found is None:
                continue
            if found.run_s <= self.question.deadline:
                met.append(found)
            elif fastest is None or found.run_s < fastest.run_s:
                fastest = found
        return min(met, key=lambda one: one.cost, default=None), fastest

    def _counts(self) -> Iterator[int]:
        """One GPU, two, and so on; from a whole machine on also one and a half times each."""
        node, count = max(usual_host(self.base.gpu, self.question.max_gpus).gpus_per_node, 1), 1
        while count <= self.question.max_gpus:
            yield count
            if count >= 2 * node and count * 3 // 2 <= self.question.max_gpus:
                yield count * 3 // 2
            count *= 2

    def _best_of(self, count: int) -> TrainingCandidate | None:
        """The fastest division of the job over so many GPUs that fits."""
        best: tuple[float, TrainingScenario, int] | None = None
        # Recomputation makes room and takes time: what does not fit without it takes no less with it.
        least_s: dict[tuple[ParallelismConfig, Any], float] = {}
        for scenario in self._divisions(count):
            division = scenario.parallelism, scenario.plan.ds_zero
            if best is not None and least_s.get(division, 0.0) >= best[0]:
                self.evaluated += len(self._micro_batches(scenario))
                continue
            found, least_s[division] = self._fastest_batch(scenario)
            if found is not None and (best is None or found[0] < best[0]):
                best = (found[0], scenario, found[1])
        return None if best is None else self._candidate(*best)

    def _micro_batches(self, scenario: TrainingScenario) -> list[int]:
        """Sizes that divide the sequences of a replica."""
        replica = self.sequences // scenario.parallelism.dp_size
        return [size for size in _MICRO_BATCHES if replica % size == 0]

    def _fastest_batch(self, scenario: TrainingScenario) -> tuple[tuple[float, int] | None, float]:
        """(seconds of a step, micro-batch) of the fastest micro-batch that fits; the least seconds of those that do not."""
        replica = self.sequences // scenario.parallelism.dp_size
        sizes = self._micro_batches(scenario)
        micro = np.array(sizes, dtype=float)
        step = TrainingStep(scenario, get_framework(scenario.framework))
        load = TrainingLoad(micro, replica / micro, float(self.seq_len))
        self.evaluated += len(sizes)
        fits = np.broadcast_to(np.asarray(step.footprint.memory(load).fits), micro.shape)
        if not fits.any():
            return None, 0.0
        seconds = np.broadcast_to(step.step_cost(load, parts=False).latency_s, micro.shape)
        index = int(np.argmin(np.where(fits, seconds, np.inf)))
        return (float(seconds[index]), sizes[index]), float(np.min(seconds, where=~fits, initial=np.inf))

    def _divisions(self, count: int) -> Iterator[TrainingScenario]:
        """Tensor ranks inside a machine, pipeline stages, experts over what is left; sharding and recomputation."""
        model, host = self.base.model, usual_host(self.base.gpu, count)
        nodes = fewest_nodes(count, host.gpus_per_node)
        if count % nodes:
            return
        experts = max(group.mlp.routed_experts for group in model.layer_groups)
        for tp in _powers(min(_LARGEST_TP, count, host.gpus_per_node)):
            for pp in _powers(min(_LARGEST_PP, count // tp, model.num_layers)):
                dp, rest = divmod(count, tp * pp)
                if rest or self.sequences % dp:
                    continue
                for ep in _powers(min(_LARGEST_EP, experts, dp * tp)) if experts else (1,):
                    yield from self._variants(
                        ParallelismConfig(tp_size=tp, pp_size=pp, dp_size=dp, ep_size=ep, sp_size=tp),
                        host,
                        nodes,
                    )

    def _variants(
        self, parallelism: ParallelismConfig, host: HostConfig, nodes: int
    ) -> Iterator[TrainingScenario]:
        """The division with the optimizer's state shared, or all of it; without recomputation, or with all of it.

        Adapters have hardly a state to share: replicas of the whole model stand for the first of these.
        """
        try:
            get_framework(self.base.framework).check_divisions(parallelism)
        except SpecError:
            return
        shared = 0 if self.question.lora_rank else 1
        stages = (shared,) if parallelism.pp_size > 1 else (shared, 3)
        if parallelism.dp_size == 1:
            stages = (0,)
        for stage in get_framework(self.base.framework).stages_among(stages):
            for level in (0, 4):
                plan = self.base.plan.replace(
                    ds_zero=stage,
                    activation_recomputation=level,
                    **self._defaults_at(stage, parallelism.tp_size),
                )
                try:
                    yield self.base.replace(plan=plan, parallelism=parallelism, host=host, num_nodes=nodes)
                except SpecError:
                    return

    def _defaults_at(self, stage: int, tp_size: int) -> dict[str, Any]:
        """What the framework does otherwise at a ZeRO stage, or with tensor-parallel ranks, than at others."""
        framework = get_framework(self.base.framework)
        found = framework.defaults_at(stage, tp_size, not self.base.model.routes)
        differing = (framework.stage_3_defaults, framework.tensor_defaults, framework.dense_tensor_defaults)
        return {name: found[name] for fields in differing for name in fields if name in found}

    def _candidate(self, step_s: float, scenario: TrainingScenario, micro: int) -> TrainingCandidate:
        p, plan = scenario.parallelism, scenario.plan
        inputs = self.asked.replace(
            tp_size=p.tp_size, pp_size=p.pp_size, dp_size=p.dp_size, ep_size=p.ep_size, ds_zero=plan.ds_zero.value,
            activation_recomputation=plan.activation_recomputation.value, micro_batch_size=micro,
            global_batch_size=self.sequences, total_num_tokens=self.question.tokens,
            num_nodes=scenario.num_nodes, num_gpus=scenario.gpus_per_node,
        )  # fmt: skip
        run_s = self.question.tokens / (self.sequences * self.seq_len) * step_s
        dtype, count = matrix_format(scenario.gpu, plan.compute_dtype), scenario.num_gpus
        wider = format_bits(dtype) > format_bits(plan.compute_dtype)
        return TrainingCandidate(
            inputs, count, run_s, self.price * count * run_s / _HOUR_S,
            self.flops / (run_s * scenario.gpu.peak_flops_per_s(dtype) * count),
            wider_format=dtype if wider else None,
        )  # fmt: skip


def _powers(most: int) -> Iterator[int]:
    """1, 2, 4 and so on."""
    size = 1
    while size <= most:
        yield size
        size *= 2
