"""``llm-perf calibrate run --system llama_cpp``: a real llama.cpp on this machine's CPU beside its prediction."""

from __future__ import annotations

import json
from typing import Any

import click

from llm_perf.cli.calibrate_serve import TRANSFORMERS_SERVE, run_transformers_serve
from llm_perf.cli.options import WHOLE
from llm_perf.errors import DoesNotFitError, SpecError

LLAMA_CPP = "llama_cpp"

_OPTIONS = (
    click.option(
        "--weight-format", help="llama_cpp: of random weights: fp16, q8_0, q4_k_m, …  [default: q4_k_m]"
    ),
    click.option(
        "--threads", type=WHOLE, help="llama_cpp, transformers_serve: threads.  [default: all cores]"
    ),
    click.option("--ubatch-size", type=WHOLE, help="llama_cpp: prompt tokens per pass.  [default: 512]"),
)
LLAMA_CPP_FLAGS = ("weight_format", "threads", "ubatch_size")
"""Flags that only a run of llama.cpp has."""
_SHARED = (
    "model_name", "prompt_len", "gen_len", "loops", "warmup", "offload_dir", "output_file", "runs_dir", "verbose", "seed",
    "profile", "allow_long_context", "allow_concurrent",
)  # fmt: skip
_IMPLIED = {"dummy": True, "batch_size": 1, "num_nodes": 1, "num_gpus_per_node": 1, "device": "cpu"}
"""Flags of another run that may be given where they say what this one is anyway."""
_NAMES = {"model_name": "model", "output_file": "log-file", "num_gpus_per_node": "num-gpus"}


def with_llama_cpp_options(function: Any) -> Any:
    """Add the options of a run of llama.cpp to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def run_llama_cpp(given: dict[str, Any], hostfile: str | None, as_json: bool) -> int:
    """Run llama.cpp as the flags say and print the result.

    Raises:
        LLMPerfError: a flag that means nothing here, or what the run raises.
    """
    fields = {name: value for name, value in given.items() if name != "system"}
    for name, value in fields.items():
        if name not in (*LLAMA_CPP_FLAGS, *_SHARED) and _IMPLIED.get(name) != value:
            raise SpecError(
                f"--{_NAMES.get(name, name.replace('_', '-'))} means nothing with --system llama_cpp, which runs one "
                "sequence on this machine's CPU"
            )
    if hostfile is not None:
        raise SpecError("--hostfile means nothing with --system llama_cpp, which runs on this machine")
    from calibrate.run.llama_cpp.session import measure_llama_cpp
    from calibrate.run.llama_cpp.settings import LlamaCppSettings

    known = {name: value for name, value in fields.items() if name in (*LLAMA_CPP_FLAGS, *_SHARED)}
    settings = LlamaCppSettings(**known)
    try:
        result = measure_llama_cpp(settings)
    except DoesNotFitError as error:
        if as_json and error.report is not None:
            found = _without_measurement(settings.model_dump(), error.report, str(error))
            click.echo(json.dumps(found, allow_nan=False))
        raise
    if as_json:
        click.echo(json.dumps(result, allow_nan=False))
    else:
        from calibrate.run.llama_cpp.report import print_llama_cpp

        print_llama_cpp(result, settings.verbose)
    return 0


RUNNERS = {LLAMA_CPP: run_llama_cpp, TRANSFORMERS_SERVE: run_transformers_serve}
"""How a system is run that is no mode of the usual run, by its name."""


def _without_measurement(run: dict[str, Any], predicted: dict[str, Any], reason: str) -> dict[str, Any]:
    """The object of a run that was not made because it does not fit."""
    return {
        "schema_version": 1, "status": "does not fit", "reason": reason, "run": run, "measured": None,
        "predicted": predicted, "error": None, "benchmark_log": None,
        "predicted_benchmark_log": predicted["benchmark_log"], "log_file": None, "raw": None, "environment": None,
    }  # fmt: skip
