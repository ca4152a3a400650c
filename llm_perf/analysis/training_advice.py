"""What would make a training job fit: single changes first, then sharding over more GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_perf.analysis.advice import Change
from llm_perf.analysis.training import TrainingResult, predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.errors import LLMPerfError
from llm_perf.systems.training.framework import FRAMEWORKS, get_framework

_MOST_GPUS = 4096
_MOST_CHANGES = 4
_LEAST_SEQ_LEN = 512
"""Tokens below which no shorter sequence is advised: hardly anything is trained on less."""


def training_changes_that_fit(question: TrainingInputs, result: TrainingResult) -> tuple[Change, ...]:
    """Changes under which the job fits, the smallest first; empty where it fits already or nothing helps."""
    if result.feasible:
        return ()
    found: list[Change] = []
    for change in _candidates(result):
        more = any(known.inputs.items() <= change.inputs.items() for known in found)
        if not more and _fits(question, change.inputs):
            found.append(change)
        if len(found) == _MOST_CHANGES:
            break
    if not found:
        found = list(_more_gpus(question))
    return tuple(found[:_MOST_CHANGES])


def _candidates(result: TrainingResult) -> Iterator[Change]:
    plan, dp = result.scenario.plan, result.scenario.parallelism.dp_size
    if result.batch.micro_batch_size > 1:
        yield Change(
            "--micro-batch-size 1",
            {"micro_batch_size": 1, "gradient_accumulation_steps": None}
            if plan.global_batch_size
            else {"micro_batch_size": 1},
        )
    for level in range(plan.activation_recomputation.value + 1, 5):
        yield Change(f"--activation-recomputation {level}", {"activation_recomputation": level})
    if plan.loss in (None, "plain") and float(result.memory.gpu.logits_bytes) > 0:
        yield from (Change(f"--loss {loss}", {"loss": loss}) for loss in ("chunked", "fused"))
        both: dict[str, Any] = {"loss": "chunked", "activation_recomputation": 4}
        yield Change("--loss chunked --activation-recomputation 4", both)
    if plan.lora_rank and plan.base_weight_bits is None:  # QLoRA (arXiv 2305.14314)
        yield Change("--base-weight-bits 4", {"base_weight_bits": 4})
        yield Change(
            "--base-weight-bits 4 --activation-recomputation 4",
            {"base_weight_bits": 4, "activation_recomputation": 4},
        )
    if dp > 1 and result.scenario.parallelism.pp_size == 1:
        for stage in range(plan.ds_zero.value + 1, 4):
            yield Change(f"--ds-zero {stage}", {"ds_zero": stage})
            yield Change(
                f"--ds-zero {stage} --activation-recomputation 4",
                {"ds_zero": stage, "activation_recomputation": 4},
            )
    if plan.lora_rank:
        yield from (Change(f"--framework {name}", {"framework": name}) for name in _sparing())
    if plan.seq_len // 2 >= _LEAST_SEQ_LEN:
        full = {"seq_len": plan.seq_len // 2, "activation_recomputation": 4}
        yield Change(f"--seq-len {plan.seq_len // 2}", {"seq_len": plan.seq_len // 2})
        yield Change(f"--seq-len {plan.seq_len // 2} --activation-recomputation 4", full)
    yield from _offload(plan.optimizer_device)


def _sparing() -> list[str]:
    """Frameworks that keep neither logits nor activations unless told to."""
    known = {name: get_framework(name) for name in FRAMEWORKS}
    return [
        name
        for name, one in known.items()
        if one.loss in ("chunked", "fused") and one.defaults.get("activation_recomputation") == 4
    ]


def _offload(device: str) -> Iterator[Change]:
    full: dict[str, Any] = {"activation_recomputation": 4}
    steps = (("cpu", "gpu", 2), ("cpu", "cpu", 3), ("nvme", "cpu", 3), ("nvme", "nvme", 3))
    for optimizer, weights, stage in steps:
        if device != "gpu" and optimizer == "cpu" and weights == "gpu":
            continue
        flags = f"--ds-zero {stage} --optimizer-device {optimizer}"
        flags += f" --weights-device {weights}" if weights != "gpu" else ""
        inputs = {"ds_zero": stage, "optimizer_device": optimizer, "weights_device": weights}
        yield Change(flags, inputs)
        yield Change(flags + " --activation-recomputation 4", inputs | full)


def _more_gpus(question: TrainingInputs) -> Iterator[Change]:
    """The fewest GPUs, doubled each time, on which full sharding and recomputation fit."""
    gpus = 2 * (question.num_gpus or 1) * (question.num_nodes or 1)
    while gpus <= _MOST_GPUS:
        inputs = {
            "dp_size": gpus,
            "tp_size": 1,
            "pp_size": 1,
            "virtual_stages": 1,
            "num_gpus": None,
            "num_nodes": None,
            "ds_zero": 3,
            "activation_recomputation": 4,
            "global_batch_size": None,
            "micro_batch_size": 1,
        }
        if _fits(question, inputs):
            yield Change(
                f"--dp-size {gpus} --ds-zero 3 --activation-recomputation 4 --micro-batch-size 1", inputs
            )
            return
        gpus *= 2


def _fits(question: TrainingInputs, inputs: dict[str, Any]) -> bool:
    try:
        return predict_training(build_training_scenario(question.replace(**inputs))).feasible
    except LLMPerfError:
        return False
