"""A layer kind is one unit: a kind that only this file defines is described, counted, timed and read from a config."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, Literal

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import layers
from llm_perf.config.base import PositiveInt
from llm_perf.config.huggingface.families import FAMILIES
from llm_perf.config.huggingface.family import Family
from llm_perf.config.layers.base import FeedForward, Mixer
from llm_perf.config.layers.linear import Linear
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.model import DenseMLP, LayerGroup, ModelConfig
from llm_perf.counts.activations import activation_widths
from llm_perf.counts.attention import kv_cache_elements
from llm_perf.counts.flops import decode_step_flops
from llm_perf.counts.parameters import layer_params, total_params
from llm_perf.errors import SpecError

layers.load_all()


class SharedKeyAttention(Mixer):
    """Attention whose heads share one key of ``key_size`` elements, which is the value as well."""

    kind: Literal["toy_shared_key"] = "toy_shared_key"
    num_heads: PositiveInt
    key_size: PositiveInt

    @property
    def num_kv_heads(self) -> int:
        return 1

    @property
    def head_dim(self) -> int:
        return self.key_size

    def linears(self, hidden: int) -> tuple[Linear, ...]:
        width = self.num_heads * self.key_size
        return (
            Linear("qkv", width, hidden, "column"),
            Linear("qkv", self.key_size, hidden, "kv", kv_heads=1),
            Linear("attention_output", hidden, width, "row"),
        )

    @property
    def vector_elements(self) -> int:
        return 7

    def score_flops_per_pair(self, tp: int = 1, absorbed: bool = False) -> float:
        return 4 * self.num_heads / tp * self.key_size

    def cache_elements_per_token(self, tp: int = 1) -> float:
        return self.key_size


TOY = """
name: toy
hidden_size: 1024
vocab_size: 1000
tied_embeddings: true
norm: rmsnorm
layer_groups:
  - count: 8
    attention: {kind: toy_shared_key, num_heads: 8, key_size: 128}
    mlp: {ffn_size: 4096}
"""
CONFIG = {
    "model_type": "toy_shared_key",
    "hidden_size": 1024,
    "vocab_size": 1000,
    "num_hidden_layers": 8,
    "num_heads": 8,
    "key_size": 128,
    "intermediate_size": 4096,
}


@pytest.fixture
def toy(tmp_path: Path) -> str:
    file = tmp_path / "toy.yaml"
    file.write_text(TOY)
    return str(file)


def test_a_new_kind_is_described_and_counted(toy: str) -> None:
    model = get_model_config_by_name(toy)
    attention = 1024 * (1024 + 128 + 1024) + 7
    layer = attention + 2 * 1024 * 4096 + 2 * 1024
    assert layer_params(model, model.layer_groups[0]) == layer
    assert total_params(model) == 8 * layer + 1000 * 1024 + 1024
    assert kv_cache_elements(model, 100) == 8 * 100 * 128
    matrices = 2 * (attention - 7 + 2 * 1024 * 4096)
    assert decode_step_flops(model, 1, 100) == 8 * (matrices + 100 * 4 * 8 * 128) + 2 * 1000 * 1024
    widths = activation_widths(model, model.layer_groups[0], tp=2)
    assert (widths.query, widths.key_value, widths.context) == (512, 128, 512)


@pytest.mark.parametrize("system", ["vllm", "transformers", "zero_inference", "flexgen"])
def test_a_new_kind_is_timed(toy: str, system: str) -> None:
    def predict(prompt_len: int) -> Any:
        inputs = InferenceInputs(
            model=toy, gpu="a100-sxm-40gb", prompt_len=prompt_len, gen_len=16, batch_size=4, system=system
        )
        return predict_inference(build_scenario(inputs))

    short, long = predict(128), predict(16384)
    assert 0 < short.decode.latency_per_token_s <= long.decode.latency_per_token_s
    assert short.prefill.latency_s < long.prefill.latency_s


def test_a_new_kind_is_read_from_a_config(toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Family(mixer=SharedKeyAttention, gated=False, defaults={"tie_word_embeddings": True})
    monkeypatch.setitem(FAMILIES, "toy_shared_key", row)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    read = get_model_config_by_name(str(tmp_path / "config.json"))
    assert read.layer_groups == get_model_config_by_name(toy).layer_groups
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "key_size": 0}))
    with pytest.raises(SpecError, match="key_size must be greater than 0"):
        get_model_config_by_name(str(tmp_path / "config.json"))


def test_models_survive_pickling_and_dumping(toy: str) -> None:
    for name in (toy, "deepseek-v3", "meta-llama/Llama-2-7b-hf", "gpt-oss-20b"):
        model = get_model_config_by_name(name)
        assert pickle.loads(pickle.dumps(model)) == model
        assert ModelConfig(**model.model_dump()) == model
        assert ModelConfig.model_validate_json(model.model_dump_json()) == model


@pytest.mark.parametrize("kind", ["nothing", 3, None, ["attention"]])
def test_an_unknown_kind_lists_the_known_ones(kind: Any) -> None:
    attention = {"kind": kind, "num_heads": 1, "num_kv_heads": 1, "head_dim": 1}
    with pytest.raises(
        SpecError, match=r"attention.*kind .* is none of attention, .*latent_attention, .*state_space"
    ):
        LayerGroup(count=1, attention=attention, mlp=DenseMLP(ffn_size=4))  # type: ignore[arg-type]


@pytest.mark.parametrize("mixer", sorted(Mixer._kinds.keys() - {"combined", "counted", "none"}))
def test_every_kind_answers_the_whole_interface(mixer: str) -> None:
    """A cache is per token or it is a state, and ranks share what they can divide."""
    kind = Mixer._kinds[mixer]
    sizes = {name: 8 for name, field in kind.model_fields.items() if field.is_required()}
    layer = kind(**sizes)
    assert layer.parts == (layer,)
    assert layer.recurrent == (layer.cache_elements_per_token() == 0)
    assert layer.recurrent == (layer.state_elements_per_sequence() > 0)
    assert layer.cache_elements(1000) == layer.read_elements() * layer.cached_tokens(1000)
    assert layer.attended(1) == layer.prefill_pairs(1) == 1
    ranks = 1 if layer.replicated else 2
    assert layer.score_flops_per_pair(2) == layer.score_flops_per_pair() / ranks
    assert sum(linear.params for linear in layer.linears(64)) > 0
    assert layer.key_value_elements(2) <= layer.key_value_elements()


def test_a_combination_and_none_have_the_parts_that_they_name() -> None:
    combined, none = Mixer._kinds["combined"], Mixer._kinds["none"]
    attention, state = (
        {"kind": "attention", "num_heads": 8, "num_kv_heads": 8, "head_dim": 8},
        {"kind": "state_space", "num_heads": 8, "head_dim": 8, "key_heads": 8, "key_dim": 8},
    )
    layer = combined(mixers=(attention, state))
    assert layer.parts == (Mixer.of(attention), Mixer.of(state))
    assert none().parts == ()
    assert combined(mixers=(attention, none())).parts == layer.parts[:1]
    assert len(layer.linears(64)) == sum(len(part.linears(64)) for part in layer.parts)
    ops = [{linear.op for linear in part.linears(64)} for part in layer.parts]
    assert len({linear.op for linear in layer.linears(64)}) == len(ops[0]) + len(
        ops[1]
    )  # products of their own
    with pytest.raises(SpecError, match="mixers"):
        combined(mixers=(attention,))


def test_a_window_and_a_state_do_not_mix() -> None:
    assert "window" not in Mixer._kinds["state_space"].model_fields
    assert {"dense", "moe", "none"} <= set(FeedForward._kinds)
