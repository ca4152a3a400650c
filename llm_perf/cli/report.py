"""``llm-perf report``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_perf.config import files
from llm_perf.errors import OutputError, SpecError

if TYPE_CHECKING:
    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.analysis.simulation import Simulation
    from llm_perf.explore.view import Prediction

_AGREES = 1e-9
"""Relative difference up to which a stored number is the same as today's."""


@click.command("report")
@click.argument("results", nargs=-1, required=True, metavar="RESULT...")
@click.option("--html", "html_file", required=True, help="Write the page into this file.")
@click.option("--profile", help="Calibrated profile for measured runs: a name, a file, or none.")
def report(results: tuple[str, ...], html_file: str, profile: str | None) -> int:
    """Show results as one HTML page that needs nothing else: no network, no server.

    RESULTs are files of --json of llm-perf infer, train, simulate, plan and policy (one or several GPUs), and of calibrate
    --run (JSON, benchmark log). What a file asked is predicted anew; where its own figures differ, the page says so.
    """
    from llm_perf.cli import output
    from llm_perf.explore.page import plotly_js, report_page

    target = Path(html_file)
    if not target.name or target.is_dir():
        raise OutputError(f"--html {html_file!r} is no file")
    for name in results:
        if _same_file(name, target):
            raise OutputError(f"--html {html_file!r} would overwrite the RESULT of that name")
    plotly_js()  # a missing extra is said before anything is computed
    views = [view for name in results for view in _views(name, profile)]
    for path in output.write_files(target.parent, {target.name: report_page(views, accuracy())}):
        click.echo(f"page written to {path}", err=True)
    return 0


def _same_file(name: str, target: Path) -> bool:
    try:
        return Path(name).samefile(target)
    except (OSError, ValueError):  # one of them does not exist, or cannot
        return False


def accuracy() -> dict[str, Any] | None:
    """The figure of the published runs beside their committed predictions."""
    from calibrate.validate.committed import committed_rows
    from llm_perf.explore.accuracy import accuracy_figure

    return accuracy_figure(committed_rows())


def prediction_of(inputs: InferenceInputs) -> Prediction:
    """A prediction with its nearest measured run.

    Raises:
        SpecError: what was asked contradicts itself.
    """
    from calibrate.evidence.nearest import nearest_run
    from llm_perf.analysis.inference import predict_inference
    from llm_perf.analysis.request import build_scenario
    from llm_perf.explore.view import Prediction

    result = predict_inference(build_scenario(inputs))
    return Prediction(result, inputs, nearest_run(result))


def _views(name: str, profile: str | None) -> Iterator[dict[str, Any]]:
    """The views of one file.

    Raises:
        SpecError: it cannot be read, or is no result.
    """
    if not name.endswith(".json"):
        yield from _measured_views(name, profile)
        return
    from llm_perf.cli.report_answers import answer_view

    data = _read(name)
    view = answer_view(data, name)
    if view is not None:
        yield view
    elif "scheduler" in data or "rates" in data or {"inputs", "requests", "throughput"} <= data.keys():
        yield _simulation(data, name)
    elif "comparison" in data or {"inputs", "prefill"} <= data.keys():
        yield from _prediction_views(data, name)
    elif "best" in data and "simulated" in data:
        yield _service_plan(data, name)
    elif "best" in data and "front" in data:
        yield from _plan_views(data, name)
    elif "run" in data or "raw" in data or "status" in data:
        yield from _measured_views(name, profile)
    else:
        raise SpecError(
            f"{name}: is no result of --json of llm-perf infer, train, simulate, plan or policy, nor of calibrate run"
        )


def _read(name: str) -> dict[str, Any]:
    text = files.read_text(Path(name))
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{name}: truncated or malformed JSON: {error}") from None
    if not isinstance(data, dict):
        raise SpecError(f"{name}: expected one JSON object, found {type(data).__name__}")
    return data


def _prediction_views(data: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.cli.inputs import questions
    from llm_perf.explore.view import prediction_view

    stored = data.get("comparison", [data])
    found = [prediction_of(question) for question in questions((), name, {}, InferenceInputs)]
    for number, one in enumerate(found):
        others = () if number else tuple(found[1:])  # side by side once, in the first view
        yield prediction_view(replace(one, notes=_differences(stored[number], one, name), others=others))


def _differences(stored: dict[str, Any], found: Prediction, name: str) -> tuple[str, ...]:
    """A note where the file's total latency is not today's: it is of another version, or its specs were changed."""
    from llm_perf.report.units import seconds

    total = stored.get("total")
    there = total.get("latency_s") if isinstance(total, dict) else None
    here = found.result.total_latency_s
    if not isinstance(there, (int, float)) or abs(there - here) <= _AGREES * here:
        return ()
    return (
        f"{name} says {seconds(there)} for the whole batch, this version predicts {seconds(here)}, shown here",
    )


def _simulation(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A simulation, or one at each of several rates, simulated anew."""
    from llm_perf.analysis.simulation import SimulationInputs, parts_of, simulation_of
    from llm_perf.cli.simulate import keeps_up
    from llm_perf.explore.simulation_view import rates_view, simulation_view

    stored = data.get("rates", [data])
    if not isinstance(stored, list) or not stored or not all(isinstance(one, dict) for one in stored):
        raise SpecError(f"{name}: is no complete result of llm-perf simulate --json")
    if stored[0].get("reason"):
        raise SpecError(f"{name}: nothing was simulated: {stored[0]['reason']}")
    found: list[Simulation] = []
    for one in stored:
        inputs = files.build(SimulationInputs, dict(one.get("inputs") or {}), "", name)
        known = found[0].capacity if found else None
        found.append(simulation_of(*parts_of(inputs), None, known))
    notes = [
        note
        for one, here in zip(stored, found, strict=True)
        for note in _simulated_otherwise(one, here, name)
    ][:1]
    if "rates" not in data:
        return simulation_view(found[0], notes)
    return rates_view(found, next((one for one in reversed(found) if keeps_up(one)), None), notes)


def _simulated_otherwise(stored: dict[str, Any], found: Simulation, name: str) -> Iterator[str]:
    """A note where the file's mean time to the end is not today's: it is of another version, or its specs were changed."""
    from llm_perf.report.units import seconds

    there = stored.get("e2e_s")
    before = there.get("mean") if isinstance(there, dict) else None
    here = found.summary.e2e_s.mean
    if isinstance(before, (int, float)) and not abs(before - here) <= _AGREES * here:
        yield f"{name} says {seconds(before)} per request, this version predicts {seconds(here)}, shown here"


def _service_plan(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A plan over requests, searched anew."""
    from llm_perf.explore.simulation_view import service_plan_view
    from llm_perf.search.plan_question import PlanQuestion
    from llm_perf.search.service import plan_service

    question, best = data.get("question"), data["best"]
    if not isinstance(question, dict) or not isinstance(best, list):
        raise SpecError(f"{name}: is no complete plan")
    answer = plan_service(files.build(PlanQuestion, question, "", name), max(len(best), 1))
    before = [(one.get("gpu"), one.get("num_gpus")) for one in best if isinstance(one, dict)]
    now = [(one.simulation.scenario.gpu.name, one.num_gpus) for one in answer.best]
    notes = [] if before == now else [f"{name} names other machines than this version does, shown here"]
    return service_plan_view(answer, notes)


def _plan_views(data: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    from llm_perf.explore.plan_view import plan_view, stored_answer
    from llm_perf.explore.view import prediction_view

    answer = stored_answer(data, name)
    yield plan_view(answer)
    for candidate in answer.best:
        yield prediction_view(prediction_of(candidate.inputs))


def _measured_views(name: str, profile: str | None) -> Iterator[dict[str, Any]]:
    from calibrate.evidence.nearest import nearest_run
    from calibrate.fit.compare.inputs import read_measured
    from calibrate.fit.compare.runs import compare_runs
    from llm_perf.explore.view import Measured, Prediction, prediction_view
    from llm_perf.systems.profiles import checked_profile

    measured, rejected = read_measured([name])
    notes = tuple(f"{one.source} is left out: {one.reason}" for one in rejected)
    for row in compare_runs(measured, checked_profile(profile), rejected).rows:
        beside = Measured(
            row.run.observation.source,
            dict(row.run.observation.measured_s),
            row.run.allocated_bytes,
            row.predicted_peak_bytes,
        )
        yield prediction_view(
            Prediction(row.result, nearest=nearest_run(row.result), measured=beside, notes=notes)
        )
