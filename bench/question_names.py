"""Names of what people have and run, from which `draw_questions.py` draws its questions."""

from __future__ import annotations

DATACENTRE = (
    "h100-sxm-80gb", "a100-sxm-80gb", "a100-sxm-40gb", "h200-sxm-141gb", "b200-180gb", "b300-sxm", "gb200-192gb", "gb300",
    "l40s-48gb", "l4-24gb", "a10g-24gb", "a40-48gb", "t4", "v100-sxm2-32gb", "h100-pcie-80gb", "h20-sxm-96gb", "gh200-96gb",
    "mi300x-192gb", "mi250x-gcd-64gb", "mi355x-288gb", "gaudi2-96gb", "tpu-v5e", "trainium2-96gb", "h100-nvl-94gb",
    "rtx-pro-6000-blackwell-server",
)  # fmt: skip
DESKTOP = (
    "rtx-4090-24gb", "rtx-3090-24gb", "rtx-5090-32gb", "rtx-3060-12gb", "rtx-2080-ti-11gb", "gtx-1080-ti-11gb", "p40-24gb",
    "rx-7900-xtx-24gb", "rx-9070-xt-16gb", "mi50-32gb", "arc-b580-12gb", "rtx-a6000-48gb", "gb10-128gb",
    "radeon-8060s-128gb", "rtx-5060-ti-16gb", "titan-v-12gb",
)  # fmt: skip
OWN_HOST = (
    "apple-m2-ultra-76c",
    "apple-m4-max-40c",
    "apple-m3-max-40c",
    "apple-m1-8c",
    "jetson-agx-orin-64gb",
)
HOSTS = (
    "epyc-9654", "epyc-7742", "xeon-6960p", "xeon-platinum-8480-plus", "xeon-gold-6248", "desktop-gen4", "desktop-gen5",
    "ryzen-9-7950x", "core-i9-13900k", "threadripper-pro-5995wx", "xeon-e5-2690-v4", "core-i7-6700k", "ryzen-5-3600",
    "grace-72c", "epyc-9355",
)  # fmt: skip
NODES = ("dgx-a100", "dgx-2", "dgx-1", "dgx-h100", "gcp-t4", "server-gen4", "server-gen3", "h100-spr-host")

SMALL = (
    "llama-3.1-8b", "llama-2-7b", "qwen3-8b", "mistral-7b-v0.1", "gemma-2-9b", "gemma-3-12b", "opt-13b", "opt-6.7b",
    "phi-4", "gpt-j-6b", "falcon-7b", "chatglm3-6b", "bloom-7b1", "llama-3.2-1b", "mpt-7b", "phi-3-mini-4k", "pythia-12b",
    "olmo-2-1124-13b-instruct", "smollm3-3b", "gemma-3n-e4b", "qwen2.5-vl-7b", "starcoder2-15b", "gpt2-xl",
)  # fmt: skip
LARGE = (
    "llama-3.1-70b", "qwen2.5-72b", "llama-3.1-405b", "opt-66b", "falcon-40b", "gemma-3-27b", "command-r-plus", "opt-175b",
    "bloom", "llama-2-70b", "nemotron-super-49b", "mistral-large-instruct-2407", "gemma-4-31b", "seed-oss-36b-instruct",
)  # fmt: skip
MIXTURES = (
    "mixtral-8x7b", "qwen3-30b-a3b", "qwen3-235b-a22b", "deepseek-v3", "deepseek-v2-lite", "gpt-oss-20b", "gpt-oss-120b",
    "llama-4-scout", "llama-4-maverick", "glm-4.5-air", "kimi-k2-instruct", "dbrx-base", "grok-1", "minimax-m2",
    "ernie-4.5-21b-a3b-pt", "hunyuan-a13b-instruct", "qwen2-57b-a14b", "deepseek-v3.2", "deepseek-v4-flash", "glm-5",
    "longcat-flash-chat", "step3", "ling-mini-2.0", "gemma-4-26b-a4b", "phi-3.5-moe", "qwen1.5-moe-a2.7b",
)  # fmt: skip
HYBRIDS = (
    "jamba-v0.1", "qwen3-next-80b-a3b", "minimax-text-01", "kimi-linear-48b-a3b-instruct", "falcon-h1-34b-instruct",
    "nemotron-nano-9b-v2", "nvidia-nemotron-3-nano-30b-a3b", "lfm2-8b-a1b", "granite-4.0-h-small", "qwen3.5-9b",
    "qwen3.5-35b-a3b", "lfm2-1.2b", "mimo-v2-flash",
)  # fmt: skip
ENCODERS = ("bert-base", "bert-6b")

SERVERS = (
    "vllm", "vllm@0.15", "vllm@0.10", "vllm@0.6", "vllm@0.2", "vllm@0.8", "sglang", "sglang@0.4", "tensorrt_llm",
    "tensorrt_llm@1.0", "tensorrt_llm@0.9", "tensorrt_llm@0.5", "nim", "nim@1.0", "lmdeploy", "deepspeed_mii", "engine",
    "resident", "transformers_serve",
)  # fmt: skip
STATIC = (
    "fastertransformer", "deepspeed_inference", "gpt_fast", "exllama", "exllamav2", "autoawq", "autoawq@0.1-gemv",
    "transformers", "transformers@4.20", "transformers@4.38", "optimum_habana", "deepspeed_inference@2024-hpu",
)  # fmt: skip
LLAMA_CPP = (
    "llama_cpp", "llama_cpp@2025", "llama_cpp@2024-05", "llama_cpp@2025-ik", "llama_cpp@2024-rocm", "llama_cpp@2025-rdna",
    "host_compute",
)  # fmt: skip
EXPERTS = (
    "ktransformers", "ktransformers@0.2", "ktransformers@0.3", "fiddler", "mixtral_offloading", "moe_infinity",
)  # fmt: skip
FRAMEWORKS = (
    "megatron", "megatron_bridge", "megatron_2022", "fsdp", "deepspeed", "hf_trainer", "unsloth", "torchtune", "torchtitan",
    "axolotl", "litgpt", "trl", "llama_factory", "maxtext", "composer", "automodel", "fsdp_qlora", "hf_gptq",
)  # fmt: skip
GGUF = ("q4_k_m", "q4_0", "q8_0", "q5_k_m", "q6_k", "iq4_xs", "q2_k", "iq2_xxs", "fp16", "mxfp4_gguf", "iq3_s", "q4_k_s",
         "iq4_k", "q3_k_m")  # fmt: skip

TRAINERS = (
    "h100-sxm-80gb", "a100-sxm-80gb", "a100-sxm-40gb", "b200-180gb", "rtx-4090-24gb", "v100-sxm2-32gb", "gb200-192gb",
    "gb300",
    "h200-sxm-141gb", "mi300x-192gb",
)  # fmt: skip
SERVING = (
    "h100-sxm-80gb",
    "a100-sxm-80gb",
    "l40s-48gb",
    "l4-24gb",
    "b200-180gb",
    "a10g-24gb",
    "rtx-4090-24gb",
)
