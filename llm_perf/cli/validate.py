"""``llm-perf validate``."""

from __future__ import annotations

import json

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
    profile: str | None,
    plot_folder: str | None,
    as_json: bool,
) -> int:
    """Compare the published runs that ship with predictions at exactly their settings."""
    if leave_out is not None:
        return _leave_out(system, gpu, leave_out, as_json)
    from calibrate.validate import validate as compare_all
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


def _leave_out(system: str | None, gpu: str | None, leave_out: str, as_json: bool) -> int:
    from calibrate.transfer import transfer
    from llm_perf.report.transfer_text import transfer_report

    if system is None:
        raise SpecError("--leave-out refits the constants of one system: give it with --system")
    if gpu is not None:
        raise SpecError("--leave-out takes all rows of a system: leave --gpu out")
    if system.lower() == "training":
        from calibrate.training_transfer import training_transfer

        found = training_transfer(leave_out).as_dict()
    else:
        found = transfer(system, leave_out).as_dict()
    click.echo(json.dumps(found, allow_nan=False) if as_json else transfer_report(found))
    return 0
