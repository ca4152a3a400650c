"""The readers, and which of them a file is for."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from calibrate.evidence.benchmark_run import BenchmarkRun, parsed_runs
from calibrate.evidence.contributed import KIND, parsed_contribution
from calibrate.evidence.readers import (
    aiperf,
    guidellm,
    inference_perf,
    llama_bench,
    logs,
    optimum_benchmark,
    prometheus,
    published_rows,
    request_times,
    sglang,
    trtllm_bench,
    vllm,
)
from calibrate.evidence.readers.source import Source
from llm_perf.config import files
from llm_perf.errors import LLMPerfError, SpecError

__all__ = ["READERS", "Reader", "read_file", "read_text", "reader_of"]


@dataclass(frozen=True)
class Reader:
    """One form of file.

    Attributes:
        tool: Whose it is.
        form: What it is.
        matches: Whether a file is of this form, by what it holds.
        read: Its runs.
    """

    tool: str
    form: str
    matches: Callable[[Source], bool]
    read: Callable[[Source], list[BenchmarkRun]]


def _is_own(source: Source) -> bool:
    return source.has("schema_version", "tool", "figures", "deployment")


def _read_own(source: Source) -> list[BenchmarkRun]:
    return list(parsed_runs(source.text, source.name))


def _is_contribution(source: Source) -> bool:
    return source.has("kind", "runs") and source.objects[0][1]["kind"] == KIND


READERS: Final = (
    Reader(
        "llm-perf",
        "contribution",
        _is_contribution,
        lambda source: parsed_contribution(source.text, source.name),
    ),
    Reader("llm-perf", "runs", _is_own, _read_own),
    Reader("vllm bench serve", "JSON", vllm.is_serve, vllm.read_serve),
    Reader("vllm bench serve", "printed", vllm.is_serve_text, vllm.read_serve_text),
    Reader("vllm bench latency", "JSON or printed", vllm.is_latency, vllm.read_latency),
    Reader("vllm bench throughput", "JSON or printed", vllm.is_throughput, vllm.read_throughput),
    Reader("SGLang bench_serving", "JSONL", sglang.is_serving, sglang.read_serving),
    Reader("SGLang bench_serving", "printed", sglang.is_serving_text, sglang.read_serving_text),
    Reader("SGLang bench_one_batch", "JSONL or printed", sglang.is_one_batch, sglang.read_one_batch),
    Reader("AIPerf or GenAI-Perf", "JSON", aiperf.is_summary, aiperf.read_summary),
    Reader("AIPerf or GenAI-Perf", "CSV", aiperf.is_csv, aiperf.read_csv),
    Reader("AIPerf", "records", aiperf.is_records, aiperf.read_records),
    Reader("GuideLLM", "JSON", guidellm.is_report, guidellm.read_report),
    Reader("inference-perf", "JSON", inference_perf.is_report, inference_perf.read_report),
    Reader("optimum-benchmark", "JSON", optimum_benchmark.is_report, optimum_benchmark.read_report),
    Reader("trtllm-bench", "JSON", trtllm_bench.is_json, trtllm_bench.read_json),
    Reader("trtllm-bench", "printed", trtllm_bench.is_text, trtllm_bench.read_text),
    Reader("llama-bench", "JSON", llama_bench.is_json, llama_bench.read_json),
    Reader("llama-bench", "CSV", llama_bench.is_csv, llama_bench.read_csv),
    Reader("llama-bench", "SQL", llama_bench.is_sql, llama_bench.read_sql),
    Reader("llama-bench", "markdown", llama_bench.is_markdown, llama_bench.read_markdown),
    Reader("ktransformers or Ollama", "printed", logs.is_evaluation, logs.read_evaluation),
    Reader("DeepSpeed, FlexGen or llm-perf", "benchmark log", logs.is_benchmark_log, logs.read_benchmark_log),
    Reader("a trace", "CSV or JSONL", request_times.is_times, request_times.read_times),
    Reader("a vLLM or SGLang server", "Prometheus metrics", prometheus.is_metrics, prometheus.read_metrics),
    Reader("published runs", "CSV", published_rows.is_rows, published_rows.read_rows),
)
"""Every form that is read; the first that a file matches reads it."""


def reader_of(text: str, name: str) -> Reader:
    """The reader of a text.

    Raises:
        SpecError: it is empty, or no form of a result that is known.
    """
    if not text.strip():
        raise SpecError(f"{name}: is empty")
    source = Source(name, text)
    found = next((one for one in READERS if one.matches(source)), None)
    if found is not None:
        return found
    if source.begins_json:
        source.objects  # noqa: B018 - says where a damaged file ends
    raise SpecError(f"{name}: is no result of {', '.join(dict.fromkeys(one.tool for one in READERS))}")


def read_text(text: str, name: str) -> list[BenchmarkRun]:
    """Runs of a text under the name of its file.

    Raises:
        SpecError: it is empty, of no form that is known, cut off, or holds a value that no result has; one line.
    """
    reader = reader_of(text, name)
    try:
        runs = reader.read(Source(name, text))
    except LLMPerfError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, csv.Error) as error:
        said = " ".join(str(error).split())[:120]
        raise SpecError(f"{name}: is no whole result of {reader.tool}: {said}") from None
    if not runs:
        raise SpecError(f"{name}: holds no result")
    return runs


def read_file(file: str | Path) -> list[BenchmarkRun]:
    """Runs of a file; ``.gz`` is unpacked.

    Raises:
        SpecError: it cannot be read, or as `read_text`.
    """
    path = files.expanded(file)
    if path.suffix == ".gz":
        try:
            text = gzip.decompress(path.read_bytes()).decode("utf-8")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: cannot be unpacked: {error}") from None
    else:
        text = files.read_text(path)
    return read_text(text, path.name)
