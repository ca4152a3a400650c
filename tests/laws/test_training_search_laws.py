"""What a search over machines for a training run leaves out could have been no answer."""

from __future__ import annotations

import numpy as np
import pytest

from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.systems.training.base import (
    PARTS,
    TrainingLoad,
    TrainingMemoryParts,
    binding,
    fullest,
    moments_of,
)
from llm_perf.systems.training.framework import get_framework
from llm_perf.systems.training.step import TrainingStep


@pytest.mark.parametrize("framework", ["megatron", "fsdp", "torchtitan", "hf_trainer", "deepspeed"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b"])
@pytest.mark.parametrize("gpu", ["h100-sxm-80gb", "mi300x"])
def test_full_recomputation_never_makes_a_step_faster(framework: str, model: str, gpu: str) -> None:
    """So that of a division with it only sizes that do not fit without it may win."""
    micro = np.array([1.0, 2.0, 4.0, 8.0])
    seconds = []
    for level in ("none", "full"):
        asked = TrainingInputs(
            model=model, gpu=gpu, framework=framework, num_gpus=8, activation_recomputation=level
        )
        scenario = build_training_scenario(asked)
        step = TrainingStep(scenario, get_framework(framework))
        seconds.append(step.step_cost(TrainingLoad(micro, 16 / micro, 2048.0), parts=False).latency_s)
    assert (seconds[1] >= seconds[0]).all()


def test_the_fullest_moment_of_arrays_is_that_of_each_configuration() -> None:
    asked = TrainingInputs(
        model="llama-3.1-8b", gpu="h100-sxm-80gb", framework="megatron", num_gpus=8, pp_size=2
    )
    footprint = TrainingStep(build_training_scenario(asked), get_framework("megatron")).footprint
    micro = np.array([1.0, 2.0, 16.0])

    def moments(size):
        load = TrainingLoad(size, 16 / size, 2048.0)
        return [
            one
            for stage in footprint.stages
            for one in moments_of(footprint.gpu_terms(load, stage), stage.index, 80e9, (0.1, 0.0))
        ]

    together = fullest(moments(micro))
    assert isinstance(together, TrainingMemoryParts)
    for index, size in enumerate(micro):
        alone = binding(moments(float(size))).parts
        for name in PARTS:
            found = np.broadcast_to(getattr(together, name), micro.shape)[index]
            assert found == pytest.approx(float(getattr(alone, name)))
