"""Traces of real engines, each request's times beside what is predicted of it.

A trace that ships stands in ``measurements/traces``; one of your own is a CSV with the columns of `COLUMNS`, which
``llm-perf simulate --trace-out`` writes too.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import ServiceInputs, Simulation, simulation_of
from llm_perf.config import files
from llm_perf.errors import SpecError
from llm_perf.requests.request_file import read_requests
from llm_perf.requests.simulate import simulate
from llm_perf.requests.summary import Distribution, tpot_of
from llm_perf.requests.workload import Floats

QUANTITIES: Final = ("ttft_s", "tpot_s", "e2e_s")

_FOLDER: Final = "measurements/traces"
_ENDS: Final = ("last_token_s", "finished_s")
"""What the column of a request's last token may be called."""


@dataclass(frozen=True)
class Times:
    """Seconds of each request; NaN where it has none."""

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats


@dataclass(frozen=True)
class Trace:
    """A measured trace.

    ``inputs`` is the deployment that it was measured on, None where the file alone is known. ``host_reason`` says on what
    the host of ``inputs`` rests, where it is not the GPU's usual one.
    """

    name: str
    path: Path
    measured: Times
    inputs: InferenceInputs | None = None
    source: str = ""
    host_reason: str = ""


@dataclass(frozen=True)
class Compared:
    """A trace beside its simulation."""

    trace: Trace
    simulation: Simulation
    predicted: Times


@cache
def traces() -> tuple[Trace, ...]:
    """The traces that ship."""
    folder = resources.files("calibrate") / _FOLDER
    text = (folder / "traces.yaml").read_text("utf-8")
    found = []
    for name, entry in files.parse_mapping(text, "traces.yaml").items():
        trace = read_trace(str(folder / entry["file"]), name)
        found.append(
            replace(
                trace,
                inputs=InferenceInputs(**entry["inputs"]),
                source=entry["source"],
                host_reason=entry.get("host_reason", ""),
            )
        )
    return tuple(found)


def read_trace(file: str, name: str = "") -> Trace:
    """A trace from a file.

    Raises:
        SpecError: a column is missing, or a time is none; file, row and field are named.
    """
    read_requests(file)  # says what is wrong with the requests themselves
    path = files.expanded(file)
    rows = list(csv.DictReader(files.read_text(path).removeprefix("\ufeff").splitlines()))
    names = list(rows[0])
    end = next((column for column in _ENDS if column in names), None)
    if end is None or "first_token_s" not in names:
        raise SpecError(
            f"{file}: a trace has the columns first_token_s and {' or '.join(_ENDS)} beside those of a file of requests"
        )
    arrival, first, last = (_column(file, rows, column) for column in ("arrival_s", "first_token_s", end))
    output = _column(file, rows, "output_tokens")
    gaps = output - 1
    tpot = np.where(gaps > 0, (last - first) / np.maximum(gaps, 1), np.nan)
    return Trace(name or path.name, path, Times(first - arrival, tpot, last - arrival))


def _column(file: str, rows: list[dict[str, str]], name: str) -> Floats:
    """Numbers of a column; an empty cell is NaN."""
    found = []
    for line, row in enumerate(rows, start=2):
        try:
            found.append(float(row[name]) if row[name] else np.nan)
        except ValueError:
            raise SpecError(f"{file}:{line}: {name} {row[name]!r} is no number of seconds") from None
    return np.array(found)


def compare(trace: Trace, inputs: InferenceInputs | None = None) -> Compared:
    """Simulate a trace's requests at the times at which they came.

    Args:
        trace: The trace.
        inputs: Another deployment than its own, with a profile for example.

    Raises:
        SpecError: nothing says on what it was measured.
    """
    deployment = inputs or trace.inputs
    if deployment is None:
        raise SpecError(f"{trace.path}: say what it was measured on: --model, --gpu and what else it takes")
    found = simulation_of(deployment, ServiceInputs(requests=str(trace.path)))
    outcome = found.outcome
    predicted = Times(
        outcome.first_token_s - outcome.arrival_s, tpot_of(outcome), outcome.finished_s - outcome.arrival_s
    )
    return Compared(trace, found, predicted)


def with_longer_steps(compared: Compared, factor: float) -> Compared:
    """The same with every step so many times as long.

    No other time is in a simulation: steps that are f times as long are the same steps under arrivals that are f times
    as near to one another, all times of which are f times as long.
    """
    simulation = compared.simulation
    requests = simulation.outcome.requests
    nearer = replace(requests, arrival_s=requests.arrival_s / factor)
    outcome = simulate(simulation.scenario, nearer)
    times = (
        outcome.first_token_s - outcome.arrival_s,
        tpot_of(outcome),
        outcome.finished_s - outcome.arrival_s,
    )
    return Compared(compared.trace, simulation, Times(*(factor * one for one in times)))


def figures(compared: Compared) -> dict[str, dict[str, Any]]:
    """Of each quantity: mean and percentiles measured and predicted, their errors, and how far single requests are off."""
    return {
        name: _figures(getattr(compared.trace.measured, name), getattr(compared.predicted, name))
        for name in QUANTITIES
    }


def _figures(measured: Floats, predicted: Floats) -> dict[str, Any]:
    both = np.isfinite(measured) & np.isfinite(predicted) & (measured > 0)
    ends = {"measured": Distribution.of(measured[both]), "predicted": Distribution.of(predicted[both])}
    found: dict[str, Any] = {
        name: {figure: one.percentile(figure) for figure in Distribution.__slots__}
        for name, one in ends.items()
    }
    found["error"] = {
        figure: found["predicted"][figure] / found["measured"][figure] - 1
        for figure in Distribution.__slots__
    }
    off = np.abs(predicted[both] / measured[both] - 1)
    found["median_abs_error"] = float(np.median(off)) if len(off) else None
    found["requests"] = int(both.sum())
    return found


def as_dict(compared: Compared) -> Mapping[str, Any]:
    """The comparison as plain JSON types; a figure that nothing tells, as TPOT of single tokens, is None.

    Raises:
        SpecError: no request was served both in the trace and in its simulation.
    """
    found = figures(compared)
    if not any(one["requests"] for one in found.values()):
        raise SpecError(
            f"{compared.trace.name}: none of its requests was served both there and in the simulation: a longer cache or "
            "context than --inputs gives, or no times of tokens"
        )
    return {
        "trace": compared.trace.name,
        "source": compared.trace.source or None,
        "inputs": compared.simulation.inputs,
        **_finite(found),
    }


def _finite(value: Any) -> Any:
    """The figures with None for what is no number."""
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
