"""Benchmark logs and CSV files as observations."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from calibrate.evidence.settings import Run, scenario_of
from calibrate.fit.observation import Observation, positive
from llm_perf.config import files
from llm_perf.config.calibration import CalibratedMachine
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError, SpecError
from llm_perf.report.benchmark_log import BenchmarkLogRecord, parse_benchmark_log

_LATENCIES = ("prefill_latency_s", "decode_latency_s", "total_latency_s")
_THROUGHPUT = "throughput_tokens_per_s"
_BEYOND = "cells beyond the header"
_SHARES = ("weights", "kv_cache", "hidden")
_TIERS = {"gpu": (1.0, 0.0, 0.0), "cpu": (0.0, 1.0, 0.0), "nvme": (0.0, 0.0, 1.0), "disk": (0.0, 0.0, 1.0)}
_DEEPSPEED_NAME = re.compile(
    r"ds-(?P<model>.+)-bs(?P<batch>\d+)-prompt(?P<prompt>\d+)-gen(?P<gen>\d+)-n(?P<nodes>\d+)x(?P<gpus>\d+)"
    r"-(?P<place>cpu|disk|gpu)(?P<kv>-kv_offload)?(?P<quantised>-w_quant)?\.log"
)
_FLEXGEN_NAME = re.compile(
    r"fo-(?P<model>.+)-gbs(?P<size>\d+)-ngbs(?P<count>\d+)-prompt(?P<prompt>\d+)-gen(?P<gen>\d+)"
    r"-percent-(?P<percent>\d+(?:-\d+){5})-(?P<attention>gpu|cpu)-cache(?P<options>(?:-comp[wc]|-sparse\S*)*)\.log"
)
_QUANT_BITS = 4
"""Bits of a log's ``w_quant``: the name does not say, and DeepSpeedExamples' default is 4."""


def log_observations(path: Path, gpu: str | None, host: str | None) -> list[Observation]:
    """Every record of a benchmark log, whose name says what ran.

    Raises:
        SpecError: the name does not, no GPU is given, or a figure in it cannot be.
    """
    run = _run_of_name(path, gpu)
    scenario = _scenario(run, host, str(path))
    text = files.read_text(path)
    if not text.strip():
        raise SpecError(f"{path}: is empty")
    found: list[Observation] = []
    seen: dict[BenchmarkLogRecord, int] = {}
    for number, record in enumerate(_records(text, path), 1):
        source = f"{path}: record {number}"
        if record in seen:
            raise SpecError(
                f"{source}: every figure is that of record {seen[record]}: the same run is given twice"
            )
        seen[record] = number
        if record.extra.get("projected", "").lower() == "true":
            continue  # a decode latency that FlexGen extrapolated was not measured
        measured = {
            name.partition("_")[0]: positive(source, name, getattr(record, name))
            for name in _LATENCIES
            if run.gen_len > 1 or not name.startswith("decode")
        }
        _check_sum(measured, source)
        found.append(_observation(source, scenario, measured))
    return found


def _records(text: str, path: Path) -> list[BenchmarkLogRecord]:
    try:
        return parse_benchmark_log(text)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _run_of_name(path: Path, gpu: str | None) -> Run:
    if gpu is None:
        raise SpecError(f"{path}: a benchmark log does not say on which GPU it ran: give --gpu, and --host")
    name = path.name
    deepspeed, flexgen = _DEEPSPEED_NAME.fullmatch(name), _FLEXGEN_NAME.fullmatch(name)
    if deepspeed is not None:
        return _deepspeed_run(deepspeed, gpu)
    if flexgen is not None:
        return _flexgen_run(flexgen, gpu)
    raise SpecError(
        f"{path}: the name does not say what ran; expected ds-MODEL-bs1-prompt512-gen32-n1x1-cpu.log as DeepSpeed's "
        "script and llm-perf write it, or fo-MODEL-gbs1-ngbs1-prompt512-gen32-percent-... as FlexGen does"
    )


def _deepspeed_run(name: re.Match[str], gpu: str) -> Run:
    nodes, gpus = int(name["nodes"]), int(name["gpus"])
    return Run(
        system="zero_inference",
        model=name["model"],
        gpu=gpu,
        batch_size=int(name["batch"]),
        prompt_len=int(name["prompt"]),
        gen_len=int(name["gen"]),
        num_gpus=nodes * gpus,
        num_nodes=nodes,
        weight_bits=_QUANT_BITS if name["quantised"] else 16,
        weight_group_size=64 if name["quantised"] else None,
        weights=_TIERS[name["place"]],
        kv_cache=_TIERS["cpu"] if name["kv"] else None,
    )


def _flexgen_run(name: re.Match[str], gpu: str) -> Run:
    percent = [int(part) / 100 for part in name["percent"].split("-")]
    weights, cache, hidden = (
        (g, c, max(0.0, 1 - g - c)) for g, c in zip(percent[::2], percent[1::2], strict=True)
    )
    size, count = int(name["size"]), int(name["count"])
    options = name["options"]
    return Run(
        system="flexgen", model=name["model"], gpu=gpu, batch_size=size * count, prompt_len=int(name["prompt"]),
        gen_len=int(name["gen"]), weight_bits=4 if "-compw" in options else 16,
        weight_group_size=64 if "-compw" in options else None, kv_bits=4 if "-compc" in options else 16,
        kv_group_size=64 if "-compc" in options else None, weights=weights, kv_cache=cache, hidden=hidden,
        gpu_batch_size=size, num_gpu_batches=count, cpu_attention=name["attention"] == "cpu",
    )  # fmt: skip


def csv_observations(path: Path, gpu: str | None, host: str | None) -> list[Observation]:
    """Every row of a CSV.

    Raises:
        SpecError: a column is unknown or missing, or a value cannot be.
    """
    text = files.read_text(path).removeprefix("\ufeff")  # spreadsheets mark UTF-8 so
    table = csv.DictReader(io.StringIO(text), restkey=_BEYOND)
    try:
        rows = list(table)
    except csv.Error as error:  # such as a carriage return inside a cell
        raise SpecError(f"{path}:{table.line_num}: malformed CSV: {str(error).partition(' - ')[0]}") from None
    if not rows:
        raise SpecError(f"{path}: is empty: expected a header and rows")
    columns = list(table.fieldnames or ())
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise SpecError(f"{path}: column {twice!r} is there twice")
    types = {one.name: str(one.type) for one in fields(Run)}
    known = {*types, *_LATENCIES, _THROUGHPUT, "host"} - {"machine"}
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise SpecError(
            f"{path}: column {unknown[0]!r} is unknown; times are in seconds ({', '.join(_LATENCIES)}), "
            f"throughput is {_THROUGHPUT}, settings are {', '.join(sorted(set(types) - {'machine'}))}, host"
        )
    found, seen = [], dict[str, int]()
    for number, row in enumerate(rows, 2):
        source = f"{path}:{number}"
        if _BEYOND in row:
            raise SpecError(
                f"{source}: has {len(columns) + len(row[_BEYOND])} cells, the header {len(columns)} columns"
            )
        key = repr(sorted(row.items(), key=str))
        if key in seen:
            raise SpecError(f"{source}: is row {seen[key]} again: the same run is given twice")
        seen[key] = number
        found.append(_csv_row(row, source, types, gpu, host))
    return found


def _csv_row(
    row: Mapping[str, Any], source: str, types: Mapping[str, str], gpu: str | None, host: str | None
) -> Observation:
    given = {name: value for name, value in row.items() if name in types and value not in (None, "")}
    if gpu is not None:
        given.setdefault("gpu", gpu)
    settings = {name: _setting(name, types[name], value, source) for name, value in given.items()}
    try:
        run = Run(**settings)
    except TypeError:
        missing = [
            n for n in ("system", "model", "gpu", "batch_size", "prompt_len", "gen_len") if n not in settings
        ]
        raise SpecError(f"{source}: column {missing[0]!r} is missing or empty") from None
    scenario = _scenario(run, row.get("host") or host, source)
    measured = {
        name.partition("_")[0]: positive(source, name, _number(row[name]))
        for name in _LATENCIES
        if row.get(name) not in (None, "")
    }
    if row.get(_THROUGHPUT) not in (None, ""):
        throughput = positive(source, _THROUGHPUT, _number(row[_THROUGHPUT]))
        measured.setdefault("total", run.batch_size * run.gen_len / throughput)
    if run.gen_len == 1 and (more := measured.pop("decode", 0.0) or _beyond_prefill(measured)):
        raise SpecError(
            f"{source}: gen_len = 1 has no decode steps, but {more:g} s are given beside the prefill"
        )
    if not measured:
        raise SpecError(
            f"{source}: no time is given: one of {', '.join((*_LATENCIES, _THROUGHPUT))} is needed"
        )
    _check_sum(measured, source)
    return _observation(source, scenario, measured)


def _beyond_prefill(measured: Mapping[str, float]) -> float:
    """Seconds of the total that the prefill leaves, where that is more than rounding."""
    total = measured.get("total", 0.0)
    left = total - measured.get("prefill", total)
    return left if left > 0.1 * total else 0.0


def _setting(name: str, kind: str, value: str, source: str) -> Any:
    """A cell as the type of its field; tiers may be named."""
    text = value.strip().lower()
    try:
        if name in _SHARES:
            return _TIERS.get(text) or _shares(text)
        if "bool" in kind:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text]
        if "int" in kind:
            return _count(text)
    except (ValueError, KeyError):
        raise SpecError(f"{source}: {name} = {value!r}: expected {_expected(name, kind)}") from None
    return value.strip()


def _shares(text: str) -> tuple[float, float, float]:
    gpu, cpu, nvme = (float(part) for part in text.split("/"))
    if abs(gpu + cpu + nvme - 1) > 1e-6 or min(gpu, cpu, nvme) < 0:
        raise ValueError
    return gpu, cpu, nvme


def _count(text: str) -> int:
    if int(text) <= 0:
        raise ValueError
    return int(text)


def _expected(name: str, kind: str) -> str:
    if name in _SHARES:
        return "gpu, cpu, nvme, or shares of the three such as 0.2/0.8/0"
    return "true or false" if "bool" in kind else "a positive whole number"


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def _check_sum(measured: Mapping[str, float], source: str) -> None:
    """Prefill and decode make up the total, and neither is more, unless one of them has another unit."""
    for phase in ("prefill", "decode"):
        if measured.get(phase, 0.0) > measured.get("total", math.inf) * 1.1:
            raise SpecError(
                f"{source}: {phase}_latency_s = {measured[phase]:g} is more than total_latency_s = "
                f"{measured['total']:g}: is one of them in another unit?"
            )
    if len(measured) == 3:
        parts, total = measured["prefill"] + measured["decode"], measured["total"]
        if not 0.9 < parts / total < 1.1:
            raise SpecError(
                f"{source}: prefill_latency_s + decode_latency_s = {parts:g}, but total_latency_s = {total:g}: "
                "is one of them in another unit?"
            )


def _scenario(run: Run, host: str | None, source: str) -> Scenario:
    try:
        return scenario_of(run, host)
    except LLMPerfError as error:
        raise SpecError(f"{source}: {error}") from None


def _observation(source: str, scenario: Scenario, measured: Mapping[str, float]) -> Observation:
    asked = (scenario.system, scenario.gpu.name, scenario.host.name, scenario.dtype, scenario.parallelism)
    what = f"{scenario.model.name} {scenario.workload} {asked} {scenario.offload} {sorted(measured.items())}"
    digest = hashlib.sha256(what.encode())
    return Observation(
        source=source,
        group=scenario.model.name,
        scenario=scenario,
        measured_s=measured,
        machine=CalibratedMachine(gpu=scenario.gpu.name, host=scenario.host.name),
        digest=digest.hexdigest()[:16],
    )
