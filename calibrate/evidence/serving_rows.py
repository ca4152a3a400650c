"""Runs of serving stacks as whole tables: rows that share a scenario are predicted together, as arrays.

A closed loop keeps ``batch_size`` requests running. It is answered by the engine's steady state, times what the simulation of
its requests gives more than that (`Cases.loops`): the one is cheap enough to be asked for again and again, the other knows
of requests that stay in step, of lengths that differ and of how a loop begins.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np

from calibrate.evidence.errata import as_meant
from calibrate.evidence.request_runs import answer_of, request_run, throughput_of
from calibrate.evidence.settings import Run, scenario_of
from calibrate.evidence.stated import rate_kind, stated_run
from llm_perf.analysis.measures import Measures
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError
from llm_perf.requests.limits import Limits
from llm_perf.requests.simulate import rules_of
from llm_perf.requests.steady import Steady, SteadyState
from llm_perf.requests.step_times import StepTimes
from llm_perf.systems import Load, system_of
from llm_perf.systems.families import memory_rules, scheduler_rules

_TABLES: Final = ("serving.csv.gz", "llm_inference_bench.csv.gz")
_TIMES: Final = (
    "tpot_s", "decode_throughput_tok_s", "throughput_tok_s", "total_latency_s", "prefill_throughput_tok_s", "ttft_s",
)  # fmt: skip
"""Quantities of a row in the order in which one stands for it."""

_WIDEST: Final = 10**9

_FIRSTS: Final = ("ttft_s", "prefill_throughput_tok_s")
_CLOSED: Final = ("closed loop", "in flight")


@dataclass(frozen=True)
class Case:
    """One measured quantity of a row. ``release`` is the file of constants that predicts it."""

    row_id: str
    run: Run
    scenario: Scenario
    release: str
    quantity: str
    measured: float
    counted: str | None
    closed: bool
    row: Mapping[str, str]

    @property
    def group(self) -> tuple[str, str]:
        """Model and GPU."""
        return self.run.model, self.run.gpu


@cache
def load_rows() -> tuple[Mapping[str, str], ...]:
    """Rows of the tables of serving stacks that are good."""
    folder = resources.files("calibrate") / "measurements" / "serving"
    found: list[Mapping[str, str]] = []
    for name in _TABLES:
        text = gzip.decompress((folder / name).read_bytes()).decode("utf-8")
        meant = (as_meant(row) for row in csv.DictReader(text.splitlines()))
        found += [row for row in meant if (row["status"] or "ok").startswith("ok")]
    return tuple(found)


def load_cases(rows: Iterable[Mapping[str, str]] | None = None) -> list[Case]:
    """Cases of the rows that can be predicted, by their main quantity."""
    return [case for row in (load_rows() if rows is None else rows) if (case := _case(row)) is not None]


def _case(row: Mapping[str, str]) -> Case | None:
    measured = {name: value for name in _TIMES if (value := positive_number(row.get(name))) is not None}
    if not measured:
        return None
    try:
        run = stated_run(row)
        scenario = scenario_of(run)
    except LLMPerfError:
        return None
    file = system_of(scenario).file
    quantity = next(iter(measured))
    closed = _refills(row["notes"]) and run.batch_size > 1
    return Case(
        row["row_id"], run, scenario, f"{file.name}@{file.release}", quantity, measured[quantity],
        rate_kind(row.get("throughput_def", "")), closed, row,
    )  # fmt: skip


def _refills(notes: str) -> bool:
    """Whether a load generator sent a request for each that ended: it says so, or sent more than ran at a time."""
    sent = re.search(r"concurrency (\d+).*?\b(\d+) requests", notes)
    return any(word in notes for word in _CLOSED) or (sent is not None and int(sent[2]) > int(sent[1]))


def positive_number(text: str | None) -> float | None:
    """A cell's number; None where it states none above 0."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


class Cases:
    """Cases whose predictions are asked for again and again under other constants."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = tuple(cases)
        grouped: dict[Run, list[int]] = {}
        for index, case in enumerate(self.cases):
            run = case.run
            same = run if run.shared_prefix else replace(run, prompt_len=1, gen_len=1)
            if case.closed:  # limits of a step are asked for row by row
                same = replace(same, max_num_batched_tokens=None, max_num_seqs=None, gpu_batch_size=None)
                same = replace(same, system=f"{case.release} {_rules_since(case.scenario)}")
            grouped.setdefault(replace(same, batch_size=1), []).append(index)
        self.groups = [np.array(found) for found in grouped.values()]
        self.keys = tuple(grouped)
        self.loops = np.zeros((2, len(self.cases)))
        """Log of what a simulation gives over the steady state, for the main quantity and for the first token."""

    @property
    def single_requests(self) -> np.ndarray:
        """Which cases say when the first token of one request that ran alone was there."""
        return np.array(
            [
                not (case.closed or case.run.shared_prefix or case.run.batch_size > 1)
                and (
                    case.run.gen_len == 1
                    or case.quantity in _FIRSTS
                    or positive_number(case.row.get("ttft_s")) is not None
                )
                for case in self.cases
            ],
            dtype=bool,
        )

    def first_tokens_alone(self, constants: Mapping[str, float]) -> np.ndarray:
        """log(predicted / measured) of times to first token of `single_requests`, NaN for the others."""
        main = np.array([case.run.gen_len == 1 or case.quantity in _FIRSTS for case in self.cases])
        found = np.where(main, self.log_ratios(constants), self.first_tokens(constants))
        return np.where(self.single_requests, found, math.nan)

    def log_ratios(self, constants: Mapping[str, float], keys: Container[Run] | None = None) -> np.ndarray:
        """log(predicted / measured) of times; of rates the negative, so that positive is too slow everywhere.

        ``keys``: those of the groups that are asked for, all if None; the others' rows are 0.
        """
        found = np.zeros(len(self.cases))
        for key, indices in zip(self.keys, self.groups, strict=True):
            if keys is not None and key not in keys:
                continue
            found[indices] = self._of_group([self.cases[index] for index in indices], constants)
            found[indices] += self.loops[0, indices]
        return found

    def first_tokens(self, constants: Mapping[str, float], keys: Container[Run] | None = None) -> np.ndarray:
        """The same of times to first token of single requests and of closed loops, 0 for the others."""
        found = np.zeros(len(self.cases))
        asked: set[int] = set()
        for key, indices in zip(self.keys, self.groups, strict=True):
            if keys is not None and key not in keys:
                continue
            asked.update(indices.tolist())
            closed = [int(index) for index in indices if self.cases[index].closed]
            steady = _steady([self.cases[index] for index in closed], constants) if closed else None
            for at, index in enumerate(closed if steady is not None else ()):
                measured = positive_number(self.cases[index].row.get("ttft_s"))
                if measured is not None and steady is not None:
                    found[index] = math.log(float(steady.ttft_s[at]) / measured) + self.loops[1, index]
        for index in sorted(asked):
            case = self.cases[index]
            measured = positive_number(case.row.get("ttft_s"))
            if (
                measured is None
                or case.run.batch_size > 1
                or case.run.shared_prefix
                or case.quantity == "ttft_s"
            ):
                continue
            scenario = _with(case.scenario, constants)
            load = Load.of(scenario.workload)
            found[index] = math.log(
                float(system_of(scenario).evaluate(scenario, load).prefill.latency_s) / measured
            )
        return found

    def with_loops(self, constants: Mapping[str, float]) -> Cases:
        """The same cases, whose closed loops' steady states are set right by simulations under these constants."""
        found = Cases(self.cases)
        if not any(case.closed for case in self.cases):
            return found
        steady = np.stack([found.log_ratios(constants), found.first_tokens(constants)])
        for index, case in enumerate(self.cases):
            if not case.closed:
                continue
            try:
                run = request_run(case.row)
                answer = answer_of(replace(run, scenario=_with(run.scenario, constants)))
            except LLMPerfError:
                continue
            if not answer.completed:
                continue
            times = {"tpot_s": answer.tpot_s, "ttft_s": answer.ttft_s}
            if case.quantity in times:
                loop = math.log(times[case.quantity] / case.measured)
            else:
                loop = -math.log(throughput_of(answer, case.row, run.run.num_gpus) / case.measured)
            first = positive_number(case.row.get("ttft_s"))
            found.loops[0, index] = loop - steady[0, index]
            if first is not None:
                found.loops[1, index] = math.log(answer.ttft_s / first) - steady[1, index]
        return found

    def simulated(self, constants: Mapping[str, float]) -> np.ndarray:
        """`log_ratios` with closed loops simulated under these very constants."""
        return self.with_loops(constants).log_ratios(constants)

    def simulated_both(self, constants: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """`known_both` with closed loops simulated under these very constants."""
        return self.with_loops(constants).known_both(constants)

    def known_both(self, constants: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """`log_ratios`, and those of times to first token in closed loops that state them; NaN elsewhere."""
        stated = [c.closed and positive_number(c.row.get("ttft_s")) is not None for c in self.cases]
        return self.log_ratios(constants), np.where(stated, self.first_tokens(constants), math.nan)

    @staticmethod
    def _of_group(cases: Sequence[Case], constants: Mapping[str, float]) -> np.ndarray:
        scenario = _with(cases[0].scenario, constants)
        if all(case.closed for case in cases):
            steady = _steady(cases, constants)
            if steady is not None:
                times = zip(steady.tpot_s, steady.ttft_s, steady.e2e_s, strict=True)
                return np.array([log_ratio_of(case, *one) for case, one in zip(cases, times, strict=True)])
        lengths = np.array(
            [[c.run.batch_size, c.run.prompt_len, c.run.gen_len] for c in cases], dtype=float
        ).T
        closed = np.array([case.closed for case in cases])
        load = Load(*lengths)
        measures = Measures.of(system_of(scenario).evaluate(scenario, load), load, scenario.model)
        tpot, total, ttft = (
            np.array(values, dtype=float) + np.zeros(len(cases))
            for values in (measures.tpot_s, measures.total_latency_s, measures.ttft_s)
        )
        if closed.any():
            steady = _steady([case for case in cases if case.closed], constants)
            if steady is not None:
                tpot[closed], total[closed], ttft[closed] = steady.tpot_s, steady.e2e_s, steady.ttft_s
        found = [log_ratio_of(case, tpot[i], ttft[i], total[i]) for i, case in enumerate(cases)]
        return np.array(found)


def _steady(cases: Sequence[Case], constants: Mapping[str, float]) -> Steady | None:
    """The steady state of closed loops on one deployment; None where it has none that is known.

    It is asked for twice in a row, for the main quantity and for the first token.
    """
    key = (tuple(map(id, cases)), tuple(sorted(constants.items())))
    if key not in _known_steady:
        if len(_known_steady) > _KEPT:
            _known_steady.clear()
        _known_steady[key] = (tuple(cases), _steady_of(cases, constants))
    return _known_steady[key][1]


_KEPT: Final = 500
_known_steady: dict[
    tuple[tuple[int, ...], tuple[tuple[str, float], ...]], tuple[tuple[Case, ...], Steady | None]
] = {}


def _steady_of(cases: Sequence[Case], constants: Mapping[str, float]) -> Steady | None:
    scenario = _with(cases[0].scenario, constants)
    replicas = scenario.parallelism.dp_size
    prompt, output, running = np.array(
        [[c.run.prompt_len, c.run.gen_len, c.run.batch_size / replicas] for c in cases], dtype=float
    ).T
    longest = int((prompt + output).max())
    by_limits: dict[tuple[int | None, int | None], list[int]] = {}
    for index, case in enumerate(cases):
        by_limits.setdefault((case.run.max_num_batched_tokens, case.run.max_num_seqs), []).append(index)
    times: StepTimes | None = None
    found = np.empty((len(dataclasses.fields(Steady)), len(cases)))
    # The widest limits first: the tables of their steps serve the others.
    order = sorted(by_limits, key=lambda limits: [-(one or _WIDEST) for one in limits])
    for tokens, sequences in order:
        rows = by_limits[tokens, sequences]
        one = scenario.replace(
            workload=scenario.workload.replace(
                batch_size=replicas, max_num_batched_tokens=tokens, max_num_seqs=sequences
            )
        )
        try:
            state = SteadyState(
                one, longest, times=None if times is None else _wide_enough(times, one, longest)
            )
            steady = state.at(prompt[rows], output[rows], concurrency=running[rows])
        except LLMPerfError:
            return None
        times = state.times if times is None else times
        found[:, rows] = np.stack([np.broadcast_to(v, len(rows)) for v in dataclasses.astuple(steady)])
    return Steady(*found)


def _rules_since(scenario: Scenario) -> str:
    """Versions from which on an engine schedules and divides memory as it does: versions in between are asked together."""
    rules = (
        scheduler_rules(scenario.system, scenario.system_version),
        memory_rules(scenario.system, scenario.system_version),
    )
    return " ".join("" if one is None else one.since for one in rules)


def _wide_enough(times: StepTimes, scenario: Scenario, longest: int) -> StepTimes | None:
    """Tables that hold every step of a deployment, else None: new ones are made."""
    limits = Limits.of(scenario, rules_of(scenario), longest)
    holds = times.max_tokens >= limits.step_tokens and times.max_sequences >= limits.max_sequences
    return times if holds else None


def _with(scenario: Scenario, constants: Mapping[str, float]) -> Scenario:
    """A run's scenario under other constants; what the run itself set stays."""
    return replace(scenario, constants=tuple(sorted({**constants, **dict(scenario.constants)}.items())))


def log_ratio_of(case: Case, tpot_s: float, ttft_s: float, total_s: float) -> float:
    """log(predicted / measured) of a case's main quantity by predicted times; of rates the negative."""
    batch, prompt, gen = case.run.batch_size, case.run.prompt_len, case.run.gen_len
    times = {"tpot_s": tpot_s, "ttft_s": ttft_s, "total_latency_s": total_s}
    if case.quantity in times:
        return math.log(times[case.quantity] / case.measured)
    kind = {"decode_throughput_tok_s": "decode", "prefill_throughput_tok_s": "prefill"}.get(
        case.quantity, case.counted
    )
    rates = {
        "decode": batch / tpot_s,
        "prefill": batch * prompt / ttft_s,
        "total": batch * (prompt + gen) / total_s,
        "output": batch * gen / total_s,
    }
    return -math.log(rates[kind or "output"] / case.measured)


def constants_of(case: Case) -> dict[str, Any]:
    """Constants of a case's version on its host."""
    return dict(system_of(case.scenario).constants(case.scenario))
