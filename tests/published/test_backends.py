"""Prompts of llama.cpp on cards with two backends, whose answers lie between what either was measured to do.

Passes of 512 tokens in tokens per second, lowest and highest of the published ones. Sources: SYCL and Vulkan by
Wesley-Jakob-Gilbert/Intel-Arc-GPU-Benchmarks and kyuz0/intel-b70-ai-toolboxes; HIP and Vulkan (RADV, AMDVLK) by
kyuz0/amd-r9700-ai-toolboxes.
"""

from __future__ import annotations

import pytest

from llm_perf.analysis.inference import predict_inference
from llm_perf.analysis.request import InferenceInputs, build_scenario

SLACK = 1.3


@pytest.mark.parametrize(
    ("gpu", "model", "weights", "slowest", "fastest"),
    [
        ("arc-pro-b70-32gb", "llama-3.1-8b", "q4_k_m", 1069, 1980),
        ("arc-pro-b70-32gb", "llama-3.1-8b", "q8_0", 1061, 2054),
        ("arc-pro-b70-32gb", "Qwen/Qwen3-14B", "q4_k_m", 571, 1034),
        ("arc-pro-b70-32gb", "google/gemma-3-27b-it", "q4_k_m", 291, 558),
        ("arc-pro-b70-32gb", "llama-2-7b", "q4_0", 2414, 2541),
        ("arc-pro-b70-32gb", "openai/gpt-oss-20b", "mxfp4", 862, 2119),
        ("radeon-ai-pro-r9700-32gb", "llama-2-7b", "q4_0", 2361, 4688),
        ("radeon-ai-pro-r9700-32gb", "openai/gpt-oss-20b", "mxfp4", 2664, 4517),
        ("radeon-ai-pro-r9700-32gb", "Qwen/Qwen3-30B-A3B", "q4_k_m", 1473, 2830),
        ("radeon-ai-pro-r9700-32gb", "google/gemma-3-12b-it", "q8_0", 1331, 2828),
    ],
)
def test_prompts_lie_between_the_backends_of_a_card(gpu, model, weights, slowest, fastest):
    asked = InferenceInputs(
        model=model,
        gpu=gpu,
        system="llama_cpp@2026",
        weight_format=weights,
        prompt_len=512,
        gen_len=2,
        batch_size=1,
    )
    rate = 512 / predict_inference(build_scenario(asked)).ttft_s
    assert slowest / SLACK < rate < fastest * SLACK
