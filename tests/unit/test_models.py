"""Bundled models: parameter counts against published ones, names, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import ModelConfig, get_model_config_by_name
from llm_perf.config.bundled import _aliases, known_names
from llm_perf.config.files import build, parse_mapping
from llm_perf.config.huggingface import load_model_file
from llm_perf.config.model import Attention, LatentAttention, MoEMLP
from llm_perf.config.names import normalise
from llm_perf.counts.parameters import active_params, token_table_params, total_params
from llm_perf.errors import AmbiguousNameError, SpecError, UnknownNameError
from llm_perf.systems.footprint import model_weight_bytes

PARAMS: dict[str, list[int]] = yaml.safe_load(
    (Path(__file__).parents[1] / "data" / "model_params.yaml").read_text(encoding="utf-8")
)

# Published counts that are a name or a rounding, not a count. OPT: arXiv 2205.01068, table 1; the guide of
# FasterTransformer; Falcon-40B's checkpoint also stores the head that it ties to the token table.
ROUND_NAMES = {
    "facebook/opt-350m",
    "facebook/opt-1.3b",
    "facebook/opt-2.7b",
    "facebook/opt-6.7b",
    "facebook/opt-13b",
    "facebook/opt-66b",
    "openai-community/gpt2",
    "EleutherAI/pythia-70m",
    "EleutherAI/pythia-1.4b",
    "tiiuae/falcon-40b",
    "llm-analysis/test-13b",
    "encoder/BERT-base",
    "encoder/BERT-6B",
    "nvidia/megatron-gpt-22B",
    "nvidia/fastertransformer-GPT-350M",
    "nvidia/fastertransformer-GPT-1.3B",
    "nvidia/fastertransformer-GPT-6.7B",
    "nvidia/fastertransformer-GPT-20B",
    "nvidia/fastertransformer-GPT-89B",
    "deepseek-ai/DeepSeek-V4-Pro",
}
# Their published active counts leave the input embedding out, which others count.
WITHOUT_EMBEDDING = {
    "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek-ai/DeepSeek-V4-Flash",
    "meituan-longcat/LongCat-Flash-Chat",
    "openai/gpt-oss-20b",
    "openai/gpt-oss-120b",
}

# arXiv 2104.04473, table 1: parameters in billions. Its formula has no final norm: far below the rounding.
MEGATRON = {
    "1.7B": 1.7,
    "3.6B": 3.6,
    "7.5B": 7.5,
    "18.4B": 18.4,
    "39.1B": 39.1,
    "76.1B": 76.1,
    "145.6B": 145.6,
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is looked up in the network, installed or not."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


def model(name: str) -> ModelConfig:
    return get_model_config_by_name(name)


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_equal_the_reference(name: str) -> None:
    assert total_params(model(name)) == PARAMS[name][0]


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_are_the_published_ones(name: str) -> None:
    published = PARAMS[name][1]
    tolerance = 0.06 if name in ROUND_NAMES else 0.003
    assert model(name).published_params == published
    assert total_params(model(name)) == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("name", [name for name, row in PARAMS.items() if len(row) == 3])
def test_active_parameters_are_the_published_ones(name: str) -> None:
    spec, published = model(name), PARAMS[name][2]
    left_out = token_table_params(spec) if name in WITHOUT_EMBEDDING else 0
    assert spec.published_active_params == published
    assert active_params(spec) - left_out == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("size", MEGATRON)
def test_megatron_models_have_the_size_of_their_paper(size: str) -> None:
    assert total_params(model(f"GPT-{size}")) / 1e9 == pytest.approx(MEGATRON[size], abs=0.051)


def test_every_bundled_model_loads_and_carries_its_source() -> None:
    for stem in known_names("model"):
        spec = model(stem)
        assert spec.name.replace("/", "_") == stem
        assert spec.source
        assert spec.family
        assert active_params(spec) <= total_params(spec)


# What only one family has, seen in the spec: (model, layers that slide or chunk, their length).
@pytest.mark.parametrize(
    ("name", "local", "length"),
    [
        ("Mistral-7B-v0.1", 32, 4096),  # arXiv 2310.06825: every layer
        ("gemma-2-27b", 23, 4096),  # arXiv 2408.00118, table 1: every other layer
        ("gemma-3-1b", 22, 512),  # arXiv 2503.19786: five local layers to a global one
        ("gemma-3-27b", 52, 1024),
        ("gpt-oss-120b", 18, 128),  # arXiv 2508.10925: every other layer
        ("Phi-3-mini-4k", 32, 2047),
        ("Llama-4-Scout", 36, 8192),  # chunks, but in every fourth layer
        ("Llama-4-Maverick", 36, 8192),
        ("Mixtral-8x7B", 0, None),
        ("llama-3.1-8b", 0, None),
    ],
)
def test_local_layers(name: str, local: int, length: int | None) -> None:
    groups = [group for group in model(name).layer_groups if group.attention.window or group.attention.chunk]
    assert sum(group.count for group in groups) == local
    assert {group.attention.window or group.attention.chunk for group in groups} == ({length} - {None})


def test_odd_families() -> None:
    opt_350m = model("opt-350m")
    assert (opt_350m.embedding_size, opt_350m.final_norm, opt_350m.learned_positions) == (512, False, 2050)
    gptj = model("gpt-j-6b")
    assert gptj.lm_head_bias
    assert gptj.layer_groups[0].parallel_attention
    assert gptj.layer_groups[0].norms == 1
    assert model("bloom").embedding_norm
    assert model("bert-base").encoder
    deepseek = model("deepseek-v3")
    assert [group.count for group in deepseek.layer_groups] == [3, 58]
    assert all(isinstance(group.attention, LatentAttention) for group in deepseek.layer_groups)
    maverick = model("llama-4-maverick")
    moe_layers = sum(group.count for group in maverick.layer_groups if isinstance(group.mlp, MoEMLP))
    assert (moe_layers, maverick.num_layers) == (24, 48)
    attention = model("gpt-oss-20b").layer_groups[0].attention
    assert isinstance(attention, Attention)
    assert attention.sinks


# -- names -------------------------------------------------------------------------------------------------


def test_all_spellings_of_a_name_give_the_same_object() -> None:
    spellings = ["opt-175b", "facebook/opt-175b", "facebook_opt-175b", "OPT 175B", "Facebook-OPT_175B"]
    assert len({id(model(spelling)) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
        ("llama-7b", "huggyllama/llama-7b"),
        ("llama-3-8b", "meta-llama/Meta-Llama-3-8B"),
        ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
        ("bloom", "bigscience/bloom"),
        ("bloom-176b", "bigscience/bloom"),
        ("bloom-7b", "bigscience/bloom-7b1"),
        ("gpt-j", "EleutherAI/gpt-j-6b"),
        ("gpt-neox", "EleutherAI/gpt-neox-20b"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("deepseek-v3", "deepseek-ai/DeepSeek-V3"),
        ("test-13b", "llm-analysis/test-13b"),
        ("llm-analysis/test-13b (GPT-13B)", "llm-analysis/test-13b"),
        ("decapoda-research_llama-7b-hf", "huggyllama/llama-7b"),
        # as measurement tables write them
        ("GPT OSS 120B", "openai/gpt-oss-120b"),
        ("Qwen3_235B_a22B (tokendrop)", "Qwen/Qwen3-235B-A22B"),
        ("Kimi_K2", "moonshotai/Kimi-K2-Instruct"),
        ("MPT-7b", "mosaicml/mpt-7b"),
        ("MT-NLG-530B", "nvidia/megatron-gpt-530B"),
        ("Megatron-1T", "nvidia/megatron-gpt-1T"),
        ("GPT-1008.0B", "nvidia/megatron-gpt-1T"),
        ("GPT3-175B", "openai/gpt3-175b"),
        ("LLaMA-33B", "huggyllama/llama-30b"),
        ("nvidia/fastertransformer-GPT-20B", "nvidia/fastertransformer-GPT-20B"),
    ],
)
def test_what_people_type(typed: str, meant: str) -> None:
    assert model(typed).name == meant


def test_aliases_lead_to_models_and_hide_none() -> None:
    known = known_names("model")
    plain = {normalise(stem.split("_", 1)[-1]): stem for stem in known}
    for alias, stem in _aliases("model").items():
        assert stem in known, alias
        assert plain.get(alias, stem) == stem, alias


def test_an_ambiguous_name_lists_the_candidates() -> None:
    with pytest.raises(AmbiguousNameError) as caught:
        model("llama-2")
    assert str(caught.value) == (
        "model 'llama-2' is ambiguous; give one of: "
        "meta-llama_Llama-2-13b-hf, meta-llama_Llama-2-70b-hf, meta-llama_Llama-2-7b-hf"
    )


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("opt-175", "facebook_opt-175b"),
        ("mixtrl-8x7b", "mistralai_Mixtral-8x7B-v0.1"),
        ("deepseekv3", "DeepSeek-V3"),
        # A smaller sibling is the only one that begins so, and is not meant.
        ("glm-5.3", "GLM-5.3-Flash"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown model '{typed}'") as caught:
        model(typed)
    assert any(near in suggestion or normalise(near) in suggestion for suggestion in caught.value.suggestions)


@pytest.mark.parametrize(
    "name", ["", "  ", None, 7, "x" * 5000, "a\0b", "a/" * 3000, "no/such", "~nobody-here/x.yaml"]
)
def test_a_name_that_is_none_ends_in_one_line(name: Any) -> None:
    with pytest.raises(SpecError) as caught:
        model(name)
    assert "\n" not in str(caught.value)


# -- files -------------------------------------------------------------------------------------------------

NATIVE = """\
name: mine
hidden_size: 64
vocab_size: 1000
layer_groups:
  - count: 2
    attention: {num_heads: 4, num_kv_heads: 2, head_dim: 16}
    mlp:
      ffn_size: 256
"""
FLAT = {
    "name": "flat",
    "num_layers": 2,
    "n_head": 4,
    "hidden_dim": 64,
    "vocab_size": 1000,
    "model_type": "opt",
}


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_in_our_schema_and_a_flat_one_describe_the_same_shapes(tmp_path: Path) -> None:
    native = model(str(write(tmp_path, "mine.yaml", NATIVE)))
    flat = model(str(write(tmp_path, "flat.json", json.dumps({**FLAT, "num_key_value_heads": 2}))))
    assert native.layer_groups == flat.layer_groups
    assert (native.hidden_size, native.vocab_size) == (flat.hidden_size, flat.vocab_size)
    assert flat.family == "opt"
    assert not flat.norm_bias


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ffn_size: 256", "ffn_size: -256", ":8: dense MLP: ffn_size"),
        ("ffn_size: 256", "ffn_size: .nan", "got NaN"),
        ("count: 2", "count: true", ":5: "),
        ("count: 2", "count: two", ":5: "),
        ("count: 2", "count: 0", ":5: "),
        ("vocab_size: 1000", "vocab_size: 1" + "0" * 30, ":3: "),
        ("vocab_size: 1000", "vocabulary: 1000", "vocab"),
        ("hidden_size: 64", "hidden_size: [64", "malformed YAML"),
        ("num_kv_heads: 2", "num_kv_heads: 3", ":6: "),
        ("name: mine", "name: ''", ":1: "),
        ("name: mine", "made: 2024-99-99", "has a value that cannot be"),
    ],
)
def test_an_error_in_a_file_names_file_line_and_field(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = write(tmp_path, "mine.yaml", NATIVE.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load_model_file(file)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flat_file_names_the_line_of_its_own_field(tmp_path: Path) -> None:
    text = json.dumps({**FLAT, "n_head": -4}, indent=0)
    with pytest.raises(SpecError, match=r"flat\.json:4: .*n_head.*greater than 0, got -4"):
        load_model_file(write(tmp_path, "flat.json", text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep.json", "[" * 100_000),
        ("long.json", '{"a": ' + "9" * 5000 + "}"),
        ("list.yaml", "- a\n- b\n"),
        ("empty.yaml", ""),
        ("keys.yaml", "1: a\n2: b\n"),
        ("tab.yaml", "a:\n\tb: 1\n"),
        ("open.json", '{"a": 1'),
        ("other.yaml", "colour: red\n"),
    ],
)
def test_a_file_that_is_no_model_ends_in_one_line(tmp_path: Path, name: str, text: str) -> None:
    file = write(tmp_path, name, text)
    with pytest.raises(SpecError) as caught:
        model(str(file))
    assert str(caught.value).startswith(str(file))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (
        tmp_path / "none.yaml",
        tmp_path,
        tmp_path / "binary.yaml",
        tmp_path / ("x" * 300 + ".yaml"),
    ):
        with pytest.raises(SpecError):
            load_model_file(path)


# -- values ------------------------------------------------------------------------------------------------

ODD = [math.nan, math.inf, -math.inf, -1, 0, 10**30, 1e300, True, "4", "x", [], [1], {}, 2.5, (1,), object()]
SIZES = ["num_layers", "n_head", "hidden_dim", "vocab_size", "max_seq_len", "num_key_value_heads"]
SIZES += ["num_key_value_groups", "ffn_embed_dim", "expansion_ratio", "moe_num_experts", "moe_top_k"]


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__ + repr(value)[:8])
def test_an_odd_value_of_a_flat_field_is_refused(field: str, value: object) -> None:
    for other in ({}, {"num_key_value_groups": 1, "num_key_value_heads": 4, "ffn_embed_dim": 256}):
        arguments: dict[str, Any] = {**FLAT, **other, field: value}
        if field == "expansion_ratio" and value == 2.5 and not other:
            assert ModelConfig(**arguments).ffn_embed_dim == 160
            continue
        with pytest.raises(SpecError):
            ModelConfig(**arguments)


@pytest.mark.parametrize("value", [*ODD, None], ids=lambda value: type(value).__name__ + repr(value)[:8])
def test_an_odd_value_of_a_native_field_is_refused(value: object) -> None:
    base = parse_mapping(NATIVE, "native.yaml")
    for field in ("hidden_size", "vocab_size", "layer_groups"):
        with pytest.raises(SpecError):
            ModelConfig(**{**base, field: value})
    for field in ("num_heads", "num_kv_heads", "head_dim"):
        with pytest.raises(SpecError):
            Attention(**{"num_heads": 4, "num_kv_heads": 2, "head_dim": 16, field: value})


def test_contradictions_are_refused() -> None:
    for wrong in (
        {"ffn_embed_dim": 256, "expansion_ratio": 3},
        {"num_key_value_heads": 2, "num_key_value_groups": 4},
        {"expansion_ratio": 2.7},  # 172.8 columns
        {"n_head": 5},
        {"hidden_size": 64},
        {"moe_num_experts": 2, "moe_top_k": 3},
        {"colour": "red"},
    ):
        with pytest.raises(SpecError):
            ModelConfig(**{**FLAT, **wrong})


def test_numpy_numbers_and_rounded_ratios_are_accepted() -> None:
    assert ModelConfig(**{**FLAT, "num_layers": np.int64(2)}).num_layers == 2
    # llm-analysis describes Llama-2-13b like this: a ratio, and the width that it gives.
    wide = {**FLAT, "hidden_dim": 5120, "n_head": 40, "expansion_ratio": 13824 / 5120}
    assert ModelConfig(**wide).ffn_embed_dim == 13824
    assert ModelConfig(**{**wide, "ffn_embed_dim": 13824}).ffn_embed_dim == 13824


def test_positional_arguments_have_the_seeds_order() -> None:
    spec = ModelConfig("mine", 2, 4, 64, 1000, 2048, 2)
    assert (spec.num_layers, spec.n_head, spec.hidden_dim, spec.max_seq_len) == (2, 4, 64, 2048)
    assert spec.num_key_value_heads == spec.num_key_value_groups == 2
    assert (spec.ffn_embed_dim, spec.expansion_ratio, spec.mlp_gated_linear_units) == (256, 4.0, False)
    assert (spec.moe_num_experts, spec.moe_top_k) == (1, 1)


def test_rmsnorm_has_no_bias_unless_said() -> None:
    base = parse_mapping(NATIVE, "native.yaml")
    assert ModelConfig(**base).norm_bias
    assert not ModelConfig(**base, norm="rmsnorm").norm_bias
    assert build(ModelConfig, {**base, "norm": "rmsnorm", "norm_bias": True}, NATIVE, "native.yaml").norm_bias


def test_models_are_frozen_and_replace_validates() -> None:
    spec = model("opt-13b")
    with pytest.raises(Exception, match="frozen"):
        spec.hidden_size = 1  # type: ignore[misc]
    assert spec.replace(vocab_size=100).vocab_size == 100
    with pytest.raises(SpecError):
        spec.replace(vocab_size=-1)


@pytest.mark.parametrize(
    ("tag", "name", "stored"),
    [
        ("llama3.1:8b", "meta-llama/Llama-3.1-8B", "q4_k_m"),
        ("llama3.1:8b-instruct-q8_0", "meta-llama/Llama-3.1-8B", "q8_0"),
        ("qwen3:8b-q4_K_M", "Qwen/Qwen3-8B", "q4_k_m"),
        ("llama3.2:3b-instruct-fp16", "meta-llama/Llama-3.2-3B", "fp16"),
        ("gpt-oss:20b", "openai/gpt-oss-20b", "mxfp4"),
    ],
)
def test_a_name_of_ollamas_library_is_that_model_in_the_format_of_its_tag(tag, name, stored):
    from llm_perf.analysis.request import InferenceInputs, build_scenario

    model = get_model_config_by_name(tag)
    assert model.name == name
    asked = {"gpu": "rtx-4090", "system": "llama_cpp"}
    plain = build_scenario(
        InferenceInputs(model=name, weight_format=stored if stored != "mxfp4" else None, **asked)
    )
    tagged = build_scenario(InferenceInputs(model=tag, **asked))
    assert tagged.dtype.stored_weight_bits == pytest.approx(plain.dtype.stored_weight_bits)


@pytest.mark.parametrize("tag", ["nonsense:8b", "llama3.1:", ":8b", "llama3.1:9b", "a:b:c"])
def test_a_tag_of_nothing_is_one_line(tag, monkeypatch):
    from llm_perf.errors import SpecError

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SpecError) as error:
        get_model_config_by_name(tag)
    assert "\n" not in str(error.value)


def test_kimi_k2_thinking_has_its_experts_in_4_bits_and_fits_eight_h200() -> None:
    """As released: its files are 594 GB, where 16 bits would be 2,052."""
    asked = build_scenario(
        InferenceInputs(model="Kimi-K2-Thinking", gpu="h200-sxm-141gb", system="vllm", tp_size=8, num_gpus=8)
    )
    assert model_weight_bytes(asked) * 8 == pytest.approx(594e9, rel=0.05)
    assert predict_inference(asked).feasible
