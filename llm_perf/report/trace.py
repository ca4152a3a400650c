"""The schedule of one prediction as a trace that chrome://tracing and ui.perfetto.dev open.

Format: "Trace Event Format" (Google, 2016), complete events (ph X) with times in microseconds. One process is the
prefill, one a decode step; in each a track of the steps between synchronisations and one per stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm_perf.analysis.inference import InferenceResult
from llm_perf.hardware.streams import STREAMS
from llm_perf.systems import system_of
from llm_perf.systems.passes import passes
from llm_perf.systems.schedule import Schedule, Step

_MICRO = 1e6
STEPS = "steps"
"""Track of the steps between synchronisations."""


@dataclass(frozen=True, slots=True)
class Span:
    """Work on a track from ``start_s``, ``duration_s`` long; ``where`` says in which layer, phase and batch."""

    track: str
    name: str
    start_s: float
    duration_s: float
    where: dict[str, Any]


def prediction_trace(result: InferenceResult) -> str:
    """The trace file of a prediction: prefill, and a decode step where there is one."""
    return trace_json([(name, list(spans)) for name, spans in prediction_passes(result)])


def prediction_passes(result: InferenceResult) -> Iterator[tuple[str, Iterator[Span]]]:
    """The passes of a prediction by name: spans that are made one by one, as a long schedule has millions."""
    decode = None if result.decode is None else result.decode.cost
    for name, schedule in passes(system_of(result.scenario), result.scenario, result.prefill.cost, decode):
        yield name, schedule_spans(schedule)


def schedule_spans(schedule: Schedule) -> Iterator[Span]:
    """Every step and every piece of work of a schedule with its time; for a single configuration.

    Steps follow one another without gaps, so their durations add up to the schedule's latency. Repetitions that are
    no whole number (layers of uneven pipeline stages) end with a shortened one.
    """
    now = 0.0
    for block_name, layer, step, batch, scale in _expanded(schedule):
        length = scale * float(step.duration_s)
        where = {"block": block_name, "layer": layer, "batch": batch}
        yield Span(STEPS, step.name, now, length, where)
        yield from _works(step, now, scale, where)
        now += length


def _expanded(schedule: Schedule) -> Iterator[tuple[int, int, Step, int, float]]:
    layer = 0
    for index, block in enumerate(schedule.blocks):
        for _, layer_scale in _repetitions(float(block.repeats)):
            batches: dict[str, int] = {}
            for step in block.steps:
                for _, scale in _repetitions(float(step.repeats)):
                    phase = step.name.split()[0]
                    batch = batches.get(phase, 0)
                    batches[phase] = batch + 1
                    yield index, layer, step, batch, scale * layer_scale * float(schedule.repeats)
            layer += 1


def _repetitions(count: float) -> Iterator[tuple[int, float]]:
    done = 0
    while count - done > 1e-9:
        yield done, min(1.0, count - done)
        done += 1


def _works(step: Step, begin: float, scale: float, where: dict[str, Any], inside: str = "") -> Iterator[Span]:
    """Lanes run beside each other with overlap, one after the other without.

    Where only a share of them overlaps, the first begins with the step and the others end with it.
    """
    end, now = begin + scale * float(step.duration_s), begin
    partly = not isinstance(step.overlap, bool) and 0 < float(step.overlap) < 1
    for number, (lane, elements) in enumerate(step.lanes.items()):
        length = scale * sum(float(element.seconds) for element in elements)
        if step.overlap:
            now = end - length if partly and number else begin
        name = f"{inside}{lane}"
        for element in elements:
            seconds = scale * float(element.seconds)
            if isinstance(element, Step):
                yield from _works(element, now, scale, where, f"{name}: ")
            elif seconds > 0:
                yield Span(f"{STREAMS[element.stream]} ({name})", element.label, now, seconds, where)
            now += seconds


def trace_json(passes: list[tuple[str, list[Span]]]) -> str:
    """Passes one after the other on a time line, each a process with one thread per track."""
    events: list[dict[str, Any]] = []
    begin = 0.0
    for process, (name, spans) in enumerate(passes, start=1):
        tracks = {track: number for number, track in enumerate(dict.fromkeys(span.track for span in spans))}
        events.append(_named("process_name", process, 0, name))
        events += [_named("thread_name", process, number, track) for track, number in tracks.items()]
        events += [_event(span, process, tracks[span.track], begin) for span in spans]
        begin += sum(span.duration_s for span in spans if span.track == STEPS)
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False) + "\n"


def _event(span: Span, process: int, thread: int, begin: float) -> dict[str, Any]:
    return {
        "name": span.name,
        "cat": span.track,
        "ph": "X",
        "ts": (begin + span.start_s) * _MICRO,
        "dur": span.duration_s * _MICRO,
        "pid": process,
        "tid": thread,
        "args": span.where,
    }


def _named(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
