"""Laws, limits and refusals of LLMAnalysis.training; its values are tested in tests/golden."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_perf.analysis import GPUConfig, LLMAnalysis, ModelConfig, ParallelismConfig, get_model_config_by_name
from llm_perf.errors import DoesNotFitError, SpecError

OPT = ModelConfig("opt-1.3b", 24, 32, 2048, 50272, 2048)
MOE = ModelConfig("moe", 8, 16, 2048, 32000, 4096, 4, None, 4096, None, "mixtral", 8, 2, True)
GPU = GPUConfig("a100", 40, 1555, 300, 8e-6, 312)
BIG_GPU = GPUConfig("big", 65536, 1555, 300, 8e-6, 312)
STATES = "(weight+op_state+grad)_memory_per_gpu"
EVERYTHING = "(weight+op_state+grad+act)_memory_per_gpu"

models = st.sampled_from([OPT, MOE, get_model_config_by_name("llama-2-7b-hf")])
layouts = st.builds(
    ParallelismConfig,
    tp_size=st.sampled_from([1, 2, 4]),
    pp_size=st.sampled_from([1, 2, 3]),
    dp_size=st.sampled_from([1, 2, 8, 16]),
)
calls = st.fixed_dictionaries(
    {
        "batch_size_per_gpu": st.integers(1, 4),
        "gradient_accumulation_steps": st.integers(1, 9),
        "seq_len": st.sampled_from([64, 777, 2048]),
        "activation_recomputation": st.integers(0, 4),
        "ds_zero": st.integers(0, 3),
        "flash_attn": st.booleans(),
        "softmax_dropout": st.booleans(),
        "mlp_recompute_gelu": st.booleans(),
        "layernorm_dtype_bytes": st.sampled_from([2, 4]),
        "other_op_bytes": st.sampled_from([None, 0, 4]),
    }
)
LAWS = settings(max_examples=40, deadline=None)


def training(
    model: ModelConfig, layout: ParallelismConfig, call: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """A summary on a GPU that has room for everything."""
    return LLMAnalysis(model, BIG_GPU, parallelism_config=layout).training(**(call | more))


# -- laws ------------------------------------------------------------------------------------------------------


@LAWS
@given(models, layouts, calls)
def test_zero_stages_only_ever_reduce_memory(
    model: ModelConfig, layout: ParallelismConfig, call: dict[str, Any]
) -> None:
    used = [training(model, layout, call, ds_zero=stage)[STATES] for stage in range(4)]
    assert used == sorted(used, reverse=True)
    assert (len(set(used)) == 4) == (layout.dp_size > 1)


@LAWS
@given(models, layouts, calls)
def test_recomputation_trades_time_for_memory(
    model: ModelConfig, layout: ParallelismConfig, call: dict[str, Any]
) -> None:
    levels = [training(model, layout, call, activation_recomputation=level) for level in range(5)]
    kept = [summary["activation_memory_per_gpu"] for summary in levels]
    work = [summary["latency_recompute"] for summary in levels]
    times = [summary["latency_per_iter"] for summary in levels]
    flops = [summary["num_flops_total_per_micro_batch"] for summary in levels]
    assert all(later <= sooner * (1 + 1e-12) for sooner, later in pairwise(kept))
    assert all(later >= sooner * (1 - 1e-12) for sooner, later in pairwise(work))
    assert all(later >= sooner * (1 - 1e-12) for sooner, later in pairwise(times))
    assert flops[0] < flops[1] < flops[2] == flops[3] < flops[4] < flops[0] * 4 / 3


@LAWS
@given(models, layouts, calls, st.sampled_from([2, 4]))
def test_replicas_scale_at_most_linearly(
    model: ModelConfig, layout: ParallelismConfig, call: dict[str, Any], more: int
) -> None:
    few = training(model, layout, call)
    many = training(model, layout.replace(dp_size=more * layout.dp_size), call)
    assert many["global_batch_size"] == more * few["global_batch_size"]
    if call["ds_zero"] == 0:
        assert many["latency_per_iter"] >= few["latency_per_iter"]
    else:  # each rank updates less; what is computed and sent does not shrink
        assert (
            many["latency_per_iter"] - many["latency_weight_update"]
            >= (few["latency_per_iter"] - few["latency_weight_update"]) * (1 - 1e-12)
        )  # fmt: skip


@LAWS
@given(models, layouts, calls)
def test_accumulation_conserves_the_global_batch(
    model: ModelConfig, layout: ParallelismConfig, call: dict[str, Any]
) -> None:
    sizes = ("batch_size_per_gpu", "gradient_accumulation_steps", "global_batch_size")
    first = training(model, layout, call)
    product = first[sizes[0]] * first[sizes[1]] * layout.dp_size
    assert first[sizes[2]] == product
    known = {size: first[size] for size in sizes}
    for left_out in sizes:  # any two give the third
        assert training(model, layout, call | known, **{left_out: None}) == first


@LAWS
@given(models, layouts, calls)
def test_a_summary_is_the_sum_of_its_parts(
    model: ModelConfig, layout: ParallelismConfig, call: dict[str, Any]
) -> None:
    summary = training(model, layout, call)
    used = sum(summary[f"{part}_memory_per_gpu"] for part in ("weight", "gradient", "optimizer_state"))
    assert summary[STATES] == pytest.approx(used)
    assert summary[EVERYTHING] == pytest.approx(summary[STATES] + summary["activation_memory_per_gpu"])
    assert summary["memory_left_per_gpu"] + summary[EVERYTHING] == 65536 * 2**30
    pieces = (
        summary["latency_bwd"] + summary["latency_recompute"] + summary["latency_sharded_dp_comm_exposed"]
    )
    back = summary.get("latency_fwd_pp_comm", 0.0)
    micro = summary["latency_per_micro_batch"]
    assert micro == pytest.approx(summary["latency_fwd"] + pieces + back)
    steady = call["gradient_accumulation_steps"] * (micro - summary["latency_pipeline_bubble"])
    ends = summary["latency_gradient_dp_comm_exposed"] + summary["latency_weight_update"]
    step = steady + summary["latency_pipeline_bubble"] + ends
    assert summary["latency_per_iter"] == pytest.approx(step)
    assert (summary["latency_pipeline_bubble"] > 0) == (layout.pp_size > 1)
    assert summary["latency_per_iter"] > summary["latency_per_iter_using_flops"] * (1 - 1e-9)


@LAWS
@given(models, layouts, calls)
def test_what_is_said_to_fit_fits_and_one_more_does_not(
    model: ModelConfig, layout: ParallelismConfig, call: dict[str, Any]
) -> None:
    summary = training(model, layout, call)
    room = (summary[EVERYTHING] + summary["activation_memory_batch_size_1"] / 2) / 2**30
    exact = LLMAnalysis(model, GPUConfig("exact", room, 1555, 300, 8e-6, 312), parallelism_config=layout)
    assert exact.training(**call)["max_batch_size_per_gpu"] == call["batch_size_per_gpu"]
    with pytest.raises(
        DoesNotFitError, match=f"the largest batch that fits is {call['batch_size_per_gpu']}$"
    ):
        exact.training(**(call | {"batch_size_per_gpu": call["batch_size_per_gpu"] + 1}))


# -- limits ----------------------------------------------------------------------------------------------------


def test_flops_are_six_per_parameter_and_token_for_a_wide_model() -> None:
    wide = ModelConfig("wide", 4, 128, 65536, 512)
    summary = LLMAnalysis(wide, BIG_GPU).training(2, seq_len=128)
    params, tokens = summary["num_params_total"], 2 * 128
    assert summary["num_flops_total_per_micro_batch"] == pytest.approx(6 * params * tokens, rel=1e-3)


@pytest.mark.parametrize("layers", [24, 22])
def test_the_bubble_is_that_of_the_schedule(layers: int) -> None:
    deep = ModelConfig("deep", layers, 32, 2048, 512)
    analysis = LLMAnalysis(deep, BIG_GPU, parallelism_config=ParallelismConfig(pp_size=4))
    few, many = (analysis.training(1, steps, seq_len=1024) for steps in (1, 1001))
    slowest = (many["latency_per_iter"] - few["latency_per_iter"]) / 1000
    equal_stages = few["latency_per_micro_batch"] / 4
    assert slowest == pytest.approx(equal_stages * (6 / (layers / 4)), rel=0.01)
    assert few["latency_pipeline_bubble"] == pytest.approx(few["latency_per_micro_batch"] - slowest)


def test_an_update_moves_thirty_bytes_per_parameter() -> None:
    analysis = LLMAnalysis(OPT, BIG_GPU, parallelism_config=ParallelismConfig(dp_size=8))
    whole, shared = (analysis.training(1, ds_zero=stage)["latency_weight_update"] for stage in (0, 1))
    assert whole * 1555e9 == pytest.approx(30 * analysis.get_num_params_total())
    assert shared == pytest.approx(whole / 8)
    assert analysis.get_latency_weight_update() == shared


def test_replicas_far_apart_pay_for_their_gradients() -> None:
    slow = GPU.replace(inter_node_gb_per_s=1.0)
    times = [
        LLMAnalysis(OPT, slow, parallelism_config=ParallelismConfig(dp_size=dp)).training(
            1, seq_len=512, ds_zero=stage
        )
        for dp, stage in ((1, 0), (16, 0), (16, 1), (16, 2), (16, 3))
    ]
    alone, *shared = (summary["latency_per_iter"] for summary in times)
    assert all(step > 5 * alone for step in shared)
    all_reduce = 2 * 15 / 16 * 2 * times[0]["num_params_total"] / 1e9
    assert times[1]["latency_gradient_dp_comm_exposed"] < all_reduce
    assert times[1]["latency_gradient_dp_comm_exposed"] > all_reduce - times[1]["latency_bwd"] - 0.05


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size_per_gpu": 0},
        {"batch_size_per_gpu": "4"},
        {"gradient_accumulation_steps": -1},
        {"global_batch_size": 1.5},
        {"batch_size_per_gpu": 3, "global_batch_size": 8},
        {"seq_len": 0},
        {"seq_len": 4096},
        {"total_num_tokens": 0},
        {"total_num_tokens": float("nan")},
        {"batch_size_per_gpu": 1, "total_num_tokens": 100},
        {"activation_recomputation": 5},
        {"activation_recomputation": "FULL"},
        {"ds_zero": 4},
        {"layernorm_dtype_bytes": -2},
        {"master_weights_dtype_bytes": 0},
        {"other_op_bytes": -100},
        {"flash_attn": 1},
        {"softmax_dropout": None},
        {"mlp_activation_quant_bits": 0},
        {"mlp_2linear_quant_bits": 4.5},
        {"mlp_recompute_gelu": "yes"},
        {"output_file_suffix": "../x"},
        {"allow_long_context": 1},
    ],
    ids=str,
)
def test_bad_arguments_are_refused_with_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        LLMAnalysis(OPT, GPU).training(**arguments)
    assert "\n" not in str(caught.value)
    assert next(reversed(arguments)) in str(caught.value)


def test_long_sequences_are_allowed_when_asked() -> None:
    assert LLMAnalysis(OPT, BIG_GPU).training(1, seq_len=4096, allow_long_context=True)["seq_len"] == 4096


@pytest.mark.parametrize("call", [{}, {"global_batch_size": 64}, {"batch_size_per_gpu": 1}], ids=str)
def test_a_small_gpu_is_refused_with_the_shortfall_never_a_negative_batch(
    call: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    large = ModelConfig("opt-175b", 96, 96, 12288, 50272, 2048)
    with caplog.at_level(logging.ERROR), pytest.raises(DoesNotFitError) as caught:
        LLMAnalysis(large, GPU).training(**call)
    assert "batch_size_per_gpu 1 needs 3019.1 GiB" in str(caught.value)
    assert "optimizer state 1950.9" in str(caught.value)
    assert "has 40.0 GiB: 2979.1 GiB are missing" in str(caught.value)
    assert str(caught.value).endswith("no batch fits: shard over more GPUs, or recompute more")


def test_the_weight_update_is_that_of_the_last_training() -> None:
    analysis = LLMAnalysis(OPT, GPU)
    with pytest.raises(SpecError, match=r"call training\(\) first"):
        analysis.get_latency_weight_update()
    summary = analysis.training(1)
    assert analysis.get_latency_weight_update() == summary["latency_weight_update"]
    analysis.update_gpu_config(BIG_GPU)
    with pytest.raises(SpecError, match=r"call training\(\) first"):
        analysis.get_latency_weight_update()
