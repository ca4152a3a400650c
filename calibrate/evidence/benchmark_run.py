"""One measured point of a served engine: what ran, what was asked of it, and what was measured.

Readers of benchmark files, a session that watches an endpoint and tables of published runs all end here, and whoever fits or
compares starts here. What a source does not say is None: nothing is filled in on the way. Units are seconds, tokens and bytes
everywhere; a reader converts, and keeps what the file said in `Figure.stated`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, JsonValue, model_validator

from llm_perf.config import files
from llm_perf.config.base import Name, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from llm_perf.errors import SpecError

SCHEMA_VERSION: Final = 1

Setting = str | int | float | bool | None

Quantity = Literal[
    "ttft_s",  # from sending a request to its first token, queueing included
    "tpot_s",  # (last - first) / (tokens - 1) of a request
    "itl_s",  # gaps between the tokens of all requests
    "e2e_s",  # from sending a request to its last token
    "queue_s",  # the part of ttft_s before the engine takes a request up
    "batch_s",  # a whole static batch, prefill and decode
    "prefill_s",  # prefill of a whole static batch
    "decode_s",  # all decode steps of a whole static batch
    "step_s",  # one decode step of a whole static batch
    "output_tokens_per_s",  # generated tokens over the whole time
    "input_tokens_per_s",  # prompt tokens over the whole time
    "total_tokens_per_s",  # both over the whole time
    "prefill_tokens_per_s",  # prompt tokens over the time of the prefill alone
    "decode_tokens_per_s",  # generated tokens over the time of the decode steps alone
    "requests_per_s",
    "duration_s",  # of the whole benchmark
    "kv_cache_tokens",  # tokens that the engine's cache holds
    "kv_cache_usage",  # share of it in use
    "running_requests",
    "waiting_requests",
    "peak_gpu_memory_bytes",
    "weight_bytes",
    "power_w",
]

Statistic = Literal[
    "mean", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p99.9", "min", "max", "sd"
]
"""``mean`` where a quantity has one value, such as a rate."""

Scope = Literal["system", "per_gpu"]


class TokenLengths(Spec):
    """Tokens of prompts, or of outputs, per request. ``values`` are those of every request, in order of sending.

    ``kind`` is how a load generator drew them: ``fixed``; ``uniform`` from ``low`` to ``high``; ``lognormal`` or ``normal``
    with ``sd``; ``vary`` where they differ and nothing more is known, as with real conversations; None is not stated.
    """

    mean: PositiveFloat | None = None
    kind: Literal["fixed", "uniform", "lognormal", "normal", "vary"] | None = None
    sd: NonNegativeFloat | None = None
    low: NonNegativeFloat | None = None
    high: NonNegativeFloat | None = None
    values: tuple[NonNegativeInt, ...] | None = None


class Engine(Spec):
    """What served. ``name`` is a family of ``llm-perf systems list`` or what the source says."""

    name: Name | None = None
    version: Name | None = None
    settings: dict[str, Setting] = Field(default_factory=dict)


class Deployment(Spec):
    """What it ran on. ``num_gpus`` are all of them, on all nodes; ``gpu`` is ``none`` where a CPU computed.

    ``host`` is the CPU as its source describes it; ``machine`` a host of ``llm-perf hosts list`` that the user says it is.
    ``prefix_hit_rate`` is the share of each prompt that was in a prefix cache; 0 where caches were defeated.
    """

    model: Name | None = None
    gpu: Name | None = None
    num_gpus: PositiveInt | None = None
    num_nodes: PositiveInt | None = None
    tp: PositiveInt | None = None
    pp: PositiveInt | None = None
    dp: PositiveInt | None = None
    ep: PositiveInt | None = None
    host: Name | None = None
    machine: Name | None = None
    weight_format: Name | None = None
    kv_format: Name | None = None
    activation_bits: PositiveInt | None = None
    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    n_gpu_layers: NonNegativeInt | None = None
    ubatch_size: PositiveInt | None = None
    threads: PositiveInt | None = None
    prefix_hit_rate: Annotated[float, Field(ge=0, le=1)] | None = None


class LoadPattern(Spec):
    """How requests came.

    ``batch``: ``concurrency`` sequences in one static batch. ``closed_loop``: as many are kept in flight. ``rate``:
    ``request_rate`` per second, Poisson where ``burstiness`` is 1. ``all_at_once``: all ``num_requests`` at the start.
    ``trace``: at the times of ``BenchmarkRun.requests``. ``distinct_prompts``: of a batch that
    repeats some, or of a loop whose generator begins again after so many.
    """

    kind: Literal["batch", "closed_loop", "rate", "all_at_once", "trace"] | None = None
    concurrency: PositiveInt | None = None
    request_rate: PositiveFloat | None = None
    burstiness: PositiveFloat | None = None
    num_requests: PositiveInt | None = None
    warm_up_requests: NonNegativeInt | None = None
    distinct_prompts: PositiveInt | None = None


class Counts(Spec):
    """What became of the requests, and the tokens in all."""

    completed: NonNegativeInt | None = None
    failed: NonNegativeInt | None = None
    preempted: NonNegativeInt | None = None
    prompt_tokens: NonNegativeInt | None = None
    output_tokens: NonNegativeInt | None = None


class Figure(Spec):
    """One measured number, in seconds, tokens, requests, bytes or watts.

    Attributes:
        quantity: What it is a number of.
        statistic: Over what: requests, gaps or repeats.
        value: The number.
        scope: Of a rate, of the whole deployment or of one GPU; None of a time, or where the file does not say.
        samples: How many the statistic is of.
        sd: Their standard deviation, where it is stated beside a mean.
        stated: The file's own name and number: ``mean_ttft_ms 23.5``.
    """

    quantity: Quantity
    statistic: Statistic = "mean"
    value: NonNegativeFloat
    scope: Scope | None = None
    samples: PositiveInt | None = None
    sd: NonNegativeFloat | None = None
    stated: str | None = None


class RequestTimes(Spec):
    """One request, in seconds from the start of the run. ``token_s``: when each token, or piece of the stream, arrived."""

    arrival_s: NonNegativeFloat
    prompt_tokens: PositiveInt | None = None
    output_tokens: NonNegativeInt | None = None
    first_token_s: NonNegativeFloat | None = None
    finished_s: NonNegativeFloat | None = None
    token_s: tuple[NonNegativeFloat, ...] | None = None
    error: str | None = None


_ASKED: Final = (
    ("engine", "name"), ("engine", "version"), ("deployment", "model"), ("deployment", "gpu"), ("deployment", "num_gpus"),
    ("deployment", "tp"), ("deployment", "weight_format"), ("deployment", "kv_format"), ("load", "kind"), ("prompt", "mean"),
    ("output", "mean"),
)  # fmt: skip
"""What a prediction asks of a run, by part and field."""


class BenchmarkRun(Spec):
    """One measured point of a served engine.

    Attributes:
        tool, tool_version: What measured: ``vllm-bench-serve``, ``aiperf``, ``llm-perf-observe``.
        engine, deployment: What was measured.
        load, prompt, output: What was asked of it.
        figures: What was measured; a quantity and statistic stand once per scope.
        counts: What became of the requests.
        requests: Each of them, where the source has them.
        source: The file, without its folder, or the address; with the line or table where it holds several.
        date: As the source states it.
        environment: Versions, driver, clocks, CPU: what else is known of the machine. No names of hosts, users or folders.
        unread: Fields of the source that its reader does not know.
        notes: What a reader decided, and on what grounds.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    tool: Name
    tool_version: Name | None = None
    engine: Engine = Engine()
    deployment: Deployment = Deployment()
    load: LoadPattern = LoadPattern()
    prompt: TokenLengths = TokenLengths()
    output: TokenLengths = TokenLengths()
    figures: tuple[Figure, ...] = ()
    counts: Counts = Counts()
    requests: tuple[RequestTimes, ...] | None = None
    source: str
    date: str | None = None
    environment: dict[str, JsonValue] = Field(default_factory=dict)
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _each_figure_once(self) -> BenchmarkRun:
        seen = [(one.quantity, one.statistic, one.scope) for one in self.figures]
        for one in self.figures:
            if seen.count((one.quantity, one.statistic, one.scope)) > 1:
                raise ValueError(f"figures: {one.statistic} of {one.quantity} stands more than once")
        return self

    def figure(self, quantity: Quantity, statistic: Statistic = "mean") -> Figure | None:
        """The figure of a quantity, the whole deployment's before one GPU's; None where it was not measured."""
        found = [one for one in self.figures if one.quantity == quantity and one.statistic == statistic]
        return min(found, key=lambda one: one.scope == "per_gpu", default=None)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the source does not say of what a prediction asks, as ``deployment.gpu``."""
        ranks = self.deployment.num_gpus != 1  # one GPU is one rank
        return tuple(
            f"{part}.{name}"
            for part, name in _ASKED
            if getattr(getattr(self, part), name) is None and (ranks or name != "tp")
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types: every key, null where nothing is known; ``unknown`` says so by name."""
        found: dict[str, Any] = self.model_dump(mode="json")
        return found | {"unknown": list(self.unknown)}

    @classmethod
    def from_dict(cls, record: Any, source: str) -> BenchmarkRun:
        """A run from what `as_dict` gave.

        Raises:
            SpecError: it is none, of a later schema, or a field of it cannot be; ``source`` is named.
        """
        if not isinstance(record, dict) or not isinstance(record.get("schema_version"), int):
            raise SpecError(f"{source}: is no benchmark run: schema_version is missing")
        if record["schema_version"] != SCHEMA_VERSION:
            raise SpecError(
                f"{source}: schema_version is {record['schema_version']}, this llm-perf reads {SCHEMA_VERSION}"
            )
        fields = {name: value for name, value in record.items() if name != "unknown"}
        try:
            return cls(**fields)
        except SpecError as error:
            raise SpecError(f"{source}: {str(error).removeprefix('BenchmarkRun: ')}") from None


def runs_text(runs: Iterable[BenchmarkRun]) -> str:
    """Runs as JSON, one a line."""
    return "".join(json.dumps(run.as_dict(), allow_nan=False, sort_keys=True) + "\n" for run in runs)


def read_runs(file: str | Path) -> list[BenchmarkRun]:
    """Runs that `runs_text` wrote, or one run's JSON.

    Raises:
        SpecError: the file cannot be read or holds none; file and line are named.
    """
    path = files.expanded(str(file))
    text = files.read_text(path)
    return list(parsed_runs(text, str(file)))


def parsed_runs(text: str, file: str) -> Iterator[BenchmarkRun]:
    """Runs of a text that `runs_text` wrote.

    Raises:
        SpecError: as `read_runs`.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise SpecError(f"{file}: holds no benchmark run")
    whole = _json(text)
    if whole is not None:
        lines = [(1, text)]
    for number, line in lines:
        record = whole if whole is not None else _json(line)
        if record is None:
            raise SpecError(f"{file}:{number}: is no JSON; it may have been cut off")
        yield BenchmarkRun.from_dict(record, f"{file}:{number}")


def _json(text: str) -> Any:
    """The value, or None where the text is no JSON; NaN and infinities are none."""

    def refuse(name: str) -> float:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None
