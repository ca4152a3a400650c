"""Throughput against latency over the batch, evaluated as one vector."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llm_perf.analysis.inference import InferenceResult
from llm_perf.analysis.sweep import InferenceSweep, refusals, sweep_inference
from llm_perf.explore.cards import table
from llm_perf.explore.drawn import view_of
from llm_perf.report.figure import MUTED, Panel, Series, amount_axis, time_axis
from llm_perf.report.looks import COLOURS
from llm_perf.report.units import count, gib, rate, seconds

_LARGEST: Final = 2**16
_BEYOND: Final = 4
"""The front goes on to so many times the largest batch that fits, to show where it ends."""


def batches(result: InferenceResult) -> npt.NDArray[np.float64]:
    """The batch that was asked for, and powers of two times what a batch must be a multiple of; at most 18."""
    scenario = result.scenario
    asked = scenario.workload.batch_size
    step = scenario.parallelism.dp_size * scenario.offload.num_gpu_batches * scenario.offload.micro_batches
    end = min(_BEYOND * max(asked, result.max_batch_size, 16), max(_LARGEST, asked))
    most = max(int(np.log2(max(end // step, 1))), 0)
    return np.unique([float(asked), *(float(step * 2**power) for power in range(most + 1))])


def front(result: InferenceResult) -> InferenceSweep:
    """The predictions at these batches, lengths unchanged."""
    scenario, workload = result.scenario, result.scenario.workload
    sizes = batches(result)
    same = np.ones_like(sizes)
    refused = refusals(scenario, sizes, workload.prompt_len * same, workload.gen_len * same)
    return sweep_inference(scenario, sizes[refused.codes < 0], workload.prompt_len, workload.gen_len)


def front_times(result: InferenceResult, found: InferenceSweep) -> tuple[str, npt.NDArray[np.float64]]:
    """The time that a front is drawn over, and its name: per token, of a pass where there is no decode."""
    if result.tpot_s is not None:
        return "time per output token", found.tpot_s
    return "latency", found.prefill_latency_s


def front_figure(result: InferenceResult) -> dict[str, Any]:
    """Throughput over the time per token (of a pass where there is no decode), a point per batch."""
    found = front(result)
    what, times = front_times(result, found)
    fits = found.feasible
    asked = found.batch_size == result.scenario.workload.batch_size
    series = (
        batch_series("fits", found, times, fits, COLOURS[0], symbol="circle", line="solid"),
        batch_series("does not fit", found, times, ~fits, MUTED, symbol="x"),
        batch_series("this batch", found, times, asked, COLOURS[3], symbol="circle", is_open=True, size=11.0),
    )
    panel = Panel(
        time_axis(what, times), amount_axis("tokens per second", found.throughput_tokens_per_s),
        [one for one in series if one.x], height=320,
        alt=f"throughput over {what} for batches {count(found.batch_size[0])} to {count(found.batch_size[-1])}",
        table=table(
            ("batch", "prefill", what, "throughput", "memory per GPU", "fits"),
            [_row(found, i, float(times[i])) for i in range(len(found))],
        ),
    )  # fmt: skip
    return view_of(panel)


def _row(found: InferenceSweep, i: int, time_s: float) -> tuple[str, ...]:
    return (
        count(found.batch_size[i]),
        seconds(float(found.prefill_latency_s[i])),
        seconds(time_s),
        rate(float(found.throughput_tokens_per_s[i])),
        gib(float(found.gpu_memory_bytes[i])),
        "yes" if found.feasible[i] else "no",
    )


def batch_series(
    name: str,
    found: InferenceSweep,
    times: npt.NDArray[np.float64],
    chosen: npt.NDArray[np.bool_],
    colour: str,
    **look: Any,
) -> Series:
    """The chosen batches as points."""
    places = np.flatnonzero(chosen)
    rates = [float(found.throughput_tokens_per_s[i]) for i in places]
    words = [
        f"batch {count(found.batch_size[i])}: {rate(tokens)}, {seconds(float(times[i]))}, "
        f"{gib(float(found.gpu_memory_bytes[i]))} per GPU, {name}"
        for i, tokens in zip(places, rates, strict=True)
    ]
    return Series(name, [float(times[i]) for i in places], rates, colour, words=words, **look)
