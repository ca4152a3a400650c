"""What a fit of a serving stack may move, how much of each constant is known before, and which runs would tell it."""

from __future__ import annotations

from typing import Final

SPREAD: Final = {
    "step_ms": 0.6, "sequence_us": 0.7, "elementwise_hidden_vectors": 0.2, "attention_gb_per_s_per_sm_ghz": 0.4,
    "graph_floor_scale": 0.25, "memory_scale": 0.04, "all_reduce_extra_us": 0.6, "flops_scale": 0.08,
    "weight_only_4bit_bandwidth": 0.25, "awq_bandwidth": 0.25,
    "weight_only_8bit_bandwidth": 0.15, "native_8bit_bandwidth": 0.1,
    "native_8bit_flops": 0.2, "native_4bit_bandwidth": 0.15, "native_4bit_flops": 0.25, "moe_us": 0.6,
    "expert_bandwidth": 0.2, "eager_python_us_per_layer": 0.2, "step_tp_ms": 0.5, "prefill_ms": 0.7, "server_ms": 0.7,
    "prefill_python_us_per_layer": 0.5, "python_us_per_layer": 0.5, "expert_weight_only_us": 0.3, "state_space_us": 0.5,
    "split_gb_per_s_per_ghz": 0.2, "expert_loop_us": 0.5, "quantised_8bit_linear_us": 0.7, "quantised_4bit_linear_us": 0.7,
    "append_gb_per_s_per_sm_ghz": 0.3, "repeat_gb_per_s_per_sm_ghz": 0.3,
    "reread_per_row": 0.5, "matvec_gb_per_s_per_sm_ghz": 0.3, "hop_us": 0.7,
    "layer_us": 0.7, "expert_4bit_flops": 0.4, "expert_weight_only_flops": 0.4, "expert_hidden_vectors": 0.7,
    "expert_8bit_flops": 0.3, "prefill_operation_us": 0.6, "prefill_moe_us": 0.8,
}  # fmt: skip
"""Constants that a fit may move, and the log standard deviation of what is known of each without runs."""

SHOWN_BY: Final = {
    "all_reduce_extra_us": "runs over several GPUs",
    "step_tp_ms": "runs over several GPUs",
    "moe_us": "runs of a mixture of experts",
    "expert_bandwidth": "runs of a mixture of experts",
    "expert_weight_only_us": "runs of a quantised mixture of experts",
    "weight_only_4bit_bandwidth": "runs with 4-bit weights",
    "awq_bandwidth": "runs with AWQ weights",
    "weight_only_8bit_bandwidth": "runs with 8-bit weights",
    "native_8bit_bandwidth": "runs with fp8 weights",
    "native_8bit_flops": "runs with fp8 weights and long prompts",
    "native_4bit_bandwidth": "runs with nvfp4 weights",
    "native_4bit_flops": "runs with nvfp4 weights and long prompts",
    "state_space_us": "runs of a model that carries a state",
    "attention_gb_per_s_per_sm_ghz": "runs with long contexts and many requests",
    "flops_scale": "runs with long prompts",
    "prefill_ms": "times to the first token of single requests",
    "server_ms": "times to the first token of single requests",
    "prefill_python_us_per_layer": "times to the first token of single requests",
    "prefill_moe_us": "times to the first token of a mixture of experts",
    "prefill_operation_us": "times to the first token of short prompts",
    "sequence_us": "runs with many requests in flight",
    "elementwise_hidden_vectors": "runs with many requests in flight",
}
"""What kind of run tells a constant that the given ones leave open."""
