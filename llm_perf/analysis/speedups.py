"""What would make a prediction faster: one change at a time, each predicted, so that its gain is a figure and no advice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from llm_perf.analysis.advice import Change, change_of, smaller_formats
from llm_perf.analysis.division import best, divisions, fewer_threads
from llm_perf.analysis.inference import InferenceResult
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.files import looks_like_path
from llm_perf.config.formats import ONE_SCALE_FP8
from llm_perf.config.loading import HERE
from llm_perf.config.names import memory_and_name
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.systems import Load, system_of

__all__ = ["LEAST_GAIN", "Gain", "faster"]

LEAST_GAIN: Final = 1.05
"""A smaller gain than this is not worth a change, and often below what the model knows."""

_BATCH: Final = 4
"""How many times as many sequences at once are tried."""

_DRAFTS_KEPT: Final = 0.7
"""Share of a prediction module's drafts that the model keeps, which a change says as a flag since it depends on the text.

0.85 to 0.90 of DeepSeek-V3's (arXiv 2412.19437, section 5.4.3), 0.6 to 0.8 of a healthy module (vllm-project/vllm, issue
55605), 0.65 of Qwen3.8-27B's, from 0.48 in technical prose to 0.91 in code (tenstorrent/vllm, issue 442).
"""


@dataclass(frozen=True, slots=True)
class Gain:
    """A change: ``text`` as flags to add, by which ``factor`` it is faster, and ``of`` what."""

    text: str
    factor: float
    of: str


def faster(inputs: InferenceInputs, result: InferenceResult, most: int = 2) -> tuple[Gain, ...]:
    """Single changes that fit and make the whole batch, or its throughput, at least 5 % faster: the largest gain first.

    Where one sequence is asked for, what makes it faster goes before what serves more of them.

    A smaller number format, nothing left to the CPU, fewer threads where they wait for one another, twice the GPUs where the
    system divides over them, drafts of a module that the model comes with, and more sequences at once, whose gain is one of
    throughput: each of them waits longer.
    """
    if not result.feasible:
        return ()
    found = []
    for change, of in _candidates(inputs, result):
        total_s = _total_s(inputs, change)
        if total_s is None:
            continue
        sequences = change.inputs.get("batch_size", inputs.batch_size) / inputs.batch_size
        factor = result.total_latency_s / total_s * sequences
        if factor >= LEAST_GAIN:
            found.append(Gain(change.text, factor, of))
    alone = (
        inputs.batch_size == 1
    )  # who asks for one sequence waits for it: more of them at once are the last to be named
    return tuple(sorted(found, key=lambda gain: (alone and gain.of != "as fast", -gain.factor))[:most])


def _candidates(inputs: InferenceInputs, result: InferenceResult) -> Iterator[tuple[Change, str]]:
    scenario = result.scenario
    system = system_of(scenario)
    larger = min(inputs.batch_size * _BATCH, result.max_batch_size)
    if larger > inputs.batch_size:
        yield change_of(inputs, batch_size=larger), "the throughput"
    for bits, name in smaller_formats(system):
        # As narrow in another layout too: kernels for scales of blocks may be slower than those for one scale.
        other = bits == scenario.dtype.weight_bits and name is not None and _in_blocks(scenario)
        name = ONE_SCALE_FP8 if other and name == "fp8" else name
        if bits < scenario.dtype.weight_bits or other:
            plain: dict[str, Any] = {"quant_bits": bits} if name is None else {"weight_format": name}
            fields: dict[str, Any] = dict.fromkeys(("quant_bits", "weight_bits", "weight_format"))
            yield change_of(inputs, **(fields | plain)), "as fast"
    yield from ((change, "as fast") for change in _divisions(inputs, system.name))
    yield from ((change, "as fast") for change in _threads(inputs, scenario))
    yield from ((change, "as fast") for change in _memory(inputs, result))
    if scenario.model.mtp_layers and inputs.draft_model is None and "draft_model" in system.options:
        yield change_of(inputs, draft_model="mtp", acceptance=str(_DRAFTS_KEPT)), "as fast"
    ranks = 2 * scenario.parallelism.tp_size
    if (
        system.family.more_gpus == "tensor ranks"
        and ranks <= scenario.host.gpus_per_node
        and not scenario.gpu.absent
    ):
        yield change_of(inputs, tp_size=ranks, num_gpus=None), "as fast"


def _in_blocks(scenario: Scenario) -> bool:
    """Whether weights are released in 8 bits with a scale for each block of a matrix."""
    formats = scenario.dtype.formats
    return formats is not None and formats.name == "fp8_block"


def _memory(inputs: InferenceInputs, result: InferenceResult) -> Iterator[Change]:
    """As much host memory as holds what is read from the file for every token otherwise."""
    host, missing = result.scenario.host, result.memory.nvme.weights_bytes
    name = inputs.host or host.name
    if missing <= 0 or inputs.profile is not None or name == HERE or looks_like_path(name):
        return
    needed = (result.memory.cpu.total_bytes + missing) / host.usable_memory_bytes * host.memory_gib
    size = next((size for size in _USUAL_MEMORY_GIB if size >= needed), None)
    if size is not None:
        if inputs.host is None or inputs.host_memory is not None:
            yield change_of(inputs, host_memory=size)
        else:
            yield change_of(inputs, host=f"{memory_and_name(name)[0]}-{size}gb")


_USUAL_MEMORY_GIB: Final = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
"""What machines are built with: two to 24 modules of 16 to 128 GB."""


def _threads(inputs: InferenceInputs, scenario: Scenario) -> Iterator[Change]:
    """Fewer threads on the CPU, of several numbers the fastest."""
    changes = [change_of(inputs, threads=count) for count in fewer_threads(inputs, scenario)]
    tried = [(seconds, change) for change in changes if (seconds := _total_s(inputs, change)) is not None]
    if tried:
        yield min(tried, key=lambda one: one[0])[1]


def _divisions(inputs: InferenceInputs, system: str) -> Iterator[Change]:
    """Nothing left to the CPU, else the best division of what the GPU does not hold: whole layers, or experts alone."""
    asked = [name for name in ("n_cpu_moe", "n_gpu_layers") if getattr(inputs, name) is not None]
    if not asked:
        return
    undivided = inputs.replace(**dict.fromkeys(asked))
    found = best(divisions(undivided, [system], defaults=True), "mixed")
    flags = {} if found is None else {name: value for name, value in found.flags.items() if name != "system"}
    yield change_of(inputs, **(dict.fromkeys(asked) | flags))


def _total_s(inputs: InferenceInputs, change: Change) -> float | None:
    """Seconds of the changed batch; None where it is not valid or does not fit."""
    try:
        scenario = build_scenario(inputs.replace(**change.inputs))
        system, load = system_of(scenario), Load.of(scenario.workload)
        if not system.memory(scenario, load, system.place(scenario, load)).fits:
            return None
        cost = system.evaluate(scenario, load)
    except SpecError:
        return None
    decode_s = 0.0 if cost.decode is None else float(cost.decode.latency_s)
    return float(cost.prefill.latency_s) + decode_s
