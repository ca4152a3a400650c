"""Model types without a row, counted from their class in transformers: against rows where a type has both, and alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_perf.config.huggingface import built_class, from_hf_config
from llm_perf.config.huggingface.built_class import BuiltClass, LayerCache
from llm_perf.config.huggingface.counted_class import counted_model
from llm_perf.config.layers.attention import Attention
from llm_perf.config.layers.counted import Counted
from llm_perf.config.model import MoEMLP
from llm_perf.config.scenario import check_timed
from llm_perf.counts.attention import kv_cache_elements, state_elements
from llm_perf.counts.parameters import active_params, total_params
from llm_perf.errors import SpecError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "class_defaults.json").read_text("utf-8"))["models"]
HIDDEN, VOCAB, FFN = 64, 100, 128


def _tensors(layers: int, **more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """A decoder of two heads to each key, by the names that most classes have."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}."
        block = {
            "self_attn.q_proj.weight": (HIDDEN, HIDDEN), "self_attn.k_proj.weight": (HIDDEN // 2, HIDDEN),
            "self_attn.v_proj.weight": (HIDDEN // 2, HIDDEN), "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            "mlp.gate_proj.weight": (FFN, HIDDEN), "mlp.up_proj.weight": (FFN, HIDDEN), "mlp.down_proj.weight": (HIDDEN, FFN),
            "input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,),
        }  # fmt: skip
        found |= {at + name: shape for name, shape in (block | more).items()}
    return found


def _built(tensors: dict[str, tuple[int, ...]], cache: LayerCache, layers: int, **more: Any) -> BuiltClass:
    fields: dict[str, Any] = {"top_k": None, "masked": False, "heads": 4, "positions": 512, "head": None}
    return BuiltClass(
        class_name="NewForCausalLM",
        version="9.0",
        tensors=tensors,
        table="model.embed_tokens.weight",
        hidden_size=HIDDEN,
        caches=(cache,) * layers,
        **(fields | more),
    )


def test_layers_of_a_known_kind_are_timed_like_any_other() -> None:
    model = counted_model(_built(_tensors(3), LayerCache(((float(HIDDEN), 16),)), 3), "m", "new")
    (group,) = model.layer_groups
    assert group.count == 3
    assert group.attention == Attention(num_heads=4, num_kv_heads=2, head_dim=16, window=16)
    assert total_params(model) == sum(rows * columns for rows, columns in _matrices(_tensors(3))) + 7 * HIDDEN
    check_timed(model)
    assert "every layer is of a known kind" in str(model.left_out)


def _matrices(tensors: dict[str, tuple[int, ...]]) -> list[tuple[int, int]]:
    return [(shape[0], shape[1]) for shape in tensors.values() if len(shape) == 2]


@pytest.mark.parametrize(
    ("more", "cache"),
    [
        ({"self_attn.memory.weight": (8, HIDDEN)}, LayerCache(((float(HIDDEN), None),))),
        ({"scale": (3,)}, LayerCache(((float(HIDDEN), None),))),
        ({}, LayerCache(((HIDDEN / 2, None),))),
        ({}, LayerCache(((float(HIDDEN), None),), state=8.0)),
    ],
)
def test_a_tensor_or_cache_without_a_place_is_counted_and_refused_a_time(
    more: dict[str, tuple[int, ...]], cache: LayerCache
) -> None:
    tensors = _tensors(2, **more)
    model = counted_model(_built(tensors, cache, 2), "m", "new")
    assert {group.attention.kind for group in model.layer_groups} == {"counted"}
    elements = 0
    for shape in tensors.values():
        size = 1
        for side in shape:
            size *= side
        elements += size
    assert total_params(model) == active_params(model) == elements
    assert kv_cache_elements(model, 100) == 2 * (100 * cache.parts[0][0] + cache.state)
    with pytest.raises(SpecError, match=r"no kind whose work is known \(NewForCausalLM of transformers 9\.0"):
        check_timed(model)


@pytest.mark.parametrize("packed", [True, False])
def test_experts_are_used_by_top_k(packed: bool) -> None:
    tensors = {name: shape for name, shape in _tensors(2).items() if ".mlp." not in name}
    for layer in range(2):
        at = f"model.layers.{layer}.mlp."
        tensors[at + "gate.weight"] = (8, HIDDEN)
        if packed:
            tensors[at + "experts.gate_up_proj"] = (8, 2 * FFN, HIDDEN)
            tensors[at + "experts.down_proj"] = (8, HIDDEN, FFN)
        else:
            for expert in range(8):
                tensors[f"{at}experts.{expert}.up.weight"] = (3 * FFN, HIDDEN)
    model = counted_model(_built(tensors, LayerCache(((float(HIDDEN), None),)), 2, top_k=2), "m", "new")
    unused = 2 * 6 * 3 * FFN * HIDDEN
    assert total_params(model) - active_params(model) == unused
    assert isinstance(model.layer_groups[0].mlp, MoEMLP) == packed


def test_what_is_no_language_model_is_said() -> None:
    with pytest.raises(SpecError, match="has no list of layers"):
        counted_model(_built({"model.embed_tokens.weight": (VOCAB, HIDDEN)}, LayerCache(), 0), "m", "new")


def test_without_transformers_the_error_says_what_it_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_class, "can_build", lambda: False)
    with pytest.raises(
        SpecError, match=r"'dots3_note_text': not supported \(where transformers and torch are installed"
    ):
        from_hf_config({"model_type": "dots3_note_text"}, "m")


def test_numbers_of_modules_that_cannot_be_are_refused_before_anything_is_built() -> None:
    pytest.importorskip("transformers")
    for key, value, most in (
        ("num_hidden_layers", 10**6, 1000), ("n_routed_experts", 10**5, 2048), ("layer_types", ["x"] * 3_000_000, 10_000),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=f"{key} = .* expected at most {most}"):
            from_hf_config({"model_type": "dots3_note_text", key: value}, "m")
    with pytest.raises(SpecError, match="model_type = 'no_such_type': not supported"):
        from_hf_config({"model_type": "no_such_type"}, "m")


SAME = (
    "llama",
    "qwen3_moe",
    "mixtral",
    "gemma2",
    "qwen3_5_text",
    "deepseek_v3",
    "bert",
    "bart",
    "olmo2",
    "gpt_oss",
    "falcon_h1",
)


@pytest.mark.parametrize("model_type", SAME)
def test_the_class_says_what_the_row_says(model_type: str) -> None:
    """Types that have a row, built all the same: one answer from two ways."""
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = {**GOLDEN[model_type]["config"], "model_type": model_type}
    row = from_hf_config(config, "m")
    built = built_class.build_class(model_type, config)
    assert built is not None
    model = counted_model(built, "m", model_type)
    biases = sum(
        group.count * group.mlp.num_experts
        for group in row.layer_groups
        if isinstance(group.mlp, MoEMLP) and group.mlp.router_bias
    )
    assert total_params(model) in (total_params(row), total_params(row) - biases)
    assert active_params(model) in (active_params(row), active_params(row) - biases)
    assert state_elements(model) == state_elements(row)
    if not row.encoder:
        assert kv_cache_elements(model, 32768) == pytest.approx(kv_cache_elements(row, 32768), rel=1e-5)


# Sums over the parameters of the classes' default configs (transformers 5.23, meta device).
TOTALS = {
    "dots3_note_text": 279_551_718_016,
    "zaya": 8_840_488_784,
    "albert": 206_368_944,
    "t5gemma2": 4_653_191_936,
}


@pytest.mark.parametrize("model_type", sorted(TOTALS))
def test_types_without_a_row_are_counted(model_type: str) -> None:
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    pytest.importorskip("torch")
    config = json.loads(auto.CONFIG_MAPPING[model_type]().to_json_string(use_diff=False))
    model = from_hf_config({**config, "model_type": model_type}, "m")
    assert total_params(model) == TOTALS[model_type]
    assert "counted from" in str(model.left_out)
    assert any(isinstance(group.attention, Counted) for group in model.layer_groups) or model.encoder_groups


def test_a_config_that_its_class_refuses_is_one_line() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    for wrong in (
        {"hidden_size": "x"},
        {"hidden_size": -4},
        {"num_hidden_layers": "x"},
        {"vocab_size": [1]},
    ):
        with pytest.raises(
            SpecError, match=r"^m: model_type = 'jetmoe': its class in transformers cannot be built"
        ) as caught:
            from_hf_config({"model_type": "jetmoe", **wrong}, "m")
        assert "\n" not in str(caught.value)


def test_a_key_that_the_class_does_not_know_is_said() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    said = from_hf_config(
        {"model_type": "jetmoe", "num_hidden_layers": 2, "num_extra_layers": 3}, "m"
    ).left_out
    assert "not read, whatever it says: num_extra_layers" in str(said)
