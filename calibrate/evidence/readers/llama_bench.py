"""Results of llama.cpp's ``llama-bench``: md, CSV, JSON, JSONL and SQL.

Rates are tokens per second of the whole device or devices, of prompts (pp), of generation (tg) or of both (pg); times are in
nanoseconds. One sequence runs. A depth is a context that is there before the test and is not timed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    TokenLengths,
)
from calibrate.evidence.readers.source import Fields, Source, last_part
from llm_perf.errors import SpecError

__all__ = ["is_csv", "is_json", "is_markdown", "is_sql", "read_csv", "read_json", "read_markdown", "read_sql"]

_FIRST: Final = ("build_commit", "model_filename", "n_prompt", "n_gen", "avg_ts")
_NOT_KEPT: Final = (
    "cpu_mask", "cpu_strict", "poll", "main_gpu", "no_kv_offload", "devices", "tensor_split", "tensor_buft_overrides",
    "use_mmap", "use_direct_io", "embeddings", "no_op_offload", "no_host", "repack", "fit_target", "fit_min_ctx",
    "test_time", "stddev_ts", "stddev_ns", "samples_ts", "model_n_params", "load_mode", "moe_cache", "n_gen_warmup",
    "type_v", "cuda", "vulkan", "kompute", "metal", "sycl", "rpc", "gpu_blas", "blas", "opencl", "numa", "offload_kqv",
)  # fmt: skip
_GIB: Final = 2**30


def is_json(source: Source) -> bool:
    """``-o json`` or ``-o jsonl``."""
    return source.has(*_FIRST)


def read_json(source: Source) -> list[BenchmarkRun]:
    """One run per test.

    Raises:
        SpecError: a field is missing or none of its kind.
    """
    return [_test(Fields(record, where)) for where, record in source.objects]


def is_csv(source: Source) -> bool:
    """``-o csv``."""
    head = source.text.lstrip("\ufeff").split("\n", 1)[0]
    return not source.begins_json and all(name in head.split(",") for name in _FIRST)


def read_csv(source: Source) -> list[BenchmarkRun]:
    """One run per row.

    Raises:
        SpecError: a row has fewer cells than the head: the file was cut off.
    """
    rows = list(csv.reader(source.text.lstrip("\ufeff").splitlines()))
    return [_test(fields) for fields in _rows(source, rows[0], enumerate(rows[1:], 2))]


def is_sql(source: Source) -> bool:
    """``-o sql``."""
    return "INSERT INTO llama_bench" in source.text


_INSERT: Final = re.compile(r"INSERT INTO llama_bench \(([^)]*)\) VALUES \((.*?)\);", re.DOTALL)


def read_sql(source: Source) -> list[BenchmarkRun]:
    """One run per inserted row.

    Raises:
        SpecError: a statement has no end: the file was cut off.
    """
    found = list(_INSERT.finditer(source.text))
    if len(found) != source.text.count("INSERT INTO llama_bench"):
        raise SpecError(f"{source.name}: its last statement has no end: it was cut off")
    runs = []
    for one in found:
        line = source.text.count("\n", 0, one.start()) + 1
        names = [name.strip() for name in one[1].split(",")]
        line_of_values = " ".join(one[2].split())
        values = next(csv.reader([line_of_values], quotechar="'", skipinitialspace=True))
        runs += [_test(fields) for fields in _rows(source, names, [(line, values)])]
    return runs


def _rows(source: Source, names: list[str], rows: Iterable[tuple[int, list[str]]]) -> list[Fields]:
    found = []
    for number, row in rows:
        if not row:
            continue
        if len(row) != len(names):
            raise SpecError(f"{source.name}:{number}: has {len(row)} cells of {len(names)}: it was cut off")
        found.append(Fields(dict(zip(names, row, strict=True)), f"{source.name}:{number}"))
    if not found:
        raise SpecError(f"{source.name}: holds no test")
    return found


def _test(fields: Fields) -> BenchmarkRun:
    fields.needed("n_prompt", "n_gen", "avg_ts")
    prompt, generated = fields.integer("n_prompt") or 0, fields.integer("n_gen") or 0
    rate, sd = fields.positive("avg_ts"), fields.number("stddev_ts")
    if rate is None or not prompt + generated:
        raise SpecError(f"{fields.where}: states no rate of any tokens")
    samples = len(fields.values_of("samples_ns")) or None if "samples_ns" in fields else None
    nanoseconds = fields.positive("avg_ns", 1e-9)
    if nanoseconds is not None and not 0.8 < nanoseconds * rate / (prompt + generated) < 1.25:
        raise SpecError(
            f"{fields.where}: avg_ns and avg_ts are of different tests: {nanoseconds:.4g} s and {rate:.4g} tokens/s do "
            f"not go with {prompt + generated} tokens"
        )
    size = fields.positive("model_size")
    figures = _figures(prompt, generated, rate, sd, samples)
    if size is not None:
        figures.append(Figure(quantity="weight_bytes", value=size, stated=f"model_size {size:.0f}"))
    return BenchmarkRun(
        tool="llama-bench",
        engine=_engine(fields),
        deployment=_deployment(fields),
        load=LoadPattern(kind="batch", concurrency=1, num_requests=samples),
        **_lengths(prompt, generated, fields.integer("n_depth") or 0),
        figures=tuple(figures),
        source=fields.where,
        environment={"cpu": cpu} if (cpu := fields.text("cpu_info")) else {},
        unread=fields.known(*_NOT_KEPT).unread,
    )


def _figures(prompt: int, generated: int, rate: float, sd: float | None, samples: int | None) -> list[Figure]:
    about: dict[str, Any] = {"samples": samples, "stated": f"avg_ts {rate:.6g}"}
    seconds = (prompt + generated) / rate
    if prompt and generated:
        return [
            Figure(quantity="total_tokens_per_s", value=rate, sd=sd, scope="system", **about),
            Figure(quantity="batch_s", value=seconds, **about),
        ]
    if prompt:
        return [
            Figure(quantity="prefill_tokens_per_s", value=rate, sd=sd, scope="system", **about),
            Figure(quantity="prefill_s", value=seconds, **about),
        ]
    return [
        Figure(quantity="decode_tokens_per_s", value=rate, sd=sd, scope="system", **about),
        Figure(quantity="step_s", value=1 / rate, **about),
    ]


def _lengths(prompt: int, generated: int, depth: int) -> dict[str, Any]:
    """Prompt and output of a test, with a note of what was there before: a generation alone begins after one token."""
    notes = (f"after a context of {depth} tokens that is not timed",) if depth else ()
    before = max(depth, 1)
    if not prompt:
        return {
            "prompt": TokenLengths(mean=before, kind="fixed"),
            "output": TokenLengths(mean=generated + 1, kind="fixed"),
            "notes": notes,
        }
    if depth:
        notes = (*notes, "a prompt behind a context is not predicted")
    return {
        "prompt": TokenLengths(mean=prompt, kind="fixed"),
        "output": TokenLengths(mean=generated + 1, kind="fixed"),
        "notes": notes,
    }


def _engine(fields: Fields) -> Engine:
    build, commit = fields.text("build_number"), fields.text("build_commit")
    backend = fields.text("backends") or fields.text("backend")
    settings = fields.settings(("split_mode", "flash_attn", "n_batch", "n_cpu_moe"))
    return Engine(
        name="llama_cpp",
        version=f"b{build}" if build else commit,
        settings=settings | ({"backend": backend} if backend else {}),
    )


def _deployment(fields: Fields) -> Deployment:
    backend = fields.text("backends") or fields.text("backend") or ""
    gpus = [name.strip() for name in (fields.text("gpu_info") or "").split(",") if name.strip()]
    on_cpu = not gpus and set(re.split(r"[,+ ]+", backend)) <= {"CPU", "BLAS", ""} and backend != ""
    number = fields.signed("n_gpu_layers")
    on_cpu = on_cpu or number == 0
    kind = fields.text("model_type")
    cache = fields.text("type_k")
    return Deployment(
        model=_model(fields.text("model_filename")),
        gpu="none" if on_cpu else gpus[0] if gpus else None,
        num_gpus=None if on_cpu else len(gpus) or None,
        host=fields.values.get("cpu_info") if on_cpu else None,
        weight_format=_format(kind, fields.values.get("model_filename")),
        kv_format={"f16": "fp16", "bf16": "bf16", "q8_0": "q8_0", "q4_0": "q4_0"}.get(cache or ""),
        n_gpu_layers=None if on_cpu or number is None or number < 0 else number,
        ubatch_size=fields.count("n_ubatch"),
        threads=fields.count("n_threads"),
        prefix_hit_rate=0.0,
    )


_TYPES: Final = re.compile(r"\b(i?q\d(?:_[a-z0-9]+)*|f16|bf16|f32|mxfp4(?:[ _]moe)?)\b", re.IGNORECASE)
_SIZES: Final = {"small": "s", "medium": "m", "large": "l"}


def _format(kind: str | None, file: Any) -> str | None:
    """The number format of ``llama 7B Q4_K - Medium``, or of a file's name."""
    for text in (kind, last_part(str(file)) if file else None):
        found = _TYPES.search(text or "")
        if found is None:
            continue
        size = re.search(r"- (Small|Medium|Large)", text or "")
        name = found[1].lower().replace(" ", "_")
        plain = {"f16": "fp16", "f32": "fp32", "mxfp4_moe": "mxfp4_gguf", "mxfp4": "mxfp4_gguf"}.get(
            name, name
        )
        return f"{plain}_{_SIZES[size[1].lower()]}" if size else plain
    return None


def _model(file: str | None) -> str | None:
    """The model that a GGUF file is of, by its name without the format."""
    if file is None:
        return None
    name = re.split(r"[/\\]", file)[-1]
    bare = re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
    bare = re.sub(r"-\d{5}-of-\d{5}$", "", bare)
    return re.sub(r"[-._](?:ggml-model-)?(?:i?q\d\w*|f16|bf16|f32|mxfp4\w*)$", "", bare, flags=re.IGNORECASE)


# -- markdown -------------------------------------------------------------------------------------------------------

_COLUMNS: Final = {
    "ngl": "n_gpu_layers", "threads": "n_threads", "type_k": "type_k", "fa": "flash_attn", "n_ubatch": "n_ubatch",
    "n_batch": "n_batch", "sm": "split_mode", "backend": "backends", "model": "model_type",
}  # fmt: skip
_TEST: Final = re.compile(r"(?:pp ?(\d+))?\+?(?:tg ?(\d+))?(?: @ d(\d+))?")


def is_markdown(source: Source) -> bool:
    """The table that it prints by default."""
    return re.search(r"^\| model +\|.*\| +t/s +\|\s*$", source.text, re.MULTILINE) is not None


def read_markdown(source: Source) -> list[BenchmarkRun]:
    """One run per row; the GPU and the build where the log around the table says them.

    Raises:
        SpecError: a row was cut off, or a cell is none of its kind.
    """
    gpu = re.search(r"^\s+Device 0: (.+?), compute capability", source.text, re.MULTILINE)
    devices = re.search(r"found (\d+) CUDA devices", source.text)
    build = re.search(r"^build: (\w+) \((\d+)\)", source.text, re.MULTILINE)
    around: dict[str, str] = {}
    if gpu is not None:
        around["gpu_info"] = ", ".join([gpu[1]] * int(devices[1] if devices else 1))
    if build is not None:
        around |= {"build_commit": build[1], "build_number": build[2]}
    names: list[str] = []
    runs = []
    lines = source.text.splitlines()
    for number, (line, following) in enumerate(zip(lines, [*lines[1:], ""], strict=True), 1):
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if following.startswith("|") and set(following.strip()) <= set("|-: "):
            names = cells if "t/s" in cells else []  # a table of something else begins
        elif "t/s" in cells:
            names = cells
        elif names and not set(line) <= set("|-: "):
            runs.append(_test(_row(source, number, names, cells, around)))
    if not runs:
        raise SpecError(f"{source.name}: its table has no row: it was cut off")
    return runs


def _row(
    source: Source, number: int, names: list[str], cells: list[str], around: Mapping[str, str]
) -> Fields:
    where = f"{source.name}:{number}"
    row = dict(zip(names, cells, strict=False))
    rate = re.fullmatch(r"([\d.]+) ± ([\d.]+)", row.get("t/s", ""))
    test = _TEST.fullmatch(row.get("test", ""))
    if len(cells) != len(names) or rate is None or test is None or not (test[1] or test[2]):
        raise SpecError(f"{where}: is no whole row of llama-bench: it was cut off")
    size = re.fullmatch(r"([\d.]+) (GiB|MiB)", row.get("size", ""))
    found: dict[str, Any] = {
        _COLUMNS[name]: cell for name, cell in row.items() if name in _COLUMNS and cell
    } | dict(around)
    found |= {"n_prompt": test[1] or 0, "n_gen": test[2] or 0, "n_depth": test[3] or 0}
    found |= {"avg_ts": rate[1], "stddev_ts": rate[2]}
    if size is not None:
        found["model_size"] = float(size[1]) * (_GIB if size[2] == "GiB" else 2**20)
    return Fields(found, where)
