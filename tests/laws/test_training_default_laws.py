"""Laws of what a framework does where nobody says otherwise: sharding beside a pipeline, messages beside products."""

from __future__ import annotations

import math

import pytest

from llm_perf.analysis.training import predict_training
from llm_perf.analysis.training_request import TrainingInputs, build_training_scenario
from llm_perf.analysis.tuning_intervals import tuning_width
from llm_perf.errors import SpecError


def predicted(**fields):
    asked = {"gpu": "h100-sxm-80gb", "num_gpus": 8, "micro_batch_size": 1, "global_batch_size": 64}
    return predict_training(build_training_scenario(TrainingInputs(**asked | fields)))


@pytest.mark.parametrize("framework", ["fsdp", "torchtitan", "automodel"])
@pytest.mark.parametrize("stage", [2, 3])
def test_full_sharding_beside_a_pipeline_is_the_first_stage(framework, stage):
    fields = {"model": "llama-3.1-70b", "framework": framework, "num_nodes": 4, "pp_size": 4}
    shared, first = predicted(**fields, ds_zero=stage), predicted(**fields, ds_zero=1)
    assert shared.step_time_s == first.step_time_s
    assert shared.memory.gpu == first.memory.gpu
    assert any("until its last micro-batch" in text for text in shared.warnings)


def test_a_framework_that_shares_each_micro_batch_goes_with_no_pipeline():
    with pytest.raises(SpecError, match="only stages 0 and 1 go with it"):
        predicted(model="llama-3-8b", framework="deepspeed", pp_size=2, ds_zero=3)


@pytest.mark.parametrize(
    ("framework", "model", "tp", "overlaps"),
    [("megatron_bridge", "llama-3.1-70b", 4, True), ("megatron_bridge", "llama-3.1-70b", 1, False),
     ("megatron_bridge", "qwen3-235b-a22b", 2, False), ("megatron", "llama-3.1-70b", 4, False)],
)  # fmt: skip
def test_recipes_of_dense_models_hide_tensor_messages_behind_products(framework, model, tp, overlaps):
    fields = {"model": model, "framework": framework, "gpu": "h100-sxm-80gb", "num_gpus": 8, "tp_size": tp}
    assert build_training_scenario(TrainingInputs(**fields)).plan.tp_comm_overlap is overlaps
    given = build_training_scenario(TrainingInputs(**fields, tp_comm_overlap=not overlaps)).plan
    assert given.tp_comm_overlap is not overlaps


@pytest.mark.parametrize(
    ("fields", "quantity"),
    [({"framework": "megatron_bridge", "model": "llama-3.1-70b", "tp_size": 4, "num_nodes": 8}, "step"),
     ({"framework": "torchtitan", "model": "llama-3-8b", "precision": "fp8"}, "step"),
     ({"framework": "torchtune", "model": "llama-3-8b", "lora_rank": 16}, "time"),
     ({"framework": "fsdp", "model": "llama-3-8b", "num_gpus": 1, "micro_batch_size": 1}, "step")],
)  # fmt: skip
def test_a_training_like_no_run_of_its_framework_is_as_wide_as_frameworks_are_unfitted(fields, quantity):
    found = predicted(**fields)
    low, high = found.interval.total_s
    assert low < found.step_time_s < high
    assert math.log(high / found.step_time_s) == pytest.approx(tuning_width(quantity).width, rel=1e-6)
    assert "no published run" in found.interval.method


def test_a_job_beyond_all_published_ones_has_a_wider_interval():
    fields = {"framework": "torchtitan", "model": "llama-3-8b", "global_batch_size": None}
    within, beyond, far = (
        predicted(**fields, num_nodes=nodes, gradient_accumulation_steps=1) for nodes in (8, 1024, 1024**2)
    )
    assert within.interval.total_factor < beyond.interval.total_factor < far.interval.total_factor
    assert within.interval.outside == 1 < beyond.interval.outside


def test_a_mixture_of_unstated_graphs_may_be_as_quick_as_one_with_them():
    fields = {"framework": "megatron", "model": "qwen3-235b-a22b", "gpu": "gb200", "num_gpus": 64, "ep_size": 64,
              "ds_zero": 1, "precision": "mxfp8"}  # fmt: skip
    eager, graphed = predicted(**fields), predicted(**fields, cuda_graphs="iteration")
    assert graphed.step_time_s < eager.step_time_s / 1.5
    low, high = eager.interval.total_s
    assert low == pytest.approx((eager.step_time_s - eager.launches_s) * eager.step_time_s / high, rel=1e-9)
    assert low < graphed.step_time_s
    assert graphed.launches_s == 0
    assert "CUDA graphs" not in graphed.interval.method


def test_a_dense_model_waits_for_no_launch_of_experts():
    assert predicted(framework="megatron", model="llama-3-8b").launches_s == 0


def test_inputs_of_eight_bit_products_are_kept_in_eight_bits():
    """Llama 3 8B by hand: of hidden twice, attention's result and the inner width a byte each is left, on 32 layers."""
    fields = {"model": "llama-3-8b", "seq_len": 8192, "num_gpus": 1}
    wide, narrow = (
        predicted(**fields, framework="megatron", precision=p).memory.gpu.activations_bytes
        for p in ("bf16", "fp8")
    )
    assert wide - narrow == 32 * 8192 * (3 * 4096 + 14336)
    eager = [predicted(**fields, framework="torchtitan", precision=p).memory.gpu for p in ("bf16", "fp8")]
    assert eager[0].activations_bytes == eager[1].activations_bytes


def test_inputs_that_are_computed_again_are_not_kept_narrower():
    fields = {"model": "llama-3-8b", "framework": "megatron", "num_gpus": 1}
    for again in ({"activation_recomputation": 4}, {"lora_rank": 16}):
        wide, narrow = (predicted(**fields, **again, precision=p).memory.gpu for p in ("bf16", "fp8"))
        assert wide.activations_bytes == narrow.activations_bytes
