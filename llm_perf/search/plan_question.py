"""What a plan is asked, and what it answers: its question, deployments with what they reach, the best of these."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from llm_perf.analysis.asked import Text
from llm_perf.analysis.request import InferenceInputs
from llm_perf.config.base import Flag, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from llm_perf.requests.traffic import LEAST_BURSTINESS
from llm_perf.search.targets import Target, parse_targets
from llm_perf.systems.registry import DEFAULT

Batching = Literal["continuous", "static"]
"""Requests that enter and leave one by one, or a batch that starts and ends together."""

Objective = Literal["cost", "energy", "gpus", "throughput"]

OBJECTIVES: Final = {
    "cost": "cost_per_million_tokens",
    "energy": "energy_j_per_token",
    "gpus": "num_gpus",
    "throughput": "throughput_tokens_per_s",
}
"""What is least, or most in the case of throughput."""


class MachinesQuestion(Spec):
    """What a search for machines is asked, whatever they are.

    Attributes:
        target: limits such as "tpot<50ms, ttft<1s"; empty for none.
        gpus: GPUs to choose from; all that ship if empty.
        weight_format: number format, as ``llm-perf infer`` takes it.
        prices: a list of prices of one's own.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model",)
    _label: ClassVar[str | None] = ""

    model: Text
    target: str = ""
    gpus: tuple[Text, ...] = ()
    prompt_len: PositiveInt = 512
    gen_len: PositiveInt = 128
    weight_format: Text | None = None
    prices: Text | None = None
    profile: Text | None = None
    allow_long_context: Flag = False

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The limits."""
        return parse_targets(self.target)


class PlanQuestion(MachinesQuestion):
    """What ``llm-perf plan`` can be asked, under the names of its flags.

    Attributes:
        objective: what to have least of: US dollars or joules per token, GPUs; or most of: tokens per second.
        gpus: for cost, those that have a price; for energy, a rated power.
        max_gpus: GPUs of the whole deployment.
        quant_bits: widths of weights to choose from; 16 is unquantised.
        offload: consider one GPU with weights in host memory or on NVMe (ZeRO-Inference) as well.
        rate, requests, concurrency: how requests come (`llm_perf.search.service`); at most one of them.
        burstiness, seed: of requests at a rate.
        batching: continuous, where ``ttft`` and ``tpot`` are those of a request while the batch is kept full, or static,
            where they are the prefill and the decode step of a batch that starts and ends together.
        pools: consider engines that only read prompts beside engines that generate, where requests come at a rate.
        weight_format, kv_format: number formats, as ``llm-perf infer`` takes them; ``quant_bits`` is not asked then.
    """

    objective: Objective = "cost"
    max_gpus: PositiveInt = 8
    system: Text = DEFAULT
    quant_bits: tuple[Literal[4, 8, 16], ...] = (16,)
    max_batch_size: PositiveInt = 1024
    offload: Flag = True
    batching: Batching = "continuous"
    rate: PositiveFloat | None = None
    requests: Text | None = None
    concurrency: PositiveInt | None = None
    burstiness: Annotated[PositiveFloat, Field(ge=LEAST_BURSTINESS)] = 1.0
    seed: NonNegativeInt = 0
    kv_format: Text | None = None
    pools: Flag = True


@dataclass(frozen=True)
class Candidate:
    """One deployment: inputs of ``llm-perf infer``, and what it reaches. Measures that do not exist are NaN."""

    inputs: InferenceInputs
    measures: dict[str, float]
    meets: bool
    stops: str = ""

    @property
    def num_gpus(self) -> int:
        """GPUs of the deployment."""
        return int(self.measures["num_gpus"])


@dataclass(frozen=True, kw_only=True)
class PlanOutcome:
    """What a search for machines says beside what it found.

    ``evaluated`` counts configurations that were predicted, ``too_large`` those whose weights alone exceed the memory,
    ``unpriced`` the GPUs that were left out for want of a price, ``unrated`` for want of a rated power. ``left_out`` says of
    each GPU that was asked for by name why nothing of it was evaluated.
    """

    question: PlanQuestion
    evaluated: int
    too_large: int
    unpriced: tuple[str, ...]
    unrated: tuple[str, ...]
    refused: dict[str, str]
    seconds: float
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlanAnswer(PlanOutcome):
    """The outcome of a plan.

    ``best`` holds the best candidate of each GPU type that meets the targets, best first. ``front`` is the front of
    time per token against the objective over everything that meets the targets, by rising time; over everything that
    fits where nothing meets them. ``nearest`` is then what fits and misses them least.
    """

    best: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    nearest: Candidate | None
