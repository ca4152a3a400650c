"""``llm-perf validate``."""

from __future__ import annotations

import json
from collections.abc import Mapping

import click

from llm_perf.errors import SpecError


@click.command("validate")
@click.option("--system", help="Only runs of this system; they are listed row by row.")
@click.option("--gpu", help="Only runs on this GPU; they are listed row by row.")
@click.option(
    "--leave-out",
    type=click.Choice(("machine", "gpu", "family", "model")),
    help="Refit the system's constants without each of these in turn, and predict its rows (extra: search).",
)
@click.option(
    "--requests",
    is_flag=True,
    help="Requests over time: traces that ship, simulated now, and tables of servers.",
)
@click.option(
    "--tuning",
    is_flag=True,
    help="Fine-tuning and memory in training: errors by framework and GPU, frameworks left out.",
)
@click.option(
    "--contributed",
    is_flag=True,
    help="Runs that others added, as calibrate export writes them, beside their predictions.",
)
@click.option("--trace", "trace_file", help="A trace of your own (CSV), with --inputs.")
@click.option("--inputs", "inputs_file", help="YAML or JSON of what --trace was measured on.")
@click.option(
    "--profile", help="Calibrated profile: name, file, or none. It changes the runs on its machine."
)
@click.option(
    "--plot", "plot_folder", help="Write the figures into this folder, as PNG and SVG (extra: plot)."
)
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def validate(
    system: str | None,
    gpu: str | None,
    leave_out: str | None,
    requests: bool,
    tuning: bool,
    contributed: bool,
    trace_file: str | None,
    inputs_file: str | None,
    profile: str | None,
    plot_folder: str | None,
    as_json: bool,
) -> int:
    """Compare the published runs that ship with predictions at exactly their settings."""
    if tuning:
        others = {
            "--system": system, "--gpu": gpu, "--leave-out": leave_out, "--trace": trace_file, "--inputs": inputs_file,
            "--profile": profile, "--plot": plot_folder, "--requests": requests or None,
        }  # fmt: skip
        return _tuning(others, as_json)
    if contributed:
        for flag, value in (("--leave-out", leave_out), ("--trace", trace_file), ("--plot", plot_folder)):
            if value is not None:
                raise SpecError(f"{flag} says nothing about --contributed")
        return _contributed(system, gpu, profile, as_json)
    if requests or trace_file is not None:
        for flag, value in (("--system", system), ("--gpu", gpu), ("--leave-out", leave_out)):
            if value is not None:
                raise SpecError(f"{flag} chooses runs of batches: leave it out with --requests and --trace")
        return requests_beside(trace_file, inputs_file, profile, plot_folder, as_json)
    if inputs_file is not None:
        raise SpecError("--inputs says what a trace was measured on: give it with --trace")
    if leave_out is not None:
        return _leave_out(system, gpu, leave_out, as_json)
    from calibrate.validate.scoreboard import validate as compare_all
    from llm_perf.cli.compare import check_folder, draw
    from llm_perf.config.profiles import NO_PROFILE
    from llm_perf.report.validation_text import validation_report
    from llm_perf.systems.profiles import checked_profile

    if plot_folder is not None:
        check_folder(plot_folder)
    chosen = checked_profile(profile)
    found = compare_all(system, gpu, None if chosen is NO_PROFILE else chosen.apply_where_fitted).as_dict()
    if plot_folder is not None:
        from llm_perf.report.plots.figures import validation_figures

        draw(validation_figures(found), plot_folder)
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        click.echo(validation_report(found, every_row=system is not None or gpu is not None))
    return 0


def _tuning(others: Mapping[str, object], as_json: bool) -> int:
    for flag, value in others.items():
        if value is not None:
            raise SpecError(f"--tuning takes whole tables: leave {flag} out")
    from calibrate.validate.tuning import summary, widths
    from llm_perf.report.tuning_text import tuning_report

    found = {
        "schema_version": 1,
        "tables": {"finetuning": summary("finetuning"), "b200": summary("b200")},
        "intervals": widths(),
    }
    click.echo(json.dumps(found, allow_nan=False) if as_json else tuning_report(found))
    return 0


def _contributed(system: str | None, gpu: str | None, profile: str | None, as_json: bool) -> int:
    """Contributed runs beside their predictions."""
    from calibrate.validate.contributed import compared_runs, contributed_lines, contributed_object
    from llm_perf.systems.profiles import checked_profile

    checked_profile(profile)
    found = compared_runs(system, gpu, profile)
    if as_json:
        click.echo(json.dumps(contributed_object(found), allow_nan=False))
    else:
        click.echo("\n".join(contributed_lines(found)))
    return 0


def _leave_out(system: str | None, gpu: str | None, leave_out: str, as_json: bool) -> int:
    from calibrate.validate.transfer import transfer
    from llm_perf.report.transfer_text import transfer_report

    if system is None:
        raise SpecError("--leave-out refits the constants of one system: give it with --system")
    if gpu is not None:
        raise SpecError("--leave-out takes all rows of a system: leave --gpu out")
    if system.lower() == "training":
        from calibrate.validate.training_transfer import training_transfer

        found = training_transfer(leave_out).as_dict()
    else:
        found = transfer(system, leave_out).as_dict()
    click.echo(json.dumps(found, allow_nan=False) if as_json else transfer_report(found))
    return 0


def requests_beside(
    trace_file: str | tuple[str, ...] | None,
    inputs_file: str | None,
    profile: str | None,
    plot_folder: str | None,
    as_json: bool,
    *,
    shares: bool = False,
) -> int:
    """Traces beside their simulation, those that ship or some of the user's; with the former the tables' figures.

    ``shares``: the text has every percentile, not the mean and the 95th alone.
    """
    from calibrate.evidence.traces import as_dict, compare, read_trace, traces
    from calibrate.validate.requests import read_predicted, table_figures
    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.cli.compare import check_folder, draw
    from llm_perf.config import files
    from llm_perf.report.requests_text import requests_report

    if plot_folder is not None:
        check_folder(plot_folder)
    if trace_file is None:
        asked = [(trace, trace.inputs) for trace in traces()]
    else:
        if inputs_file is None:
            raise SpecError(
                "a trace of requests needs --inputs FILE: model, gpu, system and what else it was measured on"
            )
        given = files.parse_mapping(files.read_text(files.expanded(inputs_file)), inputs_file)
        given = given.get("inputs", given)
        known = {name: value for name, value in given.items() if name in InferenceInputs.model_fields}
        names = (trace_file,) if isinstance(trace_file, str) else trace_file
        inputs = files.build(InferenceInputs, known, "", inputs_file)
        asked = [(read_trace(name), inputs) for name in names]
    found = [
        compare(trace, one if one is None or profile is None else one.replace(profile=profile))
        for trace, one in asked
    ]
    whole = {"schema_version": 1, "traces": [as_dict(one) for one in found]}
    if plot_folder is not None:
        from llm_perf.report.requests_plot import traces_figures

        named = {one.trace.name: (one.trace.measured, one.predicted) for one in found}
        draw(traces_figures(named), plot_folder)
    if trace_file is None:
        whole["tables"] = table_figures(read_predicted())
    click.echo(json.dumps(whole, allow_nan=False) if as_json else requests_report(whole, shares=shares))
    return 0
