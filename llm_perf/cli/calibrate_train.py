"""``llm-perf calibrate train``: a few real steps of training beside their prediction."""

from __future__ import annotations

from typing import Any

import click

from llm_perf.cli.calibrate_flags import check_flags, named, run_and_print
from llm_perf.errors import SpecError

_OPTIONS = (
    click.option("--train", is_flag=True, help="With --run: train for a few steps instead of generating."),
    click.option("--ds-zero", type=int, help="ZeRO stage of a training run, 0 to 3.  [default: 2]"),
    click.option(
        "--framework",
        type=click.Choice(("deepspeed", "fsdp", "torch")),
        help="What trains: DeepSpeed, FSDP2, or torch alone.  [default: deepspeed]",
    ),
    click.option(
        "--lora-rank", type=int, help="Rank of adapters (peft) that are trained instead of the weights."
    ),
    click.option(
        "--clock",
        type=click.Choice(("wall", "cpu")),
        help="cpu: one thread per rank, CPU seconds, for a machine that others use too.  [default: wall]",
    ),
    click.option("--micro-batch-size", type=int, help="Sequences per rank and pass.  [default: 1]"),
    click.option("--gradient-accumulation-steps", type=int, help="Passes per step.  [default: 1]"),
    click.option("--seq-len", type=int, help="Tokens per sequence of a training run.  [default: 128]"),
    click.option("--steps", type=int, help="Timed steps of a training run.  [default: 5]"),
    click.option(
        "--optimizer-offload", is_flag=True, default=None, help="Optimizer on the CPU (ZeRO-Offload)."
    ),
    click.option("--recompute", is_flag=True, default=None, help="Recompute layers in the backward pass."),
)
TRAIN_FLAGS = (
    "ds_zero",
    "framework",
    "lora_rank",
    "clock",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "seq_len",
    "steps",
    "optimizer_offload",
    "recompute",
)
"""Flags that only a training run has."""
TRAIN_SHARED = (
    "model_name",
    "warmup",
    "num_gpus_per_node",
    "dtype",
    "device",
    "runs_dir",
    "verbose",
    "seed",
    "allow_long_context",
    "allow_concurrent",
)
_IMPLIED = {"dummy": True, "num_nodes": 1}
"""Flags of a generation that may be given where they say what a training run is anyway."""


def with_train_options(function: Any) -> Any:
    """Add the options of a training run to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def run_training(given: dict[str, Any], hostfile: str | None, as_json: bool) -> int:
    """Train as the flags say and print the result.

    Raises:
        LLMPerfError: a flag that means nothing here, or what the run raises.
    """
    known = {*TRAIN_FLAGS, *TRAIN_SHARED}
    check_flags(given, known, _IMPLIED, f"is for a generation and means nothing with {named('train')}")
    if hostfile is not None:
        raise SpecError("--hostfile is for a generation: a training run has all its ranks on one machine")
    if "ds_zero" in given and given.get("framework", "deepspeed") != "deepspeed":
        raise SpecError(f"--ds-zero is DeepSpeed's: --framework {given['framework']} has no stages")
    from calibrate.probe.extras import require_extra

    require_extra("llm-perf calibrate train")
    from calibrate.run.model_config import TINY_MODEL
    from calibrate.run.train.settings import TrainRunSettings
    from calibrate.run.train.training import measure_training

    fields = {name: value for name, value in given.items() if name in known}
    settings = TrainRunSettings(**({"model_name": TINY_MODEL} | fields))

    def show(found: dict[str, Any]) -> None:
        if settings.verbose:
            from calibrate.run.train.report import print_training

            print_training(found)

    return run_and_print(lambda: measure_training(settings), show, as_json, settings.model_dump())
