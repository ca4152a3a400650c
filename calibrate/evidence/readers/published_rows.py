"""Tables of published runs in the project's own columns (``calibrate/measurements/README.md``), a run per row.

What a row does not say as a column it says in its notes: whether a load generator kept the requests in flight, and whether
times are medians.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from typing import Final

from calibrate.evidence.benchmark_run import (
    BenchmarkRun,
    Deployment,
    Engine,
    Figure,
    LoadPattern,
    Quantity,
    Scope,
    Statistic,
    TokenLengths,
)
from calibrate.evidence.readers.source import Source
from calibrate.evidence.request_runs import WARM_UP_ROUNDS
from calibrate.evidence.server_settings import settings_of
from calibrate.evidence.settings import Run, inputs_of
from calibrate.evidence.stated import rate_kind, stated_run
from llm_perf.errors import LLMPerfError, SpecError

__all__ = ["is_rows", "read_rows", "run_of_row"]

_COLUMNS: Final = ("row_id", "system", "model", "gpu", "batch_size", "prompt_len_tok", "gen_len_tok")
_TIMES: Final[tuple[tuple[str, Quantity, Quantity], ...]] = (
    ("ttft_s", "ttft_s", "prefill_s"),
    ("tpot_s", "tpot_s", "step_s"),
    ("prefill_latency_s", "ttft_s", "prefill_s"),
    ("decode_latency_s", "e2e_s", "decode_s"),
    ("total_latency_s", "e2e_s", "batch_s"),
)
"""Columns, and what each is of requests that come and go and of a static batch."""
_KINDS: Final[dict[str, Quantity]] = {
    "output": "output_tokens_per_s",
    "total": "total_tokens_per_s",
    "prefill": "prefill_tokens_per_s",
    "decode": "decode_tokens_per_s",
}
_CLOSED: Final = re.compile(r"closed loop|in flight")
_SENT: Final = re.compile(r"concurrency (\d+).*?\b(\d+) requests")
_MEDIANS: Final = re.compile(r"\bmedians\b|\bp50;|median of|^p50\b")
_UNSTATED: Final = re.compile(r"median or mean is not stated[^;]*")
_VARY: Final = re.compile(r"lengths vary|variable lengths")
_UNIFORM: Final = re.compile(r"uniform in \[([\d.]+),([\d.]+)\] of nominal")


def is_rows(source: Source) -> bool:
    """A table with the columns of published runs."""
    head = source.text.lstrip("\ufeff").split("\n", 1)[0].strip().split(",")
    return all(name in head for name in _COLUMNS)


def read_rows(source: Source) -> list[BenchmarkRun]:
    """One run per row.

    Raises:
        SpecError: a row states no run that can be asked about; its number and what is wrong are said.
    """
    runs = []
    for number, row in enumerate(csv.DictReader(source.text.lstrip("\ufeff").splitlines()), 2):
        where = f"{source.name}:{number}"
        if None in row.values() or None in row:
            raise SpecError(f"{where}: has other cells than the head: it was cut off")
        try:
            runs.append(run_of_row(row, where))
        except LLMPerfError as error:
            raise SpecError(f"{where}: {error}") from None
    if not runs:
        raise SpecError(f"{source.name}: holds no row")
    return runs


def run_of_row(row: Mapping[str, str], where: str) -> BenchmarkRun:
    """A row as a run.

    Raises:
        SpecError: it names no system, model or GPU that is known, or states nothing that was measured.
    """
    run = stated_run(row)
    notes = f"{row.get('notes_for_prediction') or ''} {row.get('notes') or ''}".strip()
    sent = _SENT.search(notes)
    closed = run.batch_size > 1 and (
        bool(_CLOSED.search(notes)) or (sent is not None and int(sent[2]) > int(sent[1]))
    )
    single = run.batch_size == 1
    figures = _figures(row, run, closed, notes)
    if not figures:
        raise SpecError("the row states nothing that was measured")
    name, _, version = run.system.partition("@")
    settings = settings_of(row)
    again = settings.distinct_prompts if closed else None
    return BenchmarkRun(
        tool="published-table",
        engine=Engine(name=name, version=version or None),
        deployment=_deployment(run),
        load=LoadPattern(
            kind="closed_loop" if closed else "batch",
            concurrency=run.batch_size,
            num_requests=int(sent[2]) if sent is not None and closed else None,
            warm_up_requests=None if again is None else settings.warm_up or WARM_UP_ROUNDS * run.batch_size,
            distinct_prompts=again if closed else inputs_of(run).distinct_prompts,
        ),
        prompt=_lengths(run.prompt_len, notes, single),
        output=_lengths(run.gen_len, notes, single),
        figures=tuple(figures),
        source=f"{row.get('source_repo') or where} row {row['row_id']}",
    )


def _deployment(run: Run) -> Deployment:
    return Deployment(
        model=run.model,
        gpu=run.gpu,
        num_gpus=run.num_gpus,
        num_nodes=run.num_nodes,
        tp=run.tp,
        pp=run.pp,
        dp=max(run.num_gpus // (run.tp * run.pp), 1),
        ep=run.ep,
        host=run.machine.host,
        weight_format=run.weight_format or {16: "fp16", 8: "fp8", 4: "int4"}.get(run.weight_bits),
        kv_format=run.kv_format or {16: "fp16", 8: "fp8"}.get(run.kv_bits),
        ubatch_size=run.ubatch_tokens,
        prefix_hit_rate=run.prefix_hit_rate,
        max_num_seqs=run.max_num_seqs,
        max_num_batched_tokens=run.max_num_batched_tokens,
        gpu_memory_utilization=run.gpu_memory_utilization,
    )


def _figures(row: Mapping[str, str], run: Run, closed: bool, notes: str) -> list[Figure]:
    statistic: Statistic = "p50" if _MEDIANS.search(_UNSTATED.sub("", notes)) else "mean"
    found: dict[Quantity, Figure] = {}
    for column, of_requests, of_batch in _TIMES:
        value = _positive(row.get(column))
        name = of_requests if closed else of_batch
        if value is not None and name not in found and not (closed and column == "decode_latency_s"):
            found[name] = Figure(
                quantity=name,
                value=value,
                statistic=statistic if closed else "mean",
                stated=f"{column} {value:g}",
            )
    stated: Iterable[tuple[str, str]] = (
        ("prefill_throughput_tok_s", "prefill"),
        ("decode_throughput_tok_s", "decode"),
        ("throughput_tok_s", rate_kind(row.get("throughput_def", "")) or "output"),
    )
    per_gpu = row.get("throughput_scope") == "per_gpu"
    for column, kind in stated:
        value, quantity = _positive(row.get(column)), _KINDS[kind]
        if value is not None and quantity not in found:
            scope: Scope = "per_gpu" if per_gpu and run.num_gpus > 1 else "system"
            found[quantity] = Figure(
                quantity=quantity, value=value, scope=scope, stated=f"{column} {value:g}"
            )
    return list(found.values())


def _lengths(nominal: int, notes: str, single: bool) -> TokenLengths:
    drawn = _UNIFORM.search(notes)
    if drawn is not None:
        low, high = float(drawn[1]), float(drawn[2])
        top = nominal / ((low + high) / 2)  # what stated_run gives is the mean
        return TokenLengths(mean=nominal, kind="uniform", low=low * top, high=high * top)
    if _VARY.search(notes) and not single:
        return TokenLengths(mean=nominal, kind="vary")
    return TokenLengths(mean=nominal, kind="fixed")


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
