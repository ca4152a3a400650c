"""What a plan is asked, and what it answers: its question, deployments with what they reach, the best of these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from llm_perf.analysis.request import InferenceInputs
from llm_perf.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Spec
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


class PlanQuestion(Spec):
    """What ``llm-perf plan`` can be asked, under the names of its flags.

    Attributes:
        target: limits such as "tpot<50ms, ttft<1s"; empty for none.
        objective: what to have least of: US dollars or joules per token, GPUs; or most of: tokens per second.
        gpus: GPUs to choose from; all that ship if empty. For cost, those that have a price; for energy, a rated power.
        max_gpus: GPUs of the whole deployment.
        quant_bits: widths of weights to choose from; 16 is unquantised.
        offload: consider one GPU with weights in host memory or on NVMe (ZeRO-Inference) as well.
        prices: a list of prices of one's own.
        rate, requests, concurrency: how requests come (`llm_perf.search.service`); at most one of them.
        burstiness, seed: of requests at a rate.
        batching: continuous, where ``ttft`` and ``tpot`` are those of a request while the batch is kept full, or static,
            where they are the prefill and the decode step of a batch that starts and ends together.
        pools: consider engines that only read prompts beside engines that generate, where requests come at a rate.
        weight_format, kv_format: number formats, as ``llm-perf infer`` takes them; ``quant_bits`` is not asked then.
    """

    _positional: ClassVar[tuple[str, ...]] = ("model",)
    _label: ClassVar[str | None] = ""

    model: Annotated[str, Field(min_length=1)]
    target: str = ""
    objective: Objective = "cost"
    gpus: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_gpus: PositiveInt = 8
    prompt_len: PositiveInt = 512
    gen_len: PositiveInt = 128
    system: Annotated[str, Field(min_length=1)] = DEFAULT
    quant_bits: tuple[Literal[4, 8, 16], ...] = (16,)
    max_batch_size: PositiveInt = 1024
    offload: Annotated[bool, Field(strict=True)] = True
    prices: Annotated[str, Field(min_length=1)] | None = None
    profile: Annotated[str, Field(min_length=1)] | None = None
    allow_long_context: Annotated[bool, Field(strict=True)] = False
    batching: Batching = "continuous"
    rate: PositiveFloat | None = None
    requests: Annotated[str, Field(min_length=1)] | None = None
    concurrency: PositiveInt | None = None
    burstiness: Annotated[PositiveFloat, Field(ge=LEAST_BURSTINESS)] = 1.0
    seed: NonNegativeInt = 0
    weight_format: Annotated[str, Field(min_length=1)] | None = None
    kv_format: Annotated[str, Field(min_length=1)] | None = None
    pools: Annotated[bool, Field(strict=True)] = True

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The limits."""
        return parse_targets(self.target)


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


@dataclass(frozen=True)
class PlanAnswer:
    """The outcome of a plan.

    ``best`` holds the best candidate of each GPU type that meets the targets, best first. ``front`` is the front of
    time per token against the objective over everything that meets the targets, by rising time; over everything that
    fits where nothing meets them. ``nearest`` is then what fits and misses them least. ``evaluated`` counts
    configurations that were predicted, ``too_large`` those whose weights alone exceed the memory, ``unpriced`` the GPUs
    that were left out for want of a price, ``unrated`` for want of a rated power.
    """

    question: PlanQuestion
    best: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    nearest: Candidate | None
    evaluated: int
    too_large: int
    unpriced: tuple[str, ...]
    unrated: tuple[str, ...]
    refused: dict[str, str]
    seconds: float
