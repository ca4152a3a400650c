"""The best placement and batching of offloaded inference, and the front of throughput against latency.

A system offers what can be searched: knobs that are all tried, or a search of its own. Both run on the vectorised models
that predict one policy, so the answer is a set of inputs for ``llm-perf infer`` and its numbers are those of that prediction.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llm_perf.analysis.division import Aim, Divided, best, divisions, with_fewer_threads
from llm_perf.analysis.economics import gpu_price
from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario, gpu_of
from llm_perf.config.base import NonNegativeQuantity, PositiveInt, Quantity, Spec
from llm_perf.config.economics import Price
from llm_perf.config.loading import get_gpu_config_by_name, get_model_config_by_name
from llm_perf.errors import SpecError
from llm_perf.search.knob_search import KnobSearch
from llm_perf.search.pareto import pareto_front
from llm_perf.systems import get_system
from llm_perf.systems.base import Policies
from llm_perf.systems.families import find
from llm_perf.systems.registry import (
    checked_system,
    dividing_systems,
    family_of,
    runs_there,
    searched_systems,
)

ALL = "all"
"""Stands for all systems whose policies are searched."""

AUTO = "auto"
"""Stands for all systems that divide a model between GPU and CPU."""

Objective = Literal["throughput", "latency", "cost", "decode", "ttft", "mixed"]
_AIMS: dict[str, Aim] = {"decode": "decode", "ttft": "ttft"}
_FRONT_STEP = 0.002
"""A point of the front is kept where it gains this share of throughput over the one before."""


class PolicyQuestion(Spec):
    """What ``llm-perf policy`` can be asked, under the names of its flags.

    Attributes:
        host_memory: GiB of memory of each host. host_bandwidth: GB/s that reads of it reach. As of ``llm-perf infer``.
        num_gpus: GPUs per node, used as each system does: pipeline stages or ranks. num_nodes: nodes of them.
        system: one whose policies are searched, or all of them.
        objective: most tokens per second, least seconds for one batch, or least US dollars per token; where a model is
            divided between GPU and CPU fast decode steps, a fast first token, or both (mixed). As the systems have it
            where nothing is said: throughput, or mixed.
        context: tokens that the cache has room for; those of prompt and generation if None.
        batch_size: sequences at once of a divided model, 1 if None. Where no system is named it asks for such a model.
        weight_format: number format of the weights; as released if None, of llama.cpp's files Q4_K_M.
        max_latency: seconds that one batch, prefill and all decode steps, may take.
        cost_per_gpu_hour: US dollars; the objective cost needs it where the list of prices has none.
        prices: a list of prices of one's own.
        lossless: leave weights and cache in 16 bits, since compressed ones change what the model answers.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model", "gpu")
    _label: ClassVar[str | None] = ""

    model: Annotated[str, Field(min_length=1)]
    gpu: Annotated[str, Field(min_length=1)]
    host: Annotated[str, Field(min_length=1)] | None = None
    host_memory: PositiveInt | None = None
    host_bandwidth: Quantity | None = None
    num_gpus: PositiveInt = 1
    num_nodes: PositiveInt = 1
    system: Annotated[str, Field(min_length=1)] = ALL
    prompt_len: PositiveInt = 512
    gen_len: PositiveInt = 32
    objective: Objective | None = None
    context: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    weight_format: Annotated[str, Field(min_length=1)] | None = None
    max_latency: Quantity | None = None
    cost_per_gpu_hour: NonNegativeQuantity | None = None
    prices: Annotated[str, Field(min_length=1)] | None = None
    lossless: Annotated[bool, Field(strict=True)] = False
    profile: Annotated[str, Field(min_length=1)] | None = None
    allow_long_context: Annotated[bool, Field(strict=True)] = False

    @property
    def systems(self) -> tuple[str, ...]:
        """The systems that are searched, in their versions.

        Raises:
            SpecError: one whose policies are not searched.
        """
        searched, dividing = searched_systems(), dividing_systems()
        if self.system == AUTO or (self.system == ALL and self.divides):
            return _USUAL
        if self.system == ALL:
            return searched
        if get_system(self.system).name not in (*searched, *dividing):
            able = ", ".join((*searched, *dividing))
            raise SpecError(
                f"--system {self.system} has no policies to search; possible: {able}, {ALL}, {AUTO}"
            )
        family, version = find(self.system)
        return (family if version is None else f"{family}@{version}",)

    @property
    def running(self) -> tuple[str, ...]:
        """Those that are searched: of all, what runs on the GPU; where none does, all, which are refused then."""
        if self.system != ALL or self.divides:
            return self.systems
        gpu = gpu_of(self.inputs(self.flags_of(self.systems[0])))
        return tuple(name for name in self.systems if runs_there(name, gpu)) or self.systems

    @property
    def left_out(self) -> dict[str, str]:
        """Systems that ``all`` and ``auto`` leave out of a search, each with why."""
        if self.system not in (ALL, AUTO):
            return {}
        other = (
            "streams weights: --objective throughput, latency or cost"
            if self.divides
            else f"divides a model between GPU and CPU: --system {AUTO}, or its name"
        )
        found = dict.fromkeys(searched_systems() if self.divides else dividing_systems(), other)
        found |= dict.fromkeys(
            dividing_systems() if self.divides else (), "its name alone searches it: --system"
        )
        found |= dict.fromkeys(searched_systems() if not self.divides else (), "does not run on this GPU")
        return {name: why for name, why in found.items() if name not in self.running}

    @property
    def divides(self) -> bool:
        """Whether the question is about a model that is divided between GPU and CPU."""
        if self.objective in ("decode", "ttft", "mixed") or self.system == AUTO:
            return True
        stated = (self.batch_size, self.context, self.weight_format)
        if self.system == ALL and self.objective is None and any(one is not None for one in stated):
            return True
        return self.system != ALL and get_system(self.system).name in dividing_systems()

    @property
    def aim(self) -> Aim:
        """What is to be fast where a model is divided.

        Raises:
            SpecError: an objective of other searches.
        """
        if self.objective in ("throughput", "latency", "cost"):
            raise SpecError(
                f"--objective {self.objective} is for systems that stream weights; of a model that is divided between GPU "
                "and CPU it is decode, ttft or mixed"
            )
        return _AIMS.get(self.objective or "", "mixed")

    @property
    def searched_for(self) -> Objective:
        """The objective, the search's own where none is stated."""
        return self.objective or ("mixed" if self.divides else "throughput")

    @property
    def sequences(self) -> int:
        """Sequences at once of a divided model."""
        return self.batch_size or 1

    @property
    def one_chat(self) -> PolicyQuestion | None:
        """The same question of one sequence at a time, where neither system nor objective says who asks; else None."""
        if self.system != ALL or self.objective is not None or self.divides or self.max_latency is not None:
            return None
        return self.replace(system=AUTO)

    @property
    def total_gpus(self) -> int:
        """GPUs of the deployment."""
        return self.num_gpus * self.num_nodes

    def flags_of(self, system: str) -> dict[str, Any]:
        """A system on all GPUs: as one pipeline where it makes stages of them, as one group where it divides a model."""
        if self.total_gpus == 1:
            return {"system": system}
        if family_of(system).more_gpus == "stages":
            return {"system": system, "pp_size": self.total_gpus}
        divides = get_system(system).name in dividing_systems()
        return {"system": system} | ({"tp_size": self.total_gpus} if divides else {})

    def of_system(self, name: str) -> InferenceInputs:
        """The question to one system that divides a model, before anything is divided."""
        return self.inputs(self.flags_of(name) | _own(self, name))

    @property
    def price(self) -> Price | float | None:
        """What one GPU costs per hour: as told, else by the list of prices; None if that has none or it is nothing."""
        found = gpu_price(
            get_gpu_config_by_name(self.gpu, or_none=True).name, self.cost_per_gpu_hour, self.prices
        )
        return found or None

    def inputs(self, flags: dict[str, Any]) -> InferenceInputs:
        """The question to ``llm-perf infer`` about one policy."""
        return InferenceInputs(
            model=self.model,
            gpu=self.gpu,
            host=self.host,
            host_memory=self.host_memory,
            host_bandwidth=self.host_bandwidth,
            num_gpus=self.num_gpus if self.total_gpus > 1 else None,
            num_nodes=self.num_nodes if self.total_gpus > 1 else None,
            prompt_len=self.prompt_len,
            gen_len=self.gen_len,
            cost_per_gpu_hour=self.cost_per_gpu_hour,
            prices=self.prices,
            profile=self.profile,
            allow_long_context=self.allow_long_context,
            **(({"batch_size": self.total_gpus} if self.total_gpus > 1 else {}) | flags),
        )


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One policy: inputs of ``llm-perf infer`` beyond the question's own, and what it reaches."""

    flags: dict[str, Any]
    latency_s: float
    throughput_tokens_per_s: float
    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """The outcome of a search.

    ``best`` is None, with ``reason``, where nothing fits or meets the latency limit; ``nearest`` is then the fastest
    policy that fits, if one does. ``front`` rises in latency and in throughput. ``searched`` counts policies,
    ``seconds`` is the wall time of the search. ``one_chat`` is what one sequence at a time gets of systems that divide the
    model between GPU and CPU, where the question left open which is meant; ``refused`` why batches are not answered there.
    """

    question: PolicyQuestion
    best: FrontPoint | None
    inputs: InferenceInputs | None
    result: InferenceResult | None
    front: tuple[FrontPoint, ...]
    searched: int
    seconds: float
    reason: str | None = None
    nearest: FrontPoint | None = None
    one_chat: PolicyAnswer | None = None
    refused: str | None = None


_USUAL = ("llama_cpp", "ktransformers")
"""Systems that ``auto`` stands for."""


def search_policy(question: PolicyQuestion) -> PolicyAnswer:
    """Search the policies of one question.

    Raises:
        SpecError: unknown names, a context that is too long, a machine that the system cannot run on, or the
            objective cost without a price.
    """
    if question.divides:
        return search_division(question)
    if question.one_chat is not None:
        return _batches_and_one_chat(question, question.one_chat)
    return _search_batches(question)


def _batches_and_one_chat(question: PolicyQuestion, chat: PolicyQuestion) -> PolicyAnswer:
    """Both readings of a question that names no system: most tokens of batches, and one sequence at a time.

    Raises:
        SpecError: neither can be answered.
    """
    try:
        batches = _search_batches(question)
    except SpecError as refused:
        gpu = gpu_of(question.inputs({}))
        if not gpu.absent and any(runs_there(name, gpu) for name in question.systems):
            raise  # of a model that none of them runs, not of the machine
        try:
            return replace(search_division(chat), refused=str(refused))
        except SpecError:
            raise refused from None
    try:
        return replace(batches, one_chat=search_division(chat))
    except SpecError:
        return batches


def _search_batches(question: PolicyQuestion) -> PolicyAnswer:
    """The best policy of systems that stream weights.

    Raises:
        SpecError: as `search_policy`.
    """
    if question.weight_format is not None:
        raise SpecError(
            "--weight-format is of a model that is divided between GPU and CPU (--system llama_cpp, or auto): systems that "
            "stream weights compress them as the search finds best (--lossless: not)"
        )
    if question.objective == "cost" and question.price is None:
        raise SpecError(
            f"--objective cost needs a price, and there is none above 0 for {question.gpu}: give --cost-per-gpu-hour"
        )
    begin = time.perf_counter()
    pools = [_policies(question, system) for system in question.running]
    points = _Points(pools)
    front = [points[index] for index in _thinned(points, pareto_front(points.latency_s, points.throughput))]
    chosen = _best(question, points)
    searched = sum(pool.searched for pool in pools)
    if chosen is None:
        reason, nearest = _why_not(question, points)
        spent = time.perf_counter() - begin
        return PolicyAnswer(question, None, None, None, tuple(front), searched, spent, reason, nearest)
    inputs = question.inputs(chosen.flags)
    result = predict_inference(build_scenario(inputs))
    best = FrontPoint(chosen.flags, result.total_latency_s, result.total_throughput_tokens_per_s)
    front = _with_best(front, chosen, best)
    return PolicyAnswer(question, best, inputs, result, tuple(front), searched, time.perf_counter() - begin)


def _policies(question: PolicyQuestion, name: str) -> Policies:
    """The policies of a system that fit: from its own search, or from trying its knobs."""
    system, inputs = get_system(name), question.inputs(question.flags_of(name))
    found = system.policies(build_scenario(inputs), question.lossless, question.max_latency)
    if found is None:
        found = KnobSearch(inputs, system.knobs(question.lossless), question.max_latency).run()
    return replace(found, flags=lambda row: {**found.flags(row), "system": name})


def search_division(question: PolicyQuestion) -> PolicyAnswer:
    """The best division of the model between GPU and CPU.

    Raises:
        SpecError: unknown names, an objective of other searches, or a machine that no system can run on.
    """
    begin = time.perf_counter()
    aim = question.aim
    pools = [
        divisions(question.of_system(name), [name], question.lossless, question.context)
        for name in question.systems
    ]
    found = [one for pool in pools for one in pool]
    if not found:  # says what is wrong with the question, if anything is
        for name in question.systems:
            checked_system(build_scenario(question.of_system(name).replace(system=name)))
    chosen = best(found, aim)
    if chosen is not None:
        own = question.of_system(chosen.flags["system"])
        chosen = with_fewer_threads(own, chosen, aim)
    front = tuple(_division_point(question, one) for one in _not_beaten(found))
    spent = time.perf_counter() - begin
    if chosen is None:
        reason = "not even one sequence fits GPU, host memory and disk"
        return PolicyAnswer(question, None, None, None, front, len(found), spent, reason)
    point = _division_point(question, chosen)
    inputs = question.inputs(point.flags)
    result = predict_inference(build_scenario(inputs))
    front = tuple(one for one in front if one.flags != point.flags)
    ordered = tuple(sorted((*front, point), key=lambda one: one.ttft_s or 0.0))
    return PolicyAnswer(question, point, inputs, result, ordered, len(found), time.perf_counter() - begin)


def _own(question: PolicyQuestion, system: str) -> dict[str, Any]:
    """Inputs of a divided model that are the question's: the batch, and the files that such people have."""
    found: dict[str, Any] = {"batch_size": question.sequences}
    if question.weight_format is not None:
        return found | {"weight_format": question.weight_format}
    model = get_model_config_by_name(question.model)
    narrow = model.quantization is not None or model.stored_formats is not None
    gguf = family_of(system).checkpoints == "gguf"
    return found | ({"weight_format": "q4_k_m"} if gguf and not narrow and not question.lossless else {})


def _division_point(question: PolicyQuestion, one: Divided) -> FrontPoint:
    system = one.flags["system"]
    flags = question.flags_of(system) | _own(question, system) | one.flags
    total = one.prefill_s + one.decode_s
    tokens = question.sequences * question.gen_len
    steps = max(question.gen_len - 1, 1)
    return FrontPoint(flags, total, tokens / total, one.prefill_s, one.decode_s / steps)


def _not_beaten(found: list[Divided]) -> list[Divided]:
    """Divisions of which none is faster in both phases; of equal ones the first."""
    kept: list[Divided] = []
    for one in sorted(found, key=lambda d: (d.prefill_s, d.decode_s)):
        if not kept or one.decode_s < kept[-1].decode_s * (1 - _FRONT_STEP):
            kept.append(one)
    return kept


class _Points:
    """The policies of several systems as one list."""

    def __init__(self, pools: list[Policies]) -> None:
        self.pools = pools
        self.latency_s = np.concatenate([pool.latency_s for pool in pools])
        self.throughput = np.concatenate([pool.throughput_tokens_per_s for pool in pools])
        self.starts = np.cumsum([0, *(len(pool.latency_s) for pool in pools)])

    def __len__(self) -> int:
        return len(self.latency_s)

    def __getitem__(self, index: int) -> FrontPoint:
        owner = int(np.searchsorted(self.starts, index, side="right")) - 1
        flags = self.pools[owner].flags(int(index - self.starts[owner]))
        return FrontPoint(flags, float(self.latency_s[index]), float(self.throughput[index]))


def _best(question: PolicyQuestion, points: _Points) -> FrontPoint | None:
    """The best policy that meets the limit; of equal ones the one that is better in the other respect."""
    meets = np.full(len(points), True)
    if question.max_latency is not None:
        meets = points.latency_s <= question.max_latency
    indices = np.flatnonzero(meets)
    if not len(indices):
        return None
    latency, throughput = points.latency_s[indices], points.throughput[indices]
    keys = (-throughput, latency) if question.objective == "latency" else (latency, -throughput)
    return points[int(indices[np.lexsort(keys)[0]])]


def _thinned(points: _Points, front: npt.NDArray[np.intp]) -> list[int]:
    """The front without points that gain next to nothing; both ends stay."""
    kept: list[int] = []
    for index in front:
        if not kept or points.throughput[index] >= (1 + _FRONT_STEP) * points.throughput[kept[-1]]:
            kept.append(int(index))
    if len(front) and kept[-1] != front[-1]:
        kept.append(int(front[-1]))
    return kept


def _with_best(front: list[FrontPoint], chosen: FrontPoint, best: FrontPoint) -> list[FrontPoint]:
    """The front with the best policy in it, its numbers those of the single prediction."""
    others = [point for point in front if point != chosen and not _as_good(best, point)]
    return sorted([*others, best], key=lambda point: point.latency_s)


def _as_good(left: FrontPoint, right: FrontPoint) -> bool:
    return left.latency_s <= right.latency_s and left.throughput_tokens_per_s >= right.throughput_tokens_per_s


def _why_not(question: PolicyQuestion, points: _Points) -> tuple[str, FrontPoint | None]:
    if len(points):
        fastest = points[int(np.argmin(points.latency_s))]
        return (
            f"no policy that fits takes at most {question.max_latency:g} s; the fastest takes {fastest.latency_s:.4g} s",
            fastest,
        )
    text = "not even one sequence fits GPU, host memory and disk"
    for name in question.systems:
        scenario = build_scenario(question.inputs(question.flags_of(name)))
        flags = get_system(name).nearest_policy(scenario, question.lossless)
        if flags is not None:
            missing = predict_inference(
                build_scenario(question.inputs(question.flags_of(name) | flags))
            ).reason
            text += f" under any policy; the one that lacks least: {missing}"
    return text, None
