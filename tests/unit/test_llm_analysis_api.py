"""The API of seed 002: names, signatures, text, files, entry points. Values are tested in tests/golden."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llm_perf.analysis as api
from llm_perf.analysis import (
    DtypeConfig,
    GPUConfig,
    LLMAnalysis,
    ModelConfig,
    ParallelismConfig,
    infer,
    train,
    within_range,
)
from llm_perf.errors import DoesNotFitError, OutputError, SpecError

OPT = ModelConfig("opt-1.3b", 24, 32, 2048, 50272, 2048)
A100 = GPUConfig("a100", 40, 1555, 300, 8e-6, 312)

SIGNATURES = {
    "__init__": "model_config, gpu_config, dtype_config=DtypeConfig(), parallelism_config=ParallelismConfig(), "
    "achieved_tflops=None, achieved_memory_bandwidth_GBs=None, flops_efficiency=None, hbm_memory_efficiency=None, "
    "intra_node_memory_efficiency=1.0, inter_node_memory_efficiency=1.0",
    "config_batch_size_and_gradient_accumulation_steps": "max_batch_size_per_gpu, batch_size_per_gpu=None, "
    "gradient_accumulation_steps=None, global_batch_size=None",
    "get_TFLOPS_per_gpu": "",
    "get_activation_memory_output_embedding": "batch_size, seq_len",
    "get_activation_memory_per_layer": "batch_size, seq_len, is_inference=True, "
    "activation_recomputation=ActivationRecomputation.NONE, layernorm_dtype_bytes=4, flash_attn=True, "
    "softmax_dropout=False, mlp_activation_quant_bits=None, mlp_1linear_quant_bits=None, "
    "mlp_gelu_input_quant_bits=None, mlp_2linear_quant_bits=None, mlp_recompute_gelu=False, "
    "return_breakdown=False",
    "get_activation_memory_per_layer_attn": "batch_size, seq_len, is_inference=True, flash_attn=True, "
    "softmax_dropout=False, attn_dropout=True, activation_recomputation=ActivationRecomputation.NONE",
    "get_activation_memory_per_layer_mlp": "batch_size, seq_len, is_inference=True, "
    "activation_recomputation=ActivationRecomputation.NONE, mlp_activation_quant_bits=None, "
    "mlp_1linear_quant_bits=None, mlp_gelu_input_quant_bits=None, mlp_2linear_quant_bits=None, "
    "recompute_gelu=False, gated_linear_units=False, with_dropout=False",
    "get_activation_memory_per_layernorm": "batch_size, seq_len, dtype_bytes=4",
    "get_configs_desc": "",
    "get_gpu_hbm_bandwidth": "",
    "get_inter_node_bandwidth": "",
    "get_intra_node_bandwidth": "",
    "get_latency_fwd": "batch_size, seq_len, is_inference=True, "
    "activation_recomputation=ActivationRecomputation.NONE, layernorm_dtype_bytes=4, breakdown_prefix='', "
    "ds_zero=DSZeRO.NONE",
    "get_latency_fwd_input_embedding": "batch_size, seq_len, dtype_bytes=4",
    "get_latency_fwd_output_embedding_loss": "batch_size, seq_len",
    "get_latency_fwd_per_layer": "batch_size, seq_len, is_inference=True, "
    "activation_recomputation=ActivationRecomputation.NONE, layernorm_dtype_bytes=4, ds_zero=DSZeRO.NONE",
    "get_latency_fwd_per_layer_attn": "batch_size, seq_len, is_inference=True, "
    "activation_recomputation=ActivationRecomputation.NONE",
    "get_latency_fwd_per_layer_mlp": "batch_size, seq_len, is_inference=True, "
    "activation_recomputation=ActivationRecomputation.NONE",
    "get_latency_fwd_per_layer_mlp_moe_alltoall": "batch_size, seq_len",
    "get_latency_fwd_per_layer_shared_dp_comm": "",
    "get_latency_fwd_per_layernorm": "batch_size, seq_len, dtype_bytes=4",
    "get_latency_fwd_per_tp_comm": "batch_size, seq_len, dtype_bytes",
    "get_latency_weight_update": "",
    "get_memory_embedding": "ds_zero=DSZeRO.NONE",
    "get_memory_kv_cache_per_layer": "batch_size, seq_len, kv_cache_dtype_bytes=None",
    "get_memory_optimizer_state_and_gradient_embedding": "master_weights_dtype_bytes=4, other_op_bytes=None, "
    "ds_zero=DSZeRO.NONE",
    "get_memory_optimizer_state_and_gradient_last_layernorm": "master_weights_dtype_bytes=4, "
    "other_op_bytes=None, ds_zero=DSZeRO.NONE",
    "get_memory_optimizer_state_and_gradient_per_layer": "master_weights_dtype_bytes=4, other_op_bytes=None, "
    "ds_zero=DSZeRO.NONE",
    "get_num_active_params_per_layer": "",
    "get_num_active_params_total": "",
    "get_num_flops_bwd_total": "batch_size, seq_len",
    "get_num_flops_fwd_per_layer": "batch_size, seq_len",
    "get_num_flops_fwd_per_layer_attn": "batch_size, seq_len",
    "get_num_flops_fwd_per_layer_mlp": "batch_size, seq_len",
    "get_num_flops_fwd_total": "batch_size, seq_len",
    "get_num_flops_total_attn_compute": "batch_size, seq_len",
    "get_num_params_embedding": "shared_embedding=True",
    "get_num_params_last_layernorm": "",
    "get_num_params_per_layer": "",
    "get_num_params_per_layer_attn": "",
    "get_num_params_per_layer_layernorm": "",
    "get_num_params_per_layer_mlp": "",
    "get_num_params_per_layer_router": "",
    "get_num_params_total": "",
    "get_pivot": "",
    "get_readable_summary_dict": "summary_dict, title='Summary'",
    "get_weight_memory_last_layernorm": "ds_zero=DSZeRO.NONE",
    "get_weight_memory_per_layer": "ds_zero=DSZeRO.NONE, return_breakdown=False",
    "inference": "batch_size_per_gpu=1, seq_len=512, num_tokens_to_generate=32, use_kv_cache=True, "
    "ds_zero=DSZeRO.NONE, layernorm_dtype_bytes=2, kv_cache_dtype_bytes=None, cost_per_gpu_hour=None, "
    "output_dir=None, output_file_suffix=''",
    "output_summary_dict": "summary_dict, output_dir, print_human_readable=True, output_file_suffix=''",
    "print_config": "name='Training Configs'",
    "training": "batch_size_per_gpu=None, gradient_accumulation_steps=None, global_batch_size=None, "
    "seq_len=None, total_num_tokens=None, activation_recomputation=ActivationRecomputation.NONE, "
    "ds_zero=DSZeRO.NONE, layernorm_dtype_bytes=4, master_weights_dtype_bytes=4, other_op_bytes=None, "
    "flash_attn=True, softmax_dropout=False, mlp_activation_quant_bits=None, mlp_1linear_quant_bits=None, "
    "mlp_gelu_input_quant_bits=None, mlp_2linear_quant_bits=None, mlp_recompute_gelu=False, output_dir=None, "
    "output_file_suffix=''",
    "update_dtype_config": "dtype_config",
    "update_float_efficiency": "flops_efficiency",
    "update_gpu_config": "gpu_config",
    "update_inter_node_memory_efficiency": "inter_node_memory_efficiency",
    "update_intra_node_memory_efficiency": "intra_node_memory_efficiency",
    "update_model_config": "model_config",
    "update_parallelism_config": "parallelism_config",
}
"""Methods of LLMAnalysis as seed 002 documents them, ``self`` left out."""

FUNCTIONS = {
    "infer": "model_name='facebook_opt-1.3b', gpu_name='a100-sxm-40gb', dtype_name='w16a16e16', log_level='INFO', "
    "batch_size_per_gpu=1, ds_zero=0, dp_size=1, tp_size=1, pp_size=1, sp_size=None, seq_len=512, "
    "num_tokens_to_generate=32, use_kv_cache=True, layernorm_dtype_bytes=2, kv_cache_dtype_bytes=None, "
    "achieved_tflops=None, achieved_memory_bandwidth_GBs=None, flops_efficiency=None, "
    "hbm_memory_efficiency=None, intra_node_memory_efficiency=1.0, inter_node_memory_efficiency=1.0, "
    "cost_per_gpu_hour=None, output_dir=None, output_file_suffix=''",
    "train": "model_name='facebook_opt-1.3b', gpu_name='a100-sxm-40gb', dtype_name='w16a16e16', log_level='INFO', "
    "batch_size_per_gpu=None, gradient_accumulation_steps=None, global_batch_size=None, seq_len=None, "
    "total_num_tokens=None, activation_recomputation=0, ds_zero=0, dp_size=None, tp_size=1, pp_size=1, "
    "sp_size=None, ep_size=1, total_num_gpus=None, layernorm_dtype_bytes=4, master_weights_dtype_bytes=4, "
    "other_op_bytes=None, flash_attn=True, softmax_dropout=False, mlp_activation_quant_bits=None, "
    "mlp_1linear_quant_bits=None, mlp_gelu_input_quant_bits=None, mlp_2linear_quant_bits=None, "
    "mlp_recompute_gelu=False, achieved_tflops=None, flops_efficiency=None, hbm_memory_efficiency=1, "
    "intra_node_memory_efficiency=1.0, inter_node_memory_efficiency=1.0, num_gpus_per_node=8, output_dir=None, "
    "output_file_suffix=''",
    "get_dtype_config_by_name": "name",
    "get_gpu_config_by_name": "name",
    "get_model_config_by_name": "name_or_path",
    "pformat": "object, indent=1, width=80, depth=None, *, compact=False, sort_dicts=True",
    "within_range": "val, target, tolerance",
}
ADDED = {
    "inference": {"allow_long_context"},
    "infer": {"allow_long_context"},
    "training": {"allow_long_context"},
    "train": {"allow_long_context"},
    "__init__": {"num_gpus_per_node"},
    "pformat": {"underscore_numbers"},
    "get_gpu_config_by_name": {"or_none"},
}
"""Keyword-only arguments beyond the seed's (pformat: Python's own)."""


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """(name, kind, default) of every parameter."""
    found = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in found]


@pytest.mark.parametrize(("name", "seed"), [*SIGNATURES.items(), *FUNCTIONS.items()])
def test_signatures_are_those_of_the_seed(name: str, seed: str) -> None:
    function = getattr(api, name) if name in FUNCTIONS else getattr(LLMAnalysis, name)
    own = [one for one in parameters(function) if one[0] != "self" and one[0] not in ADDED.get(name, set())]
    names = {exported: getattr(api, exported) for exported in api.__all__}
    assert own == parameters(eval(f"lambda {seed}: None", names | {"DtypeConfig": DtypeConfig}))
    added = [kind for parameter, kind, _ in parameters(function) if parameter in ADDED.get(name, set())]
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for kind in added)


def test_every_name_of_the_seed_is_importable_and_nothing_heavy_is_loaded_before() -> None:
    assert all(getattr(api, name) is not None for name in api.__all__)
    assert set(api.__all__) <= set(dir(api))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = api.nothing  # type: ignore[attr-defined]
    program = "import sys, llm_perf.analysis; sys.exit('pydantic' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_positional_arguments_have_the_seeds_order() -> None:
    positional = LLMAnalysis(
        OPT, A100, DtypeConfig("w8a8e16", 8, 8, 16), ParallelismConfig(2, 1, 1, 1, 2), None, 1000.0
    )
    named = LLMAnalysis(
        model_config=OPT,
        gpu_config=A100,
        dtype_config=DtypeConfig(name="w8a8e16", weight_bits=8, activation_bits=8),
        parallelism_config=ParallelismConfig(tp_size=2),
        achieved_memory_bandwidth_GBs=1000.0,
    )
    assert positional.inference(2, 128, 16, True, 0, 2, 1) == named.inference(
        batch_size_per_gpu=2, seq_len=128, num_tokens_to_generate=16, kv_cache_dtype_bytes=1
    )


# -- text and files --------------------------------------------------------------------------------------------


def test_files_are_named_after_the_configuration(tmp_path: Path) -> None:
    analysis = LLMAnalysis(OPT, A100)
    assert analysis.get_configs_desc() == "opt-1.3b-a100-w16a16e16-tp1-pp1-dp1-sp1-fe1-ep1-hbme1"
    summary = analysis.inference(output_dir=tmp_path / "new" / "folder", output_file_suffix="-run7")
    stem = "opt-1.3b-a100-w16a16e16-tp1-pp1-dp1-sp1-fe1-ep1-hbme1-run7-summary"
    files = {path.name: path.read_text() for path in (tmp_path / "new" / "folder").iterdir()}
    assert set(files) == {f"{stem}.json", f"{stem}-readable.txt"}
    assert json.loads(files[f"{stem}.json"]) == summary
    assert files[f"{stem}-readable.txt"] == analysis.get_readable_summary_dict(summary)


def test_names_with_separators_stay_in_the_folder(tmp_path: Path) -> None:
    model = ModelConfig("facebook/opt-1.3b", 24, 32, 2048, 50272)
    LLMAnalysis(model, A100).inference(output_dir=str(tmp_path))
    assert all(path.name.startswith("facebook_opt-1.3b-a100") for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_written_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    analysis = LLMAnalysis(OPT, A100)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write into output_dir"):
        analysis.inference(output_dir=tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write into output_dir"):
        analysis.inference(output_dir="null\0byte")
    with pytest.raises(OutputError, match="cannot write into output_dir"):
        analysis.inference(output_dir=tmp_path / "new", output_file_suffix="x" * 300)
    assert not list((tmp_path / "new").iterdir())
    assert (tmp_path / "file").read_text() == "in the way"


def test_json_has_null_where_a_number_does_not_exist(tmp_path: Path) -> None:
    summary = LLMAnalysis(OPT, A100).inference(
        num_tokens_to_generate=1, cost_per_gpu_hour=2, output_dir=tmp_path
    )
    text = next(tmp_path.glob("*.json")).read_text()
    assert json.loads(text) == summary
    assert "NaN" not in text
    assert (
        summary["decode_latency"]
        is summary["decode_tokens_per_sec"]
        is summary["decode_cost_per_1k_tokens"]
        is None
    )
    assert summary["total_decode_latency"] == 0
    assert summary["total_latency"] == summary["prefill_latency"]


def test_readable_text_has_units() -> None:
    text = LLMAnalysis(OPT, A100).get_readable_summary_dict(
        {
            "batch_size_per_gpu": 3,
            "num_params_total": 1_311_016_960,
            "weight_memory_per_gpu": 3 * 2**30,
            "hbm_memory_efficiency": 0.9,
            "prefill_latency": 0.0125,
            "kv_cache_latency": 2.5e-7,
            "total_latency": 7200.0,
            "decode_latency": None,
            "use_kv_cache": True,
        },
        title="Here",
    )
    assert " Here ".strip() in text.splitlines()[1]
    assert text.splitlines()[2:-1] == [
        "batch_size_per_gpu: 3",
        "num_params_total: 1.31 G",
        "weight_memory_per_gpu: 3.0 GB",
        "hbm_memory_efficiency: 0.9",
        "prefill_latency: 12.5 ms",
        "kv_cache_latency: 0.25 us",
        "total_latency: 2.0 hours",
        "decode_latency: None",
        "use_kv_cache: True",
    ]


def test_configurations_are_printed_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    LLMAnalysis(OPT, A100).print_config("My Configs")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "My Configs" in captured.err
    assert "opt-1.3b" in captured.err
    assert "a100" in captured.err


def test_summaries_are_logged_at_info(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llm_perf.analysis"):
        LLMAnalysis(OPT, A100).inference()
    assert "prefill_latency: " in caplog.text


def test_a_gpu_without_the_format_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="llm_perf.analysis")  # `infer(log_level=...)` leaves its own
    v100 = A100.replace(peak_tflops={"fp16": 125})
    analysis = LLMAnalysis(OPT, v100, DtypeConfig(weight_bits=8, activation_bits=8))
    assert analysis.get_TFLOPS_per_gpu() == 125
    assert "no 8-bit matrix format, so products run in fp16" in caplog.text


@pytest.mark.parametrize(
    ("value", "target", "tolerance", "within"),
    [
        (1.005, 1, 0.01, True),
        (1.02, 1, 0.01, False),
        (0, 0, 0.1, True),
        (1, 0, 0.1, False),
        (-1, -1.05, 0.1, True),
    ],
)
def test_within_range(value: float, target: float, tolerance: float, within: bool) -> None:
    assert within_range(value, target, tolerance) is within


# -- entry points ----------------------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """A model and a GPU as files."""
    model = {"name": "opt-1.3b", "num_layers": 24, "n_head": 32, "hidden_dim": 2048, "vocab_size": 50272}
    gpu = {
        "name": "a100",
        "mem_per_GPU_in_GB": 40,
        "hbm_bandwidth_in_GB_per_sec": 1555,
        "intra_node_bandwidth_in_GB_per_sec": 300,
        "intra_node_min_message_latency": 8e-6,
        "peak_fp16_TFLOPS": 312,
    }
    (tmp_path / "model.json").write_text(json.dumps(model))
    (tmp_path / "gpu.json").write_text(json.dumps(gpu))
    return {"model_name": str(tmp_path / "model.json"), "gpu_name": str(tmp_path / "gpu.json")}


def test_infer_equals_the_class(paths: dict[str, str]) -> None:
    summary = infer(
        **paths, dtype_name="w8a16e16", tp_size=2, batch_size_per_gpu=4, flops_efficiency=0.7, ds_zero=1
    )
    analysis = LLMAnalysis(
        OPT, A100, DtypeConfig(weight_bits=8), ParallelismConfig(tp_size=2), flops_efficiency=0.7
    )
    assert summary == analysis.inference(4, ds_zero=1)


def test_infer_knows_bundled_names() -> None:
    summary = infer("opt-1.3b", "a100-sxm-40gb")
    assert summary["num_params_total"] == 1_315_758_080  # biases and positions included
    assert summary == infer()


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_name": "/no/such"},
        {"model_name": "no such model"},
        {"gpu_name": "no such gpu"},
        {"dtype_name": "w3a16e16"},
        {"dtype_name": "half"},
        {"ds_zero": 7},
        {"tp_size": 0},
        {"sp_size": 3},
        {"log_level": "loud"},
        {"batch_size_per_gpu": "4"},
        {"output_file_suffix": 5},
    ],
    ids=str,
)
def test_bad_arguments_of_infer_are_refused_with_one_line(
    paths: dict[str, str], arguments: dict[str, Any]
) -> None:
    with pytest.raises(SpecError) as caught:
        infer(**(paths | arguments))
    assert "\n" not in str(caught.value)


def test_infer_allows_long_contexts_when_asked() -> None:
    with pytest.raises(SpecError, match="2560 tokens exceed the 2048 positions"):
        infer("opt-1.3b", "h100-sxm-80gb", seq_len=2048, num_tokens_to_generate=512)
    assert infer(
        "opt-1.3b", "h100-sxm-80gb", seq_len=2048, num_tokens_to_generate=512, allow_long_context=True
    )["total_latency"]


def test_train_equals_the_class(paths: dict[str, str]) -> None:
    summary = train(
        **paths, tp_size=2, total_num_gpus=8, batch_size_per_gpu=2, seq_len=512, flops_efficiency=0.5, ds_zero=2,
        activation_recomputation=3, hbm_memory_efficiency=0.9,
    )  # fmt: skip
    layout = ParallelismConfig(tp_size=2, dp_size=4)
    analysis = LLMAnalysis(
        OPT, A100, parallelism_config=layout, flops_efficiency=0.5, hbm_memory_efficiency=0.9
    )
    assert summary == analysis.training(2, seq_len=512, activation_recomputation=3, ds_zero=2)
    assert summary["total_num_gpus"] == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tp_size": 16}, "tp_size 16 is more than num_gpus_per_node 8"),
        ({"tp_size": 4, "num_gpus_per_node": 2}, "tp_size 4 is more than num_gpus_per_node 2"),
        ({"total_num_gpus": 7, "tp_size": 2}, "total_num_gpus 7 is no multiple of tp_size 2 x pp_size 1"),
        ({"total_num_gpus": 8, "dp_size": 2}, "total_num_gpus 8 is not tp_size 1 x pp_size 1 x dp_size 2"),
        ({"total_num_gpus": 0}, "total_num_gpus = 0"),
        ({"dp_size": "2"}, "dp_size = '2'"),
        ({"num_gpus_per_node": 0}, "num_gpus_per_node = 0"),
        ({"activation_recomputation": 5}, "activation_recomputation must be one of"),
        ({"log_level": "loud"}, "log_level = 'loud'"),
        ({"seq_len": None}, "seq_len is needed: opt-1.3b states no max_seq_len"),
    ],
    ids=str,
)
def test_bad_arguments_of_train_are_refused_with_one_line(
    paths: dict[str, str], arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        train(**(paths | {"seq_len": 512} | arguments))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_train_knows_bundled_names_and_writes_its_files(tmp_path: Path) -> None:
    summary = train("opt-1.3b", "a100-sxm-80gb", total_num_tokens=int(3e11), output_dir=tmp_path)
    assert summary["seq_len"] == 2048
    assert summary["batch_size_per_gpu"] == summary["max_batch_size_per_gpu"] > 1
    text = next(tmp_path.glob("*-summary.json")).read_text()
    assert json.loads(text) == summary
    readable = next(tmp_path.glob("*-summary-readable.txt")).read_text()
    assert "total_training_latency: " in readable
    assert " days" in readable


# -- batching --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((8, 2, 3, 24), (2, 3, 24)),
        ((8, 2, None, 24), (2, 3, 24)),
        ((8, None, 3, 24), (2, 3, 24)),
        ((8, 2, 3, None), (2, 3, 24)),
        ((8, 2, None, None), (2, 1, 8)),
        ((8, None, None, 24), (6, 1, 24)),
        ((5, None, None, 24), (3, 2, 24)),
        ((8, None, None, None), (8, 1, 32)),
        ((8, None, 3, None), (8, 3, 96)),
        ((1, 2, None, None), (2, 1, 8)),
    ],
)
def test_batching_is_completed(arguments: tuple[Any, ...], expected: tuple[int, int, int]) -> None:
    analysis = LLMAnalysis(OPT, A100, parallelism_config=ParallelismConfig(dp_size=4))
    assert analysis.config_batch_size_and_gradient_accumulation_steps(*arguments) == expected


@pytest.mark.parametrize("max_batch", [0, -25])
def test_no_negative_batch_is_chosen(max_batch: int) -> None:
    with pytest.raises(DoesNotFitError, match="not even one sequence fits"):
        LLMAnalysis(OPT, A100).config_batch_size_and_gradient_accumulation_steps(max_batch)


def test_the_wing_is_found_under_its_old_name() -> None:
    old = importlib.import_module("llm_perf.analysis.compat.llm_analysis")
    assert old is importlib.import_module("llm_perf.llm_analysis.llm_analysis")
    assert old.LLMAnalysis is LLMAnalysis
