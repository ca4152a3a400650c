"""``llm-perf calibrate run --system transformers_serve``: transformers' own server on this machine's CPU."""

from __future__ import annotations

from typing import Any

from llm_perf.cli.calibrate_flags import check_flags, run_and_print
from llm_perf.errors import SpecError

TRANSFORMERS_SERVE = "transformers_serve"
_FLAGS = (
    "model_name", "batch_size", "prompt_len", "gen_len", "loops", "warmup", "threads", "offload_dir", "runs_dir", "verbose",
    "seed", "profile", "allow_concurrent",
)  # fmt: skip
_IMPLIED = {"dummy": True, "num_nodes": 1, "num_gpus_per_node": 1, "device": "cpu", "dtype": "bf16"}
"""Flags of another run that may be given where they say what this one is anyway."""


def run_transformers_serve(given: dict[str, Any], hostfile: str | None, as_json: bool) -> int:
    """Serve as the flags say and print the result.

    Raises:
        LLMPerfError: a flag that means nothing here, or what the run raises.
    """
    fields = {name: value for name, value in given.items() if name != "system"}
    why = f"means nothing with --system {TRANSFORMERS_SERVE}, which serves random weights in 16 bits on this machine's CPU"
    check_flags(fields, _FLAGS, _IMPLIED, why)
    if hostfile is not None:
        raise SpecError(
            f"--hostfile means nothing with --system {TRANSFORMERS_SERVE}, which runs on this machine"
        )
    from calibrate.run.serve.served_run import ServedRunSettings, measure_served, print_served

    settings = ServedRunSettings(**{name: value for name, value in fields.items() if name in _FLAGS})
    return run_and_print(lambda: measure_served(settings), print_served, as_json)
