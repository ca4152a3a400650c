"""Intervals of models divided between GPU and CPU: how far published rates were off when their host was in no fit."""

from __future__ import annotations

from llm_perf.analysis.calibrated import PredictionInterval, around
from llm_perf.analysis.evidence import published_widths
from llm_perf.analysis.stack_intervals import width_of_another_maker
from llm_perf.config.scenario import Scenario
from llm_perf.systems import Placement, system_of

_FILE = "hybrid_widths.yaml"


def is_divided(scenario: Scenario, placement: Placement) -> bool:
    """Whether a CPU computes a part of the model; systems that copy all that is away are others."""
    file = system_of(scenario).file
    known = file.constants.get("misses_copied")
    return known is not None and not known.value and float(placement.weights.gpu) < 1


def hybrid_interval(scenario: Scenario, seconds: tuple[float, float | None, float]) -> PredictionInterval:
    """The interval around predicted prefill, decode (None without steps) and total.

    The total's width is that of the phase that is off by more. On GPUs of a maker that none of the runs has it is no narrower
    than that of a stack there. In a part of a processor others may slow every phase down.
    """
    entries = published_widths(_FILE)["cpu" if scenario.gpu.absent else "cpu and gpu"]
    known = scenario.gpu.absent or scenario.gpu.maker in entries["makers"]
    least = 0.0 if known else width_of_another_maker()
    prefill_s, decode_s, total_s = seconds
    prefill, decode = (max(float(entries[phase]["width"]), least) for phase in ("prefill", "decode"))
    used = [entries["prefill"]] if decode_s is None else [entries["prefill"], entries["decode"]]
    return PredictionInterval.published(
        method="published runs whose CPU computes, predicted by fits without their host"
        + (
            ""
            if known
            else f", none with GPUs of {scenario.gpu.maker_in_words}: as wide as stacks under another version's constants"
        ),
        groups=min(int(entry["hosts"]) for entry in used),
        prefill_s=_beside_others(scenario, prefill_s, prefill),
        decode_s=_beside_others(scenario, decode_s, decode),
        total_s=_beside_others(scenario, total_s, prefill if decode_s is None else max(prefill, decode)),
        coverage=sum(entry["held"] for entry in used) / sum(entry["tested"] for entry in used)
        if known
        else None,
    )


def _beside_others(scenario: Scenario, seconds: float | None, width: float) -> tuple[float, float] | None:
    """The ends of an interval; in a virtual machine the slow one is where neighbours may push it."""
    found = around(seconds, width)
    if found is None or seconds is None or scenario.host.shared_cores is None:
        return found
    slowest = system_of(scenario).constants(scenario)["cpu_virtual_slowdown"]
    return found[0], max(found[1], seconds * slowest)


def shared_processor_note(scenario: Scenario, placement: Placement) -> str | None:
    """What to know of a prediction for cores of a processor whose other cores are somebody else's."""
    host = scenario.host
    if host.shared_cores is None or not is_divided(scenario, placement):
        return None
    slowest = system_of(scenario).constants(scenario)["cpu_virtual_slowdown"]
    return (
        f"host {host.name} is a virtual machine with {host.cores_per_socket} cores of a processor that has about "
        f"{host.shared_cores}: its neighbours may make it {slowest:g} times slower; llm-perf calibrate microbench --system "
        "llama_cpp measures what is left"
    )
