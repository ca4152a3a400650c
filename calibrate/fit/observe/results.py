"""Results of benchmark tools beside sessions of an endpoint: rows of their fit, or sessions as runs of theirs.

Where a GPU computes, what ships is known beforehand and runs move it a little (`calibrate.fit.served.fit`): a session's loads
are runs like others there. On a CPU the machine's rates are open, and a result's figures are rows like a session's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from calibrate.evidence.benchmark_run import BenchmarkRun, Figure, Quantity
from calibrate.fit.observe.parameters import opened
from calibrate.fit.observe.rows import Result, Row, undisturbed
from calibrate.fit.observe.store import Stored
from calibrate.fit.served.answers import answer_of
from calibrate.fit.served.deployment import Served, served_run
from calibrate.fit.served.points import Target, predicted_of, targets_of
from llm_perf.config.names import normalise
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError, SpecError

_TIMES: tuple[Quantity, ...] = ("tpot_s", "ttft_s")


def check_same(scenario: Scenario, results: Sequence[Served]) -> None:
    """Make sure that results are of a session's stack and machine.

    Raises:
        SpecError: one is not.
    """
    for one in results:
        other = one.scenario
        if other.system != scenario.system:
            raise SpecError(
                f"{one.run.source}: is of {other.system}, the sessions are of {scenario.system}: a fit is of one stack"
            )
        if normalise(other.gpu.name) != normalise(scenario.gpu.name):
            raise SpecError(
                f"{one.run.source}: ran on {other.gpu.name}, the sessions on {scenario.gpu.name}: a fit is of one machine"
            )


# -- results as rows of a session --------------------------------------------------------------------------------------


def rows_of_results(results: Sequence[Served]) -> tuple[Row, ...]:
    """A row for each result's decode and for its first tokens, rates as the time that they are of.

    Raises:
        SpecError: a result cannot be predicted.
    """
    found = []
    for target in targets_of(results):
        one = results[target.at]
        result = Result(opened(one.scenario), partial(_seconds, one, target))
        found.append(
            Row(
                one.model, "step" if target.main else "first", target.measured**target.sign, None, 1,
                (one.concurrency, round(one.prompt), round(one.output)), result=result, source=one.run.source,
            )
        )  # fmt: skip
    return tuple(found)


def _seconds(one: Served, target: Target, scenario: Scenario) -> float:
    try:
        predicted = predicted_of(answer_of(replace(one, scenario=scenario)), target)
    except LLMPerfError as error:
        raise SpecError(f"{one.run.source}: {error}") from None
    if predicted is None or not math.isfinite(predicted):
        raise SpecError(f"{one.run.source}: {target.figure.quantity} is not predicted")
    gpus = one.num_gpus if target.figure.scope == "per_gpu" else 1
    return float((predicted * gpus) ** target.sign)


# -- a session as results ----------------------------------------------------------------------------------------------


def results_of_session(session: Stored) -> list[Served]:
    """The loads of a session as runs, each once: its undisturbed repeats' median times, and the requests of one of them."""
    loads: dict[tuple[int, int, int], list[BenchmarkRun]] = {}
    for run in session.runs:
        if run.load.kind == "all_at_once" and not run.counts.failed:
            point = (run.load.concurrency or 1, round(run.prompt.mean or 1), round(run.output.mean or 1))
            loads.setdefault(point, []).append(run)
    found = []
    for repeats in loads.values():
        kept = undisturbed(repeats)
        figures = tuple(
            Figure(quantity=name, value=median(values), samples=len(values))
            for name in _TIMES
            if (values := [figure.value for run in kept if (figure := run.figure(name)) is not None])
        )
        if figures:
            run = kept[0].replace(figures=figures, source=str(session.folder.name))
            found.append(served_run(run, session.inputs, session.scenario))
    return found
