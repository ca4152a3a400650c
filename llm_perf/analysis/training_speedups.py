"""What would make training faster, one change at a time, each predicted; `llm_perf.analysis.speedups` is of inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_perf.analysis.speedups import LEAST_GAIN, Gain
from llm_perf.analysis.training import TrainingResult, predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.config.parallelism import DSZeRO
from llm_perf.errors import LLMPerfError
from llm_perf.systems.training.framework import get_framework


def faster_training(question: TrainingInputs, result: TrainingResult, most: int = 2) -> tuple[Gain, ...]:
    """Single changes that fit and train at least 5 % more tokens per second: the largest gain first."""
    if not result.feasible:
        return ()
    found = []
    for text, inputs in _training_candidates(result):
        try:
            changed = predict_training(build_training_scenario(question.replace(**inputs)))
        except LLMPerfError:
            continue
        factor = changed.throughput_tokens_per_s / result.throughput_tokens_per_s
        if changed.feasible and factor >= LEAST_GAIN:
            found.append(Gain(text, factor, "as fast"))
    return tuple(sorted(found, key=lambda gain: -gain.factor)[:most])


def _training_candidates(result: TrainingResult) -> Iterator[tuple[str, dict[str, Any]]]:
    plan = result.scenario.plan
    levels = plan.activation_recomputation.value
    for level in sorted({0, 1, levels - 1} & set(range(levels))):
        yield f"--activation-recomputation {level}", {"activation_recomputation": level}
    for stage in sorted({0, 1, 2} & set(range(plan.ds_zero.value))):
        yield f"--ds-zero {stage}", {"ds_zero": stage}
    if plan.precision == "bf16":
        yield "--precision fp8", {"precision": "fp8"}
    if plan.optimizer_device != "gpu":
        yield "--optimizer-device gpu", {"optimizer_device": "gpu"}
    framework = get_framework(result.scenario.framework)
    if plan.cuda_graphs == "none" and "layers" in (framework.graphs or ()):
        yield "--cuda-graphs layers", {"cuda_graphs": "layers"}
    if plan.optimizer_device == "cpu" and plan.offload_overlap == "none" and not plan.lora_rank:
        for way in framework.offload_overlaps:
            # DeepSpeed has super_offload in stage 3 alone.
            if way != "superoffload" or plan.ds_zero is DSZeRO.STAGE_3:
                yield f"--offload-overlap {way}", {"offload_overlap": way}
    batch = result.batch
    if batch.gradient_accumulation_steps > 1 and result.max_micro_batch_size >= 2 * batch.micro_batch_size:
        yield (
            f"--micro-batch-size {2 * batch.micro_batch_size}",
            {"micro_batch_size": 2 * batch.micro_batch_size, "gradient_accumulation_steps": None},
        )
