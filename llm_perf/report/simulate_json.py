"""The JSON object of a simulation, and its files: a row per request, a row per step."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from llm_perf.analysis.request_intervals import TimeInterval
from llm_perf.analysis.simulation import Simulation
from llm_perf.report.csv_cells import plain_cell
from llm_perf.report.inference_json import SCHEMA_VERSION, finite
from llm_perf.requests.outcome import COMPLETED, REJECTED, RUNNING, Outcome
from llm_perf.requests.summary import Distribution, Summary, tpot_of

TIMES: Final = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
"""Quantities that have percentiles, in the order in which they are shown."""

_ENGINE: Final = "engine"
"""The key of what engines did; no system of that name is meant."""

_STATES_COUNTED: Final = ("completed", "rejected", "preempted", "running")
_THROUGHPUT: Final = ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s")

_STATES: Final = {COMPLETED: "completed", REJECTED: "rejected", RUNNING: "running"}


def simulation_object(found: Simulation) -> dict[str, Any]:
    """Everything about a simulation as plain JSON types. ``inputs`` can be fed back through ``--config``."""
    price = found.cost_per_million_tokens
    whole = {
        "schema_version": SCHEMA_VERSION,
        "inputs": found.inputs,
        "system": found.idle.system_name,
        "system_version": found.idle.version,
        "scheduler": found.outcome.scheduler,
        "num_gpus": found.num_gpus,
        **summary_object(found.summary),
        "capacity": capacity_object(found),
        "idle": {"ttft_s": found.idle.ttft_s, "tpot_s": found.idle.tpot_s},
        "kv_cache_capacity_tokens": found.outcome.kv_capacity_tokens,
        "rejections": found.outcome.rejections or None,
        "interval": None if found.interval is None else interval_object(found.interval),
        "no_interval": found.no_interval,
        "cost": None if price is None else {"per_million_output_tokens": price},
        "energy": None
        if found.energy_j_per_token is None
        else {"j_per_output_token": found.energy_j_per_token},
        "warnings": list(found.warnings),
    }
    return finite(whole)  # type: ignore[no-any-return]


def unfit_object(inputs: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """What is known where the weights leave no room for requests: the inputs, why, and no figure."""
    return {
        "schema_version": SCHEMA_VERSION,
        "inputs": dict(inputs),
        "reason": reason,
        "requests": dict.fromkeys(_STATES_COUNTED, 0),
        **{name: dict.fromkeys(Distribution.__slots__) for name in TIMES},
        "throughput": dict.fromkeys(_THROUGHPUT),
        _ENGINE: dict.fromkeys(("steps", "mean_batch", "kv_utilization", "prefix_hit_rate")),
        "capacity": None,
        "interval": None,
        "no_interval": reason,
        "cost": None,
        "energy": None,
        "warnings": [],
    }


def rates_object(found: Sequence[Simulation], knee: Simulation | None) -> dict[str, Any]:
    """A sweep over rates: the highest that the engine keeps up with, and every simulation."""
    return {
        "schema_version": SCHEMA_VERSION,
        "knee_requests_per_s": None if knee is None else knee.traffic.rate,
        "rates": [simulation_object(one) for one in found],
    }


def capacity_object(found: Simulation) -> dict[str, Any] | None:
    """What the engines serve at most, and how fast the queue grows beyond it."""
    known = found.capacity
    if known is None:
        return None
    return {
        "requests_per_s": known.requests_per_s,
        "output_tokens_per_s": known.output_tokens_per_s,
        "offered_requests_per_s": known.offered_per_s,
        "keeps_up": known.keeps_up,
        "queue_grows_per_s": known.growth_per_s,
    }


def summary_object(summary: Summary) -> dict[str, Any]:
    """The figures of a summary under the contract's names."""
    return {
        "requests": {name: getattr(summary, name) for name in _STATES_COUNTED},
        **{name: asdict(getattr(summary, name)) for name in TIMES},
        "duration_s": summary.duration_s,
        "throughput": {name: getattr(summary, name) for name in _THROUGHPUT},
        _ENGINE: {
            "steps": summary.steps,
            "mean_batch": summary.mean_batch,
            "kv_utilization": summary.kv_utilization,
            "prefix_hit_rate": summary.prefix_hit_rate,
            "mean_running": summary.mean_running,
            "mean_waiting": summary.mean_waiting,
            "peak_waiting": summary.peak_waiting,
            "peak_kv_utilization": summary.peak_kv_utilization,
            "busy": summary.busy,
        },
    }


def interval_object(interval: TimeInterval) -> dict[str, Any]:
    """Low and high ends of what the steps' interval means for requests; a high end that does not exist is null."""
    return {
        "level": interval.level,
        "method": interval.method,
        "groups": interval.groups,
        "novel": list(interval.novel),
        "step_time_factors": list(interval.factors),
        **{
            name: {figure: list(interval.ends(name, figure)) for figure in Distribution.__slots__}
            for name in ("ttft_s", "tpot_s", "e2e_s")
        },
        "throughput": {name: list(interval.throughput(name)) for name in _THROUGHPUT},
    }


def trace_text(outcome: Outcome, kind: str) -> str:
    """One row per request; a file of requests for another simulation as well."""
    requests = outcome.requests
    return _table(
        {
            "request": np.arange(len(requests)),
            "arrival_s": outcome.arrival_s,
            "prompt_tokens": requests.prompt_tokens,
            "output_tokens": requests.output_tokens,
            "status": np.array([_STATES[int(code)] for code in outcome.status]),
            "scheduled_s": outcome.scheduled_s,
            "first_token_s": outcome.first_token_s,
            "finished_s": outcome.finished_s,
            "ttft_s": outcome.first_token_s - outcome.arrival_s,
            "tpot_s": tpot_of(outcome),
            "e2e_s": outcome.finished_s - outcome.arrival_s,
            "cached_tokens": outcome.cached_tokens,
            "preemptions": outcome.preemptions,
            "replica": outcome.replica,
        },
        kind,
    )


def timeline_text(outcome: Outcome, kind: str) -> str:
    """One row per step; consecutive steps that compute the same are one row, with their ``count``."""
    steps = outcome.steps
    order = np.argsort(steps.start_s, kind="stable")
    names = (
        "replica", "start_s", "duration_s", "count", "decode_sequences", "prefill_tokens", "kv_tokens", "waiting",
    )  # fmt: skip
    return _table({name: getattr(steps, name)[order] for name in names}, kind)


def _table(columns: Mapping[str, np.ndarray], kind: str) -> str:
    """CSV, or JSONL where ``kind`` is that. Times are written to the nanosecond; what does not exist is empty or null."""
    cells = {name: _cells(values) for name, values in columns.items()}
    rows = zip(*cells.values(), strict=True)
    names = list(cells)
    if kind == "jsonl":
        return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([plain_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cells(values: np.ndarray) -> list[Any]:
    if values.dtype.kind != "f":
        return list(values.tolist())
    return [None if value != value else value for value in np.round(values, 9).tolist()]
