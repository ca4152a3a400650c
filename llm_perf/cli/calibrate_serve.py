"""``llm-perf calibrate run --system transformers_serve``: transformers' own server on this machine's CPU."""

from __future__ import annotations

import json
from typing import Any

import click

from llm_perf.errors import SpecError

TRANSFORMERS_SERVE = "transformers_serve"
_FLAGS = (
    "model_name", "batch_size", "prompt_len", "gen_len", "loops", "warmup", "threads", "offload_dir", "runs_dir", "verbose",
    "seed", "profile", "allow_concurrent",
)  # fmt: skip
_IMPLIED = {"dummy": True, "num_nodes": 1, "num_gpus_per_node": 1, "device": "cpu", "dtype": "bf16"}
"""Flags of another run that may be given where they say what this one is anyway."""
_NAMES = {"model_name": "model", "output_file": "log-file", "num_gpus_per_node": "num-gpus"}


def run_transformers_serve(given: dict[str, Any], hostfile: str | None, as_json: bool) -> int:
    """Serve as the flags say and print the result.

    Raises:
        LLMPerfError: a flag that means nothing here, or what the run raises.
    """
    fields = {name: value for name, value in given.items() if name != "system"}
    for name, value in fields.items():
        if name not in _FLAGS and _IMPLIED.get(name) != value:
            raise SpecError(
                f"--{_NAMES.get(name, name.replace('_', '-'))} means nothing with --system {TRANSFORMERS_SERVE}, which "
                "serves random weights in 16 bits on this machine's CPU"
            )
    if hostfile is not None:
        raise SpecError(
            f"--hostfile means nothing with --system {TRANSFORMERS_SERVE}, which runs on this machine"
        )
    from calibrate.run.serve.served_run import ServedRunSettings, measure_served, print_served

    found = measure_served(
        ServedRunSettings(**{name: value for name, value in fields.items() if name in _FLAGS})
    )
    if as_json:
        click.echo(json.dumps(found, allow_nan=False))
    else:
        print_served(found)
    return 0
