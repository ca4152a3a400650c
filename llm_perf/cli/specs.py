"""``llm-perf models|gpus|hosts list|show NAME``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from llm_perf.config.base import Spec
from llm_perf.config.formats import WEIGHT_FORMATS, stored_bits
from llm_perf.config.loading import (
    get_gpu_config_by_name,
    get_host_config_by_name,
    get_model_config_by_name,
    known_names,
    other_names,
)
from llm_perf.config.names import has_words
from llm_perf.report import spec_tables


def _group(kind: str, plural: str, load: Callable[[str], Spec], columns: spec_tables.Columns) -> click.Group:
    @click.group(plural, help=f"List the bundled {plural}, or show one.")
    def group() -> None: ...

    @group.command(
        "list",
        help=f"List the bundled {plural}, or those with PATTERN, its words in any order, in one of their names.",
    )
    @click.argument("pattern", required=False)
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    def list_(pattern: str | None, as_json: bool) -> None:
        own = [name for name in known_names(kind) if has_words(name, pattern or "")]
        others = {name: alias for name, alias in other_names(kind, pattern or "").items() if name not in own}
        specs = [load(name) for name in sorted([*own, *others])]
        if as_json:
            rows = [{"name": spec.name} | columns.values(spec) for spec in specs]  # type: ignore[attr-defined]
            click.echo(json.dumps({"schema_version": 1, plural: rows}))
        else:
            spec_tables.print_list(specs, columns)
            for name, alias in sorted(others.items()):
                click.echo(f"{alias} is answered as {load(name).name}")  # type: ignore[attr-defined]

    @group.command("show", help=f"Show everything about one of the {plural}: a name or a file.")
    @click.argument("name")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    def show(name: str, as_json: bool) -> None:
        spec = load(name)
        if as_json:
            fields: dict[str, Any] = spec_tables.plain(spec)
            click.echo(json.dumps({"schema_version": 1} | fields | columns.values(spec)))
        else:
            click.echo(spec_tables.spec_text(spec, columns))

    return group


models = _group("model", "models", get_model_config_by_name, spec_tables.MODEL_COLUMNS)
gpus = _group("GPU", "gpus", get_gpu_config_by_name, spec_tables.GPU_COLUMNS)
hosts = _group("host", "hosts", get_host_config_by_name, spec_tables.HOST_COLUMNS)


@models.command(
    "formats", help="List the formats that weights can be stored in (--weight-format), with their bits."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def formats(as_json: bool) -> None:
    """Print every format of weights."""
    rows = [{"name": name, "bits_per_weight": stored_bits(name)} for name in WEIGHT_FORMATS]
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "formats": rows}))
        return
    click.echo("auto                as released")
    for row in rows:
        bits = row["bits_per_weight"]
        click.echo(
            f"{row['name']:<20}"
            + ("differs by matrix" if bits is None else f"{bits:.4g} bits, scales included")
        )
