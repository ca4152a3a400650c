"""``llm-perf systems list|show NAME``."""

from __future__ import annotations

import json

import click


@click.group("systems", help="List the systems that models run on, or show one.")
def systems() -> None:
    """Group of the subcommands."""


@systems.command("list", help="List all systems with the versions that ship, the newest first.")
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(pattern: str | None, as_json: bool) -> None:
    """One line per version."""
    from llm_perf.config.names import normalise
    from llm_perf.report.system_text import system_rows, systems_table

    wanted = normalise(pattern or "")
    rows = [row for row in system_rows() if wanted in normalise(f"{row['name']} {row['title']}")]
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "systems": rows}))
        return
    from llm_perf.report.inference_text import print_report

    print_report(systems_table(rows))


@systems.command(
    "show", help="Show everything about a system: vllm for its newest version, vllm@0.2 for another."
)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, as_json: bool) -> None:
    """What the system says about itself, and its constants."""
    from llm_perf.cli.inputs import say_versions
    from llm_perf.report.system_text import system_object, system_text

    say_versions([name])
    click.echo(json.dumps({"schema_version": 1} | system_object(name)) if as_json else system_text(name))
