"""``llm-perf doctor``."""

from __future__ import annotations

import json
import textwrap

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> int:
    """Say what is installed here and what each part of llm-perf needs."""
    from llm_perf.report.doctor import examine

    checks = examine()
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "checks": [check.as_dict() for check in checks]}))
    else:
        for check in checks:
            head = f"{'ok' if check.ok else '--'}  {check.name:<14} "
            click.echo(
                textwrap.fill(
                    head + check.detail, 80, subsequent_indent=" " * len(head), break_on_hyphens=False
                )
            )
    return 0 if all(check.ok for check in checks if check.required) else 4
