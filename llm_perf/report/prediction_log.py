"""A prediction written as the benchmark log that the real run writes."""

from __future__ import annotations

from pathlib import Path

from llm_perf.analysis.inference import InferenceResult
from llm_perf.report.benchmark_log import (
    cache_bytes,
    format_benchmark_log,
    get_filename,
    hidden_bytes,
    model_bytes,
    write_benchmark_log,
)


def _fields(result: InferenceResult) -> dict[str, float | int | None]:
    scenario, workload = result.scenario, result.scenario.workload
    length = workload.prompt_len + workload.gen_len
    decode = result.decode
    return {
        "model_size": model_bytes(scenario.model),
        "cache_size": cache_bytes(scenario.model, workload.batch_size, length),
        "hidden_size": hidden_bytes(scenario.model, workload.batch_size, length),
        "gpu_peak_mem": round(result.peak_gpu_memory_bytes),
        "prefill_latency": result.prefill.latency_s,
        "prefill_throughput": result.prefill.throughput_tokens_per_s,
        "decode_latency": decode.latency_s if decode else 0.0,
        "decode_throughput": decode.throughput_tokens_per_s if decode else 0.0,
        "total_latency": result.total_latency_s,
        "total_throughput": result.total_throughput_tokens_per_s,
    }


def prediction_log(result: InferenceResult) -> str:
    """The log text. Its sizes are seed 000's estimates; peak memory is what the allocator would report."""
    return format_benchmark_log(**_fields(result))  # type: ignore[arg-type]


def write_prediction_log(result: InferenceResult, filename: str) -> Path:
    """Append the log to a file; "auto" names it after the configuration, in the working directory.

    Raises:
        OutputError: the file cannot be written.
    """
    path = automatic_name(result) if filename == "auto" else filename
    write_benchmark_log(path, **_fields(result))  # type: ignore[arg-type]
    return Path(path)


def automatic_name(result: InferenceResult) -> str:
    """``get_filename`` of the configuration with the suffix .log."""
    scenario, workload, placement = result.scenario, result.scenario.workload, result.placement
    stem = get_filename(
        scenario.model.name,
        workload.batch_size,
        workload.prompt_len,
        workload.gen_len,
        bool(placement.weights.cpu > 0),
        bool(placement.weights.nvme > 0),
        scenario.num_nodes,
        scenario.gpus_per_node,
        bool(placement.kv_cache.cpu > 0),
        scenario.dtype.weight_bits < 16,
    )
    return stem + ".log"
