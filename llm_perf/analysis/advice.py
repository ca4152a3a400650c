"""What would make a prediction fit: the smallest change first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llm_perf.analysis.division import best, divisions
from llm_perf.analysis.inference import InferenceResult
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.parallelism import DSZeRO
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems import Load, System, get_system, system_of
from llm_perf.systems.base import HYBRID_OPTIONS, POLICY_OPTIONS, SERVING_OPTIONS
from llm_perf.systems.registry import WITHOUT_GPU, dividing_systems, system_of_stage
from llm_perf.systems.stack_memory import budget_for


@dataclass(frozen=True, slots=True)
class Change:
    """One change that makes it fit: ``text`` as flags to add (and to leave out), ``inputs`` the fields that change.

    ``tokens_per_s`` is how fast it then decodes, None where that is not said.
    """

    text: str
    inputs: dict[str, Any]
    tokens_per_s: float | None = None


def changes_that_fit(inputs: InferenceInputs, result: InferenceResult, most: int = 4) -> tuple[Change, ...]:
    """Changes to one thing (or one thing and what it needs) under which the scenario fits, least intrusive first.

    What changes the workload comes first, then what an engine sets aside when it starts, then a smaller number format
    that the GPU holds whole, 8 bits before 4, since checkpoints in them answer nearly as well and run many times
    faster than a divided model; then the division between GPU and CPU, as people run what their GPU does not hold.
    Both say their speed. Then the system's own placement, more GPUs (before the division where the GPU is one of
    several that are joined in a machine),
    and a system that streams weights last. Of several numbers of GPUs the first that fits.
    """
    if result.feasible:
        return ()
    found: list[Change] = []
    for sizes in _candidates(inputs, result):
        if len(found) == most:
            break
        fitting = next((change for change in sizes if _fits(inputs, change)), None)
        found += [] if fitting is None else [fitting]
    return tuple(found)


def _divided(inputs: InferenceInputs, result: InferenceResult) -> Iterator[Change]:
    """The fastest division between one GPU and its host's CPU: in the format that is asked for, else in 4 bits.

    Of a system that keeps weights on GPUs, and of one that divides itself.
    """
    scenario = result.scenario
    system = system_of(scenario)
    if scenario.model.encoder or scenario.parallelism.num_gpus > 1 or system.family.usual_weights != "gpu":
        return
    if result.max_batch_size:  # fewer sequences fit
        return
    if scenario.speculation is not None or inputs.cpu_offload or inputs.disk_offload:
        return
    own = system.name in dividing_systems()
    other = {} if own else _one_gpu(get_system(WITHOUT_GPU))
    other |= {"n_gpu_layers": None, "n_cpu_moe": None, "kv_offload": False}
    base = inputs.replace(**other)
    for form in ({}, {"quant_bits": None, "weight_bits": None, "weight_format": "q4_k_m"}):
        asked = base.replace(**form)
        found = best(divisions(asked, [system.name if own else WITHOUT_GPU], lossless=True), "mixed")
        if found is None:
            continue
        flags = other | form | found.flags | ({"system": inputs.system} if own else {})
        change = change_of(inputs, **flags)
        if "nvme" in _used_tiers(inputs, change):  # read from the file for every token: 4 bits first
            continue
        steps = Load.of(scenario.workload).steps(encoder=False)
        speed = scenario.workload.batch_size * steps / found.decode_s if found.decode_s else None
        yield Change(change.text, change.inputs, speed)
        return


def _used_tiers(inputs: InferenceInputs, change: Change) -> set[str]:
    scenario = build_scenario(inputs.replace(**change.inputs))
    system, load = system_of(scenario), Load.of(scenario.workload)
    used = system.memory(scenario, load, system.place(scenario, load))
    return {"nvme"} if used.nvme.weights_bytes > 0 else set()


def _candidates(inputs: InferenceInputs, result: InferenceResult) -> Iterator[Iterable[Change]]:
    scenario = result.scenario
    if 0 < result.max_batch_size < inputs.batch_size:
        yield [change_of(inputs, batch_size=result.max_batch_size)]
    room = result.max_context_len - inputs.gen_len
    if 0 < room < inputs.prompt_len:
        yield [change_of(inputs, prompt_len=room)]
    system = system_of(scenario)
    yield from _engine_settings(inputs, scenario)
    for bits, name in smaller_formats(system):
        if bits < scenario.dtype.weight_bits:
            plain = {"quant_bits": bits} if name is None else {"weight_format": name}
            change = change_of(
                inputs, **(dict.fromkeys(("quant_bits", "weight_bits", "weight_format")) | plain)
            )
            yield [Change(change.text, change.inputs, _decode_tokens_per_s(inputs, change))]
    size = _SIZE_OF.get(system.family.more_gpus)
    more = () if size is None else _more_gpus(inputs, size, getattr(scenario.parallelism, size))
    joined = _joined(scenario)
    if joined:
        yield _with_speeds(inputs, more)
    yield _divided(inputs, result)
    for fields in system.smaller(dict(inputs), scenario):
        yield [change_of(inputs, **fields)]
    if not joined:
        yield more
    streaming = system_of_stage(DSZeRO.STAGE_3.value)
    if streaming is not None and streaming != system.name:
        yield [change_of(inputs, ds_zero=DSZeRO.STAGE_3.value, **_one_gpu(get_system(streaming)))]


_FEWER_SEQUENCES = (256, 128, 64, 32, 16)
_LARGER_SHARES = (0.88, 0.9, 0.92, 0.95)
"""What people set where a model is a little too large, in steps as they write them; a share above these runs out of memory
in the steps that an engine did not try when it started."""


def _engine_settings(inputs: InferenceInputs, scenario: Scenario) -> Iterator[Iterable[Change]]:
    """Fewer sequences, whose sampler a starting engine tries, and a larger share of the memory; the least of each."""
    budget = budget_for(scenario)
    if budget is None or not budget.profiled:
        return
    batch = scenario.workload.batch_size
    if inputs.max_num_seqs is None and budget.max_num_seqs is not None:
        fewer = [size for size in _FEWER_SEQUENCES if batch <= size < budget.max_num_seqs]
        yield [change_of(inputs, max_num_seqs=size) for size in fewer]
    if inputs.gpu_memory_utilization is None and budget.rules.of in ("total", "static"):
        larger = [share for share in _LARGER_SHARES if share > budget.utilization]
        yield [change_of(inputs, gpu_memory_utilization=share) for share in larger]


def _joined(scenario: Scenario) -> bool:
    """Whether the GPU is one of several that a machine has on a switch or mesh of links: who has one has them all."""
    several = scenario.host.gpus_per_node > max(scenario.gpus_per_node, 1)
    return several and scenario.gpu.link.topology in ("switch", "mesh")


def _with_speeds(inputs: InferenceInputs, changes: Iterable[Change]) -> Iterator[Change]:
    for change in changes:
        yield Change(change.text, change.inputs, _decode_tokens_per_s(inputs, change))


def _decode_tokens_per_s(inputs: InferenceInputs, change: Change) -> float | None:
    """How fast the changed scenario decodes; None where it is not valid or generates nothing."""
    try:
        scenario = build_scenario(inputs.replace(**change.inputs))
        load = Load.of(scenario.workload)
        decode = system_of(scenario).evaluate(scenario, load).decode
    except SpecError:
        return None
    steps = load.steps(encoder=scenario.model.encoder)
    if decode is None or not steps:  # one token is the prompt's
        return None
    return float(load.batch * steps / decode.latency_s)


def smaller_formats(system: System) -> tuple[tuple[int, str | None], ...]:
    """Widths that are tried and the formats in which such checkpoints are usually had; None where it quantises itself."""
    if not system.family.serves_checkpoints:
        return (8, None), (4, None)
    found = []
    for bits, names in _USUAL_FORMATS.items():
        name = next((each for each in names if system.family.runs_format(each)), None)
        found += [] if name is None else [(bits, name)]
    return tuple(found)


_USUAL_FORMATS = {8: ("fp8", "int8_weight_only", "q8_0"), 4: ("awq", "gptq", "int4", "q4_k_m")}
"""Formats in which checkpoints are usually had, by their width."""


_SIZE_OF = {"tensor ranks": "tp_size", "stages": "pp_size", "replicas": "dp_size"}


def _one_gpu(system: System) -> dict[str, Any]:
    """Inputs of another system on one GPU: without sizes, and without options that it does not know."""
    found: dict[str, Any] = dict.fromkeys(("system", "tp_size", "pp_size", "dp_size", "sp_size", "num_gpus"))
    for name in (*SERVING_OPTIONS, *POLICY_OPTIONS, *HYBRID_OPTIONS, "num_nodes", "ep_size"):
        if name not in system.options:
            found[name] = InferenceInputs.model_fields[name].default
    return found


def _more_gpus(inputs: InferenceInputs, field: str, now: int) -> Iterator[Change]:
    nodes = inputs.num_nodes or 1
    counted = field == "pp_size" and inputs.num_gpus is not None and now == nodes * inputs.num_gpus
    for size in (2, 4, 8, 16):
        if size > now:
            if (
                counted and inputs.pp_size is None and size % nodes == 0
            ):  # the GPUs were counted, not the stages
                yield change_of(inputs, num_gpus=size // nodes)
            changes: dict[str, Any] = {field: size}
            if not _divides_the_gpus(inputs, field, size):
                changes["num_gpus"] = None
            if field == "dp_size" and inputs.batch_size % size:
                changes["batch_size"] = -(-inputs.batch_size // size) * size
            yield change_of(inputs, **changes)


def _divides_the_gpus(inputs: InferenceInputs, field: str, size: int) -> bool:
    """Whether so many ranks or stages are had of the GPUs that were counted, with a batch that their replicas share."""
    if inputs.num_gpus is None or inputs.dp_size is not None or field == "dp_size":
        return False
    sizes = {"tp_size": inputs.tp_size or 1, "pp_size": inputs.pp_size or 1} | {field: size}
    replicas, rest = divmod(
        (inputs.num_nodes or 1) * inputs.num_gpus, math.prod(sizes.values()) * inputs.cp_size
    )
    return replicas > 0 and rest == 0 and inputs.batch_size % replicas == 0


def change_of(inputs: InferenceInputs, **fields: Any) -> Change:
    """The fields that really change, as flags to add; a flag that was given and has to go is named too."""
    changed = {name: value for name, value in fields.items() if value != getattr(inputs, name)}
    added = " ".join(_flag(name, value) for name, value in changed.items() if value is not None)
    dropped = [f"--{name.replace('_', '-')}" for name, value in changed.items() if value is None]
    return Change(f"{added} without {', '.join(dropped)}".strip() if dropped else added, changed)


def _flag(name: str, value: Any) -> str:
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{words}" if value else f"--no-{words}"
    return f"--{words} {value}"


def _fits(inputs: InferenceInputs, change: Change) -> bool:
    """Whether the changed scenario fits; one that is not valid does not."""
    try:
        scenario = build_scenario(inputs.replace(**change.inputs))
        system, load = system_of(scenario), Load.of(scenario.workload)
        return bool(system.memory(scenario, load, system.place(scenario, load)).fits)
    except SpecError:
        return False
