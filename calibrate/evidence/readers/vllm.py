"""Results of vLLM's own benchmarks: ``vllm bench serve``, ``latency`` and ``throughput``, as JSON and as printed.

Names and units are those of vllm/benchmarks/serve.py, latency.py and throughput.py: times end in ``_ms`` where they are in
milliseconds and are in seconds elsewhere; ``tokens_per_second`` counts prompts and outputs; rates are the deployment's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    Quantity,
    RequestTimes,
    Statistic,
    TokenLengths,
)
from calibrate.evidence.readers.source import MS, Fields, Source, figures_of, last_part
from llm_perf.errors import SpecError

__all__ = [
    "RATES",
    "TIMES",
    "closed_or_open",
    "engine_of_backend",
    "is_latency",
    "is_serve",
    "is_serve_text",
    "is_throughput",
    "lengths_of",
    "printed_fields",
    "read_latency",
    "read_serve",
    "read_serve_text",
    "read_throughput",
    "requests_of",
    "stated_arguments",
    "times_of",
    "tokens_of",
]

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
_NOT_KEPT: Final = (
    "generated_texts", "endpoint_type", "label", "tokenizer_id", "request_goodput", "max_output_tokens_per_s",
    "max_concurrent_requests", "rtfx", "queue_times", "errors", "rps_change_events", "latencies", "request_goodput:",
)  # fmt: skip

_ENGINES: Final = {
    "vllm": "vllm", "vllm-chat": "vllm", "sglang": "sglang", "sglang-native": "sglang", "sglang-oai": "sglang",
    "sglang-oai-chat": "sglang", "tensorrt-llm": "tensorrt_llm", "trt": "tensorrt_llm", "lmdeploy": "lmdeploy",
    "lmdeploy-chat": "lmdeploy", "deepspeed-mii": "deepspeed_mii", "llama.cpp": "llama_cpp",
}  # fmt: skip
"""Engines by the name of a load generator's backend. One that speaks OpenAI's protocol names no engine."""


def engine_of_backend(backend: str | None) -> str | None:
    """The engine that a backend's name means; None where it means none in particular."""
    return None if backend is None else _ENGINES.get(backend)


# -- serve --------------------------------------------------------------------------------------------------------


def is_serve(source: Source) -> bool:
    """``vllm bench serve --save-result``, or benchmark_serving.py before it."""
    return source.has("total_input_tokens", "total_output_tokens", "request_throughput", "model_id")


def read_serve(source: Source) -> list[BenchmarkRun]:
    """One run per object.

    Raises:
        SpecError: a field is missing or none of its kind.
    """
    return [_serve(Fields(record, where)) for where, record in source.objects]


def _serve(fields: Fields) -> BenchmarkRun:
    fields.needed("total_input_tokens", "total_output_tokens", "duration", "completed")
    backend = fields.text("backend")
    rate = fields.values.get("request_rate")
    prompts, counts = fields.count("num_prompts"), tokens_of(fields)
    requests = requests_of(fields)
    figures = (*times_of(fields), *figures_of(fields, RATES))
    date = fields.text("date")
    acceptance = fields.number("spec_decode_acceptance_rate")
    return BenchmarkRun(
        tool="vllm-bench-serve",
        engine=Engine(
            name=engine_of_backend(backend),
            settings={"backend": backend} | ({"acceptance_percent": acceptance} if acceptance else {}),
        ),
        deployment=_serve_deployment(fields),
        load=closed_or_open(
            fields.known("request_rate"),
            rate,
            fields.count("max_concurrency"),
            fields.number("burstiness"),
            prompts,
        ),
        prompt=lengths_of(counts.prompt_tokens, counts.completed, fields.values_of("input_lens")),
        output=lengths_of(counts.output_tokens, counts.completed, fields.values_of("output_lens")),
        figures=figures,
        counts=counts,
        requests=requests,
        source=fields.where,
        date=date,
        unread=_unread(fields.known(*_NOT_KEPT)),
    )


def _serve_deployment(fields: Fields) -> Deployment:
    """The model, and of what users state with ``--metadata`` the names that are used for it."""
    return Deployment(
        model=last_part(fields.text("model_id")),
        gpu=fields.text("gpu"),
        num_gpus=fields.count("num_gpus"),
        tp=fields.count("tensor_parallel_size") or fields.count("tp"),
    )


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


_PERCENTILES: Final[dict[str, Statistic]] = {
    "p1": "p1", "p5": "p5", "p10": "p10", "p25": "p25", "p50": "p50", "p75": "p75", "p90": "p90", "p95": "p95",
    "p99": "p99", "p99.9": "p99.9",
}  # fmt: skip


def _percentile(name: str) -> Statistic | None:
    found = _PERCENTILES.get(name)
    return None if found == "p50" else found  # the median stands already


def _unread(fields: Fields) -> tuple[str, ...]:
    return tuple(
        name for name in fields.unread if not name.startswith(("spec_decode_", "probe_", "diffusion_"))
    )


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


def requests_of(fields: Fields) -> tuple[RequestTimes, ...] | None:
    """Each request, where ``--save-detailed`` kept them and says when they were sent."""
    starts, ttfts, gaps = fields.numbers("start_times"), fields.numbers("ttfts"), fields.values_of("itls")
    prompts, outputs = fields.numbers("input_lens"), fields.numbers("output_lens")
    if not starts or not len(starts) == len(ttfts) == len(gaps) == len(prompts) == len(outputs):
        return None
    first, found = min(starts), []
    for start, ttft, own, prompt, output in zip(starts, ttfts, gaps, prompts, outputs, strict=True):
        done, at = bool(output) and ttft > 0, start - first
        end = at + ttft + sum(Fields({"itls": own}, fields.where).numbers("itls"))
        found.append(
            RequestTimes(
                arrival_s=at,
                prompt_tokens=round(prompt) or None,
                output_tokens=round(output),
                first_token_s=at + ttft if done else None,
                finished_s=end if done else None,
            )
        )
    return tuple(found)


# -- as printed ---------------------------------------------------------------------------------------------------

_HEAD: Final = re.compile(r"=+ Serving Benchmark Result =+")
_LINE: Final = re.compile(r"^([A-Z][^:\n]*?):\s+(\S.*?)\s*$", re.MULTILINE)
_PRINTED: Final[dict[str, str]] = {
    "Successful requests": "completed", "Failed requests": "failed", "Benchmark duration (s)": "duration",
    "Maximum request concurrency": "max_concurrency", "Max request concurrency": "max_concurrency",
    "Request rate configured (RPS)": "request_rate", "Traffic request rate": "request_rate", "Backend": "backend",
    "Total input tokens": "total_input_tokens", "Total generated tokens": "total_output_tokens",
    "Request throughput (req/s)": "request_throughput", "Output token throughput (tok/s)": "output_throughput",
    "Input token throughput (tok/s)": "input_throughput", "Total Token throughput (tok/s)": "total_token_throughput",
    "Total token throughput (tok/s)": "total_token_throughput", "Concurrency": "concurrency",
}  # fmt: skip
_PRINTED_TIME: Final = re.compile(
    r"(Mean|Median|Max|Min|P[\d.]+) (TTFT|TPOT|ITL|E2EL|E2E Latency) \((ms|s)\)"
)


def is_serve_text(source: Source) -> bool:
    """The table that vLLM's and SGLang's serving benchmarks print."""
    return not source.begins_json and _HEAD.search(source.text) is not None and "Backend:" not in source.text


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


def _said_rate(text: str) -> str | None:
    """The rate that is printed before the requests are sent."""
    found = re.search(r"^Traffic request rate: (\S+)", text, re.MULTILINE)
    return None if found is None else found[1]


def read_serve_text(source: Source) -> list[BenchmarkRun]:
    """One run per table of a log.

    Raises:
        SpecError: a table was cut off, or lacks what a result has.
    """
    told = stated_arguments(source.text)
    runs = []
    for fields in printed_fields(source):
        fields.needed("completed", "duration", "total_input_tokens", "total_output_tokens")
        counts = tokens_of(fields)
        concurrency = fields.count("max_concurrency")
        rate = fields.values.get("request_rate") or _said_rate(source.text) or told.get("request_rate")
        stated = concurrency is not None or rate is not None
        load = closed_or_open(fields.known("request_rate"), rate, concurrency, None, None)
        runs.append(
            BenchmarkRun(
                tool="vllm-bench-serve",
                engine=Engine(name=engine_of_backend(told.get("backend"))),
                deployment=Deployment(model=last_part(told.get("model"))),
                load=load if stated else LoadPattern(),
                prompt=lengths_of(counts.prompt_tokens, counts.completed, []),
                output=lengths_of(counts.output_tokens, counts.completed, []),
                figures=(*times_of(fields), *figures_of(fields, RATES)),
                counts=counts,
                source=fields.where,
                unread=tuple(
                    name for name in fields.unread if not name.startswith(("Peak", "Request goodput"))
                ),
            )
        )
    return runs


# -- latency and throughput -----------------------------------------------------------------------------------------

_LATENCY: Final = re.compile(r"^Avg latency: ([\d.eE+-]+) seconds", re.MULTILINE)
_THROUGHPUT: Final = re.compile(
    r"^Throughput: ([\d.]+) requests/s, ([\d.]+) (total )?tokens/s(?:, ([\d.]+) output tokens/s)?",
    re.MULTILINE,
)


def is_latency(source: Source) -> bool:
    """``vllm bench latency``: one static batch again and again."""
    return source.has("avg_latency", "latencies", "percentiles") or (
        not source.begins_json and _LATENCY.search(source.text) is not None
    )


def read_latency(source: Source) -> list[BenchmarkRun]:
    """One run. Batch and lengths stand in neither form, but in the arguments that the program prints.

    Raises:
        SpecError: a field is missing or none of its kind.
    """
    if source.begins_json:
        return [_latency(Fields(record, where), {}) for where, record in source.objects]
    found = {"avg_latency": _LATENCY.findall(source.text)[-1]}
    for percent, value in re.findall(
        r"^(\d+)% percentile latency: ([\d.eE+-]+) seconds", source.text, re.MULTILINE
    ):
        found[f"p{percent}"] = value
    if len(found) == 1:
        raise SpecError(f"{source.name}: ends after the mean latency: it was cut off")
    return [_latency(Fields(found, source.name), stated_arguments(source.text))]


def _latency(fields: Fields, told: dict[str, str]) -> BenchmarkRun:
    fields.needed("avg_latency")
    percentiles = fields.part("percentiles")
    named = {f"p{name}": value for name, value in percentiles.values.items()} or fields.values
    repeats = fields.values_of("latencies")
    asked = Fields(told, fields.where)
    figures = [
        *figures_of(fields, [("avg_latency", "batch_s", "mean", 1.0)]),
        *figures_of(
            Fields(named, fields.where), [(name, "batch_s", stat, 1.0) for name, stat in _PERCENTILES.items()]
        ),
    ]
    return BenchmarkRun(
        tool="vllm-bench-latency",
        engine=Engine(name="vllm"),
        deployment=Deployment(
            model=last_part(told.get("model")), tp=asked.count("tensor_parallel_size"), prefix_hit_rate=0.0
        ),
        load=LoadPattern(
            kind="batch", concurrency=asked.count("batch_size"), num_requests=len(repeats) or None
        ),
        prompt=TokenLengths(mean=asked.positive("input_len"), kind="fixed"),
        output=TokenLengths(mean=asked.positive("output_len"), kind="fixed"),
        figures=tuple(figures),
        source=fields.where,
        unread=tuple(n for n in fields.known("std_latency").unread if not n.startswith("p")),
    )


def is_throughput(source: Source) -> bool:
    """``vllm bench throughput``: all requests at once."""
    return source.has("elapsed_time", "num_requests", "requests_per_second", "tokens_per_second") or (
        not source.begins_json and _THROUGHPUT.search(source.text) is not None
    )


def read_throughput(source: Source) -> list[BenchmarkRun]:
    """One run.

    Raises:
        SpecError: a field is missing or none of its kind.
    """
    if source.begins_json:
        return [_throughput(Fields(record, where)) for where, record in source.objects]
    requests, tokens, total, output = _THROUGHPUT.findall(source.text)[-1]
    if not total and output:
        raise SpecError(f"{source.name}: what its {tokens} tokens/s count is not said")
    prompt = re.search(r"^Total num prompt tokens:\s+(\d+)", source.text, re.MULTILINE)
    written = re.search(r"^Total num output tokens:\s+(\d+)", source.text, re.MULTILINE)
    if total and (prompt is None or written is None) and "Total num" in source.text:
        raise SpecError(f"{source.name}: ends before its sums of tokens: it was cut off")
    found: dict[str, Any] = {"requests_per_second": requests, "tokens_per_second": tokens}
    if output:
        found["output_tokens_per_second"] = output
    if prompt is not None and written is not None:
        found |= {"prompt_tokens": prompt[1], "output_tokens": written[1]}
    return [_throughput(Fields(found, source.name))]


def _throughput(fields: Fields) -> BenchmarkRun:
    fields.needed("requests_per_second", "tokens_per_second")
    requests, elapsed = fields.count("num_requests"), fields.positive("elapsed_time")
    rate = fields.positive("requests_per_second")
    prompt, output = fields.integer("prompt_tokens"), fields.integer("output_tokens")
    if requests is None and prompt and output and rate:
        seconds = (prompt + output) / (fields.positive("tokens_per_second") or 1.0)
        requests = max(round(rate * seconds), 1)
    figures = figures_of(
        fields,
        [
            ("tokens_per_second", "total_tokens_per_s", "mean", 1.0),
            ("output_tokens_per_second", "output_tokens_per_s", "mean", 1.0),
            ("requests_per_second", "requests_per_s", "mean", 1.0),
            ("elapsed_time", "duration_s", "mean", 1.0),
        ],
    )
    return BenchmarkRun(
        tool="vllm-bench-throughput",
        engine=Engine(name="vllm"),
        deployment=Deployment(),
        load=LoadPattern(kind="all_at_once", num_requests=requests),
        prompt=lengths_of(prompt, requests, []),
        output=lengths_of(output, requests, []),
        figures=tuple(figures),
        counts=Counts(completed=requests, prompt_tokens=prompt, output_tokens=output),
        source=fields.where,
        unread=fields.known("total_num_tokens").unread if elapsed is None or elapsed > 0 else (),
    )
