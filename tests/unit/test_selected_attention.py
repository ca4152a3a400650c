"""Models of 2026 that attend to a part of what they keep: counts by hand, published shares, and what lengthens a step."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.huggingface import from_hf_config
from llm_perf.config.layers.base import Mixer
from llm_perf.config.loading import get_model_config_by_name
from llm_perf.config.model import LayerGroup, ModelConfig, MoEMLP, Streams
from llm_perf.counts.attention import decode_score_flops, kv_cache_elements, prefill_score_flops
from llm_perf.counts.flops import decode_step_flops
from llm_perf.counts.parameters import active_params, layer_matrix_params, layer_params, total_params
from llm_perf.counts.weight_formats import checkpoint_bytes, resolve_formats
from llm_perf.errors import SpecError

MILLION = 2**20
FLASH, PRO, V32 = "deepseek-v4-flash", "deepseek-v4-pro", "deepseek-v3.2"


def model(name: str) -> ModelConfig:
    return get_model_config_by_name(name)


# -- DeepSeek-V4 -------------------------------------------------------------------------------------------------------


def test_cache_of_a_million_tokens_by_hand() -> None:
    """Every layer keeps a window of 128 vectors of 512; sparse layers (512 + 128) / 4 of each token, heavy ones 512 / 128."""
    assert kv_cache_elements(model(FLASH), MILLION) == 43 * 128 * 512 + MILLION * (21 * 160 + 20 * 4)
    assert kv_cache_elements(model(PRO), MILLION) == 61 * 128 * 512 + MILLION * (30 * 160 + 31 * 4)
    assert kv_cache_elements(model(FLASH), 100) == 43 * 100 * 512 + 100 * (21 * 160 + 20 * 4)


@pytest.mark.parametrize(("name", "cache", "flops"), [(PRO, 0.10, 0.27), (FLASH, 0.07, 0.10)])
def test_shares_of_v32_at_a_million_tokens_are_the_published_ones(
    name: str, cache: float, flops: float
) -> None:
    """Model card of DeepSeek-V4: the cache and the FLOPs of a token ("equivalent FP8") beside DeepSeek-V3.2's.

    Its keys of the indexer have 4 bits where V3.2's have 8, which elements do not say: a few points either way.
    """
    now, before = model(name), model(V32)
    assert kv_cache_elements(now, MILLION) / kv_cache_elements(before, MILLION) == pytest.approx(
        cache, abs=0.02
    )
    share = decode_step_flops(now, 1, MILLION) / decode_step_flops(before, 1, MILLION)
    assert share == pytest.approx(flops, abs=0.025)


def test_a_step_of_v4_by_hand() -> None:
    """A query meets the window, 512 entries of 4 tokens or every entry of 128, and an indexer scores every entry of 4."""
    context, per_key = 65_536, 4 * 64 * 512
    sliding = 43 * 128 * per_key
    sparse = 21 * (512 * per_key + context / 4 * 2 * 64 * 129)
    heavy = 20 * context / 128 * per_key
    scores = sum(
        group.count * decode_score_flops(group.attention, 1, context) for group in model(FLASH).layer_groups
    )
    assert scores == pytest.approx(sliding + sparse + heavy)


def test_what_is_selected_grows_no_further_and_the_indexer_does() -> None:
    sparse = model(FLASH).layer_groups[1].attention
    window, entries, indexer = sparse.parts
    assert (window.saturates_at, entries.saturates_at, indexer.saturates_at) == (128, 2048, None)
    assert entries.cached_tokens(10_000) == 10_000
    assert entries.attended(10_000) == 2048
    grown = decode_score_flops(sparse, 1, 20_000) - decode_score_flops(sparse, 1, 10_000)
    assert grown == pytest.approx(10_000 * indexer.score_flops_per_pair())


@pytest.mark.parametrize("name", [FLASH, PRO])
def test_the_checkpoint_has_the_size_of_four_bit_experts(name: str) -> None:
    """Experts at 4.25 bits, the rest at 8 with scales or 16: between 4.25 and 5 bits for each parameter."""
    shipped = model(name)
    stored = checkpoint_bytes(shipped, resolve_formats(shipped, shipped.quantization))
    assert 4.25 < 8 * stored / total_params(shipped) < 5.0


@pytest.mark.parametrize(
    ("name", "elements", "tower"),
    [("qwen3.8-flash-next", 359_999_963_128 / 2, 0.45e9), ("glm-5.3-flash", 321e9, 0.5e9)],
)
def test_the_published_count_has_a_prediction_layer_and_a_tower(
    name: str, elements: float, tower: float
) -> None:
    """A prediction layer is a layer as the attending ones, with a matrix for two hidden states; towers by their configs."""
    shipped = model(name)
    attending = next(group for group in shipped.layer_groups if group.attention.kind == "combined")
    ahead = layer_params(shipped, attending) + 2 * shipped.hidden_size**2
    assert total_params(shipped) + ahead + tower == pytest.approx(elements, rel=0.002)


def test_the_checkpoint_of_kimi_k3_has_its_published_size() -> None:
    """Its 96 files hold 1,560.87e9 bytes of tensors, of which the tower of pictures has 0.8e9 (0.4e9 elements of 16 bits)."""
    shipped = model("kimi-k3")
    stored = checkpoint_bytes(shipped, resolve_formats(shipped, shipped.quantization))
    assert stored == pytest.approx(1_560.87e9 - 0.8e9, rel=0.002)


CONFIG_V4: dict[str, Any] = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "hidden_size": 4096,
    "vocab_size": 129_280,
    "num_hidden_layers": 43,
    "num_attention_heads": 64,
    "num_key_value_heads": 1,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "q_lora_rank": 1024,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "sliding_window": 128,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
    "compress_rope_theta": 160_000,
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 512,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 6,
    "num_hash_layers": 3,
    "moe_intermediate_size": 2048,
    "max_position_embeddings": 1_048_576,
    "tie_word_embeddings": False,
    "expert_dtype": "fp4",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
CONFIG_LONGCAT: dict[str, Any] = {
    "model_type": "longcat_flash",
    "hidden_size": 6144,
    "vocab_size": 131_072,
    "num_layers": 28,
    "num_attention_heads": 64,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "ffn_hidden_size": 12_288,
    "expert_ffn_hidden_size": 2048,
    "n_routed_experts": 512,
    "moe_topk": 12,
    "zero_expert_num": 256,
    "zero_expert_type": "identity",
    "max_position_embeddings": 131_072,
}
CONFIG_GROK: dict[str, Any] = {
    "architectures": ["Grok1ForCausalLM"],
    "model_type": "git",
    "vocab_size": 131_072,
    "hidden_size": 8192,
    "intermediate_size": 32_768,
    "moe_intermediate_size": 16_384,
    "max_position_embeddings": 131_072,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "residual_moe": True,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_hidden_layers": 64,
    "head_dim": 128,
}
CONFIG_M3: dict[str, Any] = {
    "model_type": "minimax_m3_vl",
    "text_config": {
        "hidden_size": 6144,
        "intermediate_size": 3072,
        "dense_intermediate_size": 12_288,
        "shared_intermediate_size": 3072,
        "num_hidden_layers": 60,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 200_064,
        "max_position_embeddings": 1_048_576,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "moe_layer_freq": [0, 0, 0] + [1] * 57,
        "sparse_attention_config": {
            "use_sparse_attention": True,
            "sparse_index_dim": 128,
            "sparse_num_index_heads": 4,
            "sparse_topk_blocks": 16,
            "sparse_block_size": 128,
            "sparse_attention_freq": [0, 0, 0] + [1] * 57,
        },
    },
}
CONFIG_K3: dict[str, Any] = {
    "model_type": "kimi_k3",
    "text_config": {
        "model_type": "kimi_linear",
        "hidden_size": 7168,
        "vocab_size": 163_840,
        "num_hidden_layers": 93,
        "num_attention_heads": 96,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "mla_use_output_gate": True,
        "intermediate_size": 33_792,
        "moe_intermediate_size": 3072,
        "routed_expert_hidden_size": 3584,
        "latent_moe_use_norm": True,
        "num_experts": 896,
        "num_experts_per_token": 16,
        "num_shared_experts": 2,
        "first_k_dense_replace": 1,
        "attn_res_block_size": 12,
        "max_position_embeddings": 1_048_576,
        "linear_attn_config": {
            "full_attn_layers": [*range(4, 93, 4), 93],
            "head_dim": 128,
            "num_heads": 96,
            "short_conv_kernel_size": 4,
            "use_full_rank_gate": True,
        },
    },
}
CONFIG_QWEN: dict[str, Any] = {
    "model_type": "qwen4_exp",
    "text_config": {
        "model_type": "qwen4_exp_text",
        "hidden_size": 2560,
        "num_hidden_layers": 48,
        "max_position_embeddings": 262_144,
        "hc_count": 4,
        "hc_lowrank": 320,
        "head_dim": 256,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 128,
        "indexer_budget": 2048,
        "indexer_compress_ratio": 4,
        "linear_num_value_heads": 48,
        "mamba_ssm_dtype": "float32",
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "moe_intermediate_size": 640,
        "shared_expert_intermediate_size": 640,
        "ple_layer_ids": [2],
        "ple_embed_dim": 2560,
        "vocab_size": 248_320,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 12,
    },
}
CONFIG_STEP: dict[str, Any] = {"model_type": "step3_vl", "text_config": {"model_type": "step3_text"}}
CONFIG_GLM: dict[str, Any] = {"model_type": "glm5_next", "text_config": {"model_type": "glm5_next_text"}}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        (FLASH, CONFIG_V4),
        ("longcat-flash", CONFIG_LONGCAT),
        ("grok-2", CONFIG_GROK),
        ("minimax-m3", CONFIG_M3),
        ("kimi-k3", CONFIG_K3),
        ("qwen3.8-flash-next", CONFIG_QWEN),
        ("step-3", CONFIG_STEP),
        ("glm-5.3-flash", CONFIG_GLM),
    ],
)
def test_the_shipped_model_is_what_its_config_gives(name: str, config: dict[str, Any]) -> None:
    read, shipped = from_hf_config(config, "read"), model(name)
    assert total_params(read) == total_params(shipped)
    assert active_params(read) == active_params(shipped)
    assert read.layer_groups == shipped.layer_groups
    assert "not read" not in (read.left_out or "")


# Sums over the parameters of the classes' default configs (transformers 5.23, meta device): all, and what a token uses. A
# bias per expert in the router is no parameter there.
CLASSES = {
    "deepseek_v4": (284_325_869_015, 13_793_261_015),
    "glm5_next_text": (313_326_816_766, 17_376_726_526),
    "minimax_m3_vl_text": (447_186_441_216, 25_910_547_456),
}


@pytest.mark.parametrize("model_type", CLASSES)
def test_a_class_at_its_defaults_has_as_many_parameters(model_type: str) -> None:
    read = from_hf_config({"model_type": model_type}, "read")
    biases = sum(
        group.count * group.mlp.num_experts for group in read.layer_groups if isinstance(group.mlp, MoEMLP)
    )
    assert (total_params(read) - biases, active_params(read) - biases) == CLASSES[model_type]


def test_letters_of_exaone_and_heads_of_laguna() -> None:
    exaone = {
        "model_type": "exaone4", "hidden_size": 5120, "intermediate_size": 27_392, "num_hidden_layers": 64,
        "vocab_size": 102_400,
        "num_attention_heads": 40, "num_key_value_heads": 8, "sliding_window": 4096, "sliding_window_pattern": "LLLG",
    }  # fmt: skip
    local, full = from_hf_config(exaone, "read").layer_groups
    assert (local.count, full.count) == (48, 16)
    assert local.attention.saturates_at == 4096
    with pytest.raises(SpecError, match="letters L and G"):
        from_hf_config({**exaone, "sliding_window_pattern": "LXG"}, "read")
    laguna = {
        "model_type": "laguna",
        "num_attention_heads_per_layer": [48, 64] * 20,
        "layer_types": ["full_attention"] * 40,
    }
    groups = from_hf_config(laguna, "read").layer_groups
    assert {group.attention.num_heads for group in groups} == {48, 64}
    with pytest.raises(SpecError, match="one per layer"):
        from_hf_config({**laguna, "num_attention_heads_per_layer": [48]}, "read")


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("Qwen/Qwen3-8B-FP8", "fp8_block"),
        ("deepseek-ai/DeepSeek-R1-FP8", "fp8_block"),
        ("kimi-k2-fp8", "fp8_block"),
        ("RedHatAI/kimi-k2-fp8", "fp8"),
        ("Qwen/Qwen3-32B-FP8", "fp8_block"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "int4"),
        ("amd/Llama-3.1-70B-Instruct-FP8-KV", "fp8"),
        ("MiniMaxAI/MiniMax-M3-MXFP8", "mxfp8"),
        ("unsloth/Qwen3-8B-GGUF", "q4_k_m"),
        ("Qwen/Qwen3-8B", None),
    ],
)
def test_a_repository_is_stored_as_its_name_ends(name: str, stored: str | None) -> None:
    found = model(name).quantization
    assert (found and found.name) == stored


@pytest.mark.parametrize(
    "name", ["nvidia/DeepSeek-V4-Flash-NVFP4", "deepseek-v4-flash-NVFP4", "me/DeepSeek-V4-Flash-NVFP4"]
)
def test_a_release_of_two_formats_in_another_one_of_the_experts_changes_these_alone(name: str) -> None:
    """nvidia/DeepSeek-V4-Flash-NVFP4 says ``moe_quant_algo: NVFP4``; all else stays in the release's 8 bits."""
    as_released, named = model("deepseek-v4-flash"), model(name)
    before, after = (resolve_formats(read, read.quantization).layers[0] for read in (as_released, named))
    pairs = {(old.name, new.name) for old, new in zip(before, after, strict=True)}
    assert ("mxfp4", "nvfp4") in pairs
    assert all(old == new for old, new in pairs - {("mxfp4", "nvfp4")})
    whole = model("deepseek-v4-flash-GGUF").quantization
    assert whole is not None
    assert whole.mixture == "q4_k_m"


def test_experts_and_the_rest_of_v4_have_formats_of_their_own() -> None:
    read = from_hf_config(CONFIG_V4, "read")
    formats = resolve_formats(read, read.quantization)
    linears = read.layer_groups[1]
    from llm_perf.counts.linears import layer_linears

    found = {
        linear.op: entry.name
        for linear, entry in zip(layer_linears(linears, 4096), formats.layers[1], strict=True)
    }
    assert found["expert_up"] == "mxfp4"
    assert found["shared_expert_up"] == found["q"] == found["attention_output"] == "fp8_block"
    assert found["attention_compressor:2"] == found["router"] == found["streams"] == "bf16"


def test_what_v4_says_of_its_layers_is_checked() -> None:
    with pytest.raises(SpecError, match="compress_ratios"):
        from_hf_config({**CONFIG_V4, "compress_ratios": [7] * 43}, "read")
    with pytest.raises(SpecError, match="expert_dtype"):
        from_hf_config({**CONFIG_V4, "expert_dtype": "fp3"}, "read")


# -- times -------------------------------------------------------------------------------------------------------------


def step_s(name: str, prompt_len: int, **more: Any) -> float:
    asked = InferenceInputs(
        model=name, gpu="b200", tp_size=8, prompt_len=prompt_len, gen_len=8, system="vllm", **more
    )
    seconds = predict_inference(build_scenario(asked)).tpot_s
    assert seconds is not None
    return float(seconds)


@pytest.mark.parametrize("name", [FLASH, "minimax-m3", "glm-5.3-flash", "qwen3.8-flash-next", "kimi-k3"])
def test_every_one_of_them_is_timed(name: str) -> None:
    near, far = step_s(name, 1000), step_s(name, 200_000)
    assert 0 < near < far


def test_selection_keeps_long_contexts_cheap() -> None:
    """At 200,000 tokens the layers that select take less than the same layers would that attend to all."""
    sparse = model("minimax-m3")
    dense = sparse.replace(
        layer_groups=tuple(
            group.replace(attention=group.attention.parts[0].replace(selected=None))
            for group in sparse.layer_groups
        )
    )
    assert decode_step_flops(dense, 1, 200_000) > 5 * decode_step_flops(sparse, 1, 200_000)
    assert decode_step_flops(dense, 1, 1000) < decode_step_flops(sparse, 1, 1000)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_experts_that_do_nothing_are_not_computed() -> None:
    """LongCat: 12 of 512 + 256 are 8 of 512 on average, and the router has a column for each."""
    mixture = MoEMLP(num_experts=512, top_k=12, ffn_size=2048, zero_experts=256)
    assert mixture.experts_per_token == 8
    assert MoEMLP(num_experts=512, top_k=12, ffn_size=2048).experts_per_token == 12
    assert mixture.linears(6144)[0].out_features == 768


def test_streams_cost_their_weights_and_their_way_through_memory() -> None:
    several = model(FLASH)
    one = several.replace(
        layer_groups=tuple(group.replace(streams=None) for group in several.layer_groups), other_params=0
    )
    weights = 43 * 2 * (24 * 4 * 4096 + 24 + 3) + 4 * 4 * 4096 + 4 + 1
    assert total_params(several) - total_params(one) == weights
    assert layer_matrix_params(several) - layer_matrix_params(one) == 43 * 2 * 24 * 4 * 4096


def test_low_rank_streams_by_hand() -> None:
    """Qwen3.8-Flash-Next: 320 x 10240 down, 10240 x 320 up, 4 x 10240 for the output, twice in a layer, and two norms."""
    streams = Streams(count=4, rank=320)
    assert sum(linear.params for linear in streams.linears(2560)) == 2 * (2 * 320 * 10_240 + 4 * 10_240)
    assert streams.vector_elements(2560) == 2 * 10_240


def test_tables_of_ngrams_take_memory_and_are_not_active() -> None:
    shipped = model("qwen3.8-flash-next")
    without = shipped.replace(ngram_params=0)
    assert total_params(shipped) - total_params(without) == shipped.ngram_params
    assert active_params(shipped) == active_params(without)


def test_queries_of_step_3_pass_a_narrow_product() -> None:
    """7168 x (2048 + 2 x 256) + 2048 x 16384 + 16384 x 7168, and a norm over 2048."""
    attention = model("step-3").layer_groups[0].attention
    assert (
        sum(linear.params for linear in attention.linears(7168))
        == 7168 * 2560 + 2048 * 16_384 + 16_384 * 7168
    )
    assert attention.vector_elements == 2048
    assert attention.cache_elements_per_token() == 512


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "indexer", "num_heads": 4, "head_dim": 128, "pool": 4},
        {"kind": "indexer", "num_heads": 4, "head_dim": 128, "keys_of": "means"},
        {"num_heads": 8, "num_kv_heads": 8, "head_dim": 64, "window": 128, "selected": 64},
        {
            "kind": "shared_key_attention",
            "num_heads": 10,
            "head_dim": 64,
            "q_lora_rank": 32,
            "output_groups": 4,
            "output_rank": 8,
            "window": 16,
        },
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        Mixer.of(fields)


def test_prompts_of_selecting_layers_are_a_triangle_and_a_band() -> None:
    """t(t+1)/2 pairs up to what is selected, then so many for each token; the indexer's stay a triangle."""
    latent, indexer = model(V32).layer_groups[0].attention.parts
    tokens, most = 10_000, 2048
    assert latent.prefill_pairs(tokens) == most * (most + 1) / 2 + (tokens - most) * most
    assert indexer.prefill_pairs(tokens) == tokens * (tokens + 1) / 2
    both: LayerGroup = model(V32).layer_groups[0]
    assert prefill_score_flops(both.attention, 1, tokens) == pytest.approx(
        latent.prefill_pairs(tokens) * latent.score_flops_per_pair()
        + indexer.prefill_pairs(tokens) * indexer.score_flops_per_pair()
    )
