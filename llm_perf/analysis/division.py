"""The best division of a model between a GPU and a CPU: as much on the GPU as fits, for every other setting that is tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.hardware.cpu_time import cpu_rates
from llm_perf.systems import Load, get_system, system_of
from llm_perf.systems.base import Filling
from llm_perf.systems.registry import checked_system

Aim = Literal["decode", "ttft", "mixed"]
"""What is to be fast: decode steps, the first token, or both phases together."""

_GAIN: dict[Aim, float] = {"decode": 0.01, "mixed": 0.01, "ttft": 0.02}
"""A setting that is not the default has to be faster by so much; of prompts, which are known less well, by more."""

_THREAD_BYTES_PER_S = 6e9
"""What one of many threads of a decode step reads at most: fewer than load the memory so are not tried.

43 threads of a Xeon 6980P read 5.9 GB/s each of DeepSeek-R1 in Q8_0 and make 0.86 of what 64 make (ikawrakow/ik_llama.cpp,
pull request 259), and of a dense model, of which more can be read at once, 64 and 80 make less than 128 (pull request 534).
"""
_THREADS_GAIN = 0.05
"""What fewer threads have to gain: less is below what is known of barriers."""


@dataclass(frozen=True, slots=True)
class Divided:
    """One division that fits: inputs beyond the question's own, and what both phases take."""

    flags: dict[str, Any]
    prefill_s: float
    decode_s: float

    def seconds(self, aim: Aim) -> float:
        """What an aim makes small."""
        return {"decode": self.decode_s, "ttft": self.prefill_s}.get(aim, self.prefill_s + self.decode_s)


def divisions(
    inputs: InferenceInputs,
    systems: Iterable[str],
    lossless: bool = False,
    context: int | None = None,
    defaults: bool = False,
) -> list[Divided]:
    """Divisions that fit, of all systems, in the order in which they are tried.

    ``context``: tokens that the cache has room for; those of the question if None. ``defaults``: only how much is on the
    GPU is tried, every other setting stays as it is.
    """
    found: list[Divided] = []
    for name in systems:
        try:
            base = inputs.replace(system=name)
            scenario = build_scenario(base)
        except SpecError:  # a system that cannot run this model, or no mixture
            continue
        for filling in get_system(name).fillings(scenario, lossless):
            if defaults and filling.flags:
                continue
            divided = _filled(base, filling, context)
            if divided is not None:
                found.append(Divided({"system": name} | divided.flags, divided.prefill_s, divided.decode_s))
    return found


def best(found: list[Divided], aim: Aim) -> Divided | None:
    """The fastest; an earlier one, nearer to the defaults, where a later one gains next to nothing."""
    chosen: Divided | None = None
    for one in found:
        if chosen is None or one.seconds(aim) < chosen.seconds(aim) * (1 - _GAIN[aim]):
            chosen = one
    return chosen


def with_fewer_threads(inputs: InferenceInputs, one: Divided, aim: Aim) -> Divided:
    """A division with fewer threads than the host has cores, where these are faster.

    All threads meet after every operation, and the more there are the longer that takes: past the number that keeps memory
    busy, a further one makes a token slower (DeepSeek-R1 on a Xeon 6980P: 10.0 token/s with 64 threads, 9.1 with 128).
    """
    base = inputs.replace(**one.flags)
    scenario = build_scenario(base)
    found = [one]
    for count in fewer_threads(base, scenario):
        changed = build_scenario(base.replace(threads=count))
        evaluation = system_of(changed).evaluate(changed, Load.of(changed.workload))
        decode = 0.0 if evaluation.decode is None else float(evaluation.decode.latency_s)
        found.append(Divided({**one.flags, "threads": count}, float(evaluation.prefill.latency_s), decode))
    quickest = min(found, key=lambda tried: tried.seconds(aim))
    return quickest if quickest.seconds(aim) < one.seconds(aim) * (1 - _THREADS_GAIN) else one


def fewer_threads(inputs: InferenceInputs, scenario: Scenario) -> tuple[int, ...]:
    """Numbers of threads worth trying where none is asked for: parts of a host's cores, and as few as load its memory."""
    system, cores = system_of(scenario), scenario.host.sockets * (scenario.host.cores_per_socket or 0)
    if inputs.threads is not None or "threads" not in system.options or cores < 4:
        return ()
    try:
        rates = cpu_rates(scenario.host, system.constants(scenario))
    except SpecError:  # nothing is computed on a CPU of unknown memory
        return ()
    mixture = any(group.mlp.routed_experts for group in scenario.model.layer_groups)
    read = rates.expert_bytes_per_s if mixture else rates.read_bytes_per_s
    fewest = math.ceil(read / _THREAD_BYTES_PER_S)
    counts = (3 * cores // 4, cores // 2, cores // 4, fewest)
    return tuple(sorted({count for count in counts if fewest <= count < cores}, reverse=True))


def _filled(base: InferenceInputs, filling: Filling, context: int | None) -> Divided | None:
    """The division that leaves least in host memory among those that fit; None where none does."""
    values, name = filling.values, filling.name

    def scenario_of(position: int) -> Scenario:
        own = {} if name is None else {name: values[position]}
        return build_scenario(base.replace(**(filling.flags | own)))

    position = _last(len(values), lambda index: _fits(scenario_of(index), context))
    if position is None:
        return None
    scenario = scenario_of(position)
    system, load = checked_system(scenario), Load.of(scenario.workload)
    evaluation = system.evaluate(scenario, load)
    decode = 0.0 if evaluation.decode is None else float(evaluation.decode.latency_s)
    flags = filling.flags | ({} if name is None else _said(name, values, position))
    return Divided(flags, float(evaluation.prefill.latency_s), decode)


def _said(name: str, values: range, position: int) -> dict[str, Any]:
    """The setting, left out where it means that everything is on the GPU."""
    everything = position == len(values) - 1 and name != "kt_num_gpu_experts"
    return {} if everything else {name: values[position]}


def _last(count: int, fits: Callable[[int], bool]) -> int | None:
    """The last of so many positions that fits, where all before it do."""
    if not fits(0):
        return None
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _fits(scenario: Scenario, context: int | None) -> bool:
    load = Load.of(scenario.workload)
    if context is not None:
        load = Load(load.batch, max(context - load.gen_len, load.prompt_len), load.gen_len)
    system = system_of(scenario)
    return bool(system.memory(scenario, load, system.place(scenario, load)).fits)
