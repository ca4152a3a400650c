"""Hugging Face configs: one released config.json per family against the bundled model or its published count."""

from __future__ import annotations

import builtins
import contextlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from llm_perf.config import ModelConfig, get_model_config_by_name
from llm_perf.config.huggingface import from_hf_config, load_from_hub, load_model_file
from llm_perf.config.model import Attention
from llm_perf.counts.parameters import total_params
from llm_perf.errors import SpecError, UnknownNameError
from tests.unit.model_configs import BESIDE_THEIR_WEIGHTS, COUNTED, RELEASED

LLAMA = RELEASED["meta-llama/Llama-2-7b-hf"]
NOT_RUN: dict[str, dict[str, Any]] = {"encoder/BERT-base": {"other_params": 0, "lm_head_bias": False}}
"""What the class has and a bundled spec leaves out, since its benchmark runs the layers alone."""
NO_SHAPES = {
    "aliases",
    "left_out",
    "name",
    "source",
    "notes",
    "published_params",
    "published_active_params",
    "quantization",
    "mtp_layers",
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_config_gives_the_bundled_model_field_by_field(name: str) -> None:
    ours = get_model_config_by_name(name)
    theirs = from_hf_config(RELEASED[name], name).replace(**NOT_RUN.get(name, {}))
    assert total_params(theirs) == total_params(ours)
    for field in ModelConfig.model_fields.keys() - NO_SHAPES:
        assert getattr(theirs, field) == getattr(ours, field), field


@pytest.mark.parametrize("name", BESIDE_THEIR_WEIGHTS)
def test_code_beside_the_weights_has_the_published_parameters_and_no_key_unread(name: str) -> None:
    config, published = BESIDE_THEIR_WEIGHTS[name]
    model = from_hf_config(config, name)
    assert (total_params(model), model.left_out) == (published, None)


@pytest.mark.parametrize("name", COUNTED)
def test_a_released_config_has_the_published_parameters(name: str) -> None:
    config, published, tolerance = COUNTED[name]
    assert total_params(from_hf_config(config, name)) == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("name", ["microsoft/phi-2", "databricks/dbrx-base"])
def test_bundled_specs_count_what_is_released_where_the_reference_data_differ(name: str) -> None:
    assert total_params(get_model_config_by_name(name)) == COUNTED[name][1]


def test_gemma_3_with_vision_is_read_as_its_text_part_with_defaults_of_the_nested_class() -> None:
    # google/gemma-3-4b-it: what equals Gemma3TextConfig's defaults (8 heads, 4 kv heads, 256, vocabulary) is absent.
    config = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 34,
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
    }
    ours, theirs = get_model_config_by_name("gemma-3-4b"), from_hf_config(config, "gemma-3-4b-it")
    assert theirs.layer_groups == ours.layer_groups
    assert theirs.family == "gemma3"
    assert total_params(theirs) - total_params(ours) == (262208 - 262144) * 2560  # rows of padding


def test_falcon_before_transformers_knew_it() -> None:
    seven = {
        "model_type": "RefinedWebModel",
        "hidden_size": 4544,
        "n_head": 71,
        "n_layer": 32,
        "multi_query": True,
        "parallel_attn": True,
        "vocab_size": 65024,
    }
    forty = {"model_type": "RefinedWeb", "hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 60}
    for name, config in (("falcon-7b", seven), ("falcon-40b", {**forty, "vocab_size": 65024})):
        old, ours = from_hf_config(config, name), get_model_config_by_name(name)
        assert old.layer_groups == ours.layer_groups


def test_windows_follow_layer_types_and_never_outgrow_the_context() -> None:
    types_ = ["full_attention"] * 31 + ["sliding_attention"]
    config = {**RELEASED["mistralai/Mistral-7B-v0.1"], "layer_types": types_}
    full, local = from_hf_config(config, "m").layer_groups
    assert (full.count, local.count, local.attention.window) == (31, 1, 4096)
    wide = from_hf_config({**RELEASED["mistralai/Mistral-7B-v0.1"], "sliding_window": 32768}, "m")
    assert wide.layer_groups[0].attention.window is None


def test_qwen_slides_in_its_upper_layers_when_told_to() -> None:
    config = {**RELEASED["Qwen/Qwen2.5-7B"], "use_sliding_window": True, "sliding_window": 4096}
    groups = from_hf_config({**config, "max_window_layers": 20}, "m").layer_groups
    assert [(group.count, group.attention.window) for group in groups] == [(20, None), (8, 4096)]


def test_dense_layers_of_a_sparse_qwen() -> None:
    config = {**RELEASED["Qwen/Qwen3-30B-A3B"], "mlp_only_layers": [0, 1], "decoder_sparse_step": 2}
    groups = from_hf_config(config, "m").layer_groups
    assert {group.mlp.kind: group.count for group in groups} == {"dense": 25, "moe": 23}


def test_biases_where_a_llama_config_says_so() -> None:
    attention = from_hf_config({**LLAMA, "attention_bias": True}, "m").layer_groups[0].attention
    assert isinstance(attention, Attention)
    assert attention.qkv_bias
    assert attention.output_bias
    assert from_hf_config({**LLAMA, "mlp_bias": True}, "m").layer_groups[0].mlp.bias


def test_absent_keys_have_the_defaults_of_the_config_class() -> None:
    bare = {key: LLAMA[key] for key in LLAMA.keys() - {"num_key_value_heads", "tie_word_embeddings"}}
    assert from_hf_config(bare, "m").layer_groups == from_hf_config(LLAMA, "m").layer_groups
    assert not from_hf_config(bare, "m").tied_embeddings
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100}
    assert from_hf_config(gpt2, "m").tied_embeddings
    assert from_hf_config(gpt2, "m").learned_positions == 1024


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_missing_field_is_named(field: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != field}
    with pytest.raises(SpecError, match=rf"^mine: .*'{field}'.* is required for model_type 'llama'"):
        from_hf_config(config, "mine")


@pytest.mark.parametrize("model_type", ["unheard_of", "", None, 7, ["llama"]])
def test_an_unsupported_model_type_lists_the_supported_ones(model_type: Any) -> None:
    with pytest.raises(SpecError, match=r"model_type = .*not supported.*deepseek_v3.*falcon.*gpt_oss.*opt"):
        from_hf_config({**LLAMA, "model_type": model_type}, "mine")


@pytest.mark.parametrize("value", [0, -1, True, "4096", 4096.0, float("nan"), [4096], {}, 10**30])
def test_an_odd_value_is_refused_by_its_name(value: Any) -> None:
    for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        with pytest.raises(SpecError, match=f"mine: {field} = "):
            from_hf_config({**LLAMA, field: value}, "mine")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("meta-llama/Llama-2-7b-hf", {"num_attention_heads": 7}),
        ("meta-llama/Llama-2-7b-hf", {"num_key_value_heads": 5}),
        ("meta-llama/Llama-2-7b-hf", {"tie_word_embeddings": "yes"}),
        ("meta-llama/Llama-2-7b-hf", {"num_hidden_layers": 10**9}),
        ("openai/gpt-oss-20b", {"layer_types": ["full_attention"]}),
        ("openai/gpt-oss-20b", {"layer_types": ["linear_attention"] * 24}),
        ("openai/gpt-oss-20b", {"layer_types": "full_attention"}),
        ("openai/gpt-oss-20b", {"num_local_experts": 2}),
        ("meta-llama/Llama-4-Scout-17B-16E", {"text_config": 3}),
        ("deepseek-ai/DeepSeek-V3", {"moe_layer_freq": [1, 0]}),
    ],
)
def test_contradictions_end_in_one_line(name: str, changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"^mine: ") as caught:
        from_hf_config({**RELEASED[name], **changes}, "mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*RELEASED, *COUNTED])
def test_whatever_a_field_holds_a_fault_is_a_spec_error(name: str) -> None:
    config = RELEASED.get(name) or COUNTED[name][0]
    text = config.get("text_config", {})
    for odd in (None, 0, -1, 10**30, True, "x", 2.5, float("nan"), [], ["x"], [1], {}, {"x": 1}):
        changed = [{**config, field: odd} for field in config]
        changed += [{**config, "text_config": {**text, field: odd}} for field in text]
        for each in changed:
            with contextlib.suppress(SpecError):
                from_hf_config(each, "mine")


@pytest.mark.parametrize("config", [None, [], "llama", 3])
def test_a_config_that_is_no_mapping_is_refused(config: Any) -> None:
    with pytest.raises(SpecError, match="expected a mapping"):
        from_hf_config(config, "mine")


# -- files -------------------------------------------------------------------------------------------------


def test_a_folder_and_its_config_json_give_the_same_model(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    spec = get_model_config_by_name(str(folder))
    assert spec == load_model_file(folder / "config.json")
    assert spec.name == "my-llama"
    assert total_params(spec) == 6_738_415_616
    (folder / "config.json").write_text(
        json.dumps({**LLAMA, "_name_or_path": "meta-llama/x"}), encoding="utf-8"
    )
    assert load_model_file(folder).name == "meta-llama/x"


def test_a_config_is_recognised_by_its_architecture(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "model_type"}
    file = tmp_path / "llama.json"
    file.write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}), encoding="utf-8")
    assert get_model_config_by_name(str(file)).family == "llama"
    neox = {**RELEASED["EleutherAI/gpt-neox-20b"], "architectures": ["GPTNeoXForCausalLM"]}
    del neox["model_type"]
    assert from_hf_config(neox, "m").family == "gpt_neox"


def test_an_error_in_a_config_json_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**LLAMA, "num_hidden_layers": -2}, indent=1), encoding="utf-8")
    with pytest.raises(SpecError, match=r"config\.json:5: num_hidden_layers = -2: expected a positive"):
        load_model_file(file)
    file.write_text(json.dumps({**LLAMA, "model_type": "unheard_of"}, indent=1), encoding="utf-8")
    with pytest.raises(SpecError, match=r"config\.json:2: model_type = 'unheard_of': not supported"):
        load_model_file(file)
    file.write_text(json.dumps({**LLAMA, "num_key_value_heads": 5}, indent=1), encoding="utf-8")
    with pytest.raises(SpecError, match=r"config\.json: .*multiple of num_kv_heads 5"):
        load_model_file(file)


# -- the hub -----------------------------------------------------------------------------------------------


class NotCachedError(Exception):
    """Stands for huggingface_hub's LocalEntryNotFoundError."""


def fake_hub(
    monkeypatch: pytest.MonkeyPatch, stored: Path | None, cached: bool = False, online: bool = True
) -> list[str]:
    """A huggingface_hub that holds one file; returns the list of what it will be asked over the network."""
    asked: list[str] = []

    def metadata(url: str, *, timeout: float) -> None:
        assert timeout <= 10
        if not online:
            raise ConnectionError("no route to host")
        asked.append(url)

    def download(repo: str, file: str, *, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only and not cached:
            raise NotCachedError(repo)
        if not local_files_only:
            asked.append(f"{repo}/{file}")
        return str(stored)

    hub, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    functions = {"get_hf_file_metadata": metadata, "hf_hub_download": download, "hf_hub_url": "{}/{}".format}
    for name, function in functions.items():
        setattr(hub, name, function)
    errors.LocalEntryNotFoundError = NotCachedError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return asked


@pytest.mark.parametrize("cached", [False, True])
def test_an_unknown_name_with_an_organisation_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cached: bool
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA), encoding="utf-8")
    asked = fake_hub(monkeypatch, file, cached=cached, online=not cached)
    spec = get_model_config_by_name("someone/their-llama")
    assert spec.name == "someone/their-llama"
    assert total_params(spec) == 6_738_415_616
    assert asked == ([] if cached else ["someone/their-llama/config.json"] * 2)
    assert load_from_hub("their-llama") is None  # without an organisation nobody is asked


def test_offline_the_name_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_hub(monkeypatch, None, online=False)
    with pytest.raises(UnknownNameError, match="someone/their-llama"):
        get_model_config_by_name("someone/their-llama")
    assert not asked  # the download, which tries again and again, never starts


def test_without_the_extra_the_name_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert load_from_hub("someone/their-llama") is None


def test_an_unsupported_model_of_the_hub_is_a_spec_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}', encoding="utf-8")
    fake_hub(monkeypatch, tmp_path / "config.json")
    with pytest.raises(SpecError, match="someone/mamba: model_type = 'unheard_of': not supported"):
        get_model_config_by_name("someone/mamba")
