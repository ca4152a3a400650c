"""Bytes of number formats, of checkpoints, and of what a quantization_config says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.formats import FORMATS, GGUF_MIXTURES, WEIGHT_FORMATS, format_of_repository
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.module_names import PREFIXES, ModuleNames, compiled
from llm_perf.config.quantization import named_quantization, read_quantization
from llm_perf.counts.linears import layer_linears
from llm_perf.counts.parameters import ends_rank_params, token_table_params, total_params
from llm_perf.counts.weight_formats import checkpoint_bytes, checkpoint_difference, resolve_formats
from llm_perf.errors import SpecError
from llm_perf.systems.footprint import model_weight_bytes


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("q4_k", 4.5), ("q5_k", 5.5), ("q6_k", 6.5625), ("q8_0", 8.5), ("q4_0", 4.5), ("q3_k", 3.4375), ("q2_k", 2.625),
        ("iq4_xs", 4.25), ("iq4_nl", 4.5), ("mxfp4", 4.25), ("mxfp4_gguf", 4.25), ("nvfp4", 4.5), ("nf4", 4.5),
        ("nf4_double", 4 + 8 / 64 + 32 / 16384), ("awq", 4 + 20 / 128), ("fp8", 8), ("fp8_block", 8 + 32 / 16384),
    ],
)  # fmt: skip
def test_bits_per_element(name: str, bits: float) -> None:
    assert FORMATS[name].stored_bits == bits


def _bytes(model: str, format_name: str | None, mtp_layers: int = 0) -> float:
    spec = get_model_config_by_name(model)
    quantization = spec.quantization if format_name is None else named_quantization(format_name)
    return checkpoint_bytes(spec, resolve_formats(spec, quantization), mtp_layers)


def test_gpt_oss_to_the_byte() -> None:
    """metadata.total_size of model.safetensors.index.json of openai/gpt-oss-20b and -120b."""
    assert _bytes("gpt-oss-20b", None) == 13_761_264_768
    assert _bytes("gpt-oss-120b", None) == 65_248_815_744


def test_deepseek_v3_with_its_mtp_module() -> None:
    """The tensors of deepseek-ai/DeepSeek-V3 take 688.59e9 bytes by its index."""
    assert _bytes("deepseek-v3", None, 1) == pytest.approx(688.59e9, rel=1e-4)


@pytest.mark.parametrize(
    ("mixture", "published"),
    [
        ("q4_0", 3_825_807_040),
        ("q4_k_m", 4_081_004_224),
        ("q5_k_m", 4_783_156_928),
        ("q6_k", 5_529_194_176),
        ("q8_0", 7_161_089_728),
    ],
)
def test_files_of_llama_cpp(mixture: str, published: int) -> None:
    """Sizes of the files of TheBloke/Llama-2-7B-GGUF: the tensors, and a header (mostly the tokenizer) alike for all."""
    assert published - _bytes("llama-2-7b", mixture) == pytest.approx(741_000, abs=1000)


@pytest.mark.parametrize(
    ("model", "mixture", "published"),
    [("llama-3-8b", "q4_k_m", 4_920_734_272), ("gpt-oss-20b", "mxfp4_gguf", 12_109_566_560)],
)
def test_other_files_of_llama_cpp(model: str, mixture: str, published: int) -> None:
    """Files of bartowski/Meta-Llama-3-8B-Instruct-GGUF and ggml-org/gpt-oss-20b-GGUF; headers are below .2 %."""
    assert 0.998 * published < _bytes(model, mixture) < published


@pytest.mark.parametrize("name", ["deepseek-v3", "kimi-k2-instruct"])
def test_the_released_quantization_config_is_the_bundled_one(name: str) -> None:
    """quantization_config of deepseek-ai/DeepSeek-V3 and moonshotai/Kimi-K2-Instruct."""
    released = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    }
    assert read_quantization(released) == get_model_config_by_name(name).quantization


def test_awq_of_qwen() -> None:
    """Qwen/Qwen2.5-32B-Instruct-AWQ is 19.33 GB: 4 bits, scale and zero per 128, table and head in 16 bits."""
    model = get_model_config_by_name("qwen2.5-32b")
    assert _bytes("qwen2.5-32b", "awq") == pytest.approx(19.33e9, rel=1e-3)
    wide = 2 * model.vocab_size * model.hidden_size * 2
    assert _bytes("qwen2.5-32b", "awq") > wide


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-20b", "falcon-7b", "opt-350m"]
)
def test_wide_formats_are_all_parameters_in_16_bits(name: str) -> None:
    model = get_model_config_by_name(name)
    assert checkpoint_bytes(model, resolve_formats(model, None)) == 2 * total_params(model)


@pytest.mark.parametrize("format_name", WEIGHT_FORMATS)
def test_every_format_of_every_kind_of_model(format_name: str) -> None:
    """Each matrix has its own width or more, and none is wider than 32 bits."""
    for name in (
        "llama-3.1-8b",
        "mixtral-8x7b",
        "deepseek-v3",
        "gpt-oss-20b",
        "opt-350m",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B",
    ):
        model = get_model_config_by_name(name)
        formats = resolve_formats(model, named_quantization(format_name))
        least = min(2.6, FORMATS[format_name].stored_bits if format_name in FORMATS else 2.6)
        least = least if format_name in GGUF_MIXTURES else 4
        for group, row in zip(model.layer_groups, formats.layers, strict=True):
            assert len(row) == len(layer_linears(group, model.hidden_size))
            assert all(least <= entry.bits <= 32 for entry in row)


def test_llama_405b_keeps_attention_and_both_ends_wide() -> None:
    """vllm-project/vllm#6746 loads 57.75 GiB per GPU of eight from Meta's FP8 checkpoint."""
    wide = [f"model.layers.{i}.self_attn.{c}_proj" for i in range(126) for c in "qkvo"]
    wide += [f"model.layers.{i}.mlp.{part}_proj" for i in (0, 125) for part in ("gate", "up", "down")]
    config = {"quant_method": "fbgemm_fp8", "modules_to_not_convert": wide}
    model = get_model_config_by_name("llama-3.1-405b")
    formats = resolve_formats(model, read_quantization(config))
    attention, feed_forward = formats.layers[0][:4], formats.layers[0][4:]
    assert all(entry.bits == 16 for entry in attention)
    assert all(entry.bits == pytest.approx(8 + 8 * 2 / 126) for entry in feed_forward)
    assert checkpoint_bytes(model, formats) / 8 / 2**30 == pytest.approx(57.75, rel=0.02)


_FP8 = {"num_bits": 8, "type": "float"}
_EXCLUSIONS: list[dict[str, Any]] = [
    {
        "quant_method": "compressed-tensors",
        "config_groups": {"a": {"targets": ["Linear"], "weights": _FP8}},
        "ignore": ["lm_head", "re:.*self_attn.*"],
    },
    {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head", "*self_attn*"]},
    {"quant_algo": "FP8", "exclude_modules": ["lm_head", "model.layers.*.self_attn.*"]},
    {"quant_method": "fp8", "modules_to_not_convert": ["self_attn"]},
]


@pytest.mark.parametrize("config", _EXCLUSIONS)
def test_exclusions_by_name_wildcard_and_expression(config: dict[str, Any]) -> None:
    model = get_model_config_by_name("llama-3.1-8b")
    row = resolve_formats(model, read_quantization(config)).layers[0]
    assert [entry.bits for entry in row] == [16] * 4 + [8] * 3


@pytest.mark.parametrize(
    ("activations", "named"),
    [(None, "nvfp4_weight_only"), ({"num_bits": 4, "type": "float", "group_size": 16}, "nvfp4")],
)
def test_targets_of_compressed_tensors(activations: dict[str, Any] | None, named: str) -> None:
    """Weights in 4 bits are multiplied by activations in 4 bits only where these are narrowed as well (NVFP4A16 is not)."""
    weights = {"num_bits": 4, "type": "float", "group_size": 16}
    config = {
        "quant_method": "compressed-tensors", "ignore": ["lm_head"],
        "config_groups": {
            "attention": {"targets": ["re:.*self_attn.*"], "weights": {**_FP8, "strategy": "channel"}},
            "rest": {"targets": ["Linear"], "weights": weights, "input_activations": activations},
        },
    }  # fmt: skip
    row = resolve_formats(get_model_config_by_name("llama-3.1-8b"), read_quantization(config)).layers[0]
    assert [entry.name for entry in row] == ["fp8"] * 4 + [named] * 3


def test_a_checkpoint_of_several_precisions_says_whose_activations_stay_wide() -> None:
    """As nvidia/Qwen3.6-27B-NVFP4 is released: 4-bit weights of the MLP by activations of 16, attention in FP8."""
    layers = {"model.layers.*.mlp.*": {"quant_algo": "W4A16_NVFP4", "group_size": 16}}
    layers |= {"model.layers.*.self_attn.*": {"quant_algo": "FP8"}}
    config = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    row = resolve_formats(get_model_config_by_name("llama-3.1-8b"), read_quantization(config)).layers[0]
    assert [entry.name for entry in row] == ["fp8"] * 4 + ["nvfp4_weight_only"] * 3
    assert {entry.kernels for entry in row[4:]} == {"weight-only"}


_TORCHAO = {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": False}, 4 + 16 / 64),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4 + 8 / 64 + 32 / 16384),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 16384),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, 4.5),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "group_size": 16}, 4.5),
        ({"quant_method": "torchao", "quant_type": {"default": _TORCHAO}}, 4.5),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, 8),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, 8),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}}, 4.25),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, 8),
        ({"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "fp8_e4m3"}, {"dtype": "int4"}]}}, 4),
        ({"quant_method": "nvfp4"}, 4.5),
        ({"quant_method": "fp_quant", "forward_dtype": "mxfp4"}, 4.25),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_MXFP4_FP8"}, 4.25),
        ({"quant_method": "mxfp8"}, 8.25),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}, 4.5),
        ({"quant_method": "bitnet"}, 2),
        ({"quant_method": "aqlm"}, 2),
        ({"quant_method": "torchao", "quant_type": "float8_dynamic_activation_float8_weight"}, 8),
    ],
)  # fmt: skip
def test_methods(config: dict[str, Any], bits: float) -> None:
    row = resolve_formats(get_model_config_by_name("llama-3.1-8b"), read_quantization(config)).layers[0]
    assert {entry.bits for entry in row} == {bits}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quant_method": "magic"}, "quant_method"),
        ({"quant_method": "gptq", "bits": "four"}, "bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["re:(a+)+$"]}, "repeats too much"),
        ({"quant_method": "fp8", "modules_to_not_convert": ["re:("]}, "regular expression"),
        ({"quant_method": "modelopt", "quant_algo": "FP2"}, "quant_algo"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp3"}}}, "weight.dtype"),
        ({"quant_method": "quark", "layer_quant_config": {"a": 3}}, "weight.dtype"),
        ({"quant_method": "fp_quant", "forward_dtype": "fp3"}, "forward_dtype"),
        ({"quant_method": "aqlm", "nbits_per_codebook": 15}, "in_group_size"),
        ({"quant_method": "hqq", "quant_config": []}, "quant_config"),
        ({"quant_method": "compressed-tensors", "config_groups": []}, "config_groups"),
    ],
)
def test_faults_name_the_field(config: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        read_quantization(config)


def test_fuzzed_configs_raise_nothing_but_spec_errors() -> None:
    """Any value anywhere in a quantization_config is read or refused."""
    draw = random.Random(14)
    values: list[Any] = [
        None,
        True,
        0,
        -1,
        4,
        1e308,
        "",
        "lm_head",
        "re:[",
        [],
        ["a"],
        [None],
        [[1]],
        {},
        {"a": {}},
        10**30,
        "\x00",
    ]
    bases = [*_EXCLUSIONS, {"quant_method": "gptq", "bits": 4, "group_size": 128}, {"quant_method": "mxfp4"},
             {"quant_method": "quark", "exclude": ["x"], "layer_quant_config": {"*.mlp.*": {"weight": {"dtype": "fp8"}}},
              "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}},
             {"quant_method": "hqq", "quant_config": {"nbits": 4, "group_size": 64}},
             {"quant_method": "aqlm", "num_codebooks": 2},
             {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
             {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["x"]},
             {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "FP8"}}}]  # fmt: skip
    model = get_model_config_by_name("llama-3.2-1b")
    read = 0
    messages: list[str] = []
    for _ in range(4000):
        config = json.loads(json.dumps(draw.choice(bases)))
        _mutate(config, draw, values)
        try:
            resolve_formats(model, read_quantization(config))
            read += 1
        except SpecError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    assert 300 < read < 4000


def _mutate(config: dict[str, Any], draw: random.Random, values: list[Any]) -> None:
    at = config
    while True:
        key = draw.choice(list(at)) if at else "x"
        inside = at.get(key)
        if isinstance(inside, dict) and inside and draw.random() < 0.7:
            at = inside
            continue
        at[key] = draw.choice(values)
        return


# -- as questions -----------------------------------------------------------------------------------------


def _scenario(**inputs: Any) -> Any:
    return build_scenario(InferenceInputs(**{"gpu": "h100-sxm-80gb", **inputs}))


def test_auto_is_as_released_and_a_width_is_a_width() -> None:
    auto = _scenario(model="gpt-oss-20b")
    assert model_weight_bytes(auto) == 13_761_264_768
    assert "as released (mxfp4)" in auto.dtype.origin
    wide = _scenario(model="gpt-oss-20b", weight_bits=16)
    assert model_weight_bytes(wide) == 2 * total_params(wide.model)
    assert _scenario(model="gpt-oss-20b", quant_bits=16).dtype == auto.dtype


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.2-1b", "qwen3-30b-a3b"])
def test_a_format_without_scales_is_the_width_it_stands_for(model: str) -> None:
    """8-bit weights without scales take the same bytes and times, named or as a width."""
    named = predict_inference(_scenario(model=model, weight_format="int8_weight_only", gen_len=8))
    width = predict_inference(_scenario(model=model, weight_bits=8, gen_len=8))
    assert named.memory.gpu.weights_bytes == pytest.approx(width.memory.gpu.weights_bytes, rel=1e-3)
    assert named.total_latency_s == pytest.approx(width.total_latency_s, rel=1e-3)


def test_fp8_runs_on_fp8_units_where_there_are_any() -> None:
    """A long prefill is bound by arithmetic: faster than 16 bit on Hopper, no faster on Ampere."""
    asked = {"model": "llama-3.1-8b", "prompt_len": 8192, "batch_size": 4, "gen_len": 2}
    for gpu, faster in (("h100-sxm-80gb", True), ("a100-sxm-80gb", False)):
        narrow = predict_inference(_scenario(**asked, gpu=gpu, weight_format="fp8")).prefill.latency_s
        wide = predict_inference(_scenario(**asked, gpu=gpu)).prefill.latency_s
        assert (narrow < 0.75 * wide) == faster


def test_16_bit_models_have_no_formats() -> None:
    scenario = _scenario(model="llama-3.1-8b")
    assert scenario.dtype.formats is None
    assert scenario.dtype.weight_bits == 16


def test_systems_that_store_16_bits_say_so() -> None:
    scenario = _scenario(model="gpt-oss-20b", ds_zero=3, cpu_offload=True)
    assert scenario.dtype.formats is None
    assert "does not serve mxfp4" in scenario.dtype.origin


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_ranks_hold_the_checkpoint_between_them(tp: int) -> None:
    """Matrices are divided; only vectors, routers and down-projections of the latent are held by every rank."""
    scenario = _scenario(model="llama-3.1-70b", weight_format="fp8", tp_size=tp)
    whole = checkpoint_bytes(scenario.model, scenario.dtype.formats)
    assert whole <= tp * model_weight_bytes(scenario) <= whole * 1.001


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"weight_format": "q9"}, "weight_format"),
        ({"weight_format": "awq", "weight_bits": 4}, "weight_bits"),
        ({"kv_format": "fp2"}, "kv_format"),
        ({"kv_format": "fp8", "kv_bits": 8}, "kv_bits"),
        ({"weight_format": "awq", "ds_zero": 3}, "zero_inference"),
    ],
)
def test_contradictions_are_named(inputs: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        _scenario(model="llama-3.1-8b", **inputs)


def test_cache_formats() -> None:
    assert _scenario(model="llama-3.1-8b", kv_format="q8_0").dtype.stored_kv_bits == 8.5
    assert _scenario(model="llama-3.1-8b", kv_format="fp8").dtype.stored_kv_bits == 8
    assert _scenario(model="llama-3.1-8b").dtype.stored_kv_bits == 16


@pytest.mark.parametrize("asked", ["fp8", "FP8", "fp8_e4m3", "auto", "fp8_block"])
def test_fp8_of_a_model_released_in_fp8_is_its_release(asked: str) -> None:
    """Who types what the checkpoint is in means that checkpoint: scales of blocks have kernels of their own."""
    released = _scenario(model="deepseek-v3", system="sglang").dtype
    found = _scenario(model="deepseek-v3", system="sglang", weight_format=asked).dtype
    assert found.formats is not None
    assert released.formats is not None
    assert (found.formats.name, found.formats.layers) == ("fp8_block", released.formats.layers)


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        ("deepseek-v3", "fp8_dynamic"),
        ("deepseek-v3", "FP8-per-tensor"),
        ("llama-3.1-8b", "fp8"),
        ("gpt-oss-20b", "fp8"),
    ],
)
def test_fp8_with_one_scale(model: str, asked: str) -> None:
    """Other 8-bit checkpoints of it have a name of their own; a model that is not released in FP8 has no other."""
    formats = _scenario(model=model, system="vllm", weight_format=asked).dtype.formats
    assert formats is not None
    assert formats.name == "fp8"


def test_names_mean_what_they_end_in() -> None:
    assert format_of_repository("TheBloke/Llama-2-7B-GPTQ") == ("-gptq", "gptq")
    assert format_of_repository("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8") == ("-gptq-int8", "int8_weight_only")
    assert format_of_repository("meta-llama/Llama-3.1-8B") is None
    # Qwen's own have a scale per block, others' of the same model one per channel.
    assert (
        format_of_repository("Qwen/Qwen3-8B-FP8")
        == format_of_repository("qwen3-8b-fp8", "Qwen")
        == ("-fp8", "fp8_block")
    )
    assert format_of_repository("qwen3-8b-fp8") == ("-fp8", "fp8")
    assert format_of_repository("RedHatAI/Qwen3-8B-FP8-dynamic") == ("-fp8-dynamic", "fp8")
    assert format_of_repository("amd/Llama-3.1-70B-Instruct-FP8-KV") == ("-fp8-kv", "fp8")
    # A name without an owner is of whoever published the model that it means: QwQ is Qwen's, Mixtral is not.
    for name, stored in (
        ("qwen3-8b-fp8", "fp8_block"),
        ("qwq-32b-fp8", "fp8_block"),
        ("mixtral-8x7b-fp8", "fp8"),
    ):
        quantization = get_model_config_by_name(name).quantization
        assert quantization is not None
        assert quantization.method == stored
    model = get_model_config_by_name("Qwen/Qwen2.5-32B-Instruct-AWQ")
    assert model.quantization is not None
    assert model.quantization.name == "awq"


_TINY: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip


def test_checkpoint_size_is_compared(tmp_path: Path) -> None:
    config = _TINY | {"torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = get_model_config_by_name(str(tmp_path / "config.json"))
    assert model.checkpoint_bytes is None
    size = 2 * total_params(model)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": size}}))
    assert checkpoint_difference(get_model_config_by_name(str(tmp_path / "config.json"))) is None
    index.write_text(json.dumps({"metadata": {"total_size": 2 * size}}))
    said = checkpoint_difference(get_model_config_by_name(str(tmp_path / "config.json")))
    assert said is not None
    assert "+100.0%" in said


def test_float32_checkpoints_are_served_in_16_bits(tmp_path: Path) -> None:
    config = _TINY | {"torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    scenario = _scenario(model=str(tmp_path / "config.json"))
    assert scenario.dtype.weight_bits == 16
    assert "float32" in scenario.dtype.origin


def test_hf_quant_config_beside_the_config(tmp_path: Path) -> None:
    config = _TINY
    (tmp_path / "config.json").write_text(json.dumps(config))
    beside = {
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": "FP8",
            "group_size": 16,
            "exclude_modules": ["lm_head"],
        }
    }
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    scenario = _scenario(model=str(tmp_path), prompt_len=64, gen_len=8)
    assert scenario.dtype.formats.name == "nvfp4"
    assert scenario.dtype.stored_kv_bits == 8
    assert (
        _scenario(model=str(tmp_path), prompt_len=64, gen_len=8, kv_format="fp16").dtype.stored_kv_bits == 16
    )


@pytest.mark.parametrize(
    ("system", "runs", "refused"),
    [
        ("llama.cpp", ("q4_k_m", "iq4_xs", "bf16"), ("awq", "fp8", "nf4")),
        ("exllama", ("gptq", "fp16"), ("q4_k_m", "nvfp4")),
        ("tensorrt_llm", ("nvfp4", "awq", "fp8"), ("q4_k_m", "nf4", "bnb_int8")),
        ("vllm", ("awq", "nf4", "q4_k_m"), ()),
    ],
)
def test_a_format_without_kernels_is_refused_by_name(
    system: str, runs: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    for name in runs:
        assert _scenario(model="llama-3.1-8b", system=system, weight_format=name)
    for name in refused:
        with pytest.raises(
            SpecError, match=rf"weight_format {name}: .* has no kernels for it; it runs 16 bits and "
        ):
            _scenario(model="llama-3.1-8b", system=system, weight_format=name)


def test_a_checkpoint_that_the_engine_cannot_read_is_counted_in_16_bits_and_said() -> None:
    scenario = _scenario(model="llama-3.1-8b-awq", system="llama.cpp")
    assert scenario.dtype.formats is None
    assert (
        scenario.dtype.origin == "16 bit: llama_cpp does not serve awq, in which the checkpoint was released"
    )
    assert _scenario(model="llama-3.1-8b-bnb-4bit", system="tensorrt_llm").dtype.weight_bits == 16
    assert _scenario(model="llama-3.1-8b-bnb-4bit", system="vllm").dtype.formats.name == "nf4_double"


def test_advice_names_a_format_that_the_engine_runs() -> None:
    from llm_perf.analysis.advice import changes_that_fit

    for system, name in (("exllama", "gptq"), ("lmdeploy", "awq"), ("llama.cpp", "q4_k_m")):
        inputs = InferenceInputs(model="llama-3.1-70b", gpu="h100-sxm-80gb", system=system)
        changes = changes_that_fit(inputs, predict_inference(build_scenario(inputs)))
        assert f"--weight-format {name}" in {change.text for change in changes}


PATTERNS = (
    "lm_head", "lm_head*", "model.layers.3.*", "*self_attn*", r"re:.*layers\.3\..*", "re:model.layers.1.self_attn.*",
    "model.layers.*.mlp.gate", "model.layers.12.mlp.experts.0.gate_proj", r"re:.*(q_proj|layers\.2\.mlp).*", "layers.1",
    "mlp.gate", r"re:^model\.layers\.1\.", "^model.layers.2.self_attn.q_proj", "model.language_model.layers.4*",
    r"re:.*layers\.1[0-9]\.mlp.*", "*.layers.5.*", r"re:.*\.layers\.(4|5)\..*", "re:.*layers.1.*", r"re:.*layers\.1?\..*",
)  # fmt: skip
MODULES = (
    "lm_head", "output", *(
        f"layers.{layer}.{name}"
        for layer in (0, 1, 2, 3, 4, 5, 12, 13, 31)
        for name in ("self_attn.q_proj", "mlp.gate", "mlp.experts.0.gate_proj", "mlp.down_proj")
    ),
)  # fmt: skip


def test_names_by_layer_are_found_as_one_by_one() -> None:
    """Prefixes and expressions about one layer are looked up; asked one by one they say the same."""
    for pattern in PATTERNS:
        expression = compiled(pattern)
        names = ModuleNames((pattern,))
        for module in MODULES:
            parts = module.split(".")
            runs = {".".join(parts[i:j]) for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
            plain = pattern.removeprefix("model.") in runs
            slowly = plain if expression is None else any(expression.match(p + module) for p in PREFIXES)
            assert names.match(module) == slowly, (pattern, module)


def test_a_list_of_every_module_is_not_gone_through_for_each() -> None:
    every = tuple(rf"re:.*layers\.{layer}\.self_attn.*" for layer in range(19_999))
    names = ModuleNames(every)
    assert not names._everywhere
    assert names.match("layers.7.self_attn.q_proj")
    assert not names.match("layers.20000.self_attn.q_proj")
    with pytest.raises(SpecError, match="2000 expressions about all layers: give at most 1000"):
        ModuleNames(tuple(f"re:.*proj{number}" for number in range(2000)))


def test_llama_cpp_keeps_experts_in_mxfp4_under_the_format_s_plain_name() -> None:
    asked = (
        build_scenario(
            InferenceInputs(model="gpt-oss-20b", gpu="rtx-4090", system="llama_cpp", weight_format=name)
        )
        for name in ("mxfp4", "mxfp4_moe")
    )
    plain, file = (scenario.dtype.formats for scenario in asked)
    assert plain == file


@pytest.mark.parametrize("tag", ["", ":Q4_K_M", ":Q8_0", ":F16"])
@pytest.mark.parametrize("size", ["20b", "120b"])
def test_every_file_of_gpt_oss_has_its_experts_as_released(size: str, tag: str) -> None:
    """Rows of 2,880 are no blocks of 256: files of unsloth/gpt-oss-20b-GGUF differ by a few percent, whatever their names."""
    found = get_model_config_by_name(f"unsloth/gpt-oss-{size}-GGUF{tag}")
    assert found.quantization == get_model_config_by_name(f"gpt-oss-{size}").quantization


@pytest.mark.parametrize("name", ["gemma-4-e2b", "gemma-4-e4b", "gemma-3n-e4b"])
def test_tables_of_layers_have_a_type_of_weights_in_a_gguf_file(name: str) -> None:
    """Norms have 32 bits there; a table with a row of each token for every layer is none of them."""
    found = get_model_config_by_name(name)
    for mixture, least, most in (("q8_0", 8.5, 9.0), ("q4_k_m", 4.5, 6.6)):
        size = checkpoint_bytes(found, resolve_formats(found, named_quantization(mixture)))
        assert least < 8 * size / total_params(found) < most


@pytest.mark.parametrize("name", ["gemma-4-e2b", "gemma-4-e4b", "gemma-3n-e4b"])
def test_tables_of_layers_are_shared_out_like_the_token_table(name: str) -> None:
    found = get_model_config_by_name(name)
    assert found.layer_table_params == 262_144 * 256 * found.num_layers
    one, four = ends_rank_params(found)[0].sharded, ends_rank_params(found, 4)[0].sharded
    assert one == 4 * four == token_table_params(found) + found.layer_table_params
