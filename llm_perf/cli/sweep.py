"""``llm-perf sweep``."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.without_gpu import NO_GPU_NAME, alone_note
from llm_perf.cli.infer import infer
from llm_perf.cli.inputs import matching, say_versions
from llm_perf.cli.notes import note
from llm_perf.errors import SpecError
from llm_perf.search import axes
from llm_perf.search.sweep import Sweep

if TYPE_CHECKING:
    from llm_perf.search.executors import Result
    from llm_perf.search.summary import Summary

EXIT_NOTHING_FITS = 3

_PATTERNS = {"model": "model", "gpu": "GPU", "host": "host"}
_READ: dict[str, Callable[[str, str], tuple[Any, ...]]] = {
    "integer": axes.whole_numbers,
    "float": axes.real_numbers,
    "boolean": axes.switches,
    "text": axes.names,
}


def _inputs() -> list[click.Option]:
    """The options of ``llm-perf infer`` that are inputs of a prediction, ``--gpu`` among them."""
    known = InferenceInputs.model_fields
    return [
        option
        for option in infer.params
        if isinstance(option, click.Option) and (option.name in known or option.name == "gpus")
    ]


def _with_axes(function: Any) -> Any:
    """One option per input. Each takes several values."""
    for option in reversed(_inputs()):
        name = "gpu" if option.name == "gpus" else str(option.name)
        kind = option.type.name
        metavar = {"integer": "INTS", "float": "NUMBERS", "boolean": "ON,OFF"}.get(kind, "NAMES")
        flag = f"--{name.replace('_', '-')}"
        function = click.option(flag, name, metavar=metavar, multiple=True, help=option.help)(function)
    return function


@click.command("sweep")
@_with_axes
@click.option(
    "--points", "points_file", help="Combinations of further inputs: a CSV, or YAML or JSON with points."
)
@click.option("--out", "out_file", help="Write all points to this .parquet, .csv or .json (extra: explore).")
@click.option(
    "--executor", default="local", show_default=True, help="local, processes[:N] or dask://HOST:PORT."
)
@click.option("--restart", is_flag=True, help="Throw away what an interrupted sweep has finished.")
@click.option(
    "--best", "best_by", default="throughput_tokens_per_s", show_default=True, help="Measure to rank by."
)
@click.option("--top", type=int, default=10, show_default=True, help="Best points to print.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print exactly one JSON object: counts and the best points."
)
def sweep(
    points_file: str | None,
    out_file: str | None,
    executor: str,
    restart: bool,
    best_by: str,
    top: int,
    as_json: bool,
    **flags: tuple[str, ...],
) -> int:
    """Predict every combination of the values of every flag.

    Each flag of llm-perf infer takes several values: a list "1,2,8", a range "128:1024:128", a geometric range
    "1:512:x2"; names may be patterns ("a100*", "all"). What does not fit or cannot be is kept with its reason. An
    interrupted sweep with --out goes on where it stopped when it is started again.

    Exits with 0, with 2 for bad input, with 3 where nothing fits.
    """
    from llm_perf.search.executors import get_executor
    from llm_perf.search.summary import Summary

    if top < 0:
        raise SpecError(f"--top must be 0 or more, got {top}")
    axes_given = _axes(flags)
    question = Sweep(axes_given, _listed(points_file))
    if "gpu" not in axes_given and question.axes.get("gpu") == (NO_GPU_NAME,):
        hosts = question.axes.get("host") or dict.fromkeys(point["host"] for point in question.listed)
        note(alone_note(", ".join(hosts)))
    run = get_executor(executor)
    summary = Summary(question, top, best_by)
    if out_file is None:
        _consume(question, run(question, range(question.chunks)), summary)
    else:
        _write(question, run, summary, Path(out_file), restart)
    say_versions([*question.axes.get("system", ()), *(point.get("system") for point in question.listed)])
    if as_json:
        click.echo(json.dumps(summary.as_dict() | {"out": out_file}, allow_nan=False))
    else:
        from llm_perf.report.inference_text import print_report
        from llm_perf.report.sweep_text import sweep_report

        print_report(sweep_report(summary, out_file))
    return 0 if summary.feasible else EXIT_NOTHING_FITS


# -- input ------------------------------------------------------------------------------------------------------


def _axes(flags: dict[str, tuple[str, ...]]) -> dict[str, tuple[Any, ...]]:
    """Values by input, of the flags that were given."""
    kinds = {("gpu" if option.name == "gpus" else option.name): option.type.name for option in _inputs()}
    found: dict[str, tuple[Any, ...]] = {}
    for name, texts in flags.items():
        if not texts:
            continue
        flag = f"--{name.replace('_', '-')}"
        values = [value for text in texts for value in _READ[kinds[name]](flag, text)]
        if name in _PATTERNS:
            values = [match for value in values for match in matching(flag, _PATTERNS[name], value)]
        found[name] = tuple(dict.fromkeys(values))
    return found


def _listed(file: str | None) -> tuple[dict[str, Any], ...]:
    """Combinations from a file: a table whose header names inputs, or a list of mappings.

    Raises:
        SpecError: it is neither, or empty.
    """
    if file is None:
        return ()
    from llm_perf.config import files

    text = files.read_text(Path(file)).removeprefix("\ufeff")  # spreadsheets begin with a byte order mark
    if Path(file).suffix.lower() == ".csv":
        return _table(file, text)
    data = files.parse_mapping(text, file, is_table=True).get("points")
    if not isinstance(data, list) or not data or not all(isinstance(point, dict) for point in data):
        raise SpecError(f"{file}: expected a list of mappings of inputs under 'points'")
    return tuple({str(name).replace("-", "_"): value for name, value in point.items()} for point in data)


def _table(file: str, text: str) -> tuple[dict[str, Any], ...]:
    """The rows of a CSV; an empty cell is the default."""
    import csv

    kinds = {("gpu" if option.name == "gpus" else option.name): option.type.name for option in _inputs()}
    reader = csv.reader(io.StringIO(text, newline=""))
    points = []
    try:
        names = [written.strip().replace("-", "_") for written in next(reader, [])]
        for written in names:
            if written not in kinds:
                raise SpecError(f"{file}: line 1: {written!r} is no input; the first line names inputs")
            if names.count(written) > 1:
                raise SpecError(f"{file}: line 1: {written} occurs twice")
        for row in reader:
            where = f"{file}: line {reader.line_num}"
            if row and len(row) != len(names):
                raise SpecError(f"{where}: {len(row)} cells, where the first line names {len(names)} inputs")
            cells = zip(names, row, strict=False)
            points += (
                [{name: _cell(f"{where}: {name}", kinds[name], cell) for name, cell in cells}] if row else []
            )
    except csv.Error as error:
        raise SpecError(f"{file}: line {reader.line_num}: {error}") from None
    if not points:
        raise SpecError(f"{file} has no points")
    return tuple(points)


def _cell(where: str, kind: str, cell: str) -> Any:
    """The one value of a cell; None where it is empty."""
    if not cell.strip():
        return None
    values = _READ[kind](where, cell)
    if len(values) > 1:
        raise SpecError(
            f"{where} {cell!r}: a cell holds one value; several go to the flag, or to rows of their own"
        )
    return values[0]


# -- work -------------------------------------------------------------------------------------------------------


def _write(question: Sweep, run: Any, summary: Summary, out: Path, restart: bool) -> None:
    """Evaluate what is missing, keep each chunk as it comes, and put them together."""
    from llm_perf.report.sweep_files import Parts, check_out

    check_out(str(out))
    parts = Parts(question, out, restart=restart)
    missing = list(parts.missing())
    finished = question.chunks - len(missing)
    if finished:
        click.echo(
            f"llm-perf: going on with a sweep of which {finished} of {question.chunks} parts are done",
            err=True,
        )
    try:
        for chunk, columns in _progress(question, run(question, missing), finished):
            parts.add(chunk, columns)
            summary.add(chunk, columns)
    except KeyboardInterrupt:
        click.echo(
            f"llm-perf: what is finished is kept in {parts.folder}: the same command goes on", err=True
        )
        raise
    for chunk in sorted(set(range(question.chunks)) - set(missing)):
        parts.count(chunk, summary)
    parts.finish()


def _consume(question: Sweep, results: Iterator[Result], summary: Summary) -> None:
    for chunk, columns in _progress(question, results, 0):
        summary.add(chunk, columns)


def _progress(question: Sweep, results: Iterator[Result], finished: int) -> Iterator[Result]:
    """The results, with a bar on a terminal: points, rate and time left."""
    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} points"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        done = min(finished * question.chunk_points, len(question))
        task = bar.add_task("", total=len(question), completed=done, rate="")
        for chunk, found in results:
            yield chunk, found
            first, end = question.chunk_range(chunk)
            bar.advance(task, end - first)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f} points/s" if speed else "")
