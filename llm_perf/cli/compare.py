"""``llm-perf compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


def _no_question(context: click.Context, option: click.Parameter, value: str | None) -> None:  # noqa: ARG001 - of click
    if value is not None:
        raise click.UsageError(
            "compare takes files of measured runs, not a model; several GPUs side by side: "
            "llm-perf infer --model M --gpu A --gpu B"
        )


@click.command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--profile", help="Calibrated profile: a name, a file, or none.")
@click.option("--gpu", help="GPU of benchmark logs, and of CSV rows that name none.")
@click.option("--host", help="Host of benchmark logs and CSV rows; else the GPU's usual one.")
@click.option(
    "--inputs", "inputs_file", help="Of traces of requests: YAML or JSON of what they were measured on."
)
@click.option(
    "--plot", "plot_folder", help="Write the figures into this folder, as PNG and SVG (extra: plot)."
)
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
@click.option("--model", hidden=True, is_eager=True, expose_value=False, callback=_no_question)
def compare(
    runs: tuple[str, ...],
    profile: str | None,
    gpu: str | None,
    host: str | None,
    inputs_file: str | None,
    plot_folder: str | None,
    as_json: bool,
) -> int:
    """Lay measured runs beside their predictions.

    RUNS are files or folders: the JSON of llm-perf calibrate run, benchmark logs (DeepSpeed's and FlexGen's too), CSV
    with a row per run, and traces of requests (CSV with first_token_s and last_token_s), which are simulated as they came
    on what --inputs says. Results of vllm bench and other tools are read by llm-perf calibrate read-log. GPUs side by side
    are another question: llm-perf infer --model M --gpu A --gpu B.
    """
    from calibrate.fit.compare.inputs import read_measured
    from calibrate.fit.compare.runs import compare_runs
    from llm_perf.report.compare_text import compare_report
    from llm_perf.systems.profiles import checked_profile

    traces = tuple(run for run in runs if _is_trace(run))
    if traces or inputs_file is not None:
        return _requests(runs, traces, inputs_file, profile, gpu or host, plot_folder, as_json)
    if plot_folder is not None:
        check_folder(plot_folder)
    chosen = checked_profile(profile)
    measured, rejected = read_measured(runs, gpu, host)
    found = compare_runs(measured, chosen, rejected).as_dict()
    if plot_folder is not None:
        from llm_perf.report.plots.figures import comparison_figures

        draw(comparison_figures(found), plot_folder)
    click.echo(json.dumps(found, allow_nan=False) if as_json else compare_report(found))
    return 0


def _is_trace(name: str) -> bool:
    """Whether a file is a CSV whose first line names what only a trace of requests has."""
    path = Path(name)
    try:
        if path.suffix.lower() != ".csv" or not path.is_file():
            return False
        with path.open(encoding="utf-8", errors="replace") as file:
            return "first_token_s" in {cell.strip() for cell in file.readline().lstrip("\ufeff").split(",")}
    except (OSError, ValueError):
        return False


def _requests(
    runs: tuple[str, ...],
    traces: tuple[str, ...],
    inputs_file: str | None,
    profile: str | None,
    machine: str | None,
    plot_folder: str | None,
    as_json: bool,
) -> int:
    """Traces of requests beside their simulation.

    Raises:
        SpecError: they are not alone, or it is not said what they were measured on.
    """
    from llm_perf.cli.validate import requests_beside
    from llm_perf.errors import SpecError

    if len(traces) < len(runs):
        other = next(run for run in runs if run not in traces)
        if not traces:
            raise SpecError(f"--inputs says what traces of requests were measured on; {other} is none")
        raise SpecError(f"{other} is no trace of requests, {traces[0]} is one: compare them apart")
    if machine is not None:
        raise SpecError("--gpu and --host are of runs of batches: --inputs says what traces were measured on")
    return requests_beside(traces, inputs_file, profile, plot_folder, as_json, shares=True)


def check_folder(folder: str) -> None:
    """Refuse pictures that cannot be drawn or written before anything is computed.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the folder is a file, or below one.
    """
    from llm_perf.errors import OutputError
    from llm_perf.report.plots.style import require_matplotlib

    require_matplotlib()
    path = Path(folder)
    if not folder or any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
        raise OutputError(f"--plot {folder!r} is no folder, and none can be made there")


def draw(figures: dict[str, Any], folder: str) -> None:
    """Write figures and say where, on stderr: stdout is the result."""
    from llm_perf.report.plots.style import write_figures

    written = write_figures(figures, Path(folder))
    click.echo(f"{len(written)} files written to {folder}: {', '.join(figures)} (.png, .svg)", err=True)
