"""What would make a prediction fit: the smallest change first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm_perf.analysis.inference import InferenceResult
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.errors import SpecError
from llm_perf.systems import Load, get_system

_STACKS_ONLY = (
    "cp_size", "expert_imbalance", "micro_batches", "prefix_hit_rate", "prefill_chunk", "draft_model", "draft_tokens",
    "acceptance_rate",
)  # fmt: skip
"""Options that a system which streams weights does not know: a change to it leaves them out."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change that makes it fit: ``text`` as flags to add (and to leave out), ``inputs`` the fields that change."""

    text: str
    inputs: dict[str, Any]


def changes_that_fit(inputs: InferenceInputs, result: InferenceResult, most: int = 4) -> tuple[Change, ...]:
    """Changes to one thing (or one thing and what it needs) under which the scenario fits, least intrusive first.

    First what changes the workload, then the number formats, then placement, then more GPUs.
    """
    if result.feasible:
        return ()
    found: list[Change] = []
    for change in _candidates(inputs, result):
        if len(found) == most:
            break
        if _fits(inputs, change):
            found.append(change)
    return tuple(found)


def _candidates(inputs: InferenceInputs, result: InferenceResult) -> Iterator[Change]:
    scenario = result.scenario
    if 0 < result.max_batch_size < inputs.batch_size:
        yield _change(inputs, batch_size=result.max_batch_size)
    room = result.max_context_len - inputs.gen_len
    if 0 < room < inputs.prompt_len:
        yield _change(inputs, prompt_len=room)
    for bits in (8, 4):
        if bits < scenario.dtype.weight_bits:
            yield _change(inputs, quant_bits=bits, weight_bits=None, weight_format=None)
    zero = scenario.system == "zero_inference"
    if zero and not inputs.kv_offload:
        yield _change(inputs, kv_offload=True)
    if zero and inputs.cpu_offload and scenario.host.disk is not None:
        yield _change(inputs, cpu_offload=False, disk_offload=True)
    if zero:
        yield from _more_gpus(inputs, "dp_size", scenario.parallelism.dp_size)
    else:
        one_gpu = dict.fromkeys(("system", "tp_size", "pp_size", "dp_size", "sp_size", "num_gpus"))
        for name in (*_STACKS_ONLY, "num_nodes", "ep_size"):
            one_gpu[name] = InferenceInputs.model_fields[name].default
        yield _change(inputs, ds_zero=3, **one_gpu)
        yield from _more_gpus(inputs, "tp_size", scenario.parallelism.tp_size)


def _more_gpus(inputs: InferenceInputs, field: str, now: int) -> Iterator[Change]:
    for size in (2, 4, 8, 16):
        if size > now:
            changes: dict[str, Any] = {field: size, "num_gpus": None}
            if field == "dp_size" and inputs.batch_size % size:
                changes["batch_size"] = -(-inputs.batch_size // size) * size
            yield _change(inputs, **changes)


def _change(inputs: InferenceInputs, **fields: Any) -> Change:
    """The fields that really change, as flags to add; a flag that was given and has to go is named too."""
    changed = {name: value for name, value in fields.items() if value != getattr(inputs, name)}
    added = " ".join(_flag(name, value) for name, value in changed.items() if value is not None)
    dropped = [f"--{name.replace('_', '-')}" for name, value in changed.items() if value is None]
    return Change(f"{added} without {', '.join(dropped)}" if dropped else added, changed)


def _flag(name: str, value: Any) -> str:
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{words}" if value else f"--no-{words}"
    return f"--{words} {value}"


def _fits(inputs: InferenceInputs, change: Change) -> bool:
    """Whether the changed scenario fits; one that is not valid does not."""
    try:
        scenario = build_scenario(inputs.replace(**change.inputs))
    except SpecError:
        return False
    system, workload = get_system(scenario.system), scenario.workload
    load = Load(float(workload.batch_size), float(workload.prompt_len), float(workload.gen_len))
    return bool(system.memory(scenario, load, system.place(scenario, load)).fits)
