"""Runs on a GPU and a CPU that computes, as a whole table: each measured rate of a row with the scenario that predicts it."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

from calibrate.evidence.serving_rows import positive_number
from calibrate.evidence.stated_hybrid import HybridRun, hybrid_cells, hybrid_run
from llm_perf.config.files import parse_mapping
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError
from llm_perf.systems import Load, system_of
from llm_perf.systems.families import find
from llm_perf.systems.registry import full_name

Phase = Literal["prefill", "decode"]
_COLUMNS: Mapping[Phase, str] = {"prefill": "prefill_throughput_tok_s", "decode": "decode_throughput_tok_s"}


@dataclass(frozen=True)
class HybridCase:
    """One measured rate of a row: tokens per second of one phase, of all sequences together."""

    row_id: str
    host: str
    phase: Phase
    measured: float
    run: HybridRun
    row: Mapping[str, str]

    @property
    def kind(self) -> str:
        """What computes."""
        return kind_of(self.run.scenario)

    @property
    def family(self) -> str:
        """The family that predicts it."""
        return find(full_name(self.run.scenario))[0]

    @property
    def machine(self) -> tuple[str, str, str]:
        """Its host with the memory in it: two owners of one processor do not share what their memory reaches."""
        return self.host, self.row["host_bw_theory_GBps"], self.row["host_ram_GB"]

    @property
    def group(self) -> tuple[str, str, str]:
        """Host, model and GPU."""
        return self.host, self.run.scenario.model.name, self.run.scenario.gpu.name


def kind_of(scenario: Scenario) -> str:
    """What computes: the CPU alone, both, or a GPU that holds everything, in memory of its own or the host's."""
    system, load = system_of(scenario), Load.of(scenario.workload)
    weights = system.place(scenario, load).weights
    if scenario.gpu.absent:
        return "cpu"
    if float(weights.gpu) < 1:
        copied = system.file.constants.get("misses_copied")
        return "cpu and gpu" if copied is not None and not copied.value else "moved"
    return "gpu" if scenario.gpu.pcie_bytes_per_s is not None else "shared memory"


@cache
def load_rows() -> tuple[Mapping[str, str], ...]:
    """Rows that ship; all of them are good. Cells that their sources state and they lack are filled in."""
    folder = resources.files("calibrate") / "measurements" / "hybrid"
    packed = (folder / "hybrid.csv.gz").read_bytes()
    rows = csv.DictReader(gzip.decompress(packed).decode("utf-8").splitlines())
    stated: dict[str, dict[str, Any]] = {
        name: entry
        for entry in parse_mapping((folder / "completed.yaml").read_text("utf-8"), "completed.yaml")[
            "completed"
        ]
        for name in entry["rows"]
    }
    return tuple(_completed(row, stated.get(row["row_id"], {})) for row in rows)


def _completed(row: Mapping[str, str], stated: Mapping[str, Any]) -> Mapping[str, str]:
    more = stated.get("notes")
    notes = {} if more is None else {"notes": "; ".join(filter(None, (row["notes"], more)))}
    return {**row, **stated.get("cells", {}), **notes}


def load_cases(rows: Iterable[Mapping[str, str]] | None = None) -> list[HybridCase]:
    """Cases of the rows that can be predicted."""
    found = []
    for row in load_rows() if rows is None else rows:
        try:
            run = hybrid_run(hybrid_cells(row))
        except LLMPerfError:
            continue
        for phase, column in _COLUMNS.items():
            measured = positive_number(row.get(column))
            if measured is not None:
                found.append(HybridCase(row["row_id"], row["host_cpu"], phase, measured, run, row))
    return found


def log_ratio(
    case: HybridCase, constants: Mapping[str, float] | None = None, read_gb_per_s: float | None = None
) -> float:
    """log(predicted / measured) of a rate, under other constants or with a measured bandwidth of the host."""
    scenario = case.run.scenario
    if constants:
        scenario = replace(scenario, constants=tuple(sorted(constants.items())))
    if read_gb_per_s is not None:
        scenario = replace(scenario, host=scenario.host.replace(read_gb_per_s=read_gb_per_s))
    load = Load.of(scenario.workload)
    evaluation = system_of(scenario).evaluate(scenario, load)
    if case.phase == "prefill":
        rate = load.batch * max(case.run.new_tokens, 1) / evaluation.prefill.latency_s
    else:
        decode_s = 0.0 if evaluation.decode is None else evaluation.decode.latency_s
        rate = load.batch * load.steps(encoder=False) / decode_s
    return math.log(float(rate) / case.measured)


@cache
def left_out_lines() -> tuple[dict[str, str], ...]:
    """Every rate with its log ratios, shipped and refitted without its host; ``bench/hybrid_figures.py`` makes the file."""
    file = resources.files("calibrate") / "measurements" / "hybrid" / "left_out.csv.gz"
    return tuple(csv.DictReader(gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()))


def left_out_ratios(family: str) -> tuple[tuple[float, float], ...]:
    """(shipped, by a refit without its host) log ratios of all rates that a family predicts."""
    return tuple(
        (float(line["shipped"]), float(line["left_out"]))
        for line in left_out_lines()
        if line["family"] == family
    )
