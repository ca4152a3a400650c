"""Reports of inference-perf (kubernetes-sigs): ``stage_N_lifecycle_metrics.json`` and ``summary_lifecycle_metrics.json``.

All times are in seconds and all rates the deployment's. Its time per output token and inter-token latency count the pieces of
a stream, of which a server may send several per token or the other way round: where the mean does not go with the latency of
requests, it is worked out from that and the time to the first token instead, and a note says so.

Until 2025 a report had the lengths of prompts as ``prompt_len``; since then ``prompt_tokens`` has them, with how many of
them a prefix cache had, and ``output_tokens`` the server's own count beside the client's ``output_len``.
"""

from __future__ import annotations

from typing import Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Figure,
    LoadPattern,
    Quantity,
)
from calibrate.evidence.readers.source import Fields, Source, stated_lengths, statistics

__all__ = ["is_report", "read_report"]

_TIMES: Final[tuple[tuple[str, Quantity], ...]] = (
    ("time_to_first_token", "ttft_s"),
    ("time_per_output_token", "tpot_s"),
    ("inter_token_latency", "itl_s"),
    ("request_latency", "e2e_s"),
)
_RATES: Final[tuple[tuple[str, Quantity], ...]] = (
    ("output_tokens_per_sec", "output_tokens_per_s"),
    ("input_tokens_per_sec", "input_tokens_per_s"),
    ("total_tokens_per_sec", "total_tokens_per_s"),
    ("requests_per_sec", "requests_per_s"),
)
_NEAR: Final = 0.05
"""Shares by which a stream's pieces may differ from tokens."""


def is_report(source: Source) -> bool:
    """A report of requests, not that of the server's own metrics."""
    return source.has("load_summary", "successes", "failures") and '"throughput"' in source.text


def read_report(source: Source) -> list[BenchmarkRun]:
    """One run.

    Raises:
        SpecError: a part is missing or none of its kind.
    """
    return [_report(Fields(record, where)) for where, record in source.objects]


def _report(fields: Fields) -> BenchmarkRun:
    good, bad, load = fields.part("successes"), fields.part("failures"), fields.part("load_summary")
    good.needed("count", "latency", "throughput")
    latency, rates = good.part("latency"), good.part("throughput")
    done = good.integer("count")
    prompt, output = good.part("prompt_tokens"), good.part("output_tokens")
    if prompt.positive("mean") is None:
        prompt = good.part("prompt_len")
    if output.positive("mean") is None:
        output = good.part("output_len")
    figures: list[Figure] = []
    for name, quantity in _TIMES:
        figures += statistics(latency.part(name), quantity, samples=done or None, label=name)
    notes = _by_requests(figures, output.positive("mean"))
    for name, quantity in _RATES:
        value = rates.positive(name)
        if value is not None:
            figures.append(
                Figure(quantity=quantity, value=value, scope="system", stated=f"{name} {value:.6g}")
            )
    rate, concurrency = load.positive("requested_rate"), load.count("concurrency")
    return BenchmarkRun(
        tool="inference-perf",
        deployment=Deployment(prefix_hit_rate=_cached(prompt)),
        load=LoadPattern(
            kind="closed_loop" if concurrency else "rate" if rate else None,
            concurrency=concurrency,
            request_rate=None if concurrency else rate,
            num_requests=load.count("count"),
        ),
        prompt=stated_lengths(prompt),
        output=stated_lengths(output),
        figures=tuple(figures),
        counts=Counts(completed=done, failed=bad.integer("count")),
        source=fields.where,
        notes=notes,
        unread=(*fields.unread, *latency.known("normalized_time_per_output_token").unread),
    )


def _cached(prompt: Fields) -> float | None:
    """Share of the prompts' tokens that the server's prefix cache had; None where it said of none that it was cached."""
    total, cached = prompt.positive("total"), prompt.positive("cached")
    return None if total is None or cached is None else min(cached / total, 1.0)


def _by_requests(figures: list[Figure], output: float | None) -> tuple[str, ...]:
    """Replace a time per output token that counts other things than tokens."""
    means = {one.quantity: one.value for one in figures if one.statistic == "mean"}
    if output is None or output <= 1 or not {"tpot_s", "ttft_s", "e2e_s"} <= set(means):
        return ()
    by_requests = (means["e2e_s"] - means["ttft_s"]) / (output - 1)
    if abs(by_requests / means["tpot_s"] - 1) <= _NEAR:
        return ()
    figures[:] = [one for one in figures if one.quantity not in ("tpot_s", "itl_s")]
    figures.append(
        Figure(
            quantity="tpot_s",
            value=by_requests,
            stated="(request_latency - time_to_first_token) / (output_len - 1)",
        )
    )
    return (
        f"time_per_output_token is {1e3 * means['tpot_s']:.3g} ms by the pieces of the stream, "
        f"{1e3 * by_requests:.3g} ms by the requests' latency and tokens: the latter is taken",
    )
