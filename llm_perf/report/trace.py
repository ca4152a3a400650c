"""The schedule of one prediction as a trace that chrome://tracing and ui.perfetto.dev open.

Format: "Trace Event Format" (Google, 2016), complete events (ph X) with times in microseconds. One process is the
prefill, one the first decode step; in each a track of the steps between synchronisations and one per stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llm_perf.analysis.inference import InferenceResult, Phase
from llm_perf.config.scenario import Scenario
from llm_perf.hardware.streams import STREAMS
from llm_perf.systems import Load, System, system_of
from llm_perf.systems.schedule import Schedule, Step

_MICRO = 1e6
STEPS = "steps"
"""Track of the steps between synchronisations, or of the parts of a phase."""
BUSY = "(busy)"
"""What tracks end with that show how long a resource is busy in a whole pass, not when."""


@runtime_checkable
class Scheduled(Protocol):
    """A system that can show its schedule."""

    def schedules(self, scenario: Scenario, load: Load) -> tuple[Schedule, Schedule]:
        """The prefill's and the first decode step's."""


@dataclass(frozen=True, slots=True)
class Span:
    """Work on a track from ``start_s``, ``duration_s`` long; ``where`` says in which layer, phase and batch."""

    track: str
    name: str
    start_s: float
    duration_s: float
    where: dict[str, Any]


def prediction_trace(result: InferenceResult) -> str:
    """The trace file of a prediction: prefill, and the first decode step where there is one.

    A system without a schedule of its own shows the parts of its phases one after the other.
    """
    return trace_json([(name, list(spans)) for name, spans in prediction_passes(result)])


def prediction_passes(result: InferenceResult) -> Iterator[tuple[str, Iterator[Span]]]:
    """The passes of a prediction by name: spans that are made one by one, as a long schedule has millions."""
    scenario, workload = result.scenario, result.scenario.workload
    system = system_of(scenario)
    if isinstance(system, Scheduled):
        load = Load(float(workload.batch_size), float(workload.prompt_len), float(workload.gen_len))
        prefill, step = system.schedules(scenario, load)
        yield "prefill", schedule_spans(prefill)
        if result.decode is not None:
            yield "decode step 1", schedule_spans(step)
    else:
        yield "prefill", _phase_spans(system, result.prefill, 1)
        if result.decode is not None:
            steps = workload.gen_len - 1
            yield f"decode step (mean of {steps})", _phase_spans(system, result.decode, steps)


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


def _phase_spans(system: System, phase: Phase, steps: int) -> Iterator[Span]:
    now = 0.0
    for name, seconds in phase.breakdown_s.items():
        yield Span(STEPS, name, now, seconds / steps, {})
        now += seconds / steps
    for name, seconds in phase.busy_s.items():
        if seconds > 0:
            title = STREAMS.get(name) or system.resource_title(name)
            yield Span(f"{title} {BUSY}", name, 0.0, seconds / steps, {})


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
