"""The interval around a prediction: of a calibrated profile, else of the published runs that its constants never saw.

With a profile the residuals of its own runs decide (`llm_perf.analysis.calibrated`). Without one, what is known is how
far the system's predictions were off over published runs when their GPU, or their model, had been left out of every fit
(`llm_perf.analysis.evidence`). A question on a machine that the runs know leaves its model unknown; on another machine
both are. Where no run says anything there is no interval, and a sentence says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from llm_perf.analysis.calibrated import Asked, PredictionInterval, growth_of, prediction_interval
from llm_perf.analysis.evidence import (
    ANY,
    Evidence,
    LeftOutWidths,
    accuracy_class,
    evidence_of,
    kind_of,
    vendors_of,
)
from llm_perf.config.base import GIB
from llm_perf.config.gpu import format_bits
from llm_perf.config.scenario import Scenario
from llm_perf.config.training import TrainingScenario
from llm_perf.counts.parameters import total_params
from llm_perf.systems.base import Placement

__all__ = ["TRAINING", "inference_interval", "training_interval", "training_options", "training_sizes"]

TRAINING: Final = "training"
LEVEL: Final = 0.9
"""What the widths of ``left_out`` are made for."""

_PHASES: Final = ("prefill", "decode", "total")
_CLASSES: Final = {
    "resident-1gpu": "on one GPU in 16 bits",
    "resident-tp": "over several GPUs in 16 bits",
    "resident-pp": "in pipeline stages",
    "quantised": "with quantised weights on the GPU",
    "edge": "of this kind",
    "offload-cpu": "with tensors in CPU memory",
    "offload-nvme": "with tensors on NVMe",
    TRAINING: "that trains",
}
_GROUPS: Final = {"gpu": "GPU", "model": "model", "family": "model family"}
_PLURALS: Final = {"gpu": "GPUs", "model": "models", "family": "families"}


@dataclass(frozen=True, slots=True)
class _Question:
    """What decides whether published runs speak for a prediction."""

    system: str
    accuracy_class: str
    gpu: str
    host: str | None
    vendor: str | None
    kind: str
    weight_bits: int
    sizes: Mapping[str, float]
    options: tuple[str, ...] = ()


Found = tuple[PredictionInterval | None, str | None]
"""An interval, or why there is none."""


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
        return prediction_interval(scenario, asked, *seconds), None
    shares = (placement.weights, placement.kv_cache)
    name = accuracy_class(
        scenario.system,
        min(float(share.gpu) for share in shares),
        max(float(share.nvme) for share in shares),
        scenario.dtype.weight_bits,
        scenario.parallelism.num_gpus,
        scenario.parallelism.pp_size,
    )
    changed = _changed(scenario)
    if name is None or changed:
        return None, changed or f"published runs of {scenario.system} do not say what their clients asked for"
    offloads = name.startswith("offload")
    question = _Question(
        scenario.system,
        name,
        scenario.gpu.name,
        scenario.host.name if offloads else None,
        scenario.gpu.vendor,
        kind_of(scenario.model),
        scenario.dtype.weight_bits,
        asked.sizes | {"num_gpus": float(scenario.parallelism.num_gpus)},
    )
    return _published(question, seconds)


def training_interval(scenario: TrainingScenario, step_s: float) -> Found:
    """The interval of one optimizer step, or why there is none."""
    if scenario.constants or scenario.flops_efficiency or scenario.hbm_memory_efficiency:
        return None, "its constants are not the ones that published runs were held against"
    question = _Question(
        scenario.framework,
        TRAINING,
        scenario.gpu.name,
        None,
        scenario.gpu.vendor,
        kind_of(scenario.model),
        format_bits(scenario.plan.compute_dtype),
        training_sizes(scenario),
        training_options(scenario),
    )
    return _published(question, (None, None, step_s))


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
    if scenario.constants:
        return "a profile took the place of constants that were held against published runs, and has no runs of its own"
    options = [f"--{name.replace('_', '-')}" for name in scenario.serving_options]
    return f"no published run used {' or '.join(options)}" if options else None


def _published(question: _Question, seconds: tuple[float | None, float | None, float]) -> Found:
    entry = _entry(question)
    missing = _missing(question, entry)
    if entry is None or missing:
        return None, missing
    chosen = _widths(question, entry)
    if isinstance(chosen, str):
        return None, chosen
    widths, basis = chosen
    growth, outside = growth_of(entry.sizes, question.sizes)

    def around(value: float | None, width: float | None) -> tuple[float, float] | None:
        if value is None or width is None:
            return None
        return value * math.exp(-width * growth), value * math.exp(width * growth)

    prefill, decode, total = seconds
    ends = (
        around(prefill, widths["prefill"]),
        around(decode, widths["decode"]),
        around(total, widths["prefill"] if decode is None and prefill is not None else widths["total"]),
    )
    if ends == (None, None, None):
        return None, f"no published run of {question.system} states that phase alone"
    last = basis[-1]
    interval = PredictionInterval(
        level=LEVEL,
        profile=None,
        method=_method(question, entry, basis),
        groups=last.groups,
        outside=outside,
        prefill_s=ends[0],
        decode_s=ends[1],
        total_s=ends[2],
        coverage=last.widths.coverage,
    )
    return interval, None


def _entry(question: _Question) -> Evidence | None:
    """What speaks for a question. One GPU does what several do, but for exchanges: their runs speak for it too."""
    vendor = (question.vendor or "").lower()
    own = evidence_of(question.system, question.accuracy_class, vendor)
    if own is None and question.accuracy_class == "resident-1gpu":
        return evidence_of(question.system, "resident-tp", vendor)
    return own


def _missing(question: _Question, entry: Evidence | None) -> str | None:
    """What no published run had."""
    if entry is None and vendors_of(question.system, question.accuracy_class):
        maker = question.vendor or "a maker that its file does not name"
        return f"no published run of {question.system} was made on a device of {maker}"
    if entry is None:
        what = "training" if question.accuracy_class == TRAINING else _CLASSES[question.accuracy_class]
        return f"no published run of {question.system} {what} ships"
    if question.kind not in entry.kinds:
        article = "an" if question.kind[0] in "aeiou" else "a"
        return f"no published run of {question.system} is of {article} {question.kind} model"
    if question.weight_bits not in entry.weight_bits:
        what = "products" if question.accuracy_class == TRAINING else "weights"
        return f"no published run of {question.system} has {question.weight_bits}-bit {what}"
    if unknown := [name for name in question.options if name not in entry.options]:
        return f"no published run of {question.system} has {' and '.join(unknown)}"
    return None


@dataclass(frozen=True, slots=True)
class _Basis:
    """Residuals that a width rests on. ``pooled``: of all systems of the class, since this one's are of one group."""

    leave_out: str
    widths: LeftOutWidths
    pooled: bool

    @property
    def groups(self) -> int:
        """How many groups were left out."""
        return self.widths.groups


def _widths(question: _Question, entry: Evidence) -> tuple[dict[str, float | None], list[_Basis]] | str:
    """Half-widths by phase and what they rest on, the widest last; or what is not known."""
    if "system" in entry.left_out:
        basis = [_Basis("system", entry.left_out["system"], False)]
    else:
        model = "family" if question.accuracy_class == TRAINING else "model"
        unknown = [model] if _knows(entry, question) else [model, "gpu"]
        found = [_basis(entry, leave) for leave in unknown]
        for leave, one in zip(unknown, found, strict=True):
            if one is None:
                return f"the published runs of {question.system} are too few to tell it for another {_GROUPS[leave]}"
        basis = sorted((one for one in found if one is not None), key=lambda one: one.widths.total or 0.0)
    widest = {phase: _widest(getattr(one.widths, phase) for one in basis) for phase in _PHASES}
    return widest, basis


def _widest(values: Iterable[float | None]) -> float | None:
    """The largest; None where one is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return max(known) if len(known) == len(found) else None


def _basis(entry: Evidence, leave: str) -> _Basis | None:
    own = entry.left_out.get(leave)  # type: ignore[call-overload]
    if own is not None:
        return _Basis(leave, own, False)
    everyone = evidence_of(ANY, entry.accuracy_class, entry.vendor)
    pooled = None if everyone is None else everyone.left_out.get(leave)  # type: ignore[call-overload]
    return None if pooled is None else _Basis(leave, pooled, True)


def _knows(entry: Evidence, question: _Question) -> bool:
    """Whether runs were made on this machine: the GPU, and where tensors leave it the host."""
    hosts = entry.machines.get(question.gpu)
    return hosts is not None and (question.host is None or question.host in hosts)


def _method(question: _Question, entry: Evidence, basis: list[_Basis]) -> str:
    one = basis[-1]
    rows = f"{one.widths.rows} published runs"
    w = one.widths
    held = f", which held {w.held} of {w.tested} left out" if w.coverage is not None else ""
    if one.leave_out == "system":
        return f"{rows} of {one.groups} stacks, predicted as this generic one{held}; --system names yours"
    whose = f"all systems {_CLASSES[entry.accuracy_class]}" if one.pooled else question.system
    groups = f"{one.groups} {_PLURALS[one.leave_out]}"
    found = f"{rows} of {whose}, predicted by fits without their {_GROUPS[one.leave_out]} ({groups}){held}"
    if _knows(entry, question):
        return found
    return f"{found}; none on {question.gpu}" + (f" in host {question.host}" if question.host else "")
