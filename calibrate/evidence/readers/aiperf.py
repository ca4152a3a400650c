"""Results of AIPerf and of GenAI-Perf before it: their JSON, CSV and AIPerf's record per request.

Every metric states its unit (``ms``, ``tokens/sec``). Their inter-token latency of a request is (its latency - its time to
the first token) / (tokens - 1), which is time per output token here; AIPerf's gaps between pieces of a stream are gaps.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
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
    TokenLengths,
)
from calibrate.evidence.readers.source import (
    MS,
    NS,
    Fields,
    Source,
    figures_of,
    last_part,
    stated_lengths,
    statistics,
)
from calibrate.evidence.request_figures import figures_of_requests
from llm_perf.errors import SpecError

__all__ = ["is_csv", "is_records", "is_summary", "read_csv", "read_records", "read_summary"]

_UNITS: Final = {
    "s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": MS, "milliseconds": MS, "us": 1e-6, "ns": NS, "tokens/sec": 1.0,
    "requests/sec": 1.0, "per sec": 1.0, "tokens": 1.0, "requests": 1.0, "count": 1.0,
}  # fmt: skip
_QUANTITIES: Final[Mapping[str, Quantity]] = {
    "time_to_first_token": "ttft_s",
    "inter_token_latency": "tpot_s",
    "inter_chunk_latency": "itl_s",
    "request_latency": "e2e_s",
    "output_token_throughput": "output_tokens_per_s",
    "request_throughput": "requests_per_s",
    "benchmark_duration": "duration_s",
}
_NOT_KEPT: Final = (
    "input_config", "time_to_second_token", "output_token_throughput_per_user", "output_token_count",
    "was_cancelled", "error_summary", "start_time", "end_time", "min_request_timestamp", "max_response_timestamp",
    "goodput", "good_request_count", "reasoning_token_count", "total_reasoning_tokens", "telemetry_stats",
    "output_inter_chunk_latency", "total_token_throughput", "prefill_throughput_per_user", "sessions", "error_isl",
    "total_error_isl", "total_isl", "total_osl", "total_output_tokens", "schema_version", "aiperf_version", "benchmark_id",
    "input_token_throughput", "prefill_throughput",
)  # fmt: skip


def is_summary(source: Source) -> bool:
    """``profile_export_aiperf.json`` or ``profile_export_genai_perf.json``."""
    return source.has("request_throughput", "request_latency") and '"unit"' in source.text


def read_summary(source: Source) -> list[BenchmarkRun]:
    """One run.

    Raises:
        SpecError: a metric has a unit that is not known, or the file is none.
    """
    return [_summary(Fields(record, where)) for where, record in source.objects]


def _summary(fields: Fields) -> BenchmarkRun:
    fields.needed("request_latency", "request_throughput")
    config = fields.part("input_config")
    count = fields.part("request_count")
    requests = count.count("avg")
    figures = [
        figure
        for name, quantity in _QUANTITIES.items()
        for figure in _metric(fields, name, quantity, requests)
    ]
    errors = fields.part("error_request_count").integer("avg")
    aiperf = "loadgen" in config or "aiperf_version" in fields
    prompt, output = fields.part("input_sequence_length"), fields.part("output_sequence_length")
    return BenchmarkRun(
        tool="aiperf" if aiperf else "genai-perf",
        tool_version=fields.text("aiperf_version"),
        engine=_engine(config),
        deployment=Deployment(model=_model(config)),
        load=_load(config, requests),
        prompt=stated_lengths(prompt),
        output=stated_lengths(output),
        figures=tuple(figures),
        counts=Counts(completed=requests, failed=errors),
        source=fields.where,
        date=fields.text("start_time"),
        unread=fields.known(*_NOT_KEPT).unread,
    )


def _metric(fields: Fields, name: str, quantity: Quantity, requests: int | None) -> Iterator[Figure]:
    metric = fields.part(name)
    if not metric.values:
        return
    scale = _scale(fields.where, name, metric.text("unit"))
    if quantity.endswith("_per_s") or quantity == "duration_s":
        renamed = Fields({name: metric.values.get("avg")}, fields.where)
        yield from figures_of(renamed, [(name, quantity, "mean", scale)])
    else:
        yield from statistics(
            metric, quantity, scale, samples=requests, label=f"{name} ({metric.values['unit']})"
        )


def _scale(where: str, name: str, unit: str | None) -> float:
    """Seconds, tokens or requests of a stated unit.

    Raises:
        SpecError: none is stated, or one that is not known.
    """
    scale = None if unit is None else _UNITS.get(unit.lower())
    if scale is None:
        raise SpecError(f"{where}: {name} has the unit {unit!r}, and none of {', '.join(_UNITS)}")
    return scale


def _engine(config: Fields) -> Engine:
    backend = config.part("endpoint").text("backend")
    names = {"vllm": "vllm", "tensorrtllm": "tensorrt_llm"}
    return Engine(name=names.get((backend or "").lower()), settings={"backend": backend} if backend else {})


def _model(config: Fields) -> str | None:
    for part in (config.part("endpoint"), config):
        names = part.values.get("model_names")
        if isinstance(names, list) and len(names) == 1:
            return last_part(str(names[0]))
        if isinstance(names, str) and "," not in names:
            return last_part(names)
    return None


def _load(config: Fields, requests: int | None) -> LoadPattern:
    """How requests came, as AIPerf's ``loadgen`` or GenAI-Perf's ``stimulus`` says."""
    loadgen = config.part("loadgen")
    stimulus = config.part("perf_analyzer").part("stimulus")
    concurrency = loadgen.count("concurrency") or stimulus.count("concurrency")
    rate = loadgen.positive("request_rate") or stimulus.positive("request_rate")
    sent = loadgen.count("request_count") or requests
    warm_up = loadgen.integer("warmup_request_count")
    if rate is not None:
        mode = loadgen.text("request_rate_mode")
        return LoadPattern(
            kind="rate",
            request_rate=rate,
            burstiness=1.0 if mode in (None, "poisson") else None,
            concurrency=concurrency,
            num_requests=sent,
            warm_up_requests=warm_up,
        )
    if concurrency is None:
        return LoadPattern(num_requests=sent)
    return LoadPattern(
        kind="closed_loop", concurrency=concurrency, num_requests=sent, warm_up_requests=warm_up
    )


# -- CSV ------------------------------------------------------------------------------------------------------------

_NAMED: Final = re.compile(r"(.*?)(?: \(([^()]*)\))?")


def is_csv(source: Source) -> bool:
    """``profile_export_aiperf.csv`` or ``profile_export_genai_perf.csv``: two tables, of requests and of the system."""
    return source.text.lstrip("\ufeff").startswith("Metric,avg,min,max")


def read_csv(source: Source) -> list[BenchmarkRun]:
    """One run. The file says neither the model nor how requests came.

    Raises:
        SpecError: a row has fewer cells than its head, a unit is not known, or the table of the system is missing.
    """
    found: dict[str, dict[str, Any]] = {}
    head: list[str] = []
    for number, row in enumerate(csv.reader(source.text.lstrip("\ufeff").splitlines()), 1):
        if not row:
            continue
        if row[0] == "Metric":
            head = row
            continue
        if len(row) != len(head):
            raise SpecError(
                f"{source.name}:{number}: has {len(row)} cells of {len(head)}: the file was cut off"
            )
        stated = _NAMED.fullmatch(row[0])
        name, unit = (
            ("", None) if stated is None else (stated[1].strip().lower().replace(" ", "_"), stated[2])
        )
        cells = dict(zip(head[1:], row[1:], strict=True))
        if "Value" in cells:
            cells = {"avg": cells["Value"]}
        plain = {key: cell.replace(",", "") for key, cell in cells.items() if cell}  # thousands are set apart
        found[name] = plain | {"unit": unit or "count"}
    if "request_throughput" not in found:
        raise SpecError(f"{source.name}: has no request throughput: it was cut off, or is of another tool")
    genai = "Time To First Token" in source.text
    run = _summary(Fields(found, source.name))
    return [run.replace(tool="genai-perf" if genai and "Benchmark Duration" not in source.text else "aiperf")]


# -- a record per request ---------------------------------------------------------------------------------------------


def is_records(source: Source) -> bool:
    """AIPerf's ``profile_export.jsonl``."""
    return source.has("metadata", "metrics") and "request_start_ns" in source.text


def read_records(source: Source) -> list[BenchmarkRun]:
    """One run of all requests.

    Raises:
        SpecError: a record has no time, or a unit is not known.
    """
    records = [(where, Fields(record, where)) for where, record in source.objects]
    starts = [_start(fields, where) for where, fields in records]
    first = min(starts)
    requests = tuple(
        _request(fields, (start - first) * NS) for (_, fields), start in zip(records, starts, strict=True)
    )
    done = [one for one in requests if one.error is None]
    if not done:
        raise SpecError(f"{source.name}: none of its {len(requests)} requests ended well")
    prompts = [one.prompt_tokens for one in done if one.prompt_tokens]
    outputs = [one.output_tokens for one in done if one.output_tokens]
    return [
        BenchmarkRun(
            tool="aiperf",
            load=LoadPattern(kind="trace", num_requests=len(requests)),
            prompt=TokenLengths(mean=sum(prompts) / len(prompts) if prompts else None, kind="vary"),
            output=TokenLengths(mean=sum(outputs) / len(outputs) if outputs else None, kind="vary"),
            figures=figures_of_requests(requests),
            counts=Counts(completed=len(done), failed=len(requests) - len(done)),
            requests=tuple(sorted(requests, key=lambda one: one.arrival_s)),
            source=source.name,
        )
    ]


def _start(fields: Fields, where: str) -> int:
    start = fields.part("metadata").integer("request_start_ns")
    if start is None:
        raise SpecError(f"{where}: metadata.request_start_ns is missing: it is no record of AIPerf")
    return start


def _request(fields: Fields, arrival: float) -> RequestTimes:
    metrics = fields.part("metrics")

    def metric(name: str) -> float | None:
        one = metrics.part(name)
        return one.number("value", _scale(fields.where, name, one.text("unit"))) if one.values else None

    error = fields.values.get("error")
    if error:
        kind = error.get("type") if isinstance(error, dict) else None
        return RequestTimes(arrival_s=arrival, error=str(kind or "failed"))
    first, latency = metric("time_to_first_token"), metric("request_latency")
    prompt, output = metric("input_sequence_length"), metric("output_sequence_length")
    return RequestTimes(
        arrival_s=arrival,
        prompt_tokens=round(prompt) if prompt else None,
        output_tokens=round(output) if output else None,
        first_token_s=None if first is None else arrival + first,
        finished_s=None if latency is None else arrival + latency,
    )
