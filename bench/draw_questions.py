"""Questions drawn by chance that make sense in the main: systems with options that they know, on machines of today."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from question_names import (
    DATACENTRE,
    DESKTOP,
    ENCODERS,
    EXPERTS,
    FRAMEWORKS,
    GGUF,
    HOSTS,
    HYBRIDS,
    LARGE,
    LLAMA_CPP,
    MIXTURES,
    NODES,
    OWN_HOST,
    SERVERS,
    SERVING,
    SMALL,
    STATIC,
    TRAINERS,
)

Words = list[str]
_Flags = tuple[tuple[Any, ...], ...]
"""Flags with how often each is given, and the values of which it has one."""


class _Draw:
    """Chance, as it is needed for flags."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def __call__(self, *choices: str | int | float) -> str:
        return str(self.rng.choice(choices))

    def maybe(self, share: float, *words: str | int | float) -> Words:
        """The words with so much chance, else none."""
        return [str(word) for word in words] if self.rng.random() < share else []

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def of(self, flags: _Flags) -> Words:
        """Some of the flags, each with one of its values."""
        found: Words = []
        for share, flag, *values in flags:
            found += self.maybe(float(share), flag, *([self(*values)] if values else []))
        return found

    def lengths(self) -> Words:
        return [
            "--prompt-len", self(1, 7, 64, 128, 512, 1000, 2048, 3000, 8000, 16384, 40000),
            "--gen-len", self(1, 2, 16, 32, 100, 128, 300, 512, 1024),
        ]  # fmt: skip


def _model(draw: _Draw) -> str:
    kind = draw.rng.random()
    groups = ((0.4, SMALL), (0.55, LARGE), (0.83, MIXTURES), (0.98, HYBRIDS), (1.0, ENCODERS))
    return draw(*next(names for until, names in groups if kind <= until))


def _formats(draw: _Draw) -> Words:
    if draw.chance(0.55):
        return []
    kind = draw.rng.randrange(6)
    if kind <= 2:
        return ["--weight-format", draw("fp8", "awq", "gptq", "int8", "nf4", "nf4_double", "bnb_int8", "mxfp4", "nvfp4",
                                        "fp8_block", "int4", "int8_weight_only", "mxfp8", "fp16", "q4_k_m")]  # fmt: skip
    if kind == 3:
        return ["--weight-bits", draw(4, 8, 16, 32), *draw.maybe(0.4, "--activation-bits", draw(8, 16, 32))]
    if kind == 4:
        return ["--quant-bits", draw(4, 8), *draw.maybe(0.4, "--quant-group-size", draw(32, 128))]
    return ["--kv-bits", draw(8, 16, 4)]


def _ranks(draw: _Draw) -> tuple[Words, int]:
    """Ranks of a serving stack, and how many replicas they are."""
    kind = draw.rng.random()
    tp, pp, dp, ep, cp = 1, 1, 1, 1, 1
    if kind > 0.35:
        tp = int(draw(1, 2, 4, 8))
    if kind > 0.75:
        pp = int(draw(1, 2, 3, 4))
    if kind > 0.6 and draw.chance(0.5):
        dp = int(draw(2, 4))
    if draw.chance(0.35):
        ep = int(draw(1, tp, dp, tp * dp))
    if draw.chance(0.06):
        cp = int(draw(2, 4))
    words = ["--tp-size", str(tp)] if tp > 1 else []
    words += (
        ["--pp-size", str(pp), *draw.maybe(0.6, "--micro-batches", draw(1, 2, pp, 2 * pp))] if pp > 1 else []
    )
    words += ["--dp-size", str(dp)] if dp > 1 else []
    words += ["--ep-size", str(ep), *draw.maybe(0.3, "--expert-imbalance", 1.3)] if ep > 1 else []
    words += ["--cp-size", str(cp)] if cp > 1 else []
    words += ["--sp-size", str(tp)] if tp > 1 and draw.chance(0.1) else []
    total = tp * pp * dp * cp
    if total > 1 and draw.chance(0.25) and total % 2 == 0:
        words += ["--num-nodes", "2"]
    return words, dp


def _drafts(draw: _Draw, model: str) -> Words:
    if draw.chance(0.85):
        return []
    how = draw.rng.randrange(3)
    said = (
        ["--acceptance", draw(".8,.6,.4", ".85", ".9,.7")],
        ["--acceptance-rate", draw(0, 0.6, 0.9, 1)],
        ["--token-acceptance", draw(0.5, 0.8)],
    )[how]
    tokens = [] if "," in said[1] else draw.maybe(0.5, "--draft-tokens", draw(1, 2, 5))
    module = "mtp" if model.startswith(("deepseek", "glm", "mimo", "qwen3-next")) else "eagle"
    return ["--draft-model", draw(module, module, "llama-3.2-1b", "qwen3-0.6b"), *said, *tokens]


def _served(draw: _Draw) -> Words:
    """One batch through a serving stack."""
    ranks, dp = _ranks(draw)
    model = draw(*MIXTURES) if "--ep-size" in ranks else _model(draw)
    words = ["infer", "--model", model, "--gpu", draw(*DATACENTRE, *DATACENTRE, *DESKTOP), "--system"]
    words += [draw(*SERVERS) if draw.chance(0.75) else draw(*STATIC)]
    words += ["--batch-size", str(dp * int(draw(1, 1, 2, 3, 8, 16, 64, 200))), *draw.lengths(), *ranks]
    words += [*_formats(draw), *_drafts(draw, model), *draw.of(_OF_SERVERS)]
    words += draw.maybe(0.06, "--host", draw(*NODES, *HOSTS))
    return [*words, *draw.maybe(0.85, "--allow-long-context")]


_OF_SERVERS: _Flags = (
    (0.15, "--kv-format", "fp8", "int8", "q8_0", "int4"), (0.1, "--prefix-hit-rate", 0.3, 0.9, 1), (0.04, "--shared-prefix"),
    (0.1, "--prefill-chunk", 1, 256, 2048), (0.1, "--gpu-memory-utilization", 0.5, 0.8, 0.95),
    (0.08, "--max-num-batched-tokens", 512, 4096, 32768), (0.08, "--max-num-seqs", 1, 16, 128), (0.06, "--enforce-eager"),
    (0.06, "--distinct-prompts", 1, 2), (0.02, "--with-vision"), (0.06, "--flops-efficiency", 0.4, 0.8),
    (0.06, "--hbm-memory-efficiency", 0.5, 0.9), (0.06, "--cpu-offload-gb", 4, 20, 60),
)  # fmt: skip


def _zero(draw: _Draw) -> Words:
    """ZeRO-Inference, FlexGen, Accelerate and others that stream weights."""
    dp = int(draw(1, 1, 1, 2, 4))
    batch = dp * int(draw(1, 2, 8, 32))
    words = ["infer", "--model", draw("opt-30b", "opt-66b", "opt-13b", "opt-175b", "bloom", "mixtral-8x7b", "llama-2-70b",
                                      "llama-3.1-8b", "gemma-3-12b", "bert-6b", "deepseek-v2-lite"),
             "--gpu", draw("t4", "v100-sxm2-32gb", "a6000-48gb", "a100-sxm-40gb", "rtx-4090-24gb", "h100-pcie-80gb",
                           "a100-pcie-40gb", "gb10-128gb"),
             "--ds-zero", "3", "--batch-size", str(batch), *draw.lengths()]  # fmt: skip
    words += ["--dp-size", str(dp)] if dp > 1 else []
    words += draw.maybe(0.4, draw("--cpu-offload", "--disk-offload"))
    words += draw.maybe(0.4, "--kv-offload", *draw.maybe(0.3, "--async-kv-offload"))
    words += (
        draw.maybe(0.3, "--no-pin-memory")
        + draw.maybe(0.2, "--no-pin-kv-cache")
        + draw.maybe(0.25, "--no-prefetch")
    )
    words += draw.maybe(0.15, "--no-overlap") + draw.maybe(0.4, "--quant-bits", draw(4, 8))
    words += draw.maybe(0.3, "--host", draw(*NODES))
    words += draw.maybe(0.15, "--system", "zero_inference@2024-mii")
    return [*words, *draw.maybe(0.85, "--allow-long-context")]


def _flexgen(draw: _Draw) -> Words:
    pp = int(draw(1, 1, 1, 2, 4))
    words = ["infer", "--model", draw("opt-30b", "opt-6.7b", "opt-66b", "opt-175b", "mixtral-8x7b", "llama-2-13b"),
             "--gpu", draw("t4", "a6000-48gb", "rtx-3090-24gb", "a100-sxm-40gb", "v100-sxm2-32gb"),
             "--system", "flexgen", *draw.lengths()]  # fmt: skip
    if draw.chance(0.7):
        weights, cache = (draw("100,0", "0,100", "20,80", "50,20", "0,0", "60,40") for _ in range(2))
        words += ["--percent", f"{weights},{cache},{draw('100,0', '0,100', '0,100')}"]
    if draw.chance(0.6):
        words += [
            "--gpu-batch-size",
            draw(1, 4, 16, 48),
            *draw.maybe(0.7, "--num-gpu-batches", draw(1, 2, 5)),
        ]
    else:
        words += ["--batch-size", draw(1, 8, 64, 144)]
    words += draw.maybe(0.3, "--compress-weight") + draw.maybe(0.3, "--compress-cache")
    words += draw.maybe(0.2, draw("--cpu-cache-compute", "--no-cpu-cache-compute"))
    words += (
        draw.maybe(0.15, "--no-overlap")
        + draw.maybe(0.15, "--attn-sparsity", 0.1)
        + draw.maybe(0.2, "--no-pin-memory")
    )
    if pp > 1:
        words += ["--pp-size", str(pp), *draw.maybe(0.5, "--num-nodes", pp)]
        words += draw.maybe(0.4, "--micro-batches", draw(1, 2, 4))
    return [*words, *draw.maybe(0.2, "--host", draw(*NODES)), *draw.maybe(0.85, "--allow-long-context")]


def _streamed(draw: _Draw) -> Words:
    """Accelerate, LIA, Petals, AirLLM."""
    kind = draw.rng.randrange(4)
    if kind == 0:
        words = ["infer", "--model", draw("opt-30b", "opt-175b", "llama-2-13b", "bloom", "mixtral-8x7b", "gpt-j-6b"), "--gpu",
                 draw("t4", "a100-sxm-40gb", "rtx-4090-24gb", "v100-sxm2-16gb"), "--system",
                 draw("accelerate", "accelerate@0.20", "accelerate@1.8"), "--batch-size", draw(1, 2, 8),
                 *draw.lengths()]  # fmt: skip
        words += draw.maybe(0.3, "--pp-size", 2) + draw.maybe(0.3, draw("--cpu-offload", "--disk-offload"))
        return [
            *words,
            *draw.maybe(0.3, "--weight-format", draw("nf4", "bnb_int8")),
            *draw.maybe(0.2, "--host", draw(*HOSTS)),
        ]
    if kind == 1:
        return ["infer", "--model", draw("opt-30b", "opt-66b", "opt-175b", "llama-2-70b"), "--gpu",
                draw("h100-pcie-80gb", "a100-pcie-40gb"), "--host", draw("h100-spr-host", "xeon-platinum-8480-plus"),
                "--system", "lia", "--batch-size", draw(1, 8, 64, 900), *draw.lengths(), "--allow-long-context"]  # fmt: skip
    if kind == 2:
        pp = int(draw(2, 3, 6, 12))
        return ["infer", "--model", draw("bloom", "llama-2-70b", "opt-66b"), "--gpu", draw("a100-sxm-80gb", "t4",
                "rtx-3090-24gb"), "--system", "petals", "--pp-size", str(pp), "--num-nodes", str(pp), "--batch-size",
                draw(1, 8, 64), *draw.lengths(), "--allow-long-context"]  # fmt: skip
    return ["infer", "--model", draw("llama-3.1-70b", "llama-2-13b", "qwen3-8b"), "--gpu", draw("rtx-4090-24gb", "t4",
            "rtx-3060-12gb"), "--system", "airllm", "--batch-size", draw(1, 4), *draw.lengths(),
            *draw.maybe(0.4, "--weight-format", "nf4"), "--allow-long-context"]  # fmt: skip


def _divided(draw: _Draw) -> Words:
    """llama.cpp, on GPUs, Macs, CPUs, and between them."""
    kind = draw.rng.random()
    model = draw(*SMALL[:16], *MIXTURES, *HYBRIDS, "llama-3.1-70b", "gemma-3-27b")
    words = ["infer", "--model", model, "--system", draw(*LLAMA_CPP, "llama_cpp", "llama_cpp"), "--batch-size",
             draw(1, 1, 1, 2, 4, 8, 64), *draw.lengths(), *draw.maybe(0.85, "--weight-format", draw(*GGUF))]  # fmt: skip
    if kind < 0.2:
        words += ["--gpu", "none", "--host", draw(*HOSTS)]
    elif kind < 0.35:
        words += ["--gpu", draw(*OWN_HOST)]
    else:
        words += ["--gpu", draw(*DESKTOP), *draw.maybe(0.7, "--host", draw(*HOSTS))]
        if draw.chance(0.55):
            words += [draw("--n-cpu-moe", "--n-gpu-layers", "--n-gpu-layers"), draw("all", 0, 1, 8, 20, 33)]
            words += (
                draw.maybe(0.2, "--n-gpu-layers", draw("all", 10)) if "--n-gpu-layers" not in words else []
            )
        if draw.chance(0.25):
            words += ["--pp-size", draw(2, 3, 4), "--split-mode", "layer"]
        elif draw.chance(0.1):
            words += ["--tp-size", "2", "--split-mode", "row"]
    words += draw.maybe(0.2, "--threads", draw(1, 4, 6)) + draw.maybe(
        0.2, "--ubatch-size", draw(64, 512, 2048)
    )
    words += draw.maybe(0.15, "--prefix-hit-rate", 0.5) + draw.maybe(0.1, "--max-num-seqs", draw(1, 4))
    words += draw.maybe(0.2, "--kv-format", draw("q8_0", "q4_0")) + draw.maybe(
        0.1, "--host-bandwidth", draw(30, 90)
    )
    return words


def _experts(draw: _Draw) -> Words:
    system = draw(*EXPERTS)
    model = draw(
        "mixtral-8x7b",
        "deepseek-v3",
        "qwen3-235b-a22b",
        "qwen3-30b-a3b",
        "kimi-k2-instruct",
        "deepseek-v2-lite",
    )
    words = ["infer", "--model", model, "--gpu", draw("rtx-4090-24gb", "rtx-3090-24gb", "a6000-48gb", "rtx-5090-32gb"),
             "--host", draw(*HOSTS), "--system", system, "--batch-size", draw(1, 1, 2, 8), *draw.lengths(),
             *draw.maybe(0.6, "--weight-format", draw("q4_k_m", "fp8", "int4", "q8_0"))]  # fmt: skip
    words += draw.maybe(0.4, "--kt-num-gpu-experts", draw(0, 1, 4, 40)) + draw.maybe(
        0.3, "--expert-hit-rate", draw(0, 0.5, 1)
    )
    return [*words, *draw.maybe(0.2, "--prefill-chunk", 512), *draw.maybe(0.2, "--threads", draw(4, 8))]


def _served_on_a_cpu(draw: _Draw) -> Words:
    words = [
        "infer",
        "--model",
        draw(*SMALL, "qwen3-30b-a3b", "mixtral-8x7b"),
        "--gpu",
        "none",
        "--host",
        draw(*HOSTS),
    ]
    words += [
        "--system",
        draw("transformers_serve", "host_compute", "llama_cpp"),
        "--batch-size",
        draw(1, 2, 8),
        *draw.lengths(),
    ]
    return [*words, *draw.maybe(0.3, "--threads", draw(1, 4))]


def _trained(draw: _Draw) -> Words:
    framework = draw(*FRAMEWORKS)
    divides = framework in ("megatron", "megatron_bridge", "megatron_2022", "deepspeed", "fsdp", "torchtitan", "maxtext",
                            "automodel")  # fmt: skip
    tp, pp, cp, ep, nodes = 1, 1, 1, 1, 1
    if divides and draw.chance(0.75):
        tp, pp = int(draw(1, 2, 4, 8)), int(draw(1, 1, 2, 4))
        cp = int(draw(1, 1, 1, 2)) if framework != "megatron_2022" else 1
    gpus = int(draw(1, 2, 4, 8))
    need = tp * pp * cp
    dp = max(1, gpus // need) * int(draw(1, 1, 2))
    if need * dp > 8:
        nodes = -(-need * dp // 8)
    mixture = draw.chance(0.3) and framework != "megatron_2022"
    model = (
        draw(*MIXTURES[:9], *HYBRIDS[:2], "qwen3-next-80b-a3b")
        if mixture
        else draw(*SMALL, *LARGE, *HYBRIDS[3:])
    )
    if mixture and divides and draw.chance(0.6):
        ep = int(draw(2, 4, dp * tp))
    words = ["train", "--model", model, "--gpu", draw(*TRAINERS), "--framework", framework]
    words += ["--tp-size", str(tp)] if tp > 1 else []
    words += ["--pp-size", str(pp), *draw.maybe(0.4, "--virtual-stages", draw(2, 4))] if pp > 1 else []
    words += (
        ["--cp-size", str(cp), *draw.maybe(0.6, "--cp-comm-type", draw("p2p", "all_gather", "a2a"))]
        if cp > 1
        else []
    )
    words += (
        ["--ep-size", str(ep), *draw.maybe(0.5, "--moe-dispatcher", draw("alltoall", "flex"))]
        if ep > 1
        else []
    )
    words += ["--dp-size", str(dp)] if dp > 1 else []
    words += ["--num-nodes", str(nodes)] if nodes > 1 else []
    words += draw.maybe(0.15, "--sp-size", 1)
    words += ["--seq-len", draw(128, 512, 2048, 4096, 8192)]
    how = draw.rng.random()
    if how < 0.6:
        words += ["--micro-batch-size", draw(1, 1, 2, 4)]
    if how > 0.3:
        words += ["--global-batch-size", str(dp * int(draw(1, 4, 16, 64)))]
    elif draw.chance(0.5):
        words += ["--gradient-accumulation-steps", draw(1, 2, 8)]
    if draw.chance(_TUNED.get(framework, 0.1)):
        words += ["--lora-rank", draw(8, 16, 64), *draw.of(_OF_ADAPTERS)]
        words += (
            ["--lora-targets", "attention"]
            if mixture
            else draw.maybe(0.3, "--lora-targets", draw("all", "qkv", "qv"))
        )
    level = draw(
        "none", "attn_compute", "attn", "norm_attn_norm", "full", "full", "selective", "", "", "", "modules"
    )
    if level == "modules":
        words += [
            "--recompute-modules",
            draw("core_attn", "layernorm", "moe_act", "moe", "mlp", "core_attn,mlp"),
        ]
    elif level:
        words += ["--activation-recomputation", level, *draw.maybe(0.2, "--recompute-layers", draw(1, 8))]
        words += draw.maybe(0.3, "--kept-products", draw("half", "all")) if level == "full" else []
    narrow = draw.chance(0.15)
    words += ["--precision", draw("fp8", "mxfp8", "nvfp4"), *draw.of(_NARROW)] if narrow else draw.of(_WIDE)
    words += draw.maybe(0.3, "--ds-zero", *([draw(0, 1)] if pp > 1 else [draw(0, 1, 2, 3)]))
    if draw.chance(0.15) and pp == 1:
        words += ["--optimizer-device", draw("cpu", "nvme")]
        if framework == "deepspeed":
            words += draw.maybe(0.5, "--offload-overlap", draw("zenflow", "superoffload"))
            words += draw.maybe(0.3, "--weights-device", draw("cpu", "nvme"), "--ds-zero", 3)
    words += draw.of(_OF_TRAINING)
    words += draw.of(_OF_EXPERTS) if mixture else []
    words += draw.maybe(0.3, "--expert-imbalance", 1.2) if ep > 1 else []
    words += draw.maybe(0.3, "--shard-size", 2) if dp % 2 == 0 else []
    words += (
        draw.maybe(0.3, "--cuda-graphs", draw("mixers", "layers", "iteration"))
        if framework[:8] == "megatron"
        else []
    )
    return [*words, *draw.maybe(0.85, "--allow-long-context")]


_TUNED = dict.fromkeys(
    ("hf_trainer", "unsloth", "torchtune", "axolotl", "litgpt", "trl", "llama_factory", "automodel"), 0.6
) | {"fsdp_qlora": 0.97, "hf_gptq": 0.97}
"""Of frameworks that mostly train adapters, how often."""

_OF_ADAPTERS: _Flags = (
    (0.4, "--base-weight-bits", 4, 8, 16), (0.2, "--adapter", "dora"), (0.15, "--lora-ends"), (0.2, "--base-double-quant"),
)  # fmt: skip
_NARROW: _Flags = ((0.2, "--fp8-attention"), (0.3, "--wide-layers", 2))
_WIDE: _Flags = ((0.2, "--precision", "fp32", "tf32", "fp16", "bf16"),)
_OF_EXPERTS: _Flags = ((0.2, "--fused-experts"), (0.2, "--moe-overlap"))
_OF_TRAINING: _Flags = (
    (0.25, "--optimizer", "adam8bit", "lion", "adafactor", "muon", "sgd", "paged_adam8bit", "adamw"),
    (0.08, "--activations-device", "cpu"), (0.1, "--no-flash-attn"), (0.06, "--dropout"), (0.06, "--softmax-dropout"),
    (0.06, "--mlp-recompute-gelu"), (0.06, "--mlp-activation-quant-bits", 8), (0.06, "--layernorm-dtype-bytes", 4),
    (0.06, "--gradient-dtype-bytes", 2, 4), (0.06, "--master-weights-dtype-bytes", 0, 2, 4),
    (0.05, "--weights-dtype-bytes", 4),
    (0.12, "--loss", "plain", "chunked", "fused", "vocab-parallel"), (0.06, "--compile"), (0.06, "--no-compile"),
    (0.06, "--optimizer-in-backward"), (0.06, "--reduce-bucket-size", "1e8"), (0.06, "--overlap-grad-reduce"),
    (0.06, "--no-overlap-grad-reduce"), (0.06, "--overlap-param-gather"), (0.06, "--no-overlap-param-gather"),
    (0.1, "--tp-comm-overlap"), (0.06, "--mtp-depth", 1), (0.04, "--power-limit-w", 500), (0.05, "--flops-efficiency", 0.5),
    (0.05, "--hbm-memory-efficiency", 0.7), (0.05, "--logit-bytes", 10), (0.1, "--total-num-tokens", "1e9"),
)  # fmt: skip


def _simulated(draw: _Draw) -> Words:
    model = draw(*SMALL[:12], "qwen3-30b-a3b", "mixtral-8x7b", "gpt-oss-20b", "qwen3-next-80b-a3b", "gemma-3-27b",
                 "llama-3.1-70b", "deepseek-v2-lite")  # fmt: skip
    system = draw(*SERVERS, "llama_cpp", "fastertransformer", "transformers", "gpt_fast")
    tp, pp, dp = (int(draw(1, 1, 2, 4)), int(draw(1, 1, 1, 2)), int(draw(1, 1, 1, 2)))
    words = [
        "simulate",
        "--model",
        model,
        "--gpu",
        draw(*SERVING),
        "--system",
        system,
        "--num-requests",
        draw(12, 30, 60),
    ]
    words += ["--tp-size", str(tp)] if tp > 1 else []
    words += ["--pp-size", str(pp)] if pp > 1 else []
    words += ["--dp-size", str(dp), *draw.maybe(0.3, "--ep-size", dp * tp)] if dp > 1 else []
    words += draw(
        "--rate 2", "--rate 20", "--rate inf", "--concurrency 1", "--concurrency 6", "--concurrency 40", "--rate 0.3",
    ).split()  # fmt: skip
    words += (
        draw.maybe(0.2, "--burstiness", draw("0.3", "4", "inf"))
        if "--rate" in words and "inf" not in words
        else []
    )
    words += [
        "--prompt-len",
        draw("100", "900", "3000", "uniform:20:900", "lognormal:700:500", "7000", "uniform:1000:30000"),
    ]
    words += ["--gen-len", draw("1", "20", "150", "uniform:1:200", "lognormal:120:90", "600")]
    words += draw.maybe(
        0.3, "--prefix-len", draw(100, 640, 2000), *draw.maybe(0.5, "--num-prefixes", draw(2, 5))
    )
    words += draw.maybe(
        0.25, "--turns", draw(2, 3), *draw.maybe(0.5, "--think-time", draw("2", "uniform:0:5"))
    )
    words += draw.maybe(
        0.25, "--replicas", draw(2, 3), *draw.maybe(0.7, "--routing", draw("least-loaded", "prefix-aware"))
    )
    words += draw.maybe(0.15, "--prefill-replicas", draw(1, 2), *draw.maybe(0.4, "--prefill-tp-size", 2),
                        *draw.maybe(0.4, "--pools-on-one-node"))  # fmt: skip
    words += draw.of(_OF_REQUESTS)
    return [*words, *draw.maybe(0.85, "--allow-long-context")]


_OF_REQUESTS: _Flags = (
    (0.35, "--gpu-memory-utilization", 0.3, 0.45, 0.7, 0.95), (0.25, "--max-num-seqs", 2, 8, 64),
    (0.2, "--max-num-batched-tokens", 512, 2048), (0.12, "--warm-up", 5), (0.1, "--kv-format", "fp8"), (0.15, "--seed", 1, 2),
    (0.15, "--scheduler", "MAX_UTILIZATION", "GUARANTEED_NO_EVICT", "SGLang"), (0.1, "--weight-format", "fp8"),
    (0.1, "--draft-model=eagle --acceptance=.8,.6"),
)  # fmt: skip


def _steady(draw: _Draw) -> Words:
    """The closed form of what `_simulated` simulates."""
    model = draw(*SMALL[:12], "qwen3-30b-a3b", "gemma-3-27b", "qwen3-next-80b-a3b", "llama-3.1-70b")
    gpu = draw("h100-sxm-80gb", "a100-sxm-80gb", "l40s-48gb", "l4-24gb", "b200-180gb")
    words = ["steady", "--model", model, "--gpu", gpu, "--system", draw(*SERVERS)]
    words += [draw("--rate", "--concurrency"), draw(1, 3, 20, 300), "--prompt-len", draw(1, 100, 900, 9000)]
    words += ["--gen-len", draw(1, 2, 30, 400), *draw.of(_OF_ONE_ENGINE)]
    return [*words, *draw.maybe(0.85, "--allow-long-context")]


_OF_ONE_ENGINE: _Flags = (
    (0.3, "--tp-size", 2, 4), (0.2, "--max-num-seqs", 1, 8, 64), (0.2, "--max-num-batched-tokens", 512, 2048),
    (0.15, "--draft-model=eagle --acceptance=.8,.6"), (0.2, "--gpu-memory-utilization", 0.4),
)  # fmt: skip


def _simulated_on_a_cpu(draw: _Draw) -> Words:
    words = [
        "simulate",
        "--model",
        draw("llama-3.2-1b", "qwen3-0.6b", "opt-1.3b"),
        "--gpu",
        "none",
        "--host",
        draw(*HOSTS),
    ]
    words += ["--system", "transformers_serve", "--num-requests", draw(8, 16)]
    words += draw("--rate 1", "--concurrency 1", "--concurrency 4", "--rate inf").split()
    return [*words, "--prompt-len", draw("60", "uniform:10:300"), "--gen-len", draw("1", "20")]


def _searched(draw: _Draw) -> Words:
    """Searches: slow, so few."""
    kind = draw.rng.randrange(6)
    if kind == 0:
        words = ["policy", "--system", draw("flexgen", "zero_inference", "llama_cpp", "ktransformers", "auto"), "--model",
                 draw("opt-30b", "opt-6.7b", "mixtral-8x7b", "qwen3-30b-a3b", "gpt-oss-120b"), "--gpu",
                 draw("t4", "rtx-3090-24gb", "rtx-4090-24gb", "a6000-48gb"), *draw.maybe(0.5, "--host", draw(*HOSTS)),
                 "--prompt-len", draw(256, 512), "--gen-len", draw(16, 32)]  # fmt: skip
        words += draw.maybe(
            0.4, "--objective", draw("throughput", "latency", "cost", "decode", "ttft", "mixed")
        )
        return [*words, *draw.maybe(0.3, "--lossless"), *draw.maybe(0.2, "--max-latency", draw(5, 100))]
    if kind == 1:
        return ["plan", "--model", draw("llama-3.1-70b", "qwen3-30b-a3b", "llama-3.1-8b"), "--target",
                draw("tpot<50ms,ttft<1s", "tpot<20ms", "throughput>1000"), "--gpus",
                draw("h100-sxm-80gb,l40s-48gb", "a100-sxm-80gb", "rtx-4090-24gb,l4-24gb"), "--top", "2",
                *draw.maybe(0.4, "--objective", draw("energy", "gpus", "throughput")),
                *draw.maybe(0.3, "--batching", "static"), *draw.maybe(0.3, "--quant-bits", "16,8,4")]  # fmt: skip
    if kind == 2:
        return ["plan", "--model", draw("llama-3.1-8b", "qwen3-8b"), draw("--rate", "--concurrency"), draw(4, 10),
                "--target", draw("ttft<1s", "p95 ttft<2s, tpot<60ms"), "--gpus", draw("l4-24gb", "h100-sxm-80gb"),
                "--max-gpus", draw(2, 4)]  # fmt: skip
    if kind == 3:
        return ["plan", "--model", draw("qwen3-30b-a3b", "gpt-oss-120b", "llama-3.1-70b"), "--host", draw(*HOSTS), "--gpus",
                draw("rtx-3090-24gb,rtx-4090-24gb", "rtx-5090-32gb", "rtx-3060-12gb"), "--system", draw("llama_cpp", "auto"),
                "--weight-format", "q4_k_m"]  # fmt: skip
    if kind == 4:
        asked = ["plan", "--train", "--model", draw("llama-3.1-8b", "qwen3-30b-a3b"), "--tokens", "1e9"]
        asked += ["--deadline", draw("2d", "30d"), "--framework", draw("megatron", "fsdp")]
        return [*asked, "--gpus", draw("h100-sxm-80gb", "a100-sxm-80gb")]
    gpu = draw("h100-sxm-80gb", "a100-sxm-80gb")
    return ["scaling", "--model", draw("llama-3.1-70b", "qwen3-30b-a3b"), "--gpu", gpu]


_KINDS: Sequence[tuple[float, Callable[[_Draw], Words]]] = (
    (0.30, _served), (0.07, _zero), (0.07, _flexgen), (0.06, _streamed), (0.12, _divided), (0.05, _experts),
    (0.02, _served_on_a_cpu), (0.17, _trained), (0.1, _simulated), (0.015, _simulated_on_a_cpu), (0.015, _steady),
    (0.01, _searched),
)  # fmt: skip


def questions(seed: int) -> Iterator[str]:
    """Questions without end; the same of each seed."""
    rng = random.Random(f"questions {seed}")
    while True:
        kind = rng.random() * sum(share for share, _ in _KINDS)
        for share, make in _KINDS:
            kind -= share
            if kind < 0:
                yield " ".join(make(_Draw(rng)))
                break
