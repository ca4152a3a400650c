"""Recurrent, hybrid and indexed layers: counted as the classes of transformers are, with laws that hold for every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import layers
from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.layers.base import FeedForward, Mixer
from llm_perf.config.layers.recurrent import SCAN_CHUNK
from llm_perf.config.model import Attention, DenseMLP, LatentAttention, LayerGroup, ModelConfig, MoEMLP, NoMLP
from llm_perf.counts.attention import (
    decode_score_flops,
    kv_cache_elements,
    prefill_score_flops,
    state_bytes,
)
from llm_perf.counts.flops import decode_step_flops, lm_head_flops, prefill_flops
from llm_perf.counts.modules import layer_modules
from llm_perf.counts.parameters import active_params, layer_params, layer_rank_params, total_params
from llm_perf.errors import SpecError

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "recurrent_classes.json").read_text("utf-8"))[
    "models"
]
DEFAULTS = [name for name in GOLDEN if " " not in name]
ATTENTION = {"kind": "attention", "num_heads": 16, "num_kv_heads": 4, "head_dim": 64}
LATENT = {
    "kind": "latent_attention", "num_heads": 16, "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "selected": 256,
}  # fmt: skip
STATE = {"kind": "state_space", "num_heads": 32, "head_dim": 32, "key_heads": 16, "key_dim": 64}
MAMBA = {"kind": "mamba", "inner_size": 2048, "state_size": 16, "step_rank": 64}
INDEXER = {"kind": "indexer", "num_heads": 8, "head_dim": 32, "query_rank": 96}
SHARED_KEY = {
    "kind": "shared_key_attention", "num_heads": 16, "head_dim": 64, "q_lora_rank": 96, "output_groups": 8, "output_rank": 32,
    "window": 64,
}  # fmt: skip
ENTRIES = {
    "kind": "compressed_entries",
    "num_heads": 16,
    "head_dim": 64,
    "ratio": 4,
    "overlapping": True,
    "selected": 64,
}
SHARED = {
    "kind": "shared_transformer", "num_heads": 16, "num_kv_heads": 16, "head_dim": 128, "ffn_size": 4096,
    "hidden_size": 1024, "adapter_rank": 32,
}  # fmt: skip
RECURRENT = {
    "mamba": MAMBA,
    "mamba2": STATE,
    "gated delta": {**STATE, "delta_rule": True},
    "kimi delta": {"kind": "kimi_delta", "num_heads": 16, "head_dim": 64, "gate_rank": 64},
    "lightning": {"kind": "linear_attention", "num_heads": 16, "head_dim": 64},
    "short convolution": {"kind": "short_convolution", "channels": 1024, "conv_width": 3},
    "RG-LRU": {"kind": "gated_recurrence", "width": 1024, "num_heads": 16},
    "mLSTM": {"kind": "matrix_lstm", "num_heads": 16, "head_dim": 64, "key_dim": 32},
    "RWKV-4": {"kind": "time_mixing", "size": 1024, "hidden_size": 1024},
}
COMBINED = {
    "side by side": {"kind": "combined", "mixers": [ATTENTION, STATE]},
    "indexed": {"kind": "combined", "mixers": [LATENT, INDEXER]},
    "shared": {"kind": "combined", "mixers": [SHARED, MAMBA]},
    "later use": {"kind": "combined", "mixers": [{**SHARED, "stored": False}, MAMBA]},
    "compressed": {
        "kind": "combined",
        "mixers": [SHARED_KEY, ENTRIES, {**INDEXER, "pool": 4, "keys_of": "overlapping"}],
    },
    "blocks selected": {
        "kind": "combined",
        "mixers": [
            {**ATTENTION, "selected": 256},
            {"kind": "indexer", "num_heads": 4, "head_dim": 32, "head_weights": False},
        ],
    },
}
KINDS = {**RECURRENT, **COMBINED, "none": {"kind": "none"}}

layers.load_all()


def model_of(mixer: dict[str, Any], count: int = 4, **mlp: Any) -> ModelConfig:
    """A small model of equal layers."""
    block = DenseMLP(ffn_size=4096) if not mlp else MoEMLP(**mlp)
    group = LayerGroup(count=count, attention=Mixer.of(mixer), mlp=block)
    return ModelConfig(name="small", hidden_size=1024, vocab_size=1000, layer_groups=(group,), norm="rmsnorm")


def counted(model: ModelConfig) -> dict[str, Any]:
    groups = model.layer_groups
    cache = sum(g.count * sum(part.cache_elements_per_token() for part in g.attention.parts) for g in groups)
    return {"cache_elements_per_token": cache, "state_elements": state_bytes(model, 1, state_bits=8)}


# -- as the classes have it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_parameters_cache_and_state_are_those_of_the_class(name: str) -> None:
    known = GOLDEN[name]
    model = from_hf_config(known["config"], name)
    mixtures = [
        group for group in model.layer_groups if isinstance(group.mlp, MoEMLP) and group.mlp.router_bias
    ]
    buffers = sum(group.count * group.mlp.routed_experts for group in mixtures)
    assert total_params(model) - known["parameters"] in (0, buffers)
    assert active_params(model) - known["active_parameters"] in (0, buffers)
    for what, ours in counted(model).items():
        assert known[what] in (None, ours), what


def test_every_kind_of_layer_has_a_class_behind_it() -> None:
    found = set()
    for known in GOLDEN.values():
        for group in from_hf_config(known["config"], "m").layer_groups:
            found |= {part.kind for part in group.attention.parts} | {group.attention.kind, group.mlp.kind}
    assert {mixer["kind"] for mixer in KINDS.values()} <= found
    assert "channel_mixing" in found


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (  # MiniMax-Text-01, arXiv 2501.08313: 456B in all, 45.9B active; 7 lightning layers to one of attention
            {
                "model_type": "minimax_text_01", "hidden_size": 6144, "num_hidden_layers": 80, "num_attention_heads": 64,
                "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9216, "num_local_experts": 32,
                "num_experts_per_tok": 2, "vocab_size": 200_064, "attn_type_list": ([0] * 7 + [1]) * 10,
                "shared_intermediate_size": 0, "max_position_embeddings": 10_240_000,
            },
            456e9,
            45.9e9 + 2 * 200_064 * 6144,  # beside both token tables
        ),
        (  # Falcon-Mamba-7B, arXiv 2410.05355: 7.27B parameters
            {
                "model_type": "falcon_mamba", "hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 64,
                "state_size": 16, "conv_kernel": 4, "time_step_rank": 256, "vocab_size": 65024, "tie_word_embeddings": False,
            },
            7.27e9,
            7.27e9,
        ),
        (  # Jamba, arXiv 2403.19887: 52B in all, 12B active
            {**GOLDEN["jamba"]["config"], "num_hidden_layers": 32},
            52e9,
            12e9,
        ),
        (  # xLSTM-7B, arXiv 2503.13427: 6.87B parameters
            {**GOLDEN["xlstm"]["config"], "num_hidden_layers": 32, "num_blocks": 32},
            6.87e9,
            6.87e9,
        ),
    ],
)  # fmt: skip
def test_sizes_are_the_published_ones(config: dict[str, Any], total: float, active: float) -> None:
    model = from_hf_config(config, "m")
    assert total_params(model) == pytest.approx(total, rel=0.01)
    assert active_params(model) == pytest.approx(active, rel=0.02)


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("bamba", {"mamba_n_heads": 100}, "mamba_n_heads = 100: expected 8192 / mamba_d_head"),
        ("falcon_h1", {"projectors_bias": True}, "projectors_bias = True: expected the value of mamba_proj_bias"),
        ("nemotron_h", {"layers_block_type": None, "hybrid_override_pattern": "M+M"}, "the letters M"),
        ("nemotron_h", {"mlp_bias": True}, "mlp_bias = True: expected false where a layer has experts"),
        ("zamba", {"tie_word_embeddings": False}, "tie_word_embeddings = False: expected true"),
        ("zamba2", {"attention_hidden_size": 77}, "attention_hidden_size = 77: expected 5120"),
        ("kimi_linear", {"tie_word_embeddings": True}, "tie_word_embeddings = True: expected false"),
        ("kimi_linear", {"attention_bias": True}, "attention_bias = True: expected False"),
        ("lfm2_moe", {"layer_types": None}, "layer_types = None: expected a list"),
        ("lfm2", {"block_ffn_dim_multiplier": float("nan")}, "block_ffn_dim_multiplier = nan: expected a positive"),
        ("lfm2", {"block_ffn_dim_multiplier": "x"}, "block_ffn_dim_multiplier = 'x': expected a positive number"),
        ("recurrent_gemma", {"block_types": ["attention", "mlp"]}, "block_types = .*: expected a list"),
        ("xlstm", {"embedding_dim": 77}, "embedding_dim = 77: expected 4096"),
        ("xlstm", {"qk_dim_factor": -1}, "qk_dim_factor = -1: expected a positive number"),
        ("glm_moe_dsa", {"indexer_types": ["full"]}, "indexer_types = .*: expected 6 entries"),
        ("deepseek_v32", {"mlp_layer_types": ["dense"]}, "mlp_layer_types = .*: expected 4 entries"),
        ("rwkv", {"attention_hidden_size": 0}, "attention_hidden_size = 0: expected a positive whole number"),
    ],
)  # fmt: skip
def test_what_is_not_counted_is_refused(model_type: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_hf_config({**GOLDEN[model_type]["config"], **change}, "m")


# -- laws of every kind ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", KINDS)
def test_parameters_are_those_of_the_parts(mixer: str) -> None:
    model = model_of(KINDS[mixer])
    group = model.layer_groups[0]
    matrices = sum(linear.copies * linear.weights for linear in group.attention.linears(1024))
    biases = sum(linear.params for linear in group.attention.linears(1024)) - matrices
    expected = matrices + biases + group.attention.vector_elements + 2 * 1024 * 4096 + 2 * 1024
    assert layer_params(model, group) == layer_modules(model, group).total == expected
    assert total_params(model) == active_params(model) == 4 * expected + 1000 * 1024 + 1024


@pytest.mark.parametrize("mixer", KINDS)
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_ranks_hold_the_layer_once(mixer: str, tp: int) -> None:
    """What is divided adds up to the whole; what is not is named replicated and held by each."""
    model = model_of(KINDS[mixer])
    group = model.layer_groups[0]
    one, part = layer_rank_params(model, group), layer_rank_params(model, group, tp)
    again = sum(
        linear.rank_params(tp) - linear.rank_params(1) / tp
        for linear in group.attention.linears(1024)
        if linear.split == "kv" and linear.kv_heads < tp
    )
    assert part.replicated == one.replicated
    assert tp * (part.sharded - again) == pytest.approx(one.sharded, rel=1e-12)
    assert one.total == layer_params(model, group)
    if not any(each.cache_elements_per_token() for each in group.attention.parts):
        assert kv_cache_elements(model, 100, tp) == kv_cache_elements(model, 100) / tp


@pytest.mark.parametrize("mixer", KINDS)
def test_flops_of_a_pass_are_the_closed_form(mixer: str) -> None:
    model, batch, tokens = model_of(KINDS[mixer]), 3, 1000
    attention = model.layer_groups[0].attention
    matrices = 2 * sum(linear.weights for linear in attention.linears(1024)) + 2 * 2 * 1024 * 4096
    triangle, seen = tokens * (tokens + 1) / 2, tokens
    scores = steps = 0.0
    for part in attention.parts:
        entries = (getattr(part, "selected", None) or 0) * getattr(part, "ratio", 1)
        selected = getattr(part, "window", None) or entries or tokens
        pairs = selected * (selected + 1) / 2 + (tokens - selected) * selected
        scores += (tokens if part.recurrent else pairs) * part.score_flops_per_pair()
        steps += (1 if part.recurrent else min(seen, selected)) * part.score_flops_per_pair(absorbed=True)
        assert pairs <= triangle
    prefill = batch * 4 * (tokens * matrices + scores) + lm_head_flops(model, batch)
    assert prefill_flops(model, batch, tokens) == pytest.approx(prefill, rel=1e-12)
    decode = batch * 4 * (matrices + steps) + lm_head_flops(model, batch)
    assert decode_step_flops(model, batch, tokens) == pytest.approx(decode, rel=1e-12)


@pytest.mark.parametrize("mixer", RECURRENT)
def test_a_state_is_as_large_after_any_context(mixer: str) -> None:
    layer = Mixer.of(RECURRENT[mixer])
    assert layer.recurrent
    assert layer.cache_elements(1) == layer.cache_elements(10**7) == layer.state_elements_per_sequence()
    assert layer.state_elements_per_sequence(8) == layer.state_elements_per_sequence() / 8
    assert layer.prefill_pairs(777) == 777
    assert layer.keys_read(10 * SCAN_CHUNK, 5) == 10


@pytest.mark.parametrize(
    ("mixer", "state", "step"),
    [
        ("mamba", 2048 * (16 + 4), 7 * 2048 * 16),
        ("mamba2", 32 * 64 * 32 + 4 * (1024 + 2 * 1024), 5 * 32 * 64 * 32),
        ("gated delta", 32 * 64 * 32 + 4 * (1024 + 2 * 1024), 7 * 32 * 64 * 32),
        ("kimi delta", 16 * 64 * 64 + 4 * 3 * 1024, 7 * 16 * 64 * 64),
        ("lightning", 16 * 64 * 64, 5 * 16 * 64 * 64),
        ("short convolution", 3 * 1024, 8 * 1024),
        ("RG-LRU", 5 * 1024, 18 * 1024),
        ("mLSTM", 16 * (32 * 65 + 1), 5 * 16 * 32 * 65),
        ("RWKV-4", 5 * 1024, 23 * 1024),
    ],
)
def test_state_and_step_by_hand(mixer: str, state: int, step: int) -> None:
    layer = Mixer.of(RECURRENT[mixer])
    assert layer.state_elements_per_sequence() == state
    assert layer.score_flops_per_pair(absorbed=True) == step
    assert layer.score_flops_per_pair(4) == layer.score_flops_per_pair() / 4


def test_an_indexer_reads_every_key_and_attention_what_it_selects() -> None:
    indexed = Mixer.of(COMBINED["indexed"])
    latent, indexer = indexed.parts
    assert latent.attended(10_000) == 256
    assert indexer.attended(10_000) == 10_000
    assert indexed.cache_elements(10_000) == 10_000 * (64 + 16 + 32)
    plain = LatentAttention(
        **{key: value for key, value in LATENT.items() if key not in ("kind", "selected")}
    )
    assert latent.cache_elements(10_000) == plain.cache_elements(10_000)
    one, many = (decode_score_flops(indexed, 1, context) for context in (10_000, 20_000))
    assert many - one == 10_000 * 2 * 8 * (32 + 1)
    assert prefill_score_flops(indexed, 1, 256) == prefill_score_flops(plain, 1, 256) + 256 * 257 / 2 * 528


def test_shared_weights_are_stored_once_and_multiplied_with_each_time() -> None:
    first, later = (Mixer.of({**SHARED, "stored": stored}) for stored in (True, False))
    weights = [
        sum(linear.active * linear.weights for linear in each.linears(1024)) for each in (first, later)
    ]
    assert weights[0] == weights[1]
    own = sum(linear.params for linear in later.linears(1024))
    assert own == 1024 * 32 + 2 * 4096 * 32 + 1024**2
    shared = 3 * 2048 * 2048 + 1024 * 2048 + 3 * 4096 * 1024
    assert sum(linear.params for linear in first.linears(1024)) == shared + own
    assert first.vector_elements - later.vector_elements == 3 * 1024
    assert first.cache_elements(50) == later.cache_elements(50) == 50 * 2 * 2048


def test_what_differs_by_member_is_asked_of_the_parts() -> None:
    layer = Mixer.of(COMBINED["side by side"])
    attention, state = (Mixer.of(each) for each in (ATTENTION, STATE))
    assert layer.parts == (attention, state)
    assert layer.cache_elements(99) == attention.cache_elements(99) + state.cache_elements(99)
    assert layer.live_elements_per_token(2) == sum(
        each.live_elements_per_token(2) for each in (attention, state)
    )
    for ask in (layer.attended, layer.prefill_pairs, layer.cached_tokens):
        with pytest.raises(TypeError, match="ask each of its parts"):
            ask(5)


def test_experts_in_a_latent_space() -> None:
    wide, narrow = (
        MoEMLP(num_experts=8, top_k=2, ffn_size=512, gated=False, latent_size=latent)
        for latent in (None, 256)
    )
    ends = 2 * 1024 * 256
    assert sum(each.params for each in narrow.linears(1024)) == 8 * 1024 + 8 * 2 * 512 * 256 + ends
    assert sum(each.params for each in wide.linears(1024)) == 8 * 1024 + 8 * 2 * 512 * 1024


# -- timed ------------------------------------------------------------------------------------------------------


def timed(model: dict[str, Any], tmp_path: Path, **changes: Any) -> Any:
    (tmp_path / "config.json").write_text(json.dumps(model))
    settings = {
        "gpu": "b200-180gb",
        "prompt_len": 1024,
        "gen_len": 32,
        "batch_size": 4,
        "system": "vllm",
    } | changes
    return predict_inference(build_scenario(InferenceInputs(model=str(tmp_path / "config.json"), **settings)))


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("system", ["vllm", "transformers", "zero_inference"])
def test_systems_time_it(name: str, system: str, tmp_path: Path) -> None:
    config = GOLDEN[name]["config"]
    short = timed(config, tmp_path, system=system)
    long = timed(config, tmp_path, system=system, prompt_len=6144, allow_long_context=True)
    assert 0 < short.prefill.latency_s < long.prefill.latency_s
    assert short.decode.latency_per_token_s <= long.decode.latency_per_token_s * (1 + 1e-9)
    model = from_hf_config(config, name)
    grows = any(
        part.cache_elements_per_token() for group in model.layer_groups for part in group.attention.parts
    )
    assert (long.memory.gpu.kv_cache_bytes > short.memory.gpu.kv_cache_bytes) == grows


@pytest.mark.parametrize("system", ["vllm", "llama_cpp"])
def test_tokens_that_are_not_selected_stay_in_the_cache(system: str, tmp_path: Path) -> None:
    """Latents of 16 bits, and a key of the indexer of 128 elements in 8 bits with a scale, of every token in every layer."""
    known, sizes = GOLDEN["deepseek_v32"], {"prompt_len": 8192, "gen_len": 8, "batch_size": 1}
    keys = known["config"]["num_hidden_layers"] * known["config"]["index_head_dim"]
    kept = timed(
        known["config"], tmp_path, system=system, kv_format="fp16", **sizes
    ).memory.gpu.kv_cache_bytes
    assert kept == pytest.approx(
        8200 * (2 * (known["cache_elements_per_token"] - keys) + keys * 8.25 / 8), rel=0.02
    )


def test_a_narrow_cache_leaves_states_wide(tmp_path: Path) -> None:
    def kept(name: str, kv_format: str) -> float:
        return timed(GOLDEN[name]["config"], tmp_path, kv_format=kv_format).memory.gpu.kv_cache_bytes

    assert kept("mamba2", "fp8") == kept("mamba2", "auto") == 4 * 2 * GOLDEN["mamba2"]["state_elements"]
    states = 4 * 2 * GOLDEN["falcon_h1"]["state_elements"]
    assert kept("falcon_h1", "fp8") - states == pytest.approx((kept("falcon_h1", "auto") - states) / 2)


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("weight_format", ["awq", "q4_k_m", "fp8"])
def test_formats_are_counted_in_every_layer(name: str, weight_format: str, tmp_path: Path) -> None:
    config = GOLDEN[name]["config"]
    wide, narrow = (
        timed(config, tmp_path, weight_format=each).memory.gpu.weights_bytes
        for each in ("bf16", weight_format)
    )
    assert 0.2 * wide < narrow < 0.9 * wide


@pytest.mark.parametrize("name", ["falcon_h1", "zamba2", "kimi_linear"])
def test_flexgen_and_training_refuse_what_they_do_not_model(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="keeps states instead"):
        timed(GOLDEN[name]["config"], tmp_path, system="flexgen", gpu="a100-sxm-80gb")


def test_flexgen_refuses_several_mixers_in_one_layer(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="several mixers or none"):
        timed(GOLDEN["deepseek_v32"]["config"], tmp_path, system="flexgen")


def test_side_by_side_takes_the_time_of_both(tmp_path: Path) -> None:
    """Attention grows with the context, the state's step does not: beside each other they take the sum."""
    config = {**GOLDEN["falcon_h1"]["config"], "max_position_embeddings": 200_000}
    plain = {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 3, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128_000, "max_position_embeddings": 200_000,
    }  # fmt: skip
    near, far = 32768, 65536

    def attention_s(model: dict[str, Any], prompt_len: int, phase: str) -> float:
        return float(getattr(timed(model, tmp_path, prompt_len=prompt_len), phase).breakdown_s["attention"])

    for phase, growth, within in (
        ("prefill", 2, 0.02),
        ("decode", 1, 1e-3),
    ):  # a prefill has kernels of fixed length too
        beside = [
            attention_s(config, length, phase) - attention_s(plain, length, phase) for length in (near, far)
        ]
        assert beside[0] > 0
        assert beside[1] == pytest.approx(growth * beside[0], rel=within)


def test_a_layer_of_one_block_has_one_sum_over_tensor_ranks(tmp_path: Path) -> None:
    """Two layers of one block each exchange and normalise as much as one layer of both."""
    blocks = {"layers_block_type": ["full_attention", "mlp"] * 4}
    halves = from_hf_config({**GOLDEN["nemotron_h"]["config"], **blocks}, "m")
    assert [type(group.mlp) is NoMLP for group in halves.layer_groups] == [True, False]
    attention, mlp = halves.layer_groups[0].attention, halves.layer_groups[1].mlp
    assert isinstance(attention, Attention)
    whole = halves.replace(layer_groups=(LayerGroup(count=4, attention=attention, mlp=mlp),))
    found = []
    for name, model in (("halves", halves), ("whole", whole)):
        file = tmp_path / f"{name}.yaml"
        file.write_text(model.model_dump_json(exclude_none=True))
        settings = {"gpu": "h100-sxm-80gb", "prompt_len": 512, "gen_len": 16, "batch_size": 4, "tp_size": 4}
        found.append(
            predict_inference(build_scenario(InferenceInputs(model=str(file), system="vllm", **settings)))
        )
    for part in ("all_reduce", "elementwise", "attention", "mlp", "attention_projections"):
        apart, both = (result.decode.breakdown_s[part] for result in found)
        assert apart == pytest.approx(both, rel=1e-9), part


def test_registers_name_every_kind() -> None:
    assert {mixer["kind"] for mixer in KINDS.values()} <= Mixer._kinds.keys()
    assert {"dense", "moe", "none", "channel_mixing"} <= FeedForward._kinds.keys()
