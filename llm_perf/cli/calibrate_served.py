"""``llm-perf calibrate read-log``, ``fit`` and ``export``: files of other tools' results, read, fitted and shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from llm_perf.cli.calibrate_flags import print_object
from llm_perf.cli.options import MEAN, WHOLE
from llm_perf.errors import OutputError, SpecError

F = TypeVar("F", bound=Callable[..., Any])

_TELLING: tuple[tuple[str, str, Any, str], ...] = (
    ("model", "model", str, "Model of the runs, where their files do not say it: name or config.json."),
    ("gpu", "gpu", str, "GPU of the runs; none where a CPU computed."),
    ("system", "system", str, "Engine and version of the runs, such as vllm@0.12."),
    ("host", "machine", str, "Host, where the CPU computed or its speed is known."),
    ("num-gpus", "num_gpus", WHOLE, "GPUs of the whole deployment."),
    ("tp-size", "tp", WHOLE, "Tensor-parallel ranks."),
    ("pp-size", "pp", WHOLE, "Pipeline stages."),
    ("dp-size", "dp", WHOLE, "Data-parallel replicas."),
    ("ep-size", "ep", WHOLE, "Expert-parallel ranks."),
    ("weight-format", "weight_format", str, "Number format of the weights; as released if not given."),
    ("kv-format", "kv_format", str, "Number format of the KV cache."),
    ("max-num-seqs", "max_num_seqs", WHOLE, "Sequences that run at once at most."),
    ("max-num-batched-tokens", "max_num_batched_tokens", WHOLE, "Tokens of one step at most."),
    (
        "gpu-memory-utilization",
        "gpu_memory_utilization",
        float,
        "Share of GPU memory that the engine may use.",
    ),
    ("n-gpu-layers", "n_gpu_layers", WHOLE, "llama.cpp: layers on the GPU."),
    ("threads", "threads", WHOLE, "Threads that compute on the CPU."),
    ("prefix-hit-rate", "prefix_hit_rate", float, "Share of each prompt that was in a prefix cache."),
    ("distinct-prompts", "distinct_prompts", WHOLE, "Prompts of a batch that differ."),
    ("batch-size", "batch_size", WHOLE, "Sequences of a static batch."),
    ("concurrency", "concurrency", WHOLE, "Requests kept in flight."),
    ("rate", "rate", float, "Requests per second."),
    ("prompt-len", "prompt_len", MEAN, "Mean prompt tokens."),
    ("gen-len", "gen_len", MEAN, "Mean output tokens."),
)
"""(flag, what it tells, kind, help) of what files may leave out."""


def _telling(function: F) -> F:
    for flag, name, kind, text in reversed(_TELLING):
        function = click.option(f"--{flag}", name, type=kind, help=text)(function)
    return function


_JSON = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")


# -- read-log --------------------------------------------------------------------------------------------------------


@click.command("read-log")
@click.argument("files", nargs=-1, required=True)
@_telling
@click.option("--profile", help="Calibrated profile of the predictions: name, file, or none.")
@click.option("--out", help="Write the runs into this file, one JSON object a line.")
@_JSON
def read_log(files: tuple[str, ...], profile: str | None, out: str | None, as_json: bool, **told: Any) -> int:
    """Read results of benchmark tools, and print what is predicted beside what was measured.

    Read are vllm bench, SGLang's bench_serving and bench_one_batch, AIPerf and GenAI-Perf, GuideLLM, inference-perf,
    optimum-benchmark, llama-bench, trtllm-bench, ktransformers, Ollama, DeepSpeed and FlexGen logs, traces (CSV, JSONL), and
    Prometheus metrics of vLLM and SGLang. What a file does not say is asked for by its flag.
    """
    given = {name: value for name, value in told.items() if value is not None}
    if len(files) == 1 and not given and profile is None and out is None and _is_benchmark_log(files[0]):
        from llm_perf.cli.calibrate import print_log

        return print_log(files[0], as_json)
    from calibrate.fit.served.report import compare, read_lines, read_object

    runs = _runs(files, given)
    if profile is not None:
        from llm_perf.systems.profiles import checked_profile

        checked_profile(profile)
    compared = [compare(run, profile) for run in runs]
    if all(one.refused for one in compared):
        raise SpecError(str(compared[0].reason))
    if out is not None:
        from calibrate.evidence.benchmark_run import runs_text

        _write(out, runs_text(one.run for one in compared if not one.refused))
    if as_json:
        print_object(read_object(files, compared))
    else:
        known = None if profile in (None, "none") else "the profile may know them"
        click.echo("\n".join(read_lines(compared, known)))
    return 0


def _runs(files: Sequence[str], given: dict[str, Any]) -> list[Any]:
    from calibrate.evidence.readers import read_file
    from calibrate.fit.served.deployment import told_run

    _check_told(given)
    return [told_run(run, given) for file in files for run in read_file(file)]


def _check_told(given: dict[str, Any]) -> None:
    """Refuse numbers that no run has, also where a file goes before them."""
    flags = {name: flag for flag, name, _, _ in _TELLING}
    for name, value in given.items():
        if isinstance(value, str):
            continue
        counted = isinstance(value, int) or name in ("prompt_len", "gen_len")
        least = 0 if name in ("n_gpu_layers", "prefix_hit_rate") else 1 if counted else 1e-9
        if not least <= value <= _MOST:
            raise SpecError(f"--{flags[name]} must be {least:g} to {_MOST:g}, got {value:g}")


_MOST = 10**12
"""The largest number of anything, as for a question."""


def _is_benchmark_log(file: str) -> bool:
    """Whether a file is a log of ten figures, which states nothing that a prediction asks."""
    from calibrate.evidence.readers import logs
    from calibrate.evidence.readers.source import Source
    from llm_perf.config import files

    text = files.read_text(files.expanded(file))
    if not text.strip():
        raise SpecError(f"{file}: is empty")
    return logs.is_benchmark_log(Source(Path(file).name, text))


def _write(out: str, text: str) -> Path:
    """Write a file as a whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    from llm_perf.config import files

    path = files.expanded(out)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from None
    return path


# -- fit -------------------------------------------------------------------------------------------------------------


@click.command("fit")
@click.argument("files", nargs=-1)
@_telling
@click.option("--out", help="File of the profile, a .yaml.")
@_JSON
def fit(files: tuple[str, ...], out: str | None, as_json: bool, **told: Any) -> int:
    """Fit a profile to runs: of calibrate run and train, of calibrate observe, or of any tool that read-log reads.

    Of a tool's results the constants of the engine's version are fitted, those that the runs tell; the others stay as they
    ship. What one more run would add is said. Folders of calibrate observe may stand beside results of the same engine on
    the same machine: one fit of both.
    """
    given = {name: value for name, value in told.items() if value is not None}
    kinds = {file: _is_served(file) for file in files}
    if not any(kinds.values()):
        return _fit_runs(files, out, given, as_json)
    from calibrate.fit.observe.store import is_session

    sessions = [file for file in files if is_session(file)]
    other = next((file for file, served in kinds.items() if not served and file not in sessions), None)
    if other is not None:
        raise SpecError(
            f"{other}: is a run of llm-perf calibrate, and the others are results of a tool: fit them apart"
        )
    from calibrate.fit.profile_file import check_target

    check_target(out)
    return _fit_results([file for file in files if kinds[file]], sessions, out, given, as_json)


def _fit_results(
    files: Sequence[str], sessions: Sequence[str], out: str | None, given: dict[str, Any], as_json: bool
) -> int:
    """Results of tools, and sessions of ``calibrate observe`` beside them, as one fit."""
    from calibrate.fit.observe.results import check_same, results_of_session
    from calibrate.fit.observe.store import stored
    from calibrate.fit.profile_file import write_profile
    from calibrate.fit.served.deployment import served_of
    from calibrate.fit.served.design import additions, next_run
    from calibrate.fit.served.fit import fit_stack
    from calibrate.fit.served.profile import profile_of
    from calibrate.fit.served.report import Compared, compare, fit_lines, fit_object

    observed = [stored(folder) for folder in sessions]
    compared = [compare(run).fitted for run in _runs(files, given)]
    refused = [one for one in compared if one.refused]
    unplaced: list[Compared] = [one for one in compared if one.served is None and not one.refused]
    if unplaced:
        raise SpecError(str(unplaced[0].reason))
    served = [served_of(one.run) for one in compared if not one.refused]
    if not served:
        raise SpecError(str(refused[0].reason))
    if observed and observed[0].scenario.gpu.absent:
        from llm_perf.cli.calibration import fit_sessions_of

        return fit_sessions_of(observed, out, as_json, served)
    for session in observed:
        check_same(session.scenario, served)
        served += results_of_session(session)
    found = fit_stack(served)
    name = Path(out).stem if out is not None else found.release.replace("@", "-")
    profile = profile_of(found, name)
    path = write_profile(profile, out)
    answer = fit_object(found, profile, str(path), next_run(found), refused, additions(found))
    if as_json:
        print_object(answer)
    else:
        click.echo("\n".join(fit_lines(answer)))
        click.echo(f"profile written to {path}", err=True)
    return 0


def _is_served(file: str) -> bool:
    """Whether a file is a result of a tool; a run of llm-perf calibrate, its logs and folders are not."""
    from calibrate.evidence.readers import logs, reader_of
    from llm_perf.config import files

    path = files.expanded(file)
    if not files.is_file(path) or path.suffix == ".gz":  # a folder is one of sessions or of runs
        return path.suffix == ".gz"
    try:
        return reader_of(files.read_text(path), path.name).read is not logs.read_benchmark_log
    except SpecError:
        return False


def _fit_runs(files: tuple[str, ...], out: str | None, given: dict[str, Any], as_json: bool) -> int:
    """The fit of runs of ``calibrate run``, as ``--fit`` makes it."""
    from llm_perf.cli import calibration

    flags = {name: flag for flag, name, _, _ in _TELLING}
    misplaced = next((name for name in given if name not in ("gpu", "machine")), None)
    if misplaced is not None:
        raise SpecError(f"--{flags[misplaced]} tells of results of a benchmark tool, and these are none")
    return calibration.fit(files, out, {"gpu": given.get("gpu"), "host": given.get("machine")}, as_json)


# -- export ----------------------------------------------------------------------------------------------------------


@click.command("export")
@click.argument("files", nargs=-1, required=True)
@_telling
@click.option("--out", required=True, help="File of the contribution, a .json.")
@_JSON
def export(files: tuple[str, ...], out: str, as_json: bool, **told: Any) -> int:
    """Write runs as a file that can be shared: checked, small, and without anything personal.

    It goes to calibrate/measurements/contributed in a pull request; CONTRIBUTING.md says how.
    """
    from calibrate.evidence.contributed import contribution_text
    from calibrate.fit.served.report import compare

    if Path(out).suffix != ".json":
        raise OutputError(f"--out {out!r}: a contribution is a .json file")
    given = {name: value for name, value in told.items() if value is not None}
    compared = [compare(run).fitted for run in _runs(files, given)]
    for one in compared:
        if one.refused or one.served is None:
            raise SpecError(str(one.reason))
    path = _write(out, contribution_text([one.run for one in compared]))
    if as_json:
        print_object({"schema_version": 1, "file": str(path), "runs": len(compared)})
    else:
        click.echo(f"{len(compared)} runs written to {path}: look through it, then add it in a pull request")
    return 0


COMMANDS: dict[str, click.Command] = {"read-log": read_log, "fit": fit, "export": export}
"""What stands as a first word behind ``calibrate``."""
