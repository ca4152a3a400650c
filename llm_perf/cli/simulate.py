"""``llm-perf simulate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from llm_perf.analysis.simulation import (
    NOT_OF_REQUESTS,
    Simulation,
    SimulationInputs,
    inputs_of,
    parts_of,
    simulation_of,
)
from llm_perf.cli.inputs import questions
from llm_perf.cli.options import with_options
from llm_perf.errors import DoesNotFitError, OutputError, SpecError
from llm_perf.search import axes

if TYPE_CHECKING:
    from llm_perf.analysis.request import InferenceInputs
    from llm_perf.analysis.simulation import ServiceInputs
    from llm_perf.requests.request_file import RequestFile
    from llm_perf.requests.traffic import Traffic

EXIT_DOES_NOT_KEEP_UP: Final = 3

_TABLES: Final = (".csv", ".jsonl")
_MOST_RATES: Final = 200


@click.command("simulate")
@with_options(SimulationInputs, hidden=NOT_OF_REQUESTS)
@click.option(
    "--config", "config_file", help="YAML or JSON of inputs, or an earlier --json output, to replay."
)
@click.option("--trace-out", "trace_file", help="Write one row per request into this .csv or .jsonl.")
@click.option("--timeline", "timeline_file", help="Write one row per step into this .csv or .jsonl.")
@click.option(
    "--plot", "plot_file", help="Draw latencies, batch and cache over time, or rates, into a .png or .svg."
)
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
def simulate(
    gpus: tuple[str, ...],
    config_file: str | None,
    trace_file: str | None,
    timeline_file: str | None,
    plot_file: str | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Send requests to an engine: how long each waits, and whether the engine keeps up.

    Say when requests come with --rate, --concurrency or --requests, and how long they are with --prompt-len and --gen-len.
    Machine, model and engine are described as for llm-perf infer; the engine is vllm if none is named.

    Exits with 0, with 2 for bad input, with 3 where it does not fit or requests come faster than they are served.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    tables = {"--trace-out": trace_file, "--timeline": timeline_file}
    for flag, name in tables.items():
        _check_table(flag, name)
    if trace_file and timeline_file and Path(trace_file).absolute() == Path(timeline_file).absolute():
        raise SpecError(f"--trace-out and --timeline both name {trace_file!r}: give each its own file")
    if plot_file is not None:
        from llm_perf.report.plots.style import check_plot

        check_plot(plot_file)
    rates = _rates(given)
    asked = questions(gpus, config_file, given, SimulationInputs)
    if len(asked) > 1:
        raise SpecError("simulate serves requests on one kind of GPU: give one --gpu")
    deployment, traffic = parts_of(asked[0])
    file = _file(traffic)
    swept = len(rates) > 1
    if swept:
        for flag, name in tables.items():
            if name is not None:
                raise SpecError(f"{flag} is of one simulation: give one --rate")
    try:
        found = _found(deployment, traffic, file, rates)
    except DoesNotFitError as error:
        if as_json:
            from llm_perf.report.simulate_json import unfit_object

            click.echo(json.dumps(unfit_object(inputs_of(deployment, traffic), str(error)), allow_nan=False))
        else:
            _print_unfit(deployment, str(error))
        raise
    if not swept:
        _write_tables(found[0], trace_file, timeline_file)
    if plot_file is not None:
        from llm_perf.report.simulate_plot import write_rates_plot, write_simulation_plot

        path = write_rates_plot(found, plot_file) if swept else write_simulation_plot(found[0], plot_file)
        click.echo(f"plot written to {path}", err=True)
    knee = next((one for one in reversed(found) if keeps_up(one)), None)
    _print(found, knee, swept=swept, as_json=as_json)
    return 0 if knee is not None and not _only_rejected(found) else EXIT_DOES_NOT_KEEP_UP


def _found(
    deployment: InferenceInputs, traffic: ServiceInputs, file: RequestFile | None, rates: tuple[float, ...]
) -> list[Simulation]:
    """The simulation, or one of each rate up to the knee."""
    if len(rates) <= 1:
        return [simulation_of(deployment, traffic, file)]
    found: list[Simulation] = []
    for rate in rates:
        known = found[0].capacity if found else None
        found.append(simulation_of(deployment, traffic.replace(rate=rate), file, known))
        if not keeps_up(found[-1]):  # the first that is more than the engine serves shows what happens there
            break
    return found


def keeps_up(found: Simulation) -> bool:
    """Whether the queue stays finite; a file's requests end, as a closed loop's do, however long they wait."""
    known = found.capacity
    return known is None or found.traffic.rate is None or known.keeps_up is not False


def _only_rejected(found: list[Simulation]) -> bool:
    return all(one.summary.completed == 0 for one in found)


# -- input ------------------------------------------------------------------------------------------------------


def _rates(given: dict[str, Any]) -> tuple[float, ...]:
    """The rates of a list or range, the first of which is left in what is given."""
    text = given.get("rate")
    if text is None:
        return ()
    if text.strip().lower() in ("inf", "infinity"):
        return (float("inf"),)
    rates = axes.real_range("--rate", text)
    if len(rates) > _MOST_RATES:
        raise SpecError(
            f"--rate {text!r} has {len(rates):,} values; at most {_MOST_RATES} are simulated in one go"
        )
    wrong = next((rate for rate in rates if rate <= 0), None)
    if wrong is not None:
        raise SpecError(
            f"--rate {text!r}: {wrong:g} is no rate; expected requests per second, more than 0, or inf"
        )
    given["rate"] = rates[0]
    return tuple(sorted(rates))


def _file(traffic: Traffic) -> RequestFile | None:
    from llm_perf.requests.request_file import read_requests

    if traffic.requests is None:
        return None
    return read_requests(traffic.requests, timed=traffic.rate is None and traffic.concurrency is None)


# -- output -----------------------------------------------------------------------------------------------------


def _check_table(flag: str, name: str | None) -> None:
    """Refuse a file that cannot be written before anything is computed."""
    if name is None:
        return
    path = Path(name)
    if path.suffix.lower() not in _TABLES or not path.stem:
        raise SpecError(f"{flag} {name!r}: the name must end in {' or '.join(_TABLES)}")
    if path.is_dir():
        raise OutputError(f"{flag} {name!r} is a folder")


def _write_tables(found: Simulation, trace_file: str | None, timeline_file: str | None) -> None:
    if trace_file is None and timeline_file is None:
        return
    from llm_perf.cli.output import write_paths
    from llm_perf.report.simulate_json import timeline_text, trace_text

    texts: dict[Path, str] = {}
    for name, text in ((trace_file, trace_text), (timeline_file, timeline_text)):
        if name is not None:
            path = Path(name)
            texts[path] = text(found.outcome, path.suffix.lower().removeprefix("."))
    for written in write_paths(texts):
        what = "requests" if trace_file is not None and written == Path(trace_file) else "steps"
        click.echo(f"{what} written to {written}", err=True)


def _print_unfit(deployment: InferenceInputs, reason: str) -> None:
    """The five lines of a deployment without room for a cache, with what would give it room."""
    from llm_perf.analysis.advice import changes_that_fit
    from llm_perf.analysis.inference import predict_inference
    from llm_perf.analysis.request import build_scenario, derive_parallelism
    from llm_perf.report.inference_text import print_report
    from llm_perf.report.simulate_text import unfit_report

    # A batch is what no user of requests says: one sequence per replica, of which GPUs that nothing divides are some.
    deployment = deployment.replace(batch_size=derive_parallelism(deployment).dp_size)
    changes = changes_that_fit(deployment, predict_inference(build_scenario(deployment)))
    print_report(unfit_report(reason, [one for one in changes if one.inputs.keys() <= _OF_AN_ENGINE]))


_OF_AN_ENGINE: Final = {
    "weight_format", "weight_bits", "quant_bits", "tp_size", "num_gpus", "max_num_seqs", "gpu_memory_utilization",
}  # fmt: skip
"""What a change may be of: weights that leave the GPUs are no engine's that serves requests."""


def _print(found: list[Simulation], knee: Simulation | None, *, swept: bool, as_json: bool) -> None:
    if as_json:
        from llm_perf.report.simulate_json import rates_object, simulation_object

        whole = rates_object(found, knee) if swept else simulation_object(found[0])
        click.echo(json.dumps(whole, allow_nan=False))
        return
    from llm_perf.report.inference_text import print_report
    from llm_perf.report.simulate_text import rates_report, simulation_report

    print_report(rates_report(found, knee) if swept else simulation_report(found[0]))
