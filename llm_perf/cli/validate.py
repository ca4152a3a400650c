"""``llm-perf validate``."""

from __future__ import annotations

import json

import click


@click.command("validate")
@click.option("--system", help="Only runs of this system; they are listed row by row.")
@click.option("--gpu", help="Only runs on this GPU; they are listed row by row.")
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def validate(system: str | None, gpu: str | None, as_json: bool) -> int:
    """Compare the published runs that ship with predictions at exactly their settings."""
    from calibrate.validate import validate as compare_all
    from llm_perf.report.validation_text import validation_report

    found = compare_all(system, gpu).as_dict()
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        click.echo(validation_report(found, every_row=system is not None or gpu is not None))
    return 0
