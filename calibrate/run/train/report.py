"""A training run's result as text: measured beside predicted."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from llm_perf.report.answer import Answer
from llm_perf.report.units import rate, seconds

_WIDTH = 80

_ROWS = (
    ("step time", "step_time", ("step", "latency_s"), "s", 1.0),
    ("throughput", "throughput", ("step", "throughput_tokens_per_s"), "tokens/s", 1.0),
    ("peak memory", "peak_gpu_memory", ("peak_gpu_memory_bytes",), "GiB", 1 / 2**30),
)


def print_training(result: dict[str, Any]) -> None:
    """Print the result on stdout."""
    for line in training_lines(result):
        click.echo(line)


def training_lines(result: dict[str, Any]) -> list[str]:
    """The lines of the report, at most 80 columns wide."""
    run, measured = result["run"], result["measured"]
    lines = [*training_answer(result).text.plain.splitlines(), ""]
    lines += [
        f"{run['model_name']}, {_how(run)}, {run['ranks']} x {run['device']}, {run['dtype']}",
        f"{run['micro_batch_size']} sequences of {run['seq_len']} tokens x {run['gradient_accumulation_steps']} passes "
        f"x {run['ranks']} ranks = {run['global_batch_size']} per step",
    ]
    extras = [
        name
        for name, on in (
            ("optimizer on the CPU", run["optimizer_offload"]),
            ("layers recomputed", run["recompute"]),
        )
        if on
    ]
    lines += [", ".join(extras)] * bool(extras)
    lines += ["", f"{'':<14}{'measured':>14}{'predicted':>14}{'error':>10}"]
    for label, name, path, unit, scale in _ROWS:
        pair = [_number(_at(result[side], path), scale) for side in ("measured", "predicted")]
        lines.append(f"{label:<14}{pair[0]:>14}{pair[1]:>14}{_share(result['error'][name]):>10}  {unit}")
    times = measured["step"]["spread"]
    told = [
        f"{run['steps']} timed steps from {times['min_s']:.3f} to {times['max_s']:.3f} s, "
        f"loss {measured['loss']['first']:.3f} to {measured['loss']['last']:.3f}, MFU {measured['mfu']:.1%}",
        "predicted parts of a step: " + _parts(result["predicted"]["step"]["breakdown_s"]),
    ]
    lines += ["", *_wrapped(told), f"run file {result['run_file']}"]
    return lines + _wrapped([f"warning: {warning}" for warning in result["warnings"]])


def _how(run: dict[str, Any]) -> str:
    """What trains, and what of the model."""
    names = {"fsdp": "FSDP2", "torch": "torch alone"}
    how = names.get(run["framework"], f"ZeRO stage {run['ds_zero']}")
    return how + (f", adapters of rank {run['lora_rank']}" if run["lora_rank"] else "")


def training_answer(result: dict[str, Any]) -> Answer:
    """What was measured and how far the prediction was off, in five lines."""
    measured, predicted, run = result["measured"], result["predicted"], result["run"]
    step = (measured["step"]["latency_s"], predicted["step"]["latency_s"])
    parts = sorted(predicted["step"]["breakdown_s"].items(), key=lambda part: -part[1])
    return Answer(
        fits=[f"yes. {run['steps']} steps of {run['model_name']} ran"],
        speed=[
            rate(measured["step"]["throughput_tokens_per_s"]),
            f"{seconds(step[0])} a step",
            f"MFU {measured['mfu']:.1%}",
        ],
        sure=[
            f"predicted {seconds(step[1])}, measured {seconds(step[0])} ({_share(result['error']['step_time'])})"
        ],
        bound=[
            f"{name.replace('_', ' ')} {spent / step[1]:.0%} of the predicted step"
            for name, spent in parts[:2]
        ],
        change=["llm-perf calibrate fit RUNS makes a profile of runs like this one"],
        good=True,
    )


def _wrapped(lines: list[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, _WIDTH, subsequent_indent="  ")]


def _parts(breakdown: dict[str, float]) -> str:
    total = sum(breakdown.values())
    largest = sorted(breakdown.items(), key=lambda part: -part[1])[:4]
    return ", ".join(f"{name.replace('_', ' ')} {seconds / total:.0%}" for name, seconds in largest)


def _at(values: dict[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = values
    for name in path:
        found = found[name]
    return None if found is None else float(found)


def _number(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value * scale:,.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"
