"""Results of vLLM's own benchmarks: ``vllm bench serve``, ``latency`` and ``throughput``, as JSON and as printed.

Names and units are those of vllm/benchmarks/serve.py, latency.py and throughput.py: times end in ``_ms`` where they are in
milliseconds and are in seconds elsewhere; ``tokens_per_second`` counts prompts and outputs; rates are the deployment's.
"""

from __future__ import annotations

import re
from typing import Any, Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Engine,
    LoadPattern,
    RequestTimes,
    TokenLengths,
)
from calibrate.evidence.readers.bench_serving import (
    PERCENTILES,
    closed_or_open,
    engine_of_backend,
    has_table,
    lengths_of,
    measured,
    printed_fields,
    stated_arguments,
)
from calibrate.evidence.readers.source import Fields, Source, figures_of, last_part
from llm_perf.errors import SpecError

__all__ = [
    "is_latency",
    "is_serve",
    "is_serve_text",
    "is_throughput",
    "read_latency",
    "read_serve",
    "read_serve_text",
    "read_throughput",
]

_NOT_KEPT: Final = (
    "generated_texts", "endpoint_type", "label", "tokenizer_id", "request_goodput", "max_output_tokens_per_s",
    "max_concurrent_requests", "rtfx", "queue_times", "errors", "rps_change_events", "latencies", "request_goodput:",
)  # fmt: skip


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
    found = measured(fields)
    backend = fields.text("backend")
    rate = fields.values.get("request_rate")
    prompts = fields.count("num_prompts")
    requests = requests_of(fields)
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
        requests=requests,
        date=date,
        unread=_unread(fields.known(*_NOT_KEPT)),
        **found,
    )


def _serve_deployment(fields: Fields) -> Deployment:
    """The model, and of what users state with ``--metadata`` the names that are used for it."""
    return Deployment(
        model=last_part(fields.text("model_id")),
        gpu=fields.text("gpu"),
        num_gpus=fields.count("num_gpus"),
        tp=fields.count("tensor_parallel_size") or fields.count("tp"),
    )


def _unread(fields: Fields) -> tuple[str, ...]:
    return tuple(
        name for name in fields.unread if not name.startswith(("spec_decode_", "probe_", "diffusion_"))
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


def is_serve_text(source: Source) -> bool:
    """The table that vLLM's and SGLang's serving benchmarks print."""
    return has_table(source) and "Backend:" not in source.text


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
        found = measured(fields)
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
                unread=tuple(
                    name for name in fields.unread if not name.startswith(("Peak", "Request goodput"))
                ),
                **found,
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
            Fields(named, fields.where), [(name, "batch_s", stat, 1.0) for name, stat in PERCENTILES.items()]
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
