"""What LLMAnalysis refuses, what does not fit, and what updates do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_perf.analysis import (
    ActivationRecomputation,
    DSZeRO,
    DtypeConfig,
    GPUConfig,
    LLMAnalysis,
    ModelConfig,
    ParallelismConfig,
)
from llm_perf.errors import DoesNotFitError, SpecError

OPT = ModelConfig("opt-1.3b", 24, 32, 2048, 50272, 2048)
A100 = GPUConfig("a100", 40, 1555, 300, 8e-6, 312)

# -- what is refused -------------------------------------------------------------------------------------------

NAN = float("nan")
BAD_INFERENCE = [
    {"batch_size_per_gpu": 0},
    {"batch_size_per_gpu": -4},
    {"batch_size_per_gpu": 1.5},
    {"batch_size_per_gpu": "4"},
    {"batch_size_per_gpu": True},
    {"batch_size_per_gpu": None},
    {"seq_len": 0},
    {"seq_len": -512},
    {"num_tokens_to_generate": 0},
    {"num_tokens_to_generate": -600},
    {"seq_len": 2048, "num_tokens_to_generate": 100000},
    {"seq_len": 4096},
    {"ds_zero": 7},
    {"ds_zero": "3"},
    {"ds_zero": True},
    {"use_kv_cache": "yes"},
    {"kv_cache_dtype_bytes": -2},
    {"kv_cache_dtype_bytes": 0},
    {"layernorm_dtype_bytes": 0},
    {"cost_per_gpu_hour": -3},
    {"cost_per_gpu_hour": NAN},
    {"output_file_suffix": "../elsewhere"},
]


@pytest.mark.parametrize("arguments", BAD_INFERENCE, ids=str)
def test_bad_arguments_of_inference_are_refused_with_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        LLMAnalysis(OPT, A100).inference(**arguments)
    assert "\n" not in str(caught.value)
    assert next(reversed(arguments)) in str(caught.value) or "tokens exceed" in str(caught.value)


BAD_SETTINGS = [
    {field: value}
    for field in (
        "flops_efficiency",
        "hbm_memory_efficiency",
        "intra_node_memory_efficiency",
        "inter_node_memory_efficiency",
    )
    for value in (0, -0.5, 1.5, 5, NAN, "1", True)
] + [
    {"achieved_tflops": 0},
    {"achieved_tflops": -3},
    {"achieved_tflops": NAN},
    {"achieved_tflops": 313},
    {"achieved_memory_bandwidth_GBs": 0},
    {"achieved_memory_bandwidth_GBs": 1556},
    {"parallelism_config": ParallelismConfig(tp_size=3)},
    {"parallelism_config": ParallelismConfig(tp_size=1000)},
    {"parallelism_config": ParallelismConfig(pp_size=48)},
    {"parallelism_config": ParallelismConfig(dp_size=16, ep_size=16)},
    {"parallelism_config": 8},
    {"dtype_config": "w16a16e16"},
    {"dtype_config": DtypeConfig(weight_bits=32, activation_bits=32)},
    {"model_config": "opt-1.3b"},
    {"gpu_config": None},
]


@pytest.mark.parametrize("arguments", BAD_SETTINGS, ids=str)
def test_bad_settings_are_refused_with_one_line(arguments: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        LLMAnalysis(**({"model_config": OPT, "gpu_config": A100} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        (ModelConfig, ("m", 24, 0, 2048, 50272)),
        (ModelConfig, ("m", 0, 32, 2048, 50272)),
        (ModelConfig, ("m", 24, 32, -2048, 50272)),
        (ModelConfig, ("m", 24, 32, 2047, 50272)),
        (ModelConfig, ("m", 24, 32, 2048, -1)),
        (ModelConfig, ("m", 24, 32, 2048, 50272, 2048, 0)),
        (ModelConfig, ("m", 24, 32, 2048, 50272, 2048, 32, None, 100, 4)),
        (ModelConfig, ("m", 24, 32, 2048, 50272, 2048, 32, None, 8192, None, None, 8, 9)),
        (GPUConfig, ("g", 40, -1555, 300, 8e-6, 312)),
        (GPUConfig, ("g", 40, 0, 300, 8e-6, 312)),
        (GPUConfig, ("g", 40, 1555, 300, 8e-6, NAN)),
        (DtypeConfig, ("d", 3)),
        (DtypeConfig, ("d", -16)),
        (ParallelismConfig, (-2,)),
        (ParallelismConfig, (1, 0)),
        (ParallelismConfig, (1, 1, -8)),
        (ParallelismConfig, (2, 1, 1, 1, 4)),
    ],
)
def test_bad_specs_are_refused_with_one_line(spec: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        spec(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_num_flops_fwd_total", (0, 512)),
        ("get_num_flops_fwd_total", (1, -1)),
        ("get_latency_fwd", (1, 0.5)),
        ("get_latency_fwd_per_tp_comm", (1, 1, 0)),
        ("get_weight_memory_per_layer", (9,)),
        ("get_memory_kv_cache_per_layer", (1, 1, -1)),
        ("get_activation_memory_per_layer", (1, 512, True, ActivationRecomputation.FULL)),
        ("get_activation_memory_per_layer", (1, 512, False, 5)),
        ("get_activation_memory_per_layer_mlp", (1, 512, False, 0, -8)),
        ("get_activation_memory_per_layer_attn", (1, 512, "no")),
        ("get_memory_optimizer_state_and_gradient_per_layer", (-4,)),
        ("get_memory_optimizer_state_and_gradient_per_layer", (4, -1)),
        ("get_num_params_embedding", (1,)),
        ("config_batch_size_and_gradient_accumulation_steps", (8, 3, 2, 7)),
        ("config_batch_size_and_gradient_accumulation_steps", (8, None, 4, 6)),
        ("config_batch_size_and_gradient_accumulation_steps", (8, -1)),
        ("config_batch_size_and_gradient_accumulation_steps", (8.5,)),
    ],
)
def test_bad_arguments_of_methods_are_refused_with_one_line(method: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        getattr(LLMAnalysis(OPT, A100), method)(*arguments)
    assert "\n" not in str(caught.value)


def test_enumerations_are_accepted_as_numbers_and_members() -> None:
    analysis = LLMAnalysis(OPT, A100, parallelism_config=ParallelismConfig(dp_size=4))
    assert analysis.inference(ds_zero=3) == analysis.inference(ds_zero=DSZeRO.STAGE_3)
    assert analysis.inference(ds_zero=3) != analysis.inference(ds_zero=2)
    by_number = analysis.get_activation_memory_per_layer(1, 512, False, 2)
    assert by_number == analysis.get_activation_memory_per_layer(1, 512, False, ActivationRecomputation.ATTN)


def test_numpy_integers_are_integers() -> None:
    analysis = LLMAnalysis(OPT, A100)
    assert analysis.inference(np.int64(2), np.int32(64)) == analysis.inference(2, 64)


# -- what does not fit -----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_told_with_the_shortfall() -> None:
    analysis = LLMAnalysis(ModelConfig("opt-175b", 96, 96, 12288, 50272), A100)
    with pytest.raises(
        DoesNotFitError, match=r"weights 325\.\d.*a100 has 40\.0 GiB: 287\.\d GiB are missing"
    ):
        analysis.inference()


@pytest.mark.parametrize("use_kv_cache", [True, False])
def test_the_largest_batch_fits_and_the_next_does_not(use_kv_cache: bool) -> None:
    analysis = LLMAnalysis(OPT, A100)
    first = analysis.inference(1, 256, 128, use_kv_cache)
    most = min(first["prefill_max_batch_size_per_gpu"], first["decode_max_batch_size_per_gpu"])
    analysis.inference(most, 256, 128, use_kv_cache)
    with pytest.raises(DoesNotFitError, match=f"the largest batch that fits is {most}$"):
        analysis.inference(most + 1, 256, 128, use_kv_cache)


# -- updates ---------------------------------------------------------------------------------------------------

BIG = ModelConfig("opt-13b", 40, 40, 5120, 50272, 2048)
H100 = GPUConfig("h100", 80, 3350, 450, 8e-6, 989)


@pytest.mark.parametrize(
    ("update", "value", "constructor"),
    [
        ("update_model_config", BIG, {"model_config": BIG}),
        ("update_gpu_config", H100, {"gpu_config": H100}),
        ("update_dtype_config", DtypeConfig(weight_bits=8), {"dtype_config": DtypeConfig(weight_bits=8)}),
        ("update_parallelism_config", ParallelismConfig(4), {"parallelism_config": ParallelismConfig(4)}),
        ("update_float_efficiency", 0.5, {"flops_efficiency": 0.5}),
        ("update_hbm_memory_efficiency", 0.5, {"hbm_memory_efficiency": 0.5}),
        ("update_intra_node_memory_efficiency", 0.5, {"intra_node_memory_efficiency": 0.5}),
        ("update_inter_node_memory_efficiency", 0.5, {"inter_node_memory_efficiency": 0.5}),
    ],
)
def test_an_update_equals_a_new_analysis(update: str, value: Any, constructor: dict[str, Any]) -> None:
    start = {"model_config": OPT, "gpu_config": A100, "parallelism_config": ParallelismConfig(2, 1, 8)}
    changed = LLMAnalysis(**start)
    changed.inference(ds_zero=3)
    getattr(changed, update)(value)
    fresh = LLMAnalysis(**(start | constructor))
    assert changed.inference(ds_zero=3) == fresh.inference(ds_zero=3)
    assert changed.get_configs_desc() == fresh.get_configs_desc()
    assert changed.total_num_params == fresh.total_num_params
    assert changed.inference(ds_zero=3) != LLMAnalysis(**start).inference(ds_zero=3)


@pytest.mark.parametrize(
    ("update", "value"),
    [
        ("update_model_config", None),
        ("update_gpu_config", "h100"),
        ("update_dtype_config", 16),
        ("update_parallelism_config", ParallelismConfig(3)),
        ("update_float_efficiency", 7),
        ("update_float_efficiency", None),
        ("update_intra_node_memory_efficiency", -1),
        ("update_inter_node_memory_efficiency", 0),
    ],
)
def test_a_refused_update_changes_nothing(update: str, value: Any) -> None:
    analysis = LLMAnalysis(OPT, A100)
    before = analysis.inference()
    with pytest.raises(SpecError):
        getattr(analysis, update)(value)
    assert analysis.inference() == before


def test_what_was_achieved_stays_achieved_on_another_gpu() -> None:
    analysis = LLMAnalysis(OPT, A100, achieved_tflops=156.0)
    assert analysis.flops_efficiency == 0.5
    analysis.update_gpu_config(H100)
    assert analysis.get_TFLOPS_per_gpu() == pytest.approx(156.0)
    analysis.update_float_efficiency(1.0)
    assert analysis.get_TFLOPS_per_gpu() == 989


def test_parts_are_read_only() -> None:
    with pytest.raises(AttributeError):
        LLMAnalysis(OPT, A100).model_config = BIG  # type: ignore[misc]
