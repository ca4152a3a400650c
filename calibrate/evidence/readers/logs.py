"""Logs of generations: ktransformers' and Ollama's sums, and the benchmark logs of DeepSpeed, FlexGen and llm-perf."""

from __future__ import annotations

import re
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
from calibrate.evidence.readers.source import Source
from llm_perf.config.base import GIB
from llm_perf.errors import SpecError
from llm_perf.report.benchmark_log import BenchmarkLogRecord, parse_benchmark_log

__all__ = ["is_benchmark_log", "is_evaluation", "read_benchmark_log", "read_evaluation"]

_PARTS: Final = (
    "prompt eval count",
    "prompt eval duration",
    "prompt eval rate",
    "eval count",
    "eval duration",
    "eval rate",
)
_PART: Final = re.compile(
    r"^(?:\[rank:\d+\])?(prompt eval count|prompt eval duration|prompt eval rate|eval count|eval duration|eval rate):"
    r"[ \t]+(\S+)",
    re.MULTILINE,
)
_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d*)?)(s|ms|µs|us))?")


def is_evaluation(source: Source) -> bool:
    """The sums that ktransformers prints behind a generation, and Ollama with ``--verbose``."""
    return not source.begins_json and _PART.search(source.text) is not None


def read_evaluation(source: Source) -> list[BenchmarkRun]:
    """One run per generation, one sequence each.

    Raises:
        SpecError: a generation lacks a line, or its rates do not go with its counts and durations.
    """
    found = [(match.start(), match[1], match[2]) for match in _PART.finditer(source.text)]
    ollama = re.search(r"^(?:total|load) duration:", source.text, re.MULTILINE) is not None
    runs = []
    for start in range(0, len(found), len(_PARTS)):
        group = found[start : start + len(_PARTS)]
        where = f"{source.name}:{source.text.count(chr(10), 0, group[0][0]) + 1}"
        if tuple(name for _, name, _ in group) != _PARTS:
            missing = next((name for name in _PARTS if name not in [one[1] for one in group]), _PARTS[0])
            raise SpecError(f"{where}: the line of {missing!r} is missing: it was cut off")
        runs.append(_evaluation({name: value for _, name, value in group}, where, ollama))
    return runs


def _evaluation(parts: dict[str, str], where: str, ollama: bool) -> BenchmarkRun:
    figures = []
    lengths = {}
    for phase, rate_of, time_of in (
        ("prompt eval", "prefill_tokens_per_s", "prefill_s"),
        ("eval", "decode_tokens_per_s", "decode_s"),
    ):
        count, seconds = _number(parts[f"{phase} count"], where), _seconds(parts[f"{phase} duration"], where)
        rate = _number(parts[f"{phase} rate"], where)
        if not count or not seconds:
            raise SpecError(f"{where}: {phase}: counts no tokens or takes no time")
        if not 0.95 < count / seconds / rate < 1.05:
            raise SpecError(
                f"{where}: {phase}: {count:g} tokens in {seconds:g} s are not the {rate:g} tokens/s that it states"
            )
        lengths[phase] = count
        quantities: tuple[tuple[Quantity, float], ...] = ((rate_of, rate), (time_of, seconds))  # type: ignore[assignment]
        for quantity, value in quantities:
            figures.append(
                Figure(
                    quantity=quantity,
                    value=value,
                    scope="system" if quantity.endswith("_per_s") else None,
                    stated=f"{phase} rate {rate:g}",
                )
            )
    return BenchmarkRun(
        tool="ollama" if ollama else "ktransformers",
        engine=Engine(name="llama_cpp" if ollama else "ktransformers"),
        load=LoadPattern(kind="batch", concurrency=1),
        prompt=TokenLengths(mean=lengths["prompt eval"], kind="fixed"),
        output=TokenLengths(mean=lengths["eval"] + 1, kind="fixed"),
        figures=tuple(figures),
        source=where,
        notes=("the first token is counted with the prompt",),
    )


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"{where}: {text!r} is no number") from None


def _seconds(text: str, where: str) -> float:
    """Seconds of ``12.5s``, ``120ms`` or ``1m3.5s``: the unit stands there, always."""
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        raise SpecError(f"{where}: {text!r} is no duration with its unit")
    scale = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6}
    rest = float(found[3]) * scale[found[4]] if found[3] else 0.0
    return 3600.0 * int(found[1] or 0) + 60.0 * int(found[2] or 0) + rest


# -- DeepSpeed, FlexGen, llm-perf -----------------------------------------------------------------------------------


def is_benchmark_log(source: Source) -> bool:
    """The ten figures of a benchmark log."""
    return not source.begins_json and re.search(r"\bmodel\s+size\s*:", source.text) is not None


def read_benchmark_log(source: Source) -> list[BenchmarkRun]:
    """One run per record. The log states neither the model by name nor batch and lengths.

    Raises:
        SpecError: a record is malformed or incomplete.
    """
    try:
        records = parse_benchmark_log(source.text)
    except SpecError as error:
        raise SpecError(f"{source.name}: {error}") from None
    return [_record(record, f"{source.name}[{number}]") for number, record in enumerate(records)]


def _record(record: BenchmarkLogRecord, where: str) -> BenchmarkRun:
    projected = record.extra.get("projected") == "True"
    stated: list[tuple[Quantity, float | None]] = [
        ("prefill_s", record.prefill_latency_s),
        ("prefill_tokens_per_s", record.prefill_throughput_tokens_per_s),
        ("decode_s", None if projected else record.decode_latency_s),
        ("decode_tokens_per_s", None if projected else record.decode_throughput_tokens_per_s),
        ("batch_s", None if projected else record.total_latency_s),
        ("output_tokens_per_s", None if projected else record.total_throughput_tokens_per_s),
        ("peak_gpu_memory_bytes", None if record.gpu_peak_mem_gib is None else record.gpu_peak_mem_gib * GIB),
        ("weight_bytes", None if record.model_size_gib is None else record.model_size_gib * GIB),
    ]
    return BenchmarkRun(
        tool="benchmark-log",
        deployment=Deployment(prefix_hit_rate=0.0),
        load=LoadPattern(kind="batch"),
        figures=tuple(
            Figure(quantity=name, value=value, scope="system" if name.endswith("_per_s") else None)
            for name, value in stated
            if value
        ),
        source=where,
        notes=("its decode was projected, not measured, and is left out",) if projected else (),
        unread=tuple(name for name in record.extra if name != "projected"),
    )
