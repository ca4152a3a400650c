"""``llm-perf calibrate``: the real run, and reading benchmark logs back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from llm_perf.cli.calibrate_llama_cpp import LLAMA_CPP_FLAGS, RUNNERS, with_llama_cpp_options
from llm_perf.cli.calibrate_served import Words
from llm_perf.cli.calibrate_train import TRAIN_FLAGS, run_training, with_train_options
from llm_perf.cli.options import WHOLE
from llm_perf.errors import DoesNotFitError, SpecError

_FLAG_NAMES = {"model_name": "model", "num_gpus_per_node": "num-gpus", "output_file": "log-file"}
"""Flags whose fields have another name."""

_UNSET: dict[str, Any] = {"default": None}


def _flag(name: str, help_text: str) -> Any:
    return click.option(f"--{name}/--no-{name}", **_UNSET, help=help_text)


_OPTIONS = (
    click.option("--model", "model_name", help="Bundled model, folder with config.json, or hub id."),
    _flag("dummy", "Random weights instead of real ones."),
    click.option("--loops", type=WHOLE, help="Timed repeats.  [default: 3]"),
    click.option("--warmup", type=WHOLE, help="Repeats before them.  [default: 1]"),
    click.option("--batch-size", type=WHOLE, help="Sequences over all ranks.  [default: 1]"),
    click.option("--prompt-len", type=WHOLE, help="Prompt tokens per sequence.  [default: 512]"),
    click.option("--gen-len", type=WHOLE, help="Tokens to generate per sequence.  [default: 32]"),
    _flag("pin-memory", "Page-locked host memory for weights (CUDA).  [default: on]"),
    _flag("cpu-offload", "Weights in CPU memory."),
    _flag("disk-offload", "Weights on NVMe."),
    click.option("--offload-dir", help="Folder for swap files and dummy weights."),
    _flag("kv-offload", "KV cache in CPU memory."),
    _flag("pin-kv-cache", "Page-locked KV cache (CUDA).  [default: on]"),
    _flag("async-kv-offload", "Non-blocking KV copies (CUDA)."),
    click.option("--quant-bits", type=WHOLE, help="Quantise weights to 4 or 8 bits.  [default: 16]"),
    click.option("--quant-group-size", type=WHOLE, help="Weights per group.  [default: 64]"),
    _flag("use-gds", "NVMe straight into GPU memory (GPUDirect Storage)."),
    click.option("--num-gpus", "num_gpus_per_node", type=WHOLE, help="Ranks on each machine.  [default: 1]"),
    click.option("--num-nodes", type=WHOLE, help="Machines; needs --hostfile.  [default: 1]"),
    click.option("--dtype", type=click.Choice(("auto", "fp16", "bf16", "fp32")), help="[default: auto]"),
    click.option("--device", type=click.Choice(("auto", "cuda", "cpu")), help="[default: auto]"),
    click.option(
        "--system",
        type=click.Choice(("zero_inference", "transformers", "llama_cpp", "transformers_serve")),
        help="[default: zero_inference]",
    ),
    _flag("dummy-on-disk", "Dummy weights through a checkpoint.  [default: if the disk has room]"),
    click.option("--log-file", "output_file", help='Benchmark log; "auto" names it.  [default: auto]'),
    click.option("--runs-dir", help="Folder for the JSON of each run.  [default: runs]"),
    click.option("--verbose", type=WHOLE, help="0 nothing, 1 metrics, 2 generated text too.  [default: 1]"),
    click.option("--seed", type=WHOLE, help="Of dummy weights and random prompts.  [default: 0]"),
    click.option("--profile", help="Calibrated profile of the prediction: name, file, or none."),
    _flag("allow-long-context", "Beyond the model's positions."),
    _flag("allow-concurrent", "Although another run measures here."),
)


def _with_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command("calibrate", cls=Words)
@click.option("--run", "run_it", is_flag=True, help="Run a real generation under DeepSpeed ZeRO-Inference.")
@click.option(
    "--read-log", "log_to_read", help="Read a benchmark log back: llm-perf's, DeepSpeed's or FlexGen's."
)
@click.option("--microbench", "run_microbench", is_flag=True, help="Measure products, copies, disk, … here.")
@click.option("--budget", help="Time for --microbench.  [default: 60s]")
@click.option(
    "--fit", "fit_it", is_flag=True, help="Fit a profile to RUNS: files or folders of .json, .log, .csv."
)
@click.option("--out", help="File that --microbench or --fit writes.")
@click.option("--gpu", help="GPU of the logs and tables that --fit reads.")
@click.option("--host", help="Host of them; the GPU's usual one if not given.")
@_with_options
@with_llama_cpp_options
@with_train_options
@click.option("--hostfile", help="DeepSpeed hostfile, to run on several machines.")
@click.option(
    "--local_rank", "--local-rank", type=WHOLE, hidden=True, help="Passed by launchers; RANK counts."
)
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON object.")
@click.argument("runs", nargs=-1)
def calibrate(
    run_it: bool,
    log_to_read: str | None,
    run_microbench: bool,
    budget: str | None,
    fit_it: bool,
    out: str | None,
    gpu: str | None,
    host: str | None,
    runs: tuple[str, ...],
    hostfile: str | None,
    local_rank: int | None,
    as_json: bool,
    train: bool,
    **flags: Any,
) -> int:
    """Run the real thing on this machine, and lay the prediction beside it.

    Without further options --run takes a model with random weights that fits this device and ends within two minutes. With
    --train it trains a tiny OPT for a few steps under DeepSpeed ZeRO instead, with --system llama_cpp a real llama.cpp runs.
    The words run, train, microbench, fit and read-log may stand for their flags: calibrate run --system llama_cpp. calibrate
    read-log FILE..., fit FILE... and export FILE... take results of other tools too, calibrate observe --url URL watches a
    server that runs: each has options of its own (calibrate observe --help).
    """
    del local_rank
    words = _Words.of(runs)
    runs, run_it, train = words.rest, run_it or words.run, train or words.train
    run_microbench, fit_it = run_microbench or words.microbench, fit_it or words.fit
    if words.log is not None:
        log_to_read = words.log
    given = {name: value for name, value in flags.items() if value is not None}
    modes = {"run": run_it, "read-log": log_to_read is not None, "microbench": run_microbench, "fit": fit_it}
    others = {
        "budget": budget,
        "out": out,
        "gpu": gpu,
        "host": host,
        "hostfile": hostfile,
        "train": train or None,
    }
    _check_mode(
        [name for name, wanted in modes.items() if wanted],
        [*given, *(name for name, value in others.items() if value is not None)],
    )
    if runs and not fit_it:
        raise SpecError(f"{runs[0]!r}: files of runs are for --fit")
    if log_to_read is not None:
        return print_log(log_to_read, as_json)
    if run_microbench:
        from llm_perf.cli import calibration

        return calibration.microbench(budget, out, given, as_json)
    if fit_it:
        from llm_perf.cli import calibration

        return calibration.fit(runs, out, {"gpu": gpu, "host": host}, as_json)
    if not run_it:
        raise SpecError("nothing to do: pass --run, --microbench, --fit RUNS, or --read-log FILE")
    if train:
        return run_training(given, hostfile, as_json)
    misplaced = next((name for name in TRAIN_FLAGS if name in given), None)
    if misplaced is not None:
        raise SpecError(f"--{misplaced.replace('_', '-')} describes a training run: pass --train with it")
    if given.get("system") in RUNNERS:
        return RUNNERS[given["system"]](given, hostfile, as_json)
    misplaced = next((name for name in LLAMA_CPP_FLAGS if name in given), None)
    if misplaced is not None:
        raise SpecError(
            f"--{misplaced.replace('_', '-')} describes a run of llama.cpp: pass --system llama_cpp with it"
        )
    return _run(given, hostfile, as_json)


@dataclass(frozen=True)
class _Words:
    """What a first argument means that is the name of one of the command's modes, and the arguments behind it."""

    rest: tuple[str, ...]
    run: bool = False
    train: bool = False
    microbench: bool = False
    fit: bool = False
    log: str | None = None

    @classmethod
    def of(cls, arguments: tuple[str, ...]) -> _Words:
        first, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
        if first == "read-log" and len(rest) == 1:
            return cls((), log=rest[0])
        if first in ("run", "train"):
            return cls(rest, run=True, train=first == "train")
        if first in ("microbench", "fit"):
            return cls(rest, microbench=first == "microbench", fit=first == "fit")
        return cls(arguments)


_FLAGS_OF = {
    "read-log": (),
    "microbench": (
        "device",
        "dtype",
        "offload_dir",
        "allow_concurrent",
        "budget",
        "out",
        "system",
        "runs_dir",
    ),
    "fit": ("gpu", "host", "out"),
}
_NOT_OF_A_RUN = ("budget", "out", "gpu", "host")


def _check_mode(modes: list[str], given: list[str]) -> None:
    """One thing at a time, with flags that belong to it.

    Raises:
        SpecError: two things are asked for at once, or a flag says nothing about what is.
    """
    if len(modes) > 1:
        raise SpecError(f"one at a time: --{modes[0]} or --{modes[1]}")
    mode = modes[0] if modes else ""
    known = _FLAGS_OF.get(mode)
    for name in given if modes else ():
        if name in _NOT_OF_A_RUN if known is None else name not in known:
            raise SpecError(f"--{_FLAG_NAMES.get(name, name.replace('_', '-'))} says nothing about --{mode}")


def _run(given: dict[str, Any], hostfile: str | None, as_json: bool) -> int:
    from calibrate.probe.extras import require_extra

    require_extra("llm-perf calibrate --run")
    from calibrate.run.generation import measure_fields

    fields = {"model_name": "auto"} | given
    try:
        result = measure_fields(fields, hostfile)
    except DoesNotFitError as error:
        if as_json and error.report is not None:
            click.echo(json.dumps(_without_measurement(error.report, str(error)), allow_nan=False))
        raise
    if result is None:  # not the first rank of a launcher
        return 0
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
    else:
        from calibrate.run.report import print_result

        print_result(result, result["run"]["verbose"])
    return 0


def _without_measurement(predicted: dict[str, Any], reason: str) -> dict[str, Any]:
    """The object of a run that was not made because it does not fit."""
    return {
        "schema_version": 1, "status": "does not fit", "reason": reason, "run": predicted["inputs"]["settings"],
        "measured": None, "predicted": predicted, "error": None, "benchmark_log": None,
        "predicted_benchmark_log": predicted["benchmark_log"], "log_file": None, "raw": None, "environment": None,
    }  # fmt: skip


def print_log(file: str, as_json: bool) -> int:
    """The records of a benchmark log, as they stand there."""
    from llm_perf.config import files
    from llm_perf.report.benchmark_log import parse_benchmark_log

    text = files.read_text(Path(file))
    try:
        records = [asdict(record) for record in parse_benchmark_log(text)]
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None
    if not records:
        raise SpecError(f"{file}: is empty")
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "file": file, "records": records}, allow_nan=False))
        return 0
    for number, record in enumerate(records, 1):
        click.echo(f"record {number} of {len(records)}")
        for name, value in record.items():
            if name != "extra":
                click.echo(f"  {name:<36}{'-' if value is None else value}")
        for name, value in record["extra"].items():
            click.echo(f"  {name:<36}{value}")
    return 0
