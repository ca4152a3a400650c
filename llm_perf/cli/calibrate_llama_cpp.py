"""``llm-perf calibrate run --system llama_cpp``: a real llama.cpp on this machine's CPU beside its prediction."""

from __future__ import annotations

from typing import Any

import click

from llm_perf.cli.calibrate_flags import check_flags, run_and_print
from llm_perf.cli.calibrate_serve import TRANSFORMERS_SERVE, run_transformers_serve
from llm_perf.cli.options import WHOLE
from llm_perf.errors import SpecError

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
    known = (*LLAMA_CPP_FLAGS, *_SHARED)
    why = "means nothing with --system llama_cpp, which runs one sequence on this machine's CPU"
    check_flags(fields, known, _IMPLIED, why)
    if hostfile is not None:
        raise SpecError("--hostfile means nothing with --system llama_cpp, which runs on this machine")
    from calibrate.run.llama_cpp.session import measure_llama_cpp
    from calibrate.run.llama_cpp.settings import LlamaCppSettings

    settings = LlamaCppSettings(**{name: value for name, value in fields.items() if name in known})

    def show(found: dict[str, Any]) -> None:
        from calibrate.run.llama_cpp.report import print_llama_cpp

        print_llama_cpp(found, settings.verbose)

    return run_and_print(lambda: measure_llama_cpp(settings), show, as_json, settings.model_dump())


RUNNERS = {LLAMA_CPP: run_llama_cpp, TRANSFORMERS_SERVE: run_transformers_serve}
"""How a system is run that is no mode of the usual run, by its name."""
