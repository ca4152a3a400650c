"""Mamba-2 and gated DeltaNet layers: parameters as published, a state that does not grow, times that follow."""

from pathlib import Path
from typing import Any

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.model import LayerGroup, ModelConfig, StateSpace
from llm_perf.counts.attention import kv_cache_elements, score_flops_per_pair
from llm_perf.counts.parameters import active_params, layer_rank_params, total_params
from llm_perf.errors import SpecError

MAMBA2 = """
name: state-spaces/mamba2-2.7b
hidden_size: 2560
vocab_size: 50288
tied_embeddings: true
norm: rmsnorm
layer_groups:
  - count: 64
    norms: 1
    attention: {kind: state_space, num_heads: 80, head_dim: 64, key_heads: 1, key_dim: 128, conv_bias: true}
    mlp: {kind: none}
"""
QWEN3_NEXT = """
name: Qwen/Qwen3-Next-80B-A3B
hidden_size: 2048
vocab_size: 151936
max_position_embeddings: 262144
tied_embeddings: false
norm: rmsnorm
layer_groups:
  - count: 36
    attention: {kind: state_space, num_heads: 32, head_dim: 128, key_heads: 16, key_dim: 128, delta_rule: true}
    mlp: &moe {kind: moe, num_experts: 512, top_k: 10, ffn_size: 512, shared_ffn_size: 512, shared_gate: true}
  - count: 12
    attention: {num_heads: 16, num_kv_heads: 2, head_dim: 256, qk_norm: 512}
    mlp: *moe
"""


@pytest.fixture
def mamba(tmp_path: Path) -> str:
    file = tmp_path / "mamba2.yaml"
    file.write_text(MAMBA2)
    return str(file)


@pytest.fixture
def qwen(tmp_path: Path) -> str:
    file = tmp_path / "qwen3-next.yaml"
    file.write_text(QWEN3_NEXT)
    return str(file)


def predict(model: str, **changes: Any):
    settings: dict[str, Any] = {"gpu": "h100-sxm-80gb", "prompt_len": 512, "gen_len": 32} | changes
    return predict_inference(build_scenario(InferenceInputs(model=model, **settings)))


def test_parameters_are_the_published_ones(mamba: str, qwen: str) -> None:
    """Mamba-2 2.7B (arXiv 2405.21060, table 10); Qwen3-Next 80B-A3B (its model card: 80B in all, 3B active)."""
    assert total_params(get_model_config_by_name(mamba)) == pytest.approx(2.70e9, rel=0.003)
    model = get_model_config_by_name(qwen)
    assert total_params(model) == pytest.approx(80e9, rel=0.01)
    assert active_params(model) == pytest.approx(3.9e9, rel=0.05)  # 3B beside both token tables


def test_the_state_does_not_grow_with_the_context(mamba: str) -> None:
    model = get_model_config_by_name(mamba)
    assert kv_cache_elements(model, 1) == kv_cache_elements(model, 1e6)
    assert kv_cache_elements(model, 1) == 64 * (80 * 64 * 128 + 4 * (80 * 64 + 2 * 128))
    short, long = (predict(mamba, prompt_len=length, batch_size=4) for length in (128, 16384))
    assert short.memory.gpu.kv_cache_bytes == long.memory.gpu.kv_cache_bytes
    assert short.decode.latency_per_token_s == pytest.approx(long.decode.latency_per_token_s, rel=1e-9)


def test_prefill_is_linear_in_the_prompt(mamba: str) -> None:
    one, two = (predict(mamba, prompt_len=length).prefill.latency_s for length in (65536, 131072))
    assert two == pytest.approx(2 * one, rel=0.02)


def test_a_decode_step_moves_the_weights_and_twice_the_state(mamba: str) -> None:
    few, many = (predict(mamba, batch_size=batch).decode for batch in (1, 257))
    model = get_model_config_by_name(mamba)
    state = 256 * 2 * kv_cache_elements(model, 1) * 2
    grown = (many.busy_s["hbm"] - few.busy_s["hbm"]) / 31
    assert grown > state / 3.35e12
    assert many.latency_per_token_s > few.latency_per_token_s + state / 3.35e12 * 0.9


def test_a_hybrid_reads_less_than_attention_alone_would(qwen: str) -> None:
    """Keys and values of 12 of 48 layers."""
    model = get_model_config_by_name(qwen)
    full = model.layer_groups[1].replace(count=48)
    dense = model.replace(layer_groups=(full,))
    assert kv_cache_elements(model, 131072) < 0.27 * kv_cache_elements(dense, 131072)


def test_tensor_ranks_divide_the_heads_and_their_state(mamba: str) -> None:
    model = get_model_config_by_name(mamba)
    whole, part = (layer_rank_params(model, model.layer_groups[0], tp) for tp in (1, 4))
    assert part.sharded == pytest.approx(whole.sharded / 4, rel=0.05)  # one group of B and C is held by all
    assert kv_cache_elements(model, 10, 4) == kv_cache_elements(model, 10) / 4
    with pytest.raises(SpecError, match="80 attention heads"):
        predict(mamba, tp_size=3)
    with pytest.raises(SpecError, match="possible: 1"):
        predict(mamba, cp_size=2)


def test_a_step_costs_fewer_flops_per_token_than_a_scan() -> None:
    for rule in (False, True):
        layer = StateSpace(num_heads=8, head_dim=64, key_heads=2, key_dim=64, delta_rule=rule)
        assert score_flops_per_pair(layer, absorbed=True) < score_flops_per_pair(layer)
        assert score_flops_per_pair(layer, 4) == score_flops_per_pair(layer) / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [({"key_heads": 3}, "multiple of key_heads"), ({"window": 5}, "window"), ({"key_dim": 0}, "key_dim")],
)
def test_impossible_layers_are_refused(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"num_heads": 8, "head_dim": 64, "key_heads": 2, "key_dim": 64}
    with pytest.raises(SpecError, match=message):
        StateSpace(**(fields | change))


def test_a_model_survives_being_written_and_read(mamba: str) -> None:
    model = get_model_config_by_name(mamba)
    groups = tuple(LayerGroup(**group) for group in model.model_dump()["layer_groups"])
    assert ModelConfig(**(model.model_dump() | {"layer_groups": groups})) == model


@pytest.mark.parametrize("system", ["vllm", "transformers", "fastertransformer"])
def test_stacks_predict_it(qwen: str, system: str) -> None:
    result = predict(qwen, system=system, tp_size=1, gpu="b200-180gb", batch_size=8, prompt_len=4096)
    assert result.prefill.latency_s > 0
    assert sum(result.decode.breakdown_s.values()) == pytest.approx(result.decode.latency_s)
