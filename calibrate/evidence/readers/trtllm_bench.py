"""Results of ``trtllm-bench throughput`` and ``latency``: the report as JSON and as printed.

Names and units are those of tensorrt_llm/bench/dataclasses/reporting.py: times in milliseconds, rates per second, those of
all GPUs and of one under names of their own. Percentiles of TPOT and TTFT state no unit and are in milliseconds too.
"""

from __future__ import annotations

import re
from typing import Any, Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Counts,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    Quantity,
    Statistic,
    TokenLengths,
)
from calibrate.evidence.readers.source import MS, Fields, Source, figures_of, last_part, statistics
from llm_perf.errors import SpecError

__all__ = ["is_json", "is_text", "read_json", "read_text"]

_RATES: Final[tuple[tuple[str, Quantity, Statistic, float], ...]] = (
    ("request_throughput_req_s", "requests_per_s", "mean", 1.0),
    ("system_output_throughput_tok_s", "output_tokens_per_s", "mean", 1.0),
    ("system_total_throughput_tok_s", "total_tokens_per_s", "mean", 1.0),
    ("total_latency_ms", "duration_s", "mean", MS),
)
_FORMATS: Final = {"FP8": "fp8", "NVFP4": "nvfp4", "W4A16_AWQ": "awq", "W4A16_GPTQ": "gptq", "INT8": "int8",
                   "W8A16": "int8_weight_only", "FP8_BLOCK_SCALES": "fp8_block", "W8A8_SQ_PER_CHANNEL": "int8"}  # fmt: skip


def is_json(source: Source) -> bool:
    """``--report_json``."""
    return source.has("engine", "world_info", "request_info", "performance")


def read_json(source: Source) -> list[BenchmarkRun]:
    """One run.

    Raises:
        SpecError: a part is missing or none of its kind.
    """
    return [_report(Fields(record, where)) for where, record in source.objects]


def _report(fields: Fields) -> BenchmarkRun:
    engine, machine = fields.part("engine"), fields.part("machine")
    world, requests = fields.part("world_info"), fields.part("request_info")
    performance, streaming = fields.part("performance"), fields.part("streaming_metrics")
    performance.needed("system_output_throughput_tok_s", "total_latency_ms")
    requests.needed("num_requests")
    sent = requests.count("num_requests")
    figures: list[Figure] = [*figures_of(performance, _RATES)]
    per_gpu = performance.positive("output_throughput_per_gpu_tok_s")
    if per_gpu is not None:
        figures.append(
            Figure(
                quantity="output_tokens_per_s",
                value=per_gpu,
                scope="per_gpu",
                stated=f"output_throughput_per_gpu_tok_s {per_gpu:.6g}",
            )
        )
    times: tuple[tuple[Fields, str, Quantity], ...] = (
        (performance, "request_latency_percentiles_ms", "e2e_s"),
        (streaming, "ttft_percentiles", "ttft_s"),
        (streaming, "tpot_percentiles", "tpot_s"),
    )
    for part, name, quantity in times:
        figures += statistics(part.part(name), quantity, MS, samples=sent, label=name)
    if not any(one.quantity == "e2e_s" for one in figures):
        figures += figures_of(performance, [("avg_request_latency_ms", "e2e_s", "mean", MS)])
    quantization = engine.text("quantization")
    bound = world.count("concurrency")
    running = requests.number("avg_num_concurrent_requests")
    return BenchmarkRun(
        tool="trtllm-bench",
        engine=Engine(
            name="tensorrt_llm",
            version=engine.text("version"),
            settings=engine.settings(("backend", "dtype", "kv_cache_dtype", "quantization"))
            | ({} if running is None else {"avg_num_concurrent_requests": running}),
        ),
        deployment=Deployment(
            model=last_part(engine.text("model")),
            gpu=machine.text("name"),
            num_gpus=world.count("world_size"),
            tp=world.count("tp_size"),
            pp=world.count("pp_size"),
            ep=_expert_ranks(world),
            weight_format=_weight_format(quantization, engine.text("dtype")),
            kv_format="fp8" if engine.text("kv_cache_dtype") == "FP8" else None,
            max_num_seqs=world.count("max_batch_size"),
            max_num_batched_tokens=world.count("max_num_tokens"),
        ),
        load=LoadPattern(
            kind="closed_loop" if bound else "all_at_once", concurrency=bound, num_requests=sent
        ),
        prompt=TokenLengths(mean=requests.positive("avg_input_length")),
        output=TokenLengths(mean=requests.positive("avg_output_length")),
        figures=tuple(figures),
        counts=Counts(completed=sent),
        source=fields.where,
        notes=()
        if bound
        else (
            "its report does not say whether --concurrency bounded the requests in flight: taken as not bounded",
        ),
        unread=fields.known("dataset", "decoding_stats").unread,
    )


def _expert_ranks(world: Fields) -> int | None:
    """Expert-parallel ranks; a negative number says that the engine chose."""
    stated = str(world.values.get("ep_size") or "")
    return world.count("ep_size") if stated.isdigit() else None


def _weight_format(quantization: str | None, dtype: str | None) -> str | None:
    """The format of an engine's quantisation; its dtype's where there is none."""
    if quantization not in (None, "None", "NO_QUANT"):
        return _FORMATS.get(str(quantization))
    return {"float16": "fp16", "bfloat16": "bf16"}.get(dtype or "")


# -- as printed -----------------------------------------------------------------------------------------------------

_LINES: Final[dict[str, tuple[str, str]]] = {
    "Model": ("engine", "model"), "TensorRT LLM Version": ("engine", "version"),
    "TensorRT-LLM Version": ("engine", "version"), "Dtype": ("engine", "dtype"),
    "KV Cache Dtype": ("engine", "kv_cache_dtype"), "Quantization": ("engine", "quantization"),
    "TP Size": ("world_info", "tp_size"), "PP Size": ("world_info", "pp_size"), "EP Size": ("world_info", "ep_size"),
    "Max Runtime Batch Size": ("world_info", "max_batch_size"), "Max Runtime Tokens": ("world_info", "max_num_tokens"),
    "Number of requests": ("request_info", "num_requests"),
    "Number of concurrent requests": ("request_info", "avg_num_concurrent_requests"),
    "Average Input Length (tokens)": ("request_info", "avg_input_length"),
    "Average Output Length (tokens)": ("request_info", "avg_output_length"),
    "Request Throughput (req/sec)": ("performance", "request_throughput_req_s"),
    "Total Output Throughput (tokens/sec)": ("performance", "system_output_throughput_tok_s"),
    "Total Token Throughput (tokens/sec)": ("performance", "system_total_throughput_tok_s"),
    "Total Latency (ms)": ("performance", "total_latency_ms"),
    "Average request latency (ms)": ("performance", "avg_request_latency_ms"),
    "Per GPU Output Throughput (tps/gpu)": ("performance", "output_throughput_per_gpu_tok_s"),
}  # fmt: skip
_PERCENTILES: Final = {"TPOT": ("streaming_metrics", "tpot_percentiles"), "TTFT": ("streaming_metrics", "ttft_percentiles"),
                       "Latency": ("performance", "request_latency_percentiles_ms")}  # fmt: skip
_ABSENT: Final = ("None", "N/A")


def is_text(source: Source) -> bool:
    """What it prints: sections between lines of equals signs."""
    return (
        not source.begins_json
        and "= PERFORMANCE OVERVIEW" in source.text
        and "Total Output Throughput" in source.text
    )


def read_text(source: Source) -> list[BenchmarkRun]:
    """One run.

    Raises:
        SpecError: the report was cut off before its latencies.
    """
    text = source.text
    found: dict[str, dict[str, Any]] = {}
    for name, value in re.findall(r"^(?:\[.*\] )?([A-Z][\w /()-]*?(?: \[[^\]]*\])?(?: \([^)]*\))?):[ \t]+(\S.*?)\s*$",
                                  text, re.MULTILINE):  # fmt: skip
        if name in _LINES and value not in _ABSENT:
            part, field = _LINES[name]
            found.setdefault(part, {})[field] = value
    for kind, statistic, value in re.findall(
        r"^\[(TPOT|TTFT|Latency)\] (\w+)\s*: ([\d.]+)", text, re.MULTILINE
    ):
        part, field = _PERCENTILES[kind]
        found.setdefault(part, {}).setdefault(field, {})[statistic.lower()] = value
    for mean, (part, field) in (("TTFT", _PERCENTILES["TTFT"]), ("TPOT", _PERCENTILES["TPOT"])):
        stated = re.search(rf"^Average time-\S+ \[{mean}\] \(ms\):\s+([\d.]+)", text, re.MULTILINE)
        if stated is not None:
            found.setdefault(part, {}).setdefault(field, {}).setdefault("average", stated[1])
    if "output_throughput_per_gpu_tok_s" not in found.get("performance", {}):
        raise SpecError(f"{source.name}: ends before its throughput per GPU: it was cut off")
    gpu = re.search(r"= MACHINE DETAILS\s*\n=+\s*\n(.+?), memory ", text)
    world = found.setdefault("world_info", {})
    sizes = Fields(world, source.name)
    world.setdefault("world_size", (sizes.count("tp_size") or 1) * (sizes.count("pp_size") or 1))
    return [_report(Fields(found | ({"machine": {"name": gpu[1]}} if gpu else {}), source.name))]
