"""The interval around a prediction: of a calibrated profile, else of the published runs that its constants never saw.

With a profile the residuals of its own runs decide (`llm_perf.analysis.calibrated`). Without one, what is known is how
far the system's predictions were off over published runs when their GPU, or their model, had been left out of every fit
(`llm_perf.analysis.evidence`). A question on a machine that the runs know leaves its model unknown; on another machine
both are. Where no run says anything there is no interval, and a sentence says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from llm_perf.analysis.calibrated import (
    SIZE_TEXTS,
    Asked,
    PredictionInterval,
    around,
    growth_of,
    no_profile_interval,
    prediction_interval,
)
from llm_perf.analysis.evidence import (
    ANY,
    RESIDENT,
    Evidence,
    LeaveOut,
    LeftOutWidths,
    accuracy_class,
    evidence_of,
    evidence_sizes,
    kind_of,
    pool_of,
    vendors_of,
)
from llm_perf.analysis.hybrid_intervals import hybrid_interval, is_divided
from llm_perf.analysis.result import Found
from llm_perf.analysis.stack_intervals import knows, stack_interval, width_of_another_maker
from llm_perf.config.base import GIB
from llm_perf.config.calibration import Range
from llm_perf.config.gpu import UNNAMED_MAKER, GPUConfig, format_bits
from llm_perf.config.host import HostConfig
from llm_perf.config.loading import get_gpu_config_by_name, get_host_config_by_name
from llm_perf.config.scenario import Scenario
from llm_perf.counts.parameters import total_params
from llm_perf.errors import SpecError
from llm_perf.systems.base import Placement
from llm_perf.systems.registry import DEFAULT, full_name, version_note

if TYPE_CHECKING:
    from llm_perf.config.training import TrainingScenario

TRAINING: Final = "training"
_GENERIC: Final = DEFAULT
"""The system that names no stack."""

_SETTINGS: Final = frozenset({"ubatch_tokens"})
"""Constants that are settings of an engine: a run that states one is predicted with what was held against published runs."""

_NAME_IT: Final = "; --system names yours"
_PHASES: Final = ("prefill", "decode", "total")
_CLASSES: Final = {
    "resident-1gpu": "on one GPU in 16 bits",
    "resident-tp": "over several GPUs in 16 bits",
    "resident-pp": "in pipeline stages",
    "quantised": "with quantised weights on the GPU",
    RESIDENT: "with all tensors on the GPU",
    "edge": "with all of it on such a GPU",
    "offload-cpu": "with tensors in CPU memory",
    "offload-nvme": "with tensors on NVMe",
    TRAINING: "in training",
}
_DECODES: Final = "gen_len"
_FARTHEST: Final = 4.0
"""Growth of a width beyond which it says nothing: a size outside by more than three times the span of the runs."""

_GROUPS: Final = {"gpu": "GPU", "model": "model", "family": "model family"}
_PLURALS: Final = {"gpu": "GPUs", "model": "models", "family": "families"}


@dataclass(frozen=True, slots=True)
class _Question:
    """What decides whether published runs speak for a prediction."""

    system: str
    accuracy_class: str
    gpu: str
    host: str | None
    maker: str
    kind: str
    weight_bits: int
    sizes: Mapping[str, float]
    options: tuple[str, ...] = ()


def inference_interval(
    scenario: Scenario,
    placement: Placement,
    asked: Asked,
    seconds: tuple[float, float | None, float],
) -> Found:
    """The interval of an inference, or why there is none.

    Args:
        scenario: What was asked.
        placement: Where its tensors are.
        asked: Its sizes.
        seconds: Predicted prefill, decode (None without steps) and total.
    """
    if scenario.calibration is not None:
        found = prediction_interval(scenario, asked, *seconds)
        return found, None if found is not None else no_profile_interval(scenario, asked)
    if is_divided(scenario, placement):
        return hybrid_interval(scenario, seconds), None
    shares = (placement.weights, placement.kv_cache)
    name = accuracy_class(
        scenario.system,
        min(float(share.gpu) for share in shares),
        max(float(share.nvme) for share in shares),
        scenario.dtype.weight_bits,
        scenario.parallelism.num_gpus,
        scenario.parallelism.pp_size,
    )
    if name is not None and not name.startswith("offload") and knows(scenario):
        # Benchmarks of serving stacks repeat prompts and cache them, and limit what runs at once: so did published runs.
        plain = {"distinct_prompts": None, "prefix_hit_rate": 0.0, "shared_prefix": False}
        plain |= dict.fromkeys(("gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs"))
        changed = _changed(scenario.replace(workload=scenario.workload.replace(**plain)))
        return (None, changed) if changed else stack_interval(scenario, seconds)
    changed = _changed(scenario)
    if name is None or changed:
        return None, changed or f"published runs of {scenario.system} do not say what their clients asked for"
    offloads = name.startswith("offload")
    question = _Question(
        scenario.system,
        name,
        scenario.gpu.name,
        scenario.host.name if offloads else None,
        scenario.gpu.maker,
        kind_of(scenario.model),
        scenario.dtype.weight_bits,
        asked.sizes | {"num_gpus": float(scenario.parallelism.num_gpus)},
        inference_options(scenario),
    )
    own = _published(question, seconds)
    return (
        own
        if version_note(full_name(scenario), scenario.gpu.device) is None
        else _of_another_version(question, seconds, own)
    )


def _of_another_version(
    question: _Question, seconds: tuple[float, float | None, float], found: Found
) -> Found:
    """The interval of a version that does not ship: the wider of the nearest one's and of that of an unknown stack."""
    unknown, _ = _published(replace(question, system=_GENERIC), seconds)
    if unknown is None:
        return (
            None,
            f"no published run is of this version of {question.system}, and how far versions differ is not known",
        )
    nearest = found[0]
    if nearest is not None and (nearest.total_factor or 0.0) > (unknown.total_factor or 0.0):
        return replace(nearest, method=f"{nearest.method}; of another version"), None
    method = unknown.method.removesuffix(_NAME_IT)
    return replace(unknown, method=f"{method}: how far this version is off is not known better"), None


def training_interval(scenario: TrainingScenario, step_s: float, launches_s: float = 0.0) -> Found:
    """The interval of one optimizer step, or why there is none.

    Args:
        scenario: What was asked.
        step_s: The predicted step.
        launches_s: What of it waits for launches that CUDA graphs would take away, where none are asked for: whether a run
            has them decides more than all else, and most who measure mixtures do not say. The lower end is without it.
    """
    found, missing = _step_interval(scenario, step_s)
    if found is None or found.total_s is None or not launches_s:
        return found, missing
    low, high = found.total_s
    method = f"{found.method}; its lower end is that of kernels launched as CUDA graphs"
    return replace(found, method=method, total_s=(low * (1 - launches_s / step_s), high)), None


def _step_interval(scenario: TrainingScenario, step_s: float) -> Found:
    """The interval of a step as it is launched, or why there is none."""
    from llm_perf.analysis.tuning_intervals import knows_steps_of, tuning_width  # inference does without

    if not scenario.fits:
        return None, _NO_FIT
    shipped = _as_shipped(scenario.gpu) and _as_shipped(scenario.host)
    if not shipped or scenario.constants or scenario.flops_efficiency or scenario.hbm_memory_efficiency:
        return None, "its constants are not the ones that published runs were held against"
    if knows_steps_of(scenario.framework):
        known = tuning_width("time")
        method = "published runs of fine-tuning, each framework left out in turn"
        if scenario.gpu.maker in known.makers:
            step = around(step_s, known.width)
            return PredictionInterval.published(method, known.groups, step, coverage=known.coverage), None
        method += f", none on devices of {scenario.gpu.maker_in_words}: as wide as stacks under another version's constants"
        step = around(step_s, max(known.width, width_of_another_maker()))
        return PredictionInterval.published(method, known.groups, step), None
    question = _Question(
        scenario.framework,
        TRAINING,
        scenario.gpu.name,
        None,
        scenario.gpu.maker,
        kind_of(scenario.model),
        format_bits(scenario.plan.compute_dtype),
        training_sizes(scenario),
        training_options(scenario),
    )
    found, missing = _published(question, (None, None, step_s))
    return (found, None) if found is not None else _of_any_framework(question, step_s, str(missing))


def _of_any_framework(question: _Question, step_s: float, missing: str) -> Found:
    """The interval of a step that no run of its framework is like: how far those of all frameworks are off unfitted.

    Args:
        question: What was asked.
        step_s: The predicted step.
        missing: What no run of the framework has.
    """
    from llm_perf.analysis.tuning_intervals import tuning_width

    known = tuning_width("time" if question.options else "step")
    covered = evidence_sizes(ANY, TRAINING)
    # Smaller jobs are among those of fine-tuning, down to one GPU.
    grown, outside = growth_of(
        covered, {name: max(size, covered[name].low) for name, size in question.sizes.items()}
    )
    whose = "published runs of fine-tuning" if question.options else "published runs of training"
    method = f"{whose}, predicted without what was set for their framework, each held against the others; {missing}"
    width, coverage = known.width * grown, known.coverage
    if question.maker not in known.makers:
        method += f"; none on a device of {question.maker or UNNAMED_MAKER}"
        width = max(width, width_of_another_maker())
    step = around(step_s, width)
    return PredictionInterval.published(method, known.groups, step, coverage=coverage, outside=outside), None


_NO_FIT = (
    "--profile none takes away what was fitted, and published runs were held against predictions with it"
)


def inference_options(scenario: Scenario) -> tuple[str, ...]:
    """What an inference does beside computing in 16 bits on one node, in words."""
    dtype = scenario.dtype
    used = {
        f"a KV cache of {dtype.kv_bits} bits": dtype.kv_bits != 16,
        f"activations of {dtype.activation_bits} bits": dtype.activation_bits != 16,
        "more than one node": scenario.num_nodes > 1,
        "context parallelism": scenario.parallelism.cp_size > 1,
    }
    return tuple(name for name, on in used.items() if on)


def training_sizes(scenario: TrainingScenario) -> dict[str, float]:
    """What of a training job is compared with what the published runs cover."""
    return {
        "model_gib": float(total_params(scenario.model)) * 2 / GIB,
        "num_gpus": float(scenario.num_gpus),
        "seq_len": float(scenario.plan.seq_len),
    }


def training_options(scenario: TrainingScenario) -> tuple[str, ...]:
    """What a training job does beside training all weights on the GPUs, in words."""
    plan = scenario.plan
    used = {
        "adapters": plan.lora_rank > 0,
        "quantised base weights": plan.base_weight_bits is not None,
        "an optimizer off the GPU": plan.optimizer_device != "gpu",
        "weights off the GPU": plan.weights_device != "gpu",
        "activations off the GPU": plan.activations_device != "gpu",
    }
    return tuple(name for name, on in used.items() if on)


def _changed(scenario: Scenario) -> str | None:
    """What makes a prediction another one than those that were held against published runs."""
    if not scenario.fits:
        return _NO_FIT
    given = [
        flag
        for flag, value in (
            ("--flops-efficiency", scenario.flops_efficiency),
            ("--hbm-memory-efficiency", scenario.hbm_memory_efficiency),
        )
        if value is not None
    ]
    if given:
        return f"{' and '.join(given)} took the place of what was held against published runs"
    replaced = [name for name, _ in scenario.constants if name not in _SETTINGS]
    if replaced or not (_as_shipped(scenario.gpu) and _as_shipped(scenario.host)):
        return "a profile took the place of constants that were held against published runs, and has no runs of its own"
    if scenario.workload.enforce_eager:
        return "steps of --enforce-eager are assumed, and were not fitted"
    options = [f"--{name.replace('_', '-')}" for name in scenario.serving_options]
    return f"no published run used {' or '.join(options)}" if options else None


def _as_shipped(machine: GPUConfig | HostConfig) -> bool:
    """Whether a GPU or host is the one that ships under its name. One of the user's own has a name of its own."""
    load = get_gpu_config_by_name if isinstance(machine, GPUConfig) else get_host_config_by_name
    try:
        shipped = load(machine.name)
    except SpecError:
        return True
    if isinstance(machine, HostConfig) and isinstance(shipped, HostConfig):
        # A rate that a flag states is a fact of the user's machine, as in a file of it; `from_profile` marks a profile's.
        machine = machine.replace(read_gb_per_s=shipped.read_gb_per_s, nic_gb_per_s=shipped.nic_gb_per_s)
    return machine is shipped or machine == shipped


def _published(question: _Question, seconds: tuple[float | None, float | None, float]) -> Found:
    entry = _entry(question)
    missing = _missing(question, entry)
    if entry is None or missing:
        return None, missing
    prefill, decode, total = seconds
    if prefill is not None and decode is None:
        # What would have been generated says nothing of a prefill alone.
        sizes = {name: size for name, size in question.sizes.items() if name != _DECODES}
        question = replace(question, sizes=sizes)
    basis = _bases(question, entry)
    if isinstance(basis, str):
        return None, basis
    for one in basis:
        if far := _too_far(question, one):
            return None, far
    widths = {phase: _widest(_width(question, one, phase) for one in basis) for phase in _PHASES}
    total_width = _total_width(widths, prefill, decode, total)
    if total_width is None:
        return None, f"no published run of {question.system} states the prefill alone"
    last = max(basis, key=lambda one: _width(question, one, "total") or 0.0)
    interval = PredictionInterval.published(
        method=_method(question, entry, last),
        groups=last.groups,
        outside=max(growth_of(one.sizes, question.sizes)[1] for one in basis),
        prefill_s=around(prefill, widths["prefill"]),
        decode_s=around(decode, widths["decode"]),
        total_s=around(total, total_width),
        coverage=last.widths.coverage,
    )
    return interval, None


def _total_width(
    widths: Mapping[str, float | None], prefill: float | None, decode: float | None, total: float
) -> float | None:
    """The total's half-width: that of the runs, and no less than what either phase alone, being off, does to the total.

    Runs whose total is mostly decode would else promise as much for a question that is mostly prefill.
    """
    if prefill is not None and decode is None:
        return widths["prefill"]
    own = widths["total"]
    shares = ((prefill, widths["prefill"]), (decode, widths["decode"]))
    parts = [part / total * width for part, width in shares if part is not None and width is not None]
    return None if own is None else max([own, *parts])


def _width(question: _Question, basis: _Basis, phase: str) -> float | None:
    """A phase's half-width at the question's sizes. A prefill's does not depend on what is generated after it."""
    width: float | None = getattr(basis.widths, phase)
    if width is None:
        return None
    without = _DECODES if phase == "prefill" else None
    return width * growth_of(basis.sizes, {k: v for k, v in question.sizes.items() if k != without})[0]


def _too_far(question: _Question, basis: _Basis) -> str | None:
    """What of a question is so far from the runs that they say nothing of it."""
    for name, size in question.sizes.items():
        if growth_of(basis.sizes, {name: size})[0] > _FARTHEST:
            covered = basis.sizes[name]
            ends = (
                f"{covered.low:g}" if covered.low == covered.high else f"{covered.low:g} to {covered.high:g}"
            )
            what = SIZE_TEXTS[name].format(size)
            return f"{what}: farther than published runs of {_whose(question, basis)} reach ({ends})"
    return None


def _entry(question: _Question) -> Evidence | None:
    """What speaks for a question. One GPU does what several do, but for exchanges: their runs speak for it too."""
    own = evidence_of(question.system, question.accuracy_class, question.maker)
    if own is None and question.accuracy_class == "resident-1gpu":
        return evidence_of(question.system, "resident-tp", question.maker)
    return own


def _missing(question: _Question, entry: Evidence | None) -> str | None:
    """What no published run had; those of another class, as of a model divided between GPU and CPU, count elsewhere."""
    of_class = _CLASSES[question.accuracy_class]
    if entry is None and vendors_of(question.system, question.accuracy_class):
        maker = question.maker or UNNAMED_MAKER
        return f"no published run of {question.system} was made on a device of {maker}"
    if entry is None:
        what = "" if question.accuracy_class == TRAINING else "system "
        return f"no published run of {what}{question.system} {of_class} ships"
    if question.kind not in entry.kinds:
        article = "an" if question.kind[0] in "aeiou" else "a"
        return f"no published run of {question.system} {of_class} is of {article} {question.kind} model"
    if question.weight_bits not in entry.weight_bits:
        what = "products" if question.accuracy_class == TRAINING else "weights"
        return f"no published run of {question.system} {of_class} has {question.weight_bits}-bit {what}"
    if unknown := [name for name in question.options if name not in entry.options]:
        return f"no published run of {question.system} has {' and '.join(unknown)}"
    return None


@dataclass(frozen=True, slots=True)
class _Basis:
    """Residuals that a width rests on, and the sizes of their runs.

    ``pooled``: the class of which all systems stand in, where this one's runs are of one group.
    """

    leave_out: str
    widths: LeftOutWidths
    sizes: Mapping[str, Range]
    pooled: str | None = None

    @property
    def groups(self) -> int:
        """How many groups were left out."""
        return self.widths.groups


def _bases(question: _Question, entry: Evidence) -> list[_Basis] | str:
    """What the interval rests on, one for each thing that is unknown; or what is not known."""
    if "system" in entry.left_out:
        return [_Basis("system", entry.left_out["system"], entry.sizes)]
    if question.system == _GENERIC:  # other systems' runs say what is off where the stack is known
        return f"published runs on devices of {question.maker} are of too few stacks; {question.system} stands for them"
    model: LeaveOut = "family" if question.accuracy_class == TRAINING else "model"
    unknown: list[LeaveOut] = [model] if _knows(entry, question) else [model, "gpu"]
    found = []
    for leave in unknown:
        one = _basis(entry, leave)
        if one is None:
            return (
                f"the published runs of {question.system} are too few to tell it for another {_GROUPS[leave]}"
            )
        found.append(one)
    return found


def _widest(values: Iterable[float | None]) -> float | None:
    """The largest; None where one is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return max(known) if len(known) == len(found) else None


def _basis(entry: Evidence, leave: LeaveOut) -> _Basis | None:
    own = entry.left_out.get(leave)
    if own is not None:
        return _Basis(leave, own, entry.sizes)
    pool = pool_of(entry.accuracy_class, leave)
    everyone = evidence_of(ANY, pool, entry.vendor)
    pooled = None if everyone is None else everyone.left_out.get(leave)
    if everyone is None or pooled is None:
        return None
    return _Basis(leave, pooled, everyone.sizes, pool)


def _knows(entry: Evidence, question: _Question) -> bool:
    """Whether runs were made on this machine: the GPU, and where tensors leave it the host."""
    hosts = entry.machines.get(question.gpu)
    return hosts is not None and (question.host is None or question.host in hosts)


def _whose(question: _Question, basis: _Basis) -> str:
    return question.system if basis.pooled is None else f"all systems {_CLASSES[basis.pooled]}"


def _method(question: _Question, entry: Evidence, one: _Basis) -> str:
    rows = f"{one.widths.rows} published runs"
    w = one.widths
    held = f", which held {w.held} of {w.tested} left out" if w.coverage is not None else ""
    if one.leave_out == "system":
        return f"{rows} of {one.groups} stacks, predicted as this generic one{held}{_NAME_IT}"
    groups = f"{one.groups} {_PLURALS[one.leave_out]}"
    whose = _whose(question, one)
    found = f"{rows} of {whose}, predicted by fits without their {_GROUPS[one.leave_out]} ({groups}){held}"
    if _knows(entry, question):
        return found
    return f"{found}; none on {question.gpu}" + (f" in host {question.host}" if question.host else "")
