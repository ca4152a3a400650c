"""LLMAnalysis on the project's own specs, and the laws that its numbers obey."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from llm_perf.analysis import GPUConfig, LLMAnalysis, ModelConfig, ParallelismConfig, get_model_config_by_name
from llm_perf.counts.flops import decode_step_flops
from llm_perf.counts.parameters import active_params, total_params

OPT = ModelConfig("opt-1.3b", 24, 32, 2048, 50272, 2048)
A100 = GPUConfig("a100", 40, 1555, 300, 8e-6, 312)

# -- the project's own specs -----------------------------------------------------------------------------------

NATIVE = [
    "facebook_opt-350m",
    "google_gemma-3-12b",
    "google_gemma-2-9b",
    "deepseek-ai_DeepSeek-V2-Lite",
    "meta-llama_Llama-4-Scout-17B-16E",
    "openai_gpt-oss-20b",
    "Qwen_Qwen1.5-MoE-A2.7B",
    "meta-llama_Llama-2-70b-hf",
]
BIG_GPU = GPUConfig("big", 4096, 3350, 450, 8e-6, 989)


@pytest.mark.parametrize("name", NATIVE)
def test_native_models_are_counted_by_the_same_counts(name: str) -> None:
    model = get_model_config_by_name(name)
    analysis = LLMAnalysis(model, BIG_GPU)
    assert analysis.get_num_params_total() == total_params(model)
    assert analysis.get_num_active_params_total() == active_params(model)
    per_layer = analysis.get_num_params_per_layer() * model.num_layers
    ends = analysis.get_num_params_embedding() + analysis.get_num_params_last_layernorm()
    assert per_layer + ends == pytest.approx(total_params(model), rel=1e-12)
    assert analysis.inference()["weight_memory_per_gpu"] == pytest.approx(2 * total_params(model), rel=1e-12)


@pytest.mark.parametrize("name", NATIVE)
def test_the_mean_decode_step_is_the_mean_over_all_steps(name: str) -> None:
    model = get_model_config_by_name(name)
    summary = LLMAnalysis(model, BIG_GPU).inference(2, 4000, 200, allow_long_context=True)
    steps = decode_step_flops(model, 2, np.arange(4001, 4200))
    assert summary["decode_num_flops_fwd_total"] == pytest.approx(np.mean(steps), rel=1e-4)


@pytest.mark.parametrize("name", [*NATIVE, "encoder_BERT-base"])
@pytest.mark.parametrize("pp_size", [1, 3])
def test_latencies_are_the_sum_of_their_parts(name: str, pp_size: int) -> None:
    model = get_model_config_by_name(name)
    analysis = LLMAnalysis(model, BIG_GPU, parallelism_config=ParallelismConfig(pp_size=pp_size))
    summary = analysis.inference(2, 256, 64)
    phases = ["prefill"] if model.encoder else ["prefill", "decode"]
    for phase in phases:
        parts = sum(value for key, value in summary.items() if key.startswith(f"{phase}_latency_fwd"))
        parts += summary["kv_cache_latency"] if phase == "decode" else 0
        assert summary[f"{phase}_latency"] == pytest.approx(parts, rel=1e-12)
    if not model.encoder:
        assert summary["total_decode_latency"] == pytest.approx(63 * summary["decode_latency"])
        assert summary["total_tokens_per_sec"] == pytest.approx(2 * 64 / summary["total_latency"])
        assert summary["decode_tokens_per_sec"] == pytest.approx(2 * 63 / summary["total_decode_latency"])
    assert summary["total_latency"] == pytest.approx(
        summary["prefill_latency"] + summary["total_decode_latency"]
    )
    assert summary["prefill_tokens_per_sec"] == pytest.approx(2 * 256 / summary["prefill_latency"])


def test_an_encoder_has_a_prefill_only() -> None:
    summary = LLMAnalysis(get_model_config_by_name("encoder_BERT-base"), A100).inference()
    assert summary["decode_latency"] is None
    assert summary["total_tokens_per_sec"] is None
    assert summary["kv_cache_memory_per_gpu"] == 0
    assert summary["total_latency"] == summary["prefill_latency"]


def test_stages_do_not_make_a_request_faster() -> None:
    latencies = [
        LLMAnalysis(OPT, A100, parallelism_config=ParallelismConfig(pp_size=pp)).inference()["total_latency"]
        for pp in (1, 2, 5, 24)
    ]
    assert latencies == sorted(latencies)


def test_weights_of_all_stages_are_at_least_the_model() -> None:
    for pp in (1, 2, 5, 7, 24):
        analysis = LLMAnalysis(OPT, A100, parallelism_config=ParallelismConfig(pp_size=pp))
        per_gpu = analysis.inference()["weight_memory_per_gpu"]
        assert pp * per_gpu >= 2 * total_params(OPT)


def embedding_elements(model: ModelConfig, pp_size: int) -> float:
    """Elements of the embedding on the fullest GPU, in 16 bits."""
    analysis = LLMAnalysis(model, BIG_GPU, parallelism_config=ParallelismConfig(pp_size=pp_size))
    return float(analysis.inference()["weight_memory_embedding_per_gpu"] / 2)


def test_the_embedding_is_on_the_first_and_the_head_on_the_last_stage() -> None:
    table = 50272 * 2048
    assert (
        embedding_elements(OPT, 1) == embedding_elements(OPT, 2) == table
    )  # the tied head's copy is as large
    with_positions = OPT.replace(learned_positions=100)
    assert embedding_elements(with_positions, 2) == table + 100 * 2048  # the first stage is fuller
    with_bias = OPT.replace(lm_head_bias=True)
    assert embedding_elements(with_bias, 2) == table + 50272  # the last one is, with its copy of the table
    untied = OPT.replace(tied_embeddings=False)
    assert embedding_elements(untied, 1) == 2 * table
    assert embedding_elements(untied, 2) == table


def test_parallel_blocks_are_reduced_once_and_every_norm_is_timed() -> None:
    one_reduction = get_model_config_by_name("EleutherAI_gpt-j-6b")
    analysis = LLMAnalysis(one_reduction, BIG_GPU, parallelism_config=ParallelismConfig(tp_size=2))
    parts = analysis.get_latency_fwd_per_layer(1, 512)[1]
    assert parts["tp_comm"] == analysis.get_latency_fwd_per_tp_comm(1, 512, 2)
    norms = one_reduction.layer_groups[0].norms
    assert norms == 1
    assert parts["layernorm"] == norms * analysis.get_latency_fwd_per_layernorm(1, 512)


def test_times_grow_with_context_and_batch() -> None:
    analysis = LLMAnalysis(OPT, A100)
    steps = [analysis.inference(8, seq_len)["decode_latency"] for seq_len in (64, 256, 1024, 2016)]
    assert steps == sorted(set(steps))
    totals = [analysis.inference(batch)["total_latency"] for batch in (1, 4, 16, 64)]
    assert totals == sorted(set(totals))
    assert all(math.isfinite(value) for value in steps + totals)


def test_an_inference_takes_less_than_a_millisecond() -> None:
    analysis = LLMAnalysis(OPT, A100)

    def once() -> float:
        start = time.perf_counter()
        analysis.inference()
        return time.perf_counter() - start

    assert min(once() for _ in range(50)) < 1e-3
