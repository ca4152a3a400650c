"""Reports of Hugging Face's optimum-benchmark: ``benchmark_report.json``, or ``benchmark.json`` with its configuration.

Latencies state their unit, always seconds. Prefill and decode are of a whole static batch, decode without the first token;
where tokens were not timed apart, "generate" is both together.
"""

from __future__ import annotations

from typing import Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    Quantity,
    TokenLengths,
)
from calibrate.evidence.readers.source import Fields, Source, last_part, statistics
from llm_perf.errors import SpecError

__all__ = ["is_report", "read_report"]

_PHASES: Final[tuple[tuple[str, Quantity], ...]] = (
    ("prefill", "prefill_s"),
    ("decode", "decode_s"),
    ("generate", "batch_s"),
    ("per_token", "step_s"),
)
_BACKENDS: Final = {
    "pytorch": "transformers",
    "vllm": "vllm",
    "llama_cpp": "llama_cpp",
    "tensorrt_llm": "tensorrt_llm",
}
_MIB: Final = 1e6
"""Bytes of what it calls MB: it divides by 1e6."""


def is_report(source: Source) -> bool:
    """A report of text generation."""
    inside = ("prefill", "latency", "stdev_")
    return source.begins_json and all(f'"{name}"' in source.text for name in inside)


def read_report(source: Source) -> list[BenchmarkRun]:
    """One run.

    Raises:
        SpecError: a part is missing, or a latency is in another unit than seconds.
    """
    ((where, record),) = source.objects
    whole = Fields(record, where)
    report = whole.part("report") if "report" in whole else whole
    return [_report(report, whole.part("config"))]


def _report(report: Fields, config: Fields) -> BenchmarkRun:
    backend, scenario = config.part("backend"), config.part("scenario")
    shapes, generate = scenario.part("input_shapes"), scenario.part("generate_kwargs")
    environment = config.part("environment")
    figures: list[Figure] = []
    for phase, quantity in _PHASES:
        latency = report.part(phase).part("latency")
        if not latency.values:
            continue
        if latency.text("unit") != "s":
            raise SpecError(
                f"{report.where}: {phase}.latency has the unit {latency.text('unit')!r}, and not seconds"
            )
        kept = Fields({k: v for k, v in latency.values.items() if k != "stdev_"}, report.where)
        figures += statistics(kept, quantity, samples=latency.count("count"), label=f"{phase}.latency")
    if not any(one.quantity in ("prefill_s", "batch_s") for one in figures):
        raise SpecError(f"{report.where}: states no latency of a prefill or of a generation")
    memory = report.part("decode").part("memory")
    peak = memory.positive("max_allocated", _MIB)
    if peak is not None:
        figures.append(
            Figure(quantity="peak_gpu_memory_bytes", statistic="max", value=peak, stated="max_allocated")
        )
    gpus = environment.values.get("gpu")
    name = backend.text("name")
    return BenchmarkRun(
        tool="optimum-benchmark",
        tool_version=environment.text("optimum_benchmark_version"),
        engine=Engine(
            name=_BACKENDS.get(name or ""),
            version=environment.text("transformers_version")
            if name == "pytorch"
            else backend.text("version"),
            settings=backend.settings(
                ("attn_implementation", "torch_compile", "quantization_scheme", "no_weights")
            ),
        ),
        deployment=Deployment(
            model=last_part(backend.text("model")),
            gpu=str(gpus[0]) if isinstance(gpus, list) and gpus else None,
            num_gpus=environment.count("gpu_count"),
            weight_format=_dtype(backend.text("torch_dtype")),
        ),
        load=LoadPattern(kind="batch", concurrency=shapes.count("batch_size")),
        prompt=TokenLengths(mean=shapes.positive("sequence_length"), kind="fixed"),
        output=TokenLengths(mean=generate.positive("max_new_tokens"), kind="fixed"),
        figures=tuple(figures),
        source=report.where,
        environment={
            key: value
            for key in ("cpu", "cpu_count", "gpu_vram_mb", "python_version", "torch_version")
            if isinstance(value := environment.values.get(key), (str, int, float))
        },
        unread=report.known("load_model", "load", "first_iteration").unread,
    )


def _dtype(stated: str | None) -> str | None:
    names = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
    return None if stated is None else names.get(stated)
