"""Results of SGLang's benchmarks: ``bench_serving`` and ``bench_one_batch``, as JSONL and as printed.

Names and units are those of python/sglang/bench_serving.py and bench_one_batch.py. Of one batch, "total" throughput counts
prompts and outputs over prefill and decode; a decode step's latency is the median over steps.
"""

from __future__ import annotations

import re
from typing import Any, Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    TokenLengths,
)
from calibrate.evidence.readers.bench_serving import (
    closed_or_open,
    engine_of_backend,
    has_table,
    measured,
    printed_fields,
    stated_arguments,
)
from calibrate.evidence.readers.source import Fields, Source, figures_of, last_part
from llm_perf.errors import SpecError

__all__ = [
    "is_one_batch",
    "is_serving",
    "is_serving_text",
    "read_one_batch",
    "read_serving",
    "read_serving_text",
]

_NOT_KEPT: Final = (
    "dataset_name", "sharegpt_output_len", "random_input_len", "random_output_len", "random_range_ratio",
    "total_output_tokens_retokenized", "concurrency", "generated_texts", "errors", "tag", "ttfts", "itls",
    "max_output_tokens_per_s", "max_concurrent_requests", "total_input_text_tokens", "total_input_vision_tokens",
)  # fmt: skip


def is_serving(source: Source) -> bool:
    """``python -m sglang.bench_serving --output-file``."""
    return source.has("backend", "total_input_tokens", "mean_ttft_ms", "mean_e2e_latency_ms", "request_rate")


def read_serving(source: Source) -> list[BenchmarkRun]:
    """One run a line.

    Raises:
        SpecError: a field is missing or none of its kind.
    """
    return [_serving(Fields(record, where)) for where, record in source.objects]


def _serving(fields: Fields) -> BenchmarkRun:
    found = measured(fields)
    server = fields.part("server_info")
    drawn = _drawn(fields)
    lengths: dict[str, Any] = {part: _with_kind(found.pop(part), drawn) for part in ("prompt", "output")}
    return BenchmarkRun(
        tool="sglang-bench-serving",
        engine=_engine(fields, server),
        deployment=Deployment(
            model=last_part(fields.text("model") or server.text("model_path")),
            tp=server.count("tp_size"),
            pp=server.count("pp_size"),
            dp=server.count("dp_size"),
            ep=server.count("ep_size"),
            max_num_seqs=server.count("max_running_requests"),
        ),
        load=closed_or_open(
            fields.known("request_rate"),
            fields.values.get("request_rate"),
            fields.count("max_concurrency"),
            None,
            found["counts"].completed,
        ),
        unread=fields.known(*_NOT_KEPT).unread,
        **lengths,
        **found,
    )


def _engine(fields: Fields, server: Fields) -> Engine:
    accepted = fields.number("accept_length")
    return Engine(
        name=engine_of_backend(fields.text("backend")),
        version=server.text("version"),
        settings={} if accepted is None else {"accept_length": accepted},
    )


def _drawn(fields: Fields) -> float | None:
    """The least share of the nominal length that random prompts are drawn from; None of other data sets."""
    random = (fields.text("dataset_name") or "").startswith("random")
    return fields.number("random_range_ratio") if random else None


def _with_kind(lengths: TokenLengths, least: float | None) -> TokenLengths:
    """Lengths with how they were drawn: evenly from a share of a nominal length up to it."""
    if lengths.values is not None or lengths.mean is None or least is None:
        return lengths
    if least == 1:
        return lengths.replace(kind="fixed")
    return lengths.replace(
        kind="uniform", low=2 * lengths.mean * least / (1 + least), high=2 * lengths.mean / (1 + least)
    )


def is_serving_text(source: Source) -> bool:
    """The table that SGLang's serving benchmark prints: vLLM's, with its backend."""
    return has_table(source) and "Backend:" in source.text


def read_serving_text(source: Source) -> list[BenchmarkRun]:
    """One run per table of a log.

    Raises:
        SpecError: a table was cut off, or lacks what a result has.
    """
    told = stated_arguments(source.text)
    runs = []
    for fields in printed_fields(source):
        fields.needed("backend")
        found = measured(fields)
        runs.append(
            BenchmarkRun(
                tool="sglang-bench-serving",
                engine=Engine(name=engine_of_backend(fields.text("backend"))),
                deployment=Deployment(model=last_part(told.get("model"))),
                load=closed_or_open(
                    fields.known("request_rate"),
                    fields.values.get("request_rate"),
                    fields.count("max_concurrency"),
                    None,
                    found["counts"].completed,
                ),
                unread=tuple(
                    n
                    for n in fields.known("concurrency").unread
                    if not n.startswith(("Total gen", "Total input", "Accept"))
                ),
                **found,
            )
        )
    return runs


# -- one batch ------------------------------------------------------------------------------------------------------

_PREFILL: Final = re.compile(
    r"^Prefill\. latency:\s*([\d.]+) s, throughput:\s*([\d.]+) token/s", re.MULTILINE
)
_DECODE: Final = re.compile(
    r"^Decode\.\s+median latency:\s*([\d.]+) s, median throughput:\s*([\d.]+) token/s", re.MULTILINE
)
_TOTAL: Final = re.compile(r"^Total\. latency:\s*([\d.]+) s, throughput:\s*([\d.]+) token/s", re.MULTILINE)


def is_one_batch(source: Source) -> bool:
    """``python -m sglang.bench_one_batch``."""
    return source.has("run_name", "batch_size", "input_len", "output_len", "prefill_latency") or (
        not source.begins_json and _PREFILL.search(source.text) is not None
    )


def read_one_batch(source: Source) -> list[BenchmarkRun]:
    """One run per batch size and lengths; as printed, without its warm-up, and with batch and lengths worked out.

    Raises:
        SpecError: a field is missing or none of its kind.
    """
    if source.begins_json:
        return [_one_batch(Fields(record, where)) for where, record in source.objects]
    return _printed_batches(source)


def _printed_batches(source: Source) -> list[BenchmarkRun]:
    runs = []
    begin = source.text.rfind("Benchmark ...")
    text = source.text[max(begin, 0) :]
    starts = [match.start() for match in _PREFILL.finditer(text)]
    for number, start in enumerate(starts):
        part = text[start : starts[number + 1] if number + 1 < len(starts) else len(text)]
        prefill, decode, total = (pattern.search(part) for pattern in (_PREFILL, _DECODE, _TOTAL))
        if prefill is None or total is None:
            raise SpecError(f"{source.name}: a batch has no line of its total: it was cut off")
        tokens = float(prefill[1]) * float(prefill[2])
        stated = {"prefill_latency": prefill[1], "total_latency": total[1], "overall_throughput": total[2]}
        batch = re.search(r"Batch size: (\d+)", part)
        sizes: dict[str, float] = {}
        if decode is not None:
            stated |= {"median_decode_latency": decode[1], "median_decode_throughput": decode[2]}
            sizes["batch_size"] = float(batch[1]) if batch else round(float(decode[1]) * float(decode[2]))
        if sizes.get("batch_size"):
            size = sizes["batch_size"]
            sizes["input_len"] = round(tokens / size)
            sizes["output_len"] = max(round(float(total[1]) * float(total[2]) / size - sizes["input_len"]), 1)
        runs.append(_one_batch(Fields(stated | sizes, f"{source.name}[{number}]")))
    return runs


def _one_batch(fields: Fields) -> BenchmarkRun:
    fields.needed("prefill_latency", "total_latency")
    figures: list[Figure] = list(
        figures_of(
            fields,
            [
                ("prefill_latency", "prefill_s", "mean", 1.0),
                ("median_decode_latency", "step_s", "p50", 1.0),
                ("total_latency", "batch_s", "mean", 1.0),
                ("overall_throughput", "total_tokens_per_s", "mean", 1.0),
                ("median_decode_throughput", "decode_tokens_per_s", "p50", 1.0),
                ("prefill_throughput", "prefill_tokens_per_s", "mean", 1.0),
            ],
        )
    )
    return BenchmarkRun(
        tool="sglang-bench-one-batch",
        engine=Engine(name="sglang"),
        deployment=Deployment(prefix_hit_rate=0.0),
        load=LoadPattern(kind="batch", concurrency=fields.count("batch_size")),
        prompt=TokenLengths(mean=fields.positive("input_len"), kind="fixed"),
        output=TokenLengths(mean=fields.positive("output_len"), kind="fixed"),
        figures=tuple(figures),
        source=fields.where,
        unread=fields.known("run_name").unread,
    )
