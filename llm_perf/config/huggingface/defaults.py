"""Defaults of config classes (transformers 5.17) that more than one row uses, or that are long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Defaults: TypeAlias = Mapping[str, Any]

UNTIED: Defaults = {"tie_word_embeddings": False}
QWEN: Defaults = {
    **UNTIED,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
QWEN_MOE: Defaults = {**QWEN, "decoder_sparse_step": 1}
LATENT: Defaults = {
    **UNTIED,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
}
DEEPSEEK_V3: Defaults = {
    "n_group": 8,
    **LATENT,
    "v_head_dim": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "max_position_embeddings": 4096,
}
GPT2: Defaults = {"n_positions": 1024}
FALCON: Defaults = {"multi_query": True, "parallel_attn": True, "max_position_embeddings": 2048}
# Configs inside a multimodal one are stored without what equals the class's default: sizes need theirs.
GEMMA3_TEXT: Defaults = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}
LLAMA4_TEXT: Defaults = {
    **UNTIED,
    "vocab_size": 202_048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16_384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "num_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
}
QWEN3_NEXT: Defaults = {
    **UNTIED,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_value_head_dim": 128,
    "linear_key_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
    "decoder_sparse_step": 1,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "max_position_embeddings": 32768,
}
_DELTA: Defaults = {
    **UNTIED,
    "head_dim": 256,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_value_head_dim": 128,
    "linear_key_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
    "max_position_embeddings": 32768,
}
QWEN3_5: Defaults = {**_DELTA, "num_key_value_heads": 4}
QWEN3_5_MOE: Defaults = {
    **_DELTA,
    "num_key_value_heads": 2,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
