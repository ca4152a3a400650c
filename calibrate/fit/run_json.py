"""The JSON of `llm-perf calibrate --run` as an observation; whatever is wrong in it is one line with file and field."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from statistics import median
from typing import Any

from calibrate.fit.observation import Observation, Rejected, needed, positive
from llm_perf.config.calibration import CalibratedMachine
from llm_perf.config.scenario import Scenario
from llm_perf.errors import LLMPerfError, SpecError

LEAST_ACCEPTED = 3
"""Repeats that have to be left without others' work; of runs with fewer repeats all of them."""

_SUM_TOLERANCE = 0.02
"""How far prefill and decode may be from the total: medians are taken of the first and the last."""


def run_observation(record: Mapping[str, Any], source: str) -> Observation | Rejected:
    """A run's JSON as an observation; rejected where others disturbed too many of its repeats.

    Raises:
        SpecError: it is no finished run, or a value in it cannot be.
    """
    status = record.get("status")
    if "run" not in record or "raw" not in record:
        raise SpecError(
            f"{source}: is no run of llm-perf calibrate: field {'run' if 'run' not in record else 'raw'} is missing; "
            "results of vllm bench and other tools are read by llm-perf calibrate read-log"
        )
    if status != "done":
        raise SpecError(f"{source}: status: the run is not done, it is {status!r}")
    loops = needed(record, source, "raw", "loops")
    if not isinstance(loops, list) or not loops:
        raise SpecError(f"{source}: raw.loops: no repeat was measured")
    for number, loop in enumerate(loops):
        _check_loop(loop, f"raw.loops[{number}]", source)
    scenario = scenario_of_record(record, source)
    calm = [loop for loop in loops if not loop.get("disturbed")]
    if len(calm) < min(LEAST_ACCEPTED, len(loops)):
        worst = max(loop.get("others_cores") or 0.0 for loop in loops)
        return Rejected(
            source,
            f"{len(loops) - len(calm)} of {len(loops)} repeats ran while others used the machine's cores "
            f"(up to {worst:.2f} cores): {len(calm)} are left, {min(LEAST_ACCEPTED, len(loops))} are needed",
        )
    prefill = median(loop["prefill_s"] for loop in calm)
    total = median(loop["total_s"] for loop in calm)
    measured = {"prefill": prefill, "total": total}
    if scenario.workload.gen_len > 1:
        if total <= prefill:
            raise SpecError(
                f"{source}: raw.loops: total_s = {total:g} leaves nothing for {scenario.workload.gen_len - 1} decode "
                f"steps after prefill_s = {prefill:g}"
            )
        measured["decode"] = total - prefill
    content = json.dumps(loops, sort_keys=True).encode()
    return Observation(
        source=source,
        group=str(needed(record, source, "run", "model_name")),
        scenario=scenario,
        measured_s=measured,
        machine=run_machine(record, source),
        accepted=len(calm),
        rejected=len(loops) - len(calm),
        digest=hashlib.sha256(content).hexdigest()[:16],
        facts=needed(record, source, "machine"),
    )


def _check_loop(loop: Any, where: str, source: str) -> None:
    if not isinstance(loop, Mapping):
        raise SpecError(f"{source}: {where}: expected the object of a repeat, found {type(loop).__name__}")
    prefill = positive(source, f"{where}.prefill_s", loop.get("prefill_s"))
    total = positive(source, f"{where}.total_s", loop.get("total_s"))
    if total < prefill * (1 - _SUM_TOLERANCE):
        raise SpecError(f"{source}: {where}.total_s = {total:g} is less than its prefill_s = {prefill:g}")
    steps = loop.get("decode_steps_s") or []
    if not isinstance(steps, list):
        raise SpecError(f"{source}: {where}.decode_steps_s = {steps!r}: expected a list of seconds")
    for number, step in enumerate(steps):
        positive(source, f"{where}.decode_steps_s[{number}]", step)
    # A unit that slipped, in one of the fields: the parts cannot be more than the whole.
    if steps and prefill + sum(steps) > total * (1 + _SUM_TOLERANCE) + 0.05:
        raise SpecError(
            f"{source}: {where}: prefill_s and decode_steps_s add up to {prefill + sum(steps):g} s, total_s is {total:g}: "
            "is one of them in another unit?"
        )
    others = loop.get("others_cores")
    if others is not None:
        positive(source, f"{where}.others_cores", others, zero=True, unit=" of cores")
    wall = loop.get("wall_s")
    if wall is not None and not 0.5 < positive(source, f"{where}.wall_s", wall) / total < 2 + 1 / total:
        raise SpecError(
            f"{source}: {where}.total_s = {total:g} but the repeat lasted wall_s = {wall:g} s: is one in another unit?"
        )


def scenario_of_record(record: Mapping[str, Any], source: str, own_overhead: bool = False) -> Scenario:
    """What predicts a run, before any profile; with ``own_overhead`` the framework's time that the run measured first.

    Raises:
        SpecError: a part of it is missing or cannot be.
    """
    from calibrate.probe.local_machine import LocalMachine
    from calibrate.run.layer_overhead import LayerOverhead
    from calibrate.run.llama_cpp import SYSTEM as LLAMA_CPP
    from calibrate.run.prediction import build_run_scenario
    from calibrate.run.settings import RunSettings
    from llm_perf.config.gpu import GPUConfig
    from llm_perf.config.host import HostConfig
    from llm_perf.config.loading import get_model_config_by_name
    from llm_perf.counts.linears import layer_linears
    from llm_perf.counts.parameters import token_table_params

    run, machine = needed(record, source, "run"), needed(record, source, "machine")
    if not isinstance(run, Mapping):
        raise SpecError(f"{source}: run = {run!r}: expected the settings of a run")
    try:
        if run.get("system") == LLAMA_CPP:
            from calibrate.run.llama_cpp.prediction import scenario_of_run

            return scenario_of_run(run, machine)
        known = {name: value for name, value in run.items() if name in RunSettings.model_fields}
        settings = RunSettings(**(known | {"profile": None}))
        model = get_model_config_by_name(settings.model_name)
        gpu = GPUConfig(**_numbered(needed(machine, source, "gpu")))
        host = HostConfig(**needed(machine, source, "host"))
        matrices = [
            x.weights for group in model.layer_groups for x in layer_linears(group, model.hidden_size)
        ]
        largest = max([*matrices, token_table_params(model)])
        overhead = None
        if own_overhead and machine.get("layer_overhead_s") is not None:
            overhead = LayerOverhead(machine["layer_overhead_s"], machine.get("pass_overhead_s") or 0.0)
        return build_run_scenario(
            settings,
            model,
            LocalMachine(gpu, host),
            str(run["dtype"]),
            str(run["device"]),
            largest,
            overhead,
            machine.get("unpack_s_per_weight") if own_overhead else None,
        )
    except (LLMPerfError, KeyError, TypeError) as error:
        said = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise SpecError(f"{source}: run: {said}") from None


def _numbered(gpu: dict[str, Any]) -> dict[str, Any]:
    """JSON has text for keys where the spec has numbers, and null for an infinite exponent."""
    efficiency = dict(_table(gpu, "efficiency"))
    collective = dict(_table(efficiency, "collective"))
    alphas = _table(collective, "alpha_us")
    collective["alpha_us"] = {int(n) if n.isdecimal() else n: value for n, value in alphas.items()}
    if efficiency.get("knee_exponent") is None:
        efficiency["knee_exponent"] = math.inf
    return gpu | {"efficiency": efficiency | {"collective": collective}}


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record[name]
    if not isinstance(value, Mapping):
        raise SpecError(f"machine.gpu: {name} = {value!r}: expected an object")
    return value


def run_machine(record: Mapping[str, Any], source: str) -> CalibratedMachine:
    """The machine of a run's JSON, or of microbenchmarks."""
    from calibrate.fit.kernels import machine_name
    from llm_perf.config.base import GIB

    environment = needed(record, source, "environment")
    try:
        return CalibratedMachine(
            gpu=machine_name(environment),
            host=None,
            cpu=environment["cpu"]["name"],
            cores=environment["cpu"]["usable_cores"],
            memory_gib=round(environment["memory"]["total_bytes"] / GIB, 1),
            versions=environment["versions"],
        )
    except (KeyError, TypeError) as error:
        raise SpecError(f"{source}: environment: field {error} is missing") from None
