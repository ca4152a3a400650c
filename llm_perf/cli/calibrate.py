"""``llm-perf calibrate``: the real run, and reading benchmark logs back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import click

from llm_perf.cli.calibrate_flags import flag_of, named, print_object, run_and_print, with_words
from llm_perf.cli.calibrate_llama_cpp import LLAMA_CPP_FLAGS, RUNNERS, with_llama_cpp_options
from llm_perf.cli.calibrate_served import COMMANDS
from llm_perf.cli.calibrate_train import TRAIN_FLAGS, TRAIN_SHARED, run_training, with_train_options
from llm_perf.cli.options import WHOLE
from llm_perf.errors import SpecError

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


class Words(click.Command):
    """A command whose first argument may be a word, which then takes the others with options of its own."""

    @property
    def words(self) -> dict[str, click.Command]:
        """The commands that stand as a first word."""
        from llm_perf.cli.calibrate_observe import observe

        return {**_MODES, **COMMANDS, observe.name or "": observe}

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the word's command; of this one where a flag of it is given that the word's has not.

        It says what is wrong with that flag, or takes what it took before its words had commands of their own.
        """
        from llm_perf.cli.completion import with_names

        word = self.words.get(args[0]) if args else None
        if word is None:
            return super().make_context(info_name, args, parent, **extra)
        try:
            return with_words(
                with_names(word).make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
            )
        except click.NoSuchOption as error:
            if not any(error.option_name in option.opts + option.secondary_opts for option in self.params):
                raise
        return with_words(super().make_context(info_name, args, parent, **extra))


def _words_begun(context: click.Context, argument: click.Parameter, begun: str) -> list[str]:
    """What TAB offers for the first word."""
    words = context.command.words if isinstance(context.command, Words) else {}
    return (
        [] if context.params.get(argument.name or "") else [word for word in words if word.startswith(begun)]
    )


@click.command("calibrate", cls=Words)
@click.option("--run", "run_it", is_flag=True, help="Run a real generation under DeepSpeed ZeRO-Inference.")
@click.option(
    "--read-log", "log_to_read", help="Read a benchmark log back: llm-perf's, DeepSpeed's or FlexGen's."
)
@click.option("--microbench", "run_microbench", is_flag=True, help="Measure products, copies, disk, … here.")
@click.option("--budget", help="Time for the microbenchmarks.  [default: 60s]")
@click.option(
    "--fit", "fit_it", is_flag=True, help="Fit a profile to RUNS: files or folders of .json, .log, .csv."
)
@click.option("--out", help="File that the microbenchmarks or a fit write.")
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
@click.argument("runs", nargs=-1, shell_complete=_words_begun)
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
    The first word may be run, train or microbench instead of its flag; read-log FILE..., fit FILE... or export FILE..., which
    take results of other tools too, or observe --url URL, which watches a server that runs: each has its own options and
    help (calibrate train --help).
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
    known = ", ".join(Words("calibrate").words)
    if runs and not fit_it:
        raise SpecError(f"{runs[0]!r}: files of runs are for {named('fit')}; the first word may be {known}")
    if log_to_read is not None:
        return print_log(log_to_read, as_json)
    if run_microbench:
        from llm_perf.cli import calibration

        return calibration.microbench(budget, out, given, as_json)
    if fit_it:
        from llm_perf.cli import calibration

        return calibration.fit(runs, out, {"gpu": gpu, "host": host}, as_json)
    if not run_it:
        raise SpecError(f"nothing to do: the first word may be {known}")
    if train:
        return run_training(given, hostfile, as_json)
    misplaced = next((name for name in TRAIN_FLAGS if name in given), None)
    if misplaced is not None:
        raise SpecError(f"{flag_of(misplaced)} describes a training run, which {named('train')} makes")
    if given.get("system") in RUNNERS:
        return RUNNERS[given["system"]](given, hostfile, as_json)
    misplaced = next((name for name in LLAMA_CPP_FLAGS if name in given), None)
    if misplaced is not None:
        raise SpecError(f"{flag_of(misplaced)} describes a run of llama.cpp: pass --system llama_cpp with it")
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
        raise SpecError(f"one at a time: {named(modes[0])} or {named(modes[1])}")
    mode = modes[0] if modes else ""
    known = _FLAGS_OF.get(mode)
    for name in given if modes else ():
        if name in _NOT_OF_A_RUN if known is None else name not in known:
            raise SpecError(f"{flag_of(name)} says nothing about {named(mode)}")


def _run(given: dict[str, Any], hostfile: str | None, as_json: bool) -> int:
    from calibrate.probe.extras import require_extra

    require_extra("llm-perf calibrate run")
    from calibrate.run.generation import measure_fields

    fields = {"model_name": "auto"} | given

    def show(found: dict[str, Any]) -> None:
        from calibrate.run.report import print_result

        print_result(found, found["run"]["verbose"])

    return run_and_print(lambda: measure_fields(fields, hostfile), show, as_json)


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
        print_object({"schema_version": 1, "file": file, "records": records})
        return 0
    for number, record in enumerate(records, 1):
        click.echo(f"record {number} of {len(records)}")
        for name, value in record.items():
            if name != "extra":
                click.echo(f"  {name:<36}{'-' if value is None else value}")
        for name, value in record["extra"].items():
            click.echo(f"  {name:<36}{value}")
    return 0


def _mode(name: str, wanted: Collection[str], text: str) -> click.Command:
    """A word as a command of its own: the options above that go with it, and what they do there."""
    asks = cast("Callable[..., int]", calibrate.callback)

    def run(**given: Any) -> int:
        asked: dict[str, Any] = {str(parameter.name): None for parameter in calibrate.params}
        return asks(**(asked | given | _MEANS[name]))

    options = [one for one in calibrate.params if one.name in {*wanted, "as_json"}]
    files = click.Argument(["runs"], nargs=-1, metavar="")  # refused with what they are for
    return click.Command(name, params=[*options, files], callback=run, help=text)


_MEANS = {
    "run": {"run_it": True},
    "train": {"run_it": True, "train": True},
    "microbench": {"run_microbench": True},
}
"""What a word stands for."""
_OF_OTHERS = {
    "run_it", "log_to_read", "run_microbench", "fit_it", "train", "runs", *_NOT_OF_A_RUN, *TRAIN_FLAGS,
}  # fmt: skip
_MODES = {
    "run": _mode(
        "run",
        {str(one.name) for one in calibrate.params} - _OF_OTHERS,
        "Run a real generation on this machine, and lay the prediction beside it.\n\nWithout options a model with random "
        "weights that fits this device, within two minutes; with --system llama_cpp a real llama.cpp.",
    ),
    "train": _mode(
        "train",
        {*TRAIN_FLAGS, *TRAIN_SHARED, "local_rank"},
        "Train for a few real steps on this machine, and lay the prediction beside them.\n\nWithout options a tiny OPT under "
        "DeepSpeed ZeRO.",
    ),
    "microbench": _mode(
        "microbench",
        _FLAGS_OF["microbench"],
        "Measure products, attention, copies and disk of this machine, for calibrate fit.\n\nWith --system llama_cpp a probe "
        "of its CPU under llama.cpp, which ends in a profile.",
    ),
}
