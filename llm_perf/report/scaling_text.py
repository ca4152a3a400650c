"""Scaling over batch, prompt length and GPUs: as text for people and as plain JSON types."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_perf.analysis.scaling import Curve, Scaling
from llm_perf.report.inference_json import SCHEMA_VERSION, finite
from llm_perf.report.units import count, seconds


def scaling_report(scaling: Scaling) -> RenderableType:
    """One row per number of GPUs and prompt length, readable at 80 columns."""
    inputs = scaling.inputs
    heading = Text.assemble((inputs.model, "bold"), " on ", (inputs.gpu, "bold"))
    heading.append(f"; system {inputs.system or 'resident'}, generate {inputs.gen_len}\n")
    left_out = [Text(f"Left out: {reason}") for _, reason in scaling.left_out]
    return Group(heading, _thresholds(scaling), Text(), _curves(scaling), Text(), *left_out, _legend())


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _thresholds(scaling: Scaling) -> RenderableType:
    table = _table("GPUs", "pivot (tokens)", "prefill grows from (tokens)", "decode grows from (batch)")
    for found in scaling.thresholds:
        if found is None:
            return Text("No thresholds: the system moves tensors between memories.")
        decode = "-" if found.decode_batch is None else count(round(found.decode_batch))
        table.add_row(
            str(found.num_gpus), count(round(found.pivot_tokens)), count(round(found.prefill_tokens)), decode
        )
    return table


def _curves(scaling: Scaling) -> Table:
    table = _table("GPUs", "prompt", "latency, batch 1", "worthwhile batch", "latency", "token/s", "per GPU")
    for curve in scaling.curves:
        table.add_row(str(curve.tp_size), str(curve.prompt_len), *_cells(curve))
    return table


def _cells(curve: Curve) -> tuple[str, ...]:
    best = curve.worthwhile_batch
    if best is None:
        return "does not fit", "-", "-", "-", "-"
    at = int((curve.batch_size == best).argmax())
    tokens = float(curve.throughput_tokens_per_s[at])
    return (
        seconds(float(curve.latency_s[0])),
        count(best),
        seconds(float(curve.latency_s[at])),
        f"{tokens:,.4g}" if tokens < 1000 else f"{tokens:,.0f}",
        f"{tokens / curve.tp_size:,.4g}"
        if tokens / curve.tp_size < 1000
        else f"{tokens / curve.tp_size:,.0f}",
    )


def _legend() -> Text:
    return Text(
        "Below a threshold, batch x prompt hardly changes latency. The worthwhile batch is the smallest that fits and "
        "gives 80 % of the best throughput."
    )


def scaling_object(scaling: Scaling) -> dict[str, Any]:
    """Everything as plain JSON types. Keys are only ever added."""
    found = {
        "schema_version": SCHEMA_VERSION,
        "inputs": scaling.inputs.model_dump(),
        "thresholds": [None if entry is None else asdict(entry) for entry in scaling.thresholds],
        "curves": [_curve(curve) for curve in scaling.curves],
        "left_out": [{"tp_size": size, "reason": reason} for size, reason in scaling.left_out],
    }
    return finite(found)  # type: ignore[no-any-return]


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "tp_size": curve.tp_size,
        "prompt_len": curve.prompt_len,
        "batch_size": curve.batch_size.tolist(),
        "latency_s": curve.latency_s.tolist(),
        "throughput_tokens_per_s": curve.throughput_tokens_per_s.tolist(),
        "throughput_per_gpu_tokens_per_s": curve.throughput_per_gpu.tolist(),
        "gpu_memory_bytes": curve.memory_bytes.tolist(),
        "fits": curve.fits.tolist(),
        "worthwhile_batch": curve.worthwhile_batch,
    }
