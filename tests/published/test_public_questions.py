"""Questions that people asked in public about memory, formats, fit, hardware and configs, with the value that is right.

Each has the thread that it is from. Questions of training, of hybrid machines and of the speed of today's stacks have their
own tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_perf.analysis.inference import InferenceResult, predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config import get_model_config_by_name
from llm_perf.config.base import GIB
from llm_perf.config.huggingface import from_hf_config
from llm_perf.counts.attention import cache_elements_per_token, kv_cache_bytes, state_bytes
from llm_perf.counts.parameters import total_params
from llm_perf.errors import SpecError

H100, H200 = {"gpu": "h100-sxm-80gb"}, {"gpu": "h200"}
LONG = {"prompt_len": 15000, "gen_len": 1000}


def ask(**inputs: Any) -> InferenceResult:
    return predict_inference(build_scenario(InferenceInputs(**inputs)))


# (id, source, question, GiB of weights on one GPU)
WEIGHTS = (
    ("A6", "llm-d-planner docs/empirical-vllm-memory-results.md", {"model": "llama-3.1-8b", **H100}, 14.99),
    ("A6", "llm-d-planner", {"model": "qwen3-0.6b", **H100}, 1.12),
    ("A6", "llm-d-planner", {"model": "qwen3-32b", **H100}, 61.03),
    ("A6", "llm-d-planner", {"model": "qwen3-32b", "tp_size": 2, **H100}, 30.59),
    ("A6", "llm-d-planner", {"model": "llama-3.1-70b", "weight_format": "fp8", **H100}, 67.72),
    ("A6", "llm-d-planner", {"model": "llama-3.1-70b", "weight_format": "fp8", "tp_size": 2, **H100}, 33.88),
    ("A6", "llm-d-planner", {"model": "gpt-oss-20b", "system": "vllm", **H100}, 13.47),
    ("A6", "llm-d-planner", {"model": "gpt-oss-120b", "system": "vllm", **H100}, 64.38),
    ("A7", "vllm issue 6746", {"model": "meta-llama/Llama-3.1-405B-Instruct-FP8", "tp_size": 8, **H100}, 57.75),
    ("A8", "vllm issues 33155, 23278", {"model": "gpt-oss-120b", "system": "vllm", **H100}, 64.38),
    ("A9", "HabanaAI/vllm-fork issue 809", {"model": "deepseek-r1", "tp_size": 8, "weight_bits": 8, **H200}, 79.41),
    ("A10", "HabanaAI/vllm-fork issue 809", {"model": "deepseek-r1", "tp_size": 8, **H200}, 79.41),
    ("A13", "vllm issue 25350", {"model": "qwen3-30b-a3b", "gpu": "rtx-5090", "weight_bits": 8}, 29.09),
    ("A14", "vllm issue 13061", {"model": "qwen2.5-14b", "gpu": "rtx-4090", "tp_size": 2}, 13.9476),
)  # fmt: skip


@pytest.mark.parametrize(("number", "source", "asked", "right"), WEIGHTS)
def test_weights_take_what_was_loaded(number: str, source: str, asked: dict[str, Any], right: float) -> None:
    result = ask(**asked)
    assert result.feasible, (number, source)
    assert result.memory.gpu.weights_bytes / GIB == pytest.approx(right, rel=0.02), (number, source)


# (id, source, question, does it fit)
FITS = (
    ("A2", "vllm issue 10517", {"model": "llama-3.1-8b", "gpu": "rtx-3090-24gb", "system": "vllm@0.6", "prompt_len": 28900,
                                "gen_len": 100}, False),
    ("A3", "llm-d-benchmark issue 621", {"model": "llama-3.1-70b", "weight_bits": 8, "system": "vllm@0.15", **H100, **LONG},
     False),
    ("A32", "vllm issue 10797", {"model": "llama-3.2-3b", "gpu": "rtx-4080-16gb", "system": "vllm", "prompt_len": 131000,
                                 "gen_len": 72}, False),
    ("A34", "vllm issue 41695", {"model": "qwen3-30b-a3b", "gpu": "rtx-5090", "weight_bits": 8, "prompt_len": 16000,
                                 "gen_len": 384}, False),
    ("D4", "llmfit issue 778: measured on one", {"model": "llama-3.1-8b", "gpu": "rtx-2080", "system": "llama_cpp",
                                                  "quant_bits": 4, "gen_len": 128}, True),
)  # fmt: skip


@pytest.mark.parametrize(("number", "source", "asked", "fits"), FITS)
def test_what_starts_fits_and_what_does_not_does_not(
    number: str, source: str, asked: dict[str, Any], fits: bool
) -> None:
    assert ask(**asked).feasible == fits, (number, source)


def test_sequences_that_do_not_fit_at_once_are_said() -> None:
    """A31, TensorRT-LLM issue 203: 50 sequences of 4,096 tokens ran out of memory; today's engine lets most of them wait."""
    result = ask(model="llama-2-70b", gpu="a100-sxm-80gb", tp_size=2, system="tensorrt_llm", batch_size=50, prompt_len=2048,
                 gen_len=2048)  # fmt: skip
    assert result.max_batch_size < 20
    assert any("run at once" in note for note in result.warnings)
    whole = ask(
        model="llama-2-70b", gpu="a100-sxm-80gb", tp_size=2, batch_size=50, prompt_len=2048, gen_len=2048
    )
    assert not whole.feasible


# (id, model and flags of A5, requests of 16,000 tokens at once that vLLM's cache held)
AT_ONCE = (
    ({"model": "llama-3.1-8b"}, 26.3), ({"model": "gpt-oss-20b"}, 136), ({"model": "gpt-oss-20b", "quant_bits": 4}, 136),
    ({"model": "gpt-oss-120b"}, 6.1), ({"model": "qwen3-32b", "tp_size": 2}, 17.7),
    ({"model": "llama-3.1-70b", "tp_size": 2, "weight_format": "fp8"}, 13.1), ({"model": "qwen3-0.6b"}, 37.7),
)  # fmt: skip


@pytest.mark.parametrize(("asked", "right"), AT_ONCE)
def test_requests_at_once_without_naming_an_engine(asked: dict[str, Any], right: float) -> None:
    """A5, llm-d-planner docs/empirical-vllm-memory-results.md."""
    found = ask(**asked, **H100, **LONG).engine_capacity
    assert found is not None
    assert found.max_concurrency == pytest.approx(right, rel=0.1)


# (id, source, question, bytes of cache on one GPU per token)
CACHES = (
    ("A17", "DeepSeek-V3 issue 283", {"model": "deepseek-v3", "tp_size": 8, "prompt_len": 32700, "gen_len": 68, **H200},
     61 * 576 * 2),
    ("A18", "ik_llama.cpp pull request 259", {"model": "deepseek-v3", "tp_size": 8, "kv_format": "q8_0", "prompt_len": 32700,
                                              "gen_len": 68, **H200}, 1166.6 * 2**20 / 32768),
    ("A20", "tensorrtllm_backend issue 456", {"model": "gemma-7b", "system": "tensorrt_llm", "prompt_len": 1024,
                                              "gen_len": 1024, **H100}, 448 * 1024),
    ("A21", "vllm issue 21348", {"model": "qwen3-235b-a22b", "tp_size": 4, "weight_bits": 8, "prompt_len": 32000,
                                 "gen_len": 768, **H100}, 47.0 * 1024),
)  # fmt: skip


@pytest.mark.parametrize(("number", "source", "asked", "right"), CACHES)
def test_a_token_of_cache_takes_what_engines_print(
    number: str, source: str, asked: dict[str, Any], right: float
) -> None:
    result = ask(**asked)
    tokens = asked["prompt_len"] + asked["gen_len"]
    assert result.memory.gpu.kv_cache_bytes / tokens == pytest.approx(right, rel=1e-3), (number, source)


def test_capacity_in_tokens() -> None:
    """A2 and A15, vllm issues 10517 and 13061, in the versions that ran."""
    old = ask(model="llama-3.1-8b", gpu="rtx-3090-24gb", system="vllm@0.6", prompt_len=28900, gen_len=100)
    wide = ask(model="qwen2.5-14b", gpu="rtx-4090", tp_size=2, system="vllm@0.7", prompt_len=32000, gen_len=700,
               gpu_memory_utilization=0.98)  # fmt: skip
    for result, right in ((old, 23_648), (wide, 81_536)):
        assert result.kv_capacity is not None
        assert result.kv_capacity.tokens == pytest.approx(right, rel=0.03)
    assert old.memory.gpu.activations_bytes / GIB == pytest.approx(2.99, rel=0.02)


def test_parameters_and_caches_of_models() -> None:
    assert total_params(get_model_config_by_name("qwen1.5-72b")) == pytest.approx(
        72e9, rel=0.01
    )  # A26, cookbook issue 36
    per_token = 2 * cache_elements_per_token(get_model_config_by_name("llama-3.1-405b"))
    assert per_token == 504 * 1024  # A25, huggingface/blog pull request 2345


QWEN36 = {
    "model_type": "qwen3_5", "text_config": {
        "model_type": "qwen3_5_text", "hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 64,
        "num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320,
        "full_attention_interval": 4, "max_position_embeddings": 262144, "linear_num_value_heads": 48,
        "linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


def test_a_hybrid_model_keeps_a_cache_in_every_fourth_layer_and_states_in_32_bits(tmp_path: Path) -> None:
    """A28, lmstudio-bug-tracker issue 1862: 16,384 MiB for 262,144 tokens; 598.5 MiB of states for llama.cpp's four slots."""
    model = from_hf_config(QWEN36, "m")
    assert kv_cache_bytes(model, 1, 262144) - state_bytes(model, 1) == 16384 * 2**20
    (tmp_path / "config.json").write_text(json.dumps(QWEN36))
    asked = {"model": str(tmp_path), "gpu": "h200", "prompt_len": 4000, "batch_size": 4}
    states = {system: ask(**asked, system=system).kv_capacity.state_bytes_per_sequence  # type: ignore[union-attr]
              for system in ("llama_cpp", "sglang", "resident")}  # fmt: skip
    assert 4 * states["llama_cpp"] / 2**20 == pytest.approx(598.5, rel=0.02)
    assert states["sglang"] == states["llama_cpp"] == 2 * states["resident"]
    asks = {**QWEN36, "text_config": {**QWEN36["text_config"], "mamba_ssm_dtype": "float32"}}  # type: ignore[dict-item]
    assert from_hf_config(asks, "m").state_bits == 32


# Shapes of A29's configs as people gave them (vllm issues 39254 and 28228, ollama issue 12692, lmdeploy issue 4366), with the
# parameters that the models have.
CONFIGS = (
    ({"model_type": "cohere2", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "vocab_size": 256000, "intermediate_size": 14336}, 8.03e9),
    ({"model_type": "glm4_moe", "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
      "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151552, "n_routed_experts": 128,
      "num_experts_per_tok": 8, "moe_intermediate_size": 1408, "n_shared_experts": 1, "first_k_dense_replace": 1}, 106.8e9),
    ({"model_type": "granite", "hidden_size": 4096, "intermediate_size": 12800, "num_hidden_layers": 40,
      "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 49155, "tie_word_embeddings": True}, 8.17e9),
    ({"model_type": "mistral3", "tie_word_embeddings": False, "text_config": {
        "model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072,
        "max_position_embeddings": 131072}}, 23.57e9),
    ({"model_type": "qwen2_5_vl", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
      "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}, 7.62e9),
    (QWEN36, 26.9e9),
)  # fmt: skip


@pytest.mark.parametrize(("config", "right"), CONFIGS)
def test_configs_that_people_gave_are_counted(config: dict[str, Any], right: float) -> None:
    assert total_params(from_hf_config(config, "m")) == pytest.approx(right, rel=2e-3)


def test_a_config_without_its_sizes_says_which_is_missing() -> None:
    """A29 gives only some keys of four models: what is counted is a released model, not a class's default."""
    for config, missing in (
        ({"model_type": "deepseek_v32", "hidden_size": 7168}, "num_hidden_layers"),
        ({"model_type": "minimax_m2", "hidden_size": 3072, "num_hidden_layers": 62}, "num_attention_heads"),
    ):
        with pytest.raises(SpecError, match=missing):
            from_hf_config(config, "m")


def test_the_sizes_that_flexgen_logs_are_those_of_its_runs() -> None:
    """A38, FlexLLMGen issues 136 and 81: 55.803 GB of weights, 2.789 of cache; 95 GB of the machine in use."""
    asked = {"model": "opt-30b", "gpu": "rtx-3090-24gb", "system": "flexgen", "gpu_batch_size": 4, "num_gpu_batches": 1,
             "batch_size": 4}  # fmt: skip
    result = ask(**asked, percent="0 100 100 0 100 0")
    assert result.memory.gpu.kv_cache_bytes / GIB == pytest.approx(2.789, rel=0.01)
    assert result.memory.cpu.total_bytes / GIB == pytest.approx(95, rel=0.15)


def test_zero_inference_needs_its_buffers_on_the_host() -> None:
    """A35, DeepSpeed issue 7074: 21,474,836,480 bytes of buffers could not be had with 15 GB of memory."""
    result = ask(model="opt-6.7b", gpu="rtx-3070-8gb", ds_zero=3, disk_offload=True, batch_size=8)
    assert result.memory.cpu.buffers_bytes == 21_474_836_480


def test_tokens_per_round_are_one_and_the_share_of_all_drafted() -> None:
    """B20, llama.cpp pull request 24536: 64.5 % of 3 drafted tokens accepted made 2.92 tokens per round, 62.9 % made 2.89."""
    for share, right in ((0.645, 2.92), (0.629, 2.89)):
        scenario = build_scenario(
            InferenceInputs(
                model="qwen3-32b", draft_model="qwen3-0.6b", draft_tokens=3, acceptance_rate=share, **H100
            )
        )
        assert scenario.speculation is not None
        assert scenario.speculation.tokens_per_round == pytest.approx(right, rel=0.01)


@pytest.mark.parametrize(
    ("name", "bandwidth"), [("rtx-2080", 448), ("Apple M2", 100), ("m3-ultra", 819), ("m1-max", 400)]
)
def test_a_name_means_its_product(name: str, bandwidth: int) -> None:
    """B12, B13, D4, D5 (llmfit issue 778, llama.cpp issue 34): never another that begins with the same words."""
    gpu = build_scenario(InferenceInputs(model="llama-3.1-8b", gpu=name)).gpu
    assert gpu.hbm_bandwidth_gb_per_s == pytest.approx(bandwidth, rel=0.01)


@pytest.mark.parametrize("gpu", ["rtx-4090 + rtx-3090", "2x rtx-4090 + 1x rtx-3090"])
def test_unlike_gpus_are_refused_by_name(gpu: str) -> None:
    """A24, vllm issue 34076."""
    with pytest.raises(SpecError, match="several kinds in one machine are not modelled"):
        ask(model="llama-3.1-8b", gpu=gpu)
