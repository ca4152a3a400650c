"""Every architecture of the table against the classes of transformers: parameters, and the default of every key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.huggingface.convert import _row_and_reader
from llm_perf.config.huggingface.families import FAMILIES
from llm_perf.config.huggingface.wrappers import WRAPPERS
from llm_perf.config.model import ModelConfig, MoEMLP
from llm_perf.counts.parameters import active_params, total_params
from llm_perf.errors import SpecError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "class_defaults.json").read_text("utf-8"))["models"]
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV = ("num_key_value_heads", "num_kv_heads", "head_dim")


def router_buffers(model: ModelConfig) -> int:
    """Biases of routers, which transformers keeps as buffers in some classes."""
    return sum(
        group.count * group.mlp.num_experts
        for group in model.layer_groups
        if isinstance(group.mlp, MoEMLP) and group.mlp.router_bias
    )


@pytest.mark.parametrize("model_type", sorted(GOLDEN))
def test_parameters_are_those_of_the_class(model_type: str) -> None:
    known = GOLDEN[model_type]
    model = from_hf_config(known["config"], model_type)
    for ours, theirs in (
        (total_params(model), known["parameters"]),
        (active_params(model), known["active_parameters"]),
    ):
        assert theirs is None or ours in (theirs, theirs + router_buffers(model))


def test_the_table_is_covered() -> None:
    assert len(GOLDEN) >= 95
    assert GOLDEN.keys() <= FAMILIES.keys() | WRAPPERS.keys()


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_an_absent_key_has_the_default_of_the_class(model_type: str) -> None:
    """Each key left out in turn: what transformers fills in gives the same model, or ours is refused."""
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    if model_type not in auto.CONFIG_MAPPING:
        pytest.skip("transformers has no class of this type")
    cls = auto.CONFIG_MAPPING[model_type]
    base = whole(cls(), model_type)
    row, reader = _row_and_reader(model_type, base)
    try:
        row.build(reader)
    except SpecError:
        pytest.skip("the default config itself is refused")
    heads = next((name for name in HEADS if name in base), None)
    for key in sorted(reader.read & base.keys()):
        config = {name: value for name, value in base.items() if name != key}
        if heads and key in KV:
            config[heads] = (
                2  # so few that a default which is a number differs from one that follows the heads
            )
        try:
            theirs = from_hf_config(whole(cls.from_dict(dict(config)), model_type), "m")
            ours = from_hf_config(config, "m")
        except (SpecError, ValueError):
            continue
        assert ours == theirs, key


def whole(config: Any, model_type: str) -> dict[str, Any]:
    """All keys of a config but those that JSON has no number for (an infinite limit)."""
    fields = json.loads(config.to_json_string(use_diff=False))
    fields.pop("time_step_limit", None)
    return {**fields, "model_type": model_type}


def test_a_wrapper_says_what_it_leaves_out() -> None:
    config = {**GOLDEN["llava"]["config"], "vision_config": {"hidden_size": 1024}}
    assert from_hf_config(config, "m").notes == "text part only; left out: vision_config"
    with pytest.raises(SpecError, match=r"text_config\.model_type = 'unheard_of'"):
        from_hf_config({"model_type": "llava", "text_config": {"model_type": "unheard_of"}}, "m")


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("opt", "layer_norm_elementwise_affine", False),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "attention_head_type", "multiquery"),
        ("deepseek_v2", "mlp_bias", True),
        ("gemma3_text", "use_bidirectional_attention", True),
        ("mistral", "attention_bias", True),
    ],
)
def test_a_key_that_changes_the_model_and_is_not_counted_is_refused(
    model_type: str, key: str, value: Any
) -> None:
    config = GOLDEN.get(model_type, {}).get("config") or {
        **GOLDEN["deepseek_v3"]["config"],
        "model_type": model_type,
    }
    assert from_hf_config(config, "m")
    with pytest.raises(SpecError, match=f"{key} = .*: expected"):
        from_hf_config({**config, key: value}, "m")
