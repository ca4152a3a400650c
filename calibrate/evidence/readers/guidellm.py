"""Reports of GuideLLM: ``benchmarks.json``, a benchmark per strategy.

Its time per output token divides by all tokens, from the request's start; its inter-token latency is (last - first) /
(tokens - 1) of a request, which is called time per output token here. Both are in milliseconds, a request's latency is in
seconds. Only requests that ended well are read; rates of tokens are those over time, prompts and outputs apart.
"""

from __future__ import annotations

from typing import Any, Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    Quantity,
)
from calibrate.evidence.readers.source import MS, Fields, Source, last_part, stated_lengths, statistics
from llm_perf.errors import SpecError

__all__ = ["is_report", "read_report"]

_TIMES: Final[tuple[tuple[str, Quantity, float], ...]] = (
    ("time_to_first_token_ms", "ttft_s", MS),
    ("inter_token_latency_ms", "tpot_s", MS),
    ("request_latency", "e2e_s", 1.0),
)
_RATES: Final[tuple[tuple[str, Quantity], ...]] = (
    ("output_tokens_per_second", "output_tokens_per_s"),
    ("prompt_tokens_per_second", "input_tokens_per_s"),
    ("tokens_per_second", "total_tokens_per_s"),
    ("requests_per_second", "requests_per_s"),
)
_NOT_KEPT: Final = (
    "time_per_output_token_ms", "request_concurrency", "total_token_count", "time_to_first_output_token_ms",
    "request_streaming_iterations_count", "output_tokens_per_iteration", "iter_tokens_per_iteration", "text", "image",
    "video", "audio", "tool_call", "output_tokens_wo_first_per_iteration", "prompt_tokens_per_second",
)  # fmt: skip


def is_report(source: Source) -> bool:
    """A report: benchmarks whose metrics have a breakdown by what became of requests."""
    return source.has("benchmarks") and "time_to_first_token_ms" in source.text


def read_report(source: Source) -> list[BenchmarkRun]:
    """One run per benchmark.

    Raises:
        SpecError: there is none, or one lacks what a result has.
    """
    ((_, record),) = source.objects
    report = Fields(record, source.name)
    about = report.part("metadata")
    found = report.values_of("benchmarks")
    if not found:
        raise SpecError(f"{source.name}: holds no benchmark")
    asked = report.part("args") if "args" in report else report.part("config").part("spec")
    runs = []
    for number, one in enumerate(found):
        where = f"{source.name}[{number}]"
        if not isinstance(one, dict):
            raise SpecError(f"{where}: is no object")
        runs.append(_benchmark(Fields(one, where), about.text("guidellm_version"), asked))
    return runs


def _benchmark(fields: Fields, version: str | None, asked: Fields) -> BenchmarkRun:
    fields.needed("metrics")
    metrics, config = fields.part("metrics"), fields.part("config")
    if not config.values:
        config = fields.part("args")
    figures: list[Figure] = []
    for name, quantity, scale in _TIMES:
        good = _good(metrics, name)
        figures += statistics(good, quantity, scale, samples=good.count("count"), label=name)
    for name, quantity in _RATES:
        mean = _good(metrics, name).positive("mean")
        if mean is not None:
            figures.append(
                Figure(
                    quantity=quantity, value=mean, scope="system", stated=f"{name}.successful.mean {mean:.6g}"
                )
            )
    if not figures:
        raise SpecError(f"{fields.where}: none of its requests ended well")
    totals = metrics.part("request_totals")
    backend = config.part("backend") if "backend" in config else asked.part("backend")
    return BenchmarkRun(
        tool="guidellm",
        tool_version=version,
        engine=Engine(settings={"backend": backend.text("kind") or backend.text("type_")}),
        deployment=Deployment(model=last_part(backend.text("model") or asked.text("model"))),
        load=_load(config, totals.count("successful")),
        prompt=stated_lengths(_good(metrics, "prompt_token_count")),
        output=stated_lengths(_good(metrics, "output_token_count")),
        figures=tuple(figures),
        counts=Counts(completed=totals.integer("successful"), failed=totals.integer("errored")),
        source=fields.where,
        unread=metrics.known(*_NOT_KEPT).unread,
    )


def _good(metrics: Fields, name: str) -> Fields:
    """The statistics over requests that ended well; empty where there were none."""
    good = metrics.part(name).part("successful")
    percentiles = good.part("percentiles")
    stated = {
        key: value
        for key, value in good.values.items()
        if key not in ("percentiles", "pdf", "mode", "variance")
    }
    found = Fields(
        stated | {k: v for k, v in percentiles.values.items() if k != "p001"}, f"{good.where}: {name}"
    )
    return found if found.number("count") or found.number("mean") else Fields({}, good.where)


def _load(config: Fields, done: int | None) -> LoadPattern:
    """How requests came: by the strategy's type."""
    strategy = config.part("strategy")
    kind = strategy.text("type_")
    if kind == "synchronous":
        return LoadPattern(kind="closed_loop", concurrency=1, num_requests=done)
    if kind == "concurrent":
        return LoadPattern(kind="closed_loop", concurrency=strategy.count("streams"), num_requests=done)
    if kind == "throughput":
        bound = strategy.count("max_concurrency")
        how: Any = "all_at_once" if bound is None else "closed_loop"
        return LoadPattern(kind=how, concurrency=bound, num_requests=done)
    if kind in ("constant", "poisson"):
        return LoadPattern(
            kind="rate",
            request_rate=strategy.positive("rate"),
            burstiness=1.0 if kind == "poisson" else None,
            num_requests=done,
        )
    return LoadPattern(num_requests=done)
