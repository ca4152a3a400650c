"""What vLLM's and SGLang's serving benchmarks have in common: one began as a copy of the other.

Names and units are those of both: times end in ``_ms`` where they are in milliseconds and are in seconds elsewhere; rates are
the deployment's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from calibrate.evidence.benchmark_run import Counts, Figure, LoadPattern, Quantity, Statistic, TokenLengths
from calibrate.evidence.readers.source import MS, Fields, Source, figures_of
from llm_perf.errors import SpecError

__all__ = [
    "PERCENTILES", "closed_or_open", "engine_of_backend", "has_table", "lengths_of", "measured", "printed_fields",
    "stated_arguments",
]  # fmt: skip

TIMES: Final[dict[str, Quantity]] = {
    "ttft": "ttft_s",
    "tpot": "tpot_s",
    "itl": "itl_s",
    "e2el": "e2e_s",
    "e2e_latency": "e2e_s",
}

_WORDS: Final[dict[str, Statistic]] = {"mean": "mean", "median": "p50", "max": "max", "min": "min"}

_TIME: Final = re.compile(r"(mean|median|max|min|p[\d.]+)_(ttft|tpot|itl|e2el|e2e_latency)_ms")

RATES: Final[tuple[tuple[str, Quantity, Statistic, float], ...]] = (
    ("output_throughput", "output_tokens_per_s", "mean", 1.0),
    ("input_throughput", "input_tokens_per_s", "mean", 1.0),
    ("total_token_throughput", "total_tokens_per_s", "mean", 1.0),
    ("total_throughput", "total_tokens_per_s", "mean", 1.0),
    ("request_throughput", "requests_per_s", "mean", 1.0),
    ("duration", "duration_s", "mean", 1.0),
)

_ENGINES: Final = {
    "vllm": "vllm", "vllm-chat": "vllm", "sglang": "sglang", "sglang-native": "sglang", "sglang-oai": "sglang",
    "sglang-oai-chat": "sglang", "tensorrt-llm": "tensorrt_llm", "trt": "tensorrt_llm", "lmdeploy": "lmdeploy",
    "lmdeploy-chat": "lmdeploy", "deepspeed-mii": "deepspeed_mii", "llama.cpp": "llama_cpp",
}  # fmt: skip
"""Engines by the name of a load generator's backend. One that speaks OpenAI's protocol names no engine."""


def engine_of_backend(backend: str | None) -> str | None:
    """The engine that a backend's name means; None where it means none in particular."""
    return None if backend is None else _ENGINES.get(backend)


def times_of(fields: Fields) -> Iterator[Figure]:
    """Figures of fields such as ``mean_ttft_ms``."""
    for name in fields.values:
        found = _TIME.fullmatch(name)
        if found is None:
            if name.startswith("std_"):
                fields.known(name)
            continue
        statistic = _WORDS.get(found[1]) or _percentile(found[1])
        quantity = TIMES[found[2]]
        value = fields.positive(name, MS)
        if value is None or statistic is None:
            continue
        sd = fields.number(f"std_{found[2]}_ms", MS) if statistic == "mean" else None
        yield Figure(
            quantity=quantity,
            statistic=statistic,
            value=value,
            sd=sd,
            stated=f"{name} {fields.values[name]:.6g}",
        )


PERCENTILES: Final[dict[str, Statistic]] = {
    "p1": "p1", "p5": "p5", "p10": "p10", "p25": "p25", "p50": "p50", "p75": "p75", "p90": "p90", "p95": "p95",
    "p99": "p99", "p99.9": "p99.9",
}  # fmt: skip


def _percentile(name: str) -> Statistic | None:
    found = PERCENTILES.get(name)
    return None if found == "p50" else found  # the median stands already


def tokens_of(fields: Fields) -> Counts:
    """What became of the requests."""
    return Counts(
        completed=fields.integer("completed"),
        failed=fields.integer("failed"),
        prompt_tokens=fields.integer("total_input_tokens"),
        output_tokens=fields.integer("total_output_tokens"),
    )


def lengths_of(total: int | None, requests: int | None, each: list[Any]) -> TokenLengths:
    """Tokens per request from their sum, or from each request's."""
    values = tuple(int(one) for one in each if isinstance(one, (int, float)) and one >= 0) or None
    mean = total / requests if total and requests else None
    if values is None:
        return TokenLengths(mean=mean)
    done = [one for one in values if one > 0]
    return TokenLengths(
        mean=mean or (sum(done) / len(done) if done else None),
        kind="fixed" if len(set(values)) == 1 else "vary",
        values=values,
    )


def closed_or_open(
    fields: Fields, rate: Any, concurrency: int | None, burstiness: float | None, prompts: int | None
) -> LoadPattern:
    """How requests came: with a bound on those in flight and no rate a closed loop, else by the rate.

    A rate and a bound together are a rate: the bound is kept as ``concurrency``.

    Raises:
        SpecError: the rate is none.
    """
    infinite = rate in (None, "inf", "Infinity") or rate != rate or rate == float("inf")
    if infinite and concurrency is not None:
        return LoadPattern(kind="closed_loop", concurrency=concurrency, num_requests=prompts)
    if infinite:
        return LoadPattern(kind="all_at_once", num_requests=prompts)
    try:
        value = float(rate)
    except (TypeError, ValueError):
        raise SpecError(f"{fields.where}: request_rate is {rate!r}, which is no rate") from None
    return LoadPattern(
        kind="rate",
        request_rate=value,
        burstiness=burstiness or 1.0,
        concurrency=concurrency,
        num_requests=prompts,
    )


_HEAD: Final = re.compile(r"=+ Serving Benchmark Result =+")

_LINE: Final = re.compile(r"^([A-Z][^:\n]*?):\s+(\S.*?)\s*$", re.MULTILINE)

_PRINTED: Final[dict[str, str]] = {
    "Successful requests": "completed", "Failed requests": "failed", "Benchmark duration (s)": "duration",
    "Maximum request concurrency": "max_concurrency", "Max request concurrency": "max_concurrency",
    "Request rate configured (RPS)": "request_rate", "Traffic request rate": "request_rate", "Backend": "backend",
    "Total input tokens": "total_input_tokens", "Total generated tokens": "total_output_tokens",
    "Request throughput (req/s)": "request_throughput", "Output token throughput (tok/s)": "output_throughput",
    "Input token throughput (tok/s)": "input_throughput", "Total Token throughput (tok/s)": "total_token_throughput",
    "Total token throughput (tok/s)": "total_token_throughput", "Total throughput (tok/s)": "total_throughput",
    "Concurrency": "concurrency",
}  # fmt: skip

_PRINTED_TIME: Final = re.compile(
    r"(Mean|Median|Max|Min|P[\d.]+) (TTFT|TPOT|ITL|E2EL|E2E Latency) \((ms|s)\)"
)


def printed_fields(source: Source) -> Iterator[Fields]:
    """The tables of a log as fields with the names of their JSON.

    Raises:
        SpecError: a table was cut off before its last line.
    """
    starts = [match.end() for match in _HEAD.finditer(source.text)]
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(source.text)
        body = source.text[start:end]
        close = re.search(r"^={20,}\s*$", body, re.MULTILINE)
        where = f"{source.name}:{source.text.count(chr(10), 0, start) + 1}"
        if close is None:
            raise SpecError(f"{where}: the table has no last line: it was cut off")
        found: dict[str, Any] = {}
        for name, value in _LINE.findall(body[: close.start()]):
            time = _PRINTED_TIME.fullmatch(name)
            if time is not None:
                scale = 1.0 if time[3] == "ms" else 1000.0
                key = f"{time[1].lower()}_{time[2].lower().replace(' ', '_')}_ms"
                found[key] = Fields({name: value}, where).number(name, scale)
            elif value != "not set":
                found[_PRINTED.get(name, name)] = value
        yield Fields(found, where)


_NAMESPACE: Final = re.compile(r"Namespace\((.*)\)\s*$", re.MULTILINE)


def stated_arguments(text: str) -> dict[str, str]:
    """The arguments that a tool printed as ``Namespace(...)`` at its beginning."""
    found = _NAMESPACE.search(text)
    return (
        {}
        if found is None
        else {
            name: value.strip("'\"")
            for name, value in re.findall(r"(\w+)=('(?:[^']*)'|\"(?:[^\"]*)\"|[^,()\[\]{}]+)", found[1])
        }
    )


def has_table(source: Source) -> bool:
    """Whether a text has the table that both print."""
    return not source.begins_json and _HEAD.search(source.text) is not None


def measured(fields: Fields) -> dict[str, Any]:
    """Lengths, figures and counts of a result, by the names that `BenchmarkRun` has for them.

    Raises:
        SpecError: a field is missing or none of its kind.
    """
    fields.needed("total_input_tokens", "total_output_tokens", "duration", "completed")
    counts = tokens_of(fields)
    return {
        "prompt": lengths_of(counts.prompt_tokens, counts.completed, fields.values_of("input_lens")),
        "output": lengths_of(counts.output_tokens, counts.completed, fields.values_of("output_lens")),
        "figures": (*times_of(fields), *figures_of(fields, RATES)),
        "counts": counts,
        "source": fields.where,
    }
