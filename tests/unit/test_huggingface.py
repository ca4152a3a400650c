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

# Fields of the released config.json that decide shapes, as stored on the hub.
RELEASED: dict[str, dict[str, Any]] = {
    "facebook/opt-30b": {
        "model_type": "opt",
        "hidden_size": 7168,
        "num_hidden_layers": 48,
        "num_attention_heads": 56,
        "ffn_dim": 28672,
        "word_embed_proj_dim": 7168,
        "do_layer_norm_before": True,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
    },
    "facebook/opt-350m": {
        "model_type": "opt",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "ffn_dim": 4096,
        "word_embed_proj_dim": 512,
        "do_layer_norm_before": False,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
    },
    "openai-community/gpt2-xl": {
        "model_type": "gpt2",
        "n_embd": 1600,
        "n_layer": 48,
        "n_head": 25,
        "n_ctx": 1024,
        "n_positions": 1024,
        "vocab_size": 50257,
    },
    "EleutherAI/gpt-j-6b": {
        "model_type": "gptj",
        "n_embd": 4096,
        "n_layer": 28,
        "n_head": 16,
        "n_inner": None,
        "n_positions": 2048,
        "rotary_dim": 64,
        "tie_word_embeddings": False,
        "vocab_size": 50400,
    },
    "EleutherAI/gpt-neox-20b": {
        "model_type": "gpt_neox",
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "vocab_size": 50432,
    },
    "bigscience/bloom-560m": {
        "model_type": "bloom",
        "n_embed": 1024,
        "n_layer": 24,
        "num_attention_heads": 16,
        "seq_length": 2048,
        "vocab_size": 250880,
    },
    "tiiuae/falcon-7b": {
        "model_type": "falcon",
        "alibi": False,
        "bias": False,
        "hidden_size": 4544,
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 71,
        "num_hidden_layers": 32,
        "parallel_attn": True,
        "vocab_size": 65024,
    },
    "tiiuae/falcon-40b": {
        "model_type": "falcon",
        "alibi": False,
        "bias": False,
        "hidden_size": 8192,
        "new_decoder_architecture": True,
        "num_attention_heads": 128,
        "num_hidden_layers": 60,
        "num_kv_heads": 8,
        "parallel_attn": True,
        "vocab_size": 65024,
    },
    "meta-llama/Llama-2-7b-hf": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "meta-llama/Llama-3.2-1B": {
        "model_type": "llama",
        "head_dim": 64,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    },
    "mistralai/Mistral-7B-v0.1": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "mistralai/Mistral-Nemo-12B": {
        "model_type": "mistral",
        "head_dim": 128,
        "hidden_size": 5120,
        "intermediate_size": 14336,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 1024000,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 131072,
    },
    "mistralai/Mixtral-8x7B-v0.1": {
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "Qwen/Qwen2.5-7B": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "max_window_layers": 28,
        "sliding_window": 131072,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": 152064,
    },
    "Qwen/Qwen1.5-MoE-A2.7B": {
        "model_type": "qwen2_moe",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "decoder_sparse_step": 1,
        "max_position_embeddings": 8192,
        "max_window_layers": 21,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": 151936,
    },
    "Qwen/Qwen3-8B": {
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 128,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 40960,
        "max_window_layers": 36,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": 151936,
    },
    "Qwen/Qwen3-30B-A3B": {
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 40960,
        "sliding_window": None,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": 151936,
    },
    "google/gemma-7b": {
        "model_type": "gemma",
        "head_dim": 256,
        "hidden_size": 3072,
        "intermediate_size": 24576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 8192,
        "vocab_size": 256000,
    },
    "google/gemma-2-9b": {
        "model_type": "gemma2",
        "head_dim": 256,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "google/gemma-3-1b": {
        "model_type": "gemma3_text",
        "head_dim": 256,
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "num_hidden_layers": 26,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32768,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "microsoft/Phi-3-mini-4k": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "microsoft/phi-4": {
        "model_type": "phi3",
        "hidden_size": 5120,
        "intermediate_size": 17920,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 10,
        "max_position_embeddings": 16384,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    "microsoft/Phi-3.5-MoE": {
        "model_type": "phimoe",
        "attention_bias": True,
        "hidden_size": 4096,
        "intermediate_size": 6400,
        "lm_head_bias": True,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 131072,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "deepseek-ai/DeepSeek-V2-Lite": {
        "model_type": "deepseek_v2",
        "first_k_dense_replace": 1,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "max_position_embeddings": 163840,
        "tie_word_embeddings": False,
        "vocab_size": 102400,
    },
    "deepseek-ai/DeepSeek-V3": {
        "model_type": "deepseek_v3",
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "max_position_embeddings": 163840,
        "tie_word_embeddings": False,
        "vocab_size": 129280,
    },
    "moonshotai/Kimi-K2-Instruct": {
        "model_type": "kimi_k2",
        "first_k_dense_replace": 1,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_routed_experts": 384,
        "n_shared_experts": 1,
        "num_attention_heads": 64,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 64,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
        "vocab_size": 163840,
    },
    "openai/gpt-oss-20b": {
        "model_type": "gpt_oss",
        "attention_bias": True,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "max_position_embeddings": 131072,
        "sliding_window": 128,
        "tie_word_embeddings": False,
        "vocab_size": 201088,
    },
    "internlm/internlm2-20b": {
        "model_type": "internlm2",
        "bias": False,
        "hidden_size": 6144,
        "intermediate_size": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "vocab_size": 92544,
    },
    "meta-llama/Llama-4-Scout-17B-16E": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "attention_bias": False,
            "attention_chunk_size": 8192,
            "head_dim": 128,
            "hidden_size": 5120,
            "interleave_moe_layer_step": 1,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "max_position_embeddings": 10485760,
            "no_rope_layers": [],
            "num_attention_heads": 40,
            "num_experts_per_tok": 1,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
            "num_local_experts": 16,
            "vocab_size": 202048,
        },
    },
    "meta-llama/Llama-4-Maverick-17B-128E": {
        "model_type": "llama4",
        "tie_word_embeddings": False,
        "text_config": {
            "model_type": "llama4_text",
            "attention_chunk_size": 8192,
            "interleave_moe_layer_step": 2,
            "max_position_embeddings": 1048576,
            "moe_layers": list(range(1, 48, 2)),
            "no_rope_layers": [1, 1, 1, 0] * 12,
            "num_local_experts": 128,
        },
    },
    "encoder/BERT-base": {
        "model_type": "bert",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "vocab_size": 30522,
    },
}

# Models of families that are not bundled, or bundled in another variant: config fields, and the parameters that
# their model card gives (a file listing's safetensors count where it is exact).
COUNTED: dict[str, tuple[dict[str, Any], int, float]] = {
    "microsoft/phi-2": (
        {
            "model_type": "phi",
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "qk_layernorm": False,
            "tie_word_embeddings": False,
            "vocab_size": 51200,
        },
        2_779_683_840,
        0,
    ),
    "databricks/dbrx-base": (
        {
            "model_type": "dbrx",
            "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
            "d_model": 6144,
            "ffn_config": {
                "ffn_act_fn": {"name": "silu"},
                "ffn_hidden_size": 10752,
                "moe_num_experts": 16,
                "moe_top_k": 4,
            },
            "max_seq_len": 32768,
            "n_heads": 48,
            "n_layers": 40,
            "tie_word_embeddings": False,
            "vocab_size": 100352,
        },
        131_596_523_520,
        0,
    ),
    "mosaicml/mpt-7b": (
        {
            "model_type": "mpt",
            "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
            "d_model": 4096,
            "expansion_ratio": 4,
            "max_seq_len": 2048,
            "n_heads": 32,
            "n_layers": 32,
            "no_bias": True,
            "vocab_size": 50432,
        },
        6_649_286_656,
        0,
    ),
    "tiiuae/falcon-rw-1b": (
        {
            "model_type": "falcon",
            "alibi": True,
            "bias": True,
            "hidden_size": 2048,
            "multi_query": False,
            "new_decoder_architecture": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 24,
            "parallel_attn": False,
            "vocab_size": 50304,
        },
        1_311_625_216,
        0,
    ),
    "bigcode/starcoder2-3b": (
        {
            "model_type": "starcoder2",
            "hidden_size": 3072,
            "intermediate_size": 12288,
            "num_hidden_layers": 30,
            "num_attention_heads": 24,
            "num_key_value_heads": 2,
            "max_position_embeddings": 16384,
            "sliding_window": 4096,
            "use_bias": True,
            "vocab_size": 49152,
        },
        3_030_371_328,
        0,
    ),
    "bigcode/starcoder": (
        {
            "model_type": "gpt_bigcode",
            "multi_query": True,
            "n_embd": 6144,
            "n_head": 48,
            "n_inner": 24576,
            "n_layer": 40,
            "n_positions": 8192,
            "vocab_size": 49152,
        },
        15_500_000_000,
        0.003,
    ),
    "allenai/OLMo-7B-hf": (
        {
            "model_type": "olmo",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "vocab_size": 50304,
        },
        6_890_000_000,
        0.003,
    ),
    "allenai/OLMo-2-1124-7B": (
        {
            "model_type": "olmo2",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "vocab_size": 100352,
        },
        7_300_000_000,
        0.003,
    ),
}

LLAMA = RELEASED["meta-llama/Llama-2-7b-hf"]
BESIDE_THEIR_WEIGHTS: dict[str, tuple[dict[str, Any], int]] = {
    # The configs that lie beside the weights, and the elements of their checkpoints.
    "baichuan-inc/Baichuan2-7B-Base": (
        {
            "model_type": "baichuan",
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 125696,
        },
        7_505_973_248,
    ),
    "Qwen/Qwen-7B": (
        {
            "model_type": "qwen",
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "kv_channels": 128,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 151936,
            "no_bias": True,
        },
        7_721_324_544,
    ),
    "THUDM/chatglm3-6b": (
        {
            "model_type": "chatglm",
            "hidden_size": 4096,
            "ffn_hidden_size": 13696,
            "kv_channels": 128,
            "num_layers": 28,
            "num_attention_heads": 32,
            "padded_vocab_size": 65024,
            "seq_length": 8192,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "add_bias_linear": False,
            "add_qkv_bias": True,
            "rmsnorm": True,
            "post_layer_norm": True,
        },
        6_243_584_000,
    ),
    "openbmb/MiniCPM-2B-sft-bf16": (
        {
            "model_type": "minicpm",
            "hidden_size": 2304,
            "intermediate_size": 5760,
            "num_hidden_layers": 40,
            "num_attention_heads": 36,
            "vocab_size": 122753,
        },
        2_724_880_896,
    ),
    "microsoft/Phi-3-small-8k-instruct": (
        {
            "model_type": "phi3small",
            "hidden_size": 4096,
            "ff_intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 100352,
        },
        7_392_272_384,
    ),
    "stabilityai/stablelm-3b-4e1t": (
        {
            "model_type": "stablelm_epoch",
            "hidden_size": 2560,
            "intermediate_size": 6912,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 50304,
        },
        2_795_443_200,
    ),
    "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct": (
        {
            "model_type": "exaone",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 102400,
        },
        7_818_448_896,
    ),
    "deepseek-ai/deepseek-moe-16b-base": (
        {
            "model_type": "deepseek",
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "first_k_dense_replace": 1,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "vocab_size": 102400,
        },
        16_375_728_128,
    ),
}
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
