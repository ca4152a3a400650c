"""Flags as engines and trainers call them, and what is given here instead: whoever comes from one types its own first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

__all__ = ["instead"]

_LENGTHS: Final = "--prompt-len and --gen-len"
_OURS: Final = {
    # llama.cpp, tools/server/README.md and tools/llama-bench/README.md
    "-m": "--model", "-ngl": "--n-gpu-layers", "--gpu-layers": "--n-gpu-layers", "-ncmoe": "--n-cpu-moe",
    "-cmoe": "--n-cpu-moe all", "--cpu-moe": "--n-cpu-moe all", "-ub": "--ubatch-size", "-t": "--threads",
    "-sm": "--split-mode", "-c": _LENGTHS, "--ctx-size": _LENGTHS, "-ctk": "--kv-format", "-ctv": "--kv-format",
    "--cache-type-k": "--kv-format", "--cache-type-v": "--kv-format", "-np": "--batch-size", "--parallel": "--batch-size",
    "-nkvo": "--kv-offload", "--no-kv-offload": "--kv-offload", "-p": "--prompt-len", "-n": "--gen-len",
    "--n-predict": "--gen-len", "-hf": "--model", "-ot": "--n-cpu-moe", "--override-tensor": "--n-cpu-moe",
    "-d": "--prompt-len", "--n-depth": "--prompt-len", "--n-prompt": "--prompt-len", "--n-gen": "--gen-len",
    # vLLM, docs/cli/serve
    "--tensor-parallel-size": "--tp-size", "-tp": "--tp-size", "--pipeline-parallel-size": "--pp-size", "-pp": "--pp-size",
    "--data-parallel-size": "--dp-size", "-dp": "--dp-size", "--enable-expert-parallel": "--ep-size",
    "--quantization": "--weight-format", "-q": "--weight-format", "--dtype": "--weight-format",
    "--kv-cache-dtype": "--kv-format", "--max-model-len": _LENGTHS, "--speculative-config": "--draft-model",
    "--speculative-model": "--draft-model", "--num-speculative-tokens": "--draft-tokens", "--request-rate": "--rate",
    "--max-concurrency": "--concurrency", "--num-prompts": "--num-requests", "--random-input-len": "--prompt-len",
    "--random-output-len": "--gen-len", "--input-len": "--prompt-len", "--output-len": "--gen-len",
    # SGLang, docs/advanced_features/server_arguments
    "--model-path": "--model", "--tp": "--tp-size", "--pp": "--pp-size", "--dp": "--dp-size", "--ep": "--ep-size",
    "--expert-parallel-size": "--ep-size", "--mem-fraction-static": "--gpu-memory-utilization", "--context-length": _LENGTHS,
    "--chunked-prefill-size": "--max-num-batched-tokens", "--max-running-requests": "--max-num-seqs",
    "--disable-cuda-graph": "--enforce-eager", "--kt-gpu-experts-ratio": "--kt-num-gpu-experts",
    "--kt-cpuinfer": "--threads", "--kt-method": "--weight-format",
    "--kt-gpu-prefill-threshold": "--kt-gpu-prefill-token-threshold",
    # TensorRT-LLM, trtllm-serve
    "--max-batch-size": "--max-num-seqs", "--max-num-tokens": "--max-num-batched-tokens",
    "--kv-cache-free-gpu-memory-fraction": "--gpu-memory-utilization",
    # trainers: transformers.TrainingArguments, axolotl, Megatron-LM
    "--per-device-train-batch-size": "--micro-batch-size", "--max-seq-length": "--seq-len", "--seq-length": "--seq-len",
    "--tensor-model-parallel-size": "--tp-size", "--pipeline-model-parallel-size": "--pp-size",
    "--context-parallel-size": "--cp-size", "--expert-model-parallel-size": "--ep-size", "--lora-r": "--lora-rank",
    "--load-in-4bit": "--base-weight-bits 4", "--load-in-8bit": "--base-weight-bits 8", "--optim": "--optimizer",
    "--nproc-per-node": "--num-gpus", "--nnodes": "--num-nodes",
    "--gradient-checkpointing": "--activation-recomputation full",
}  # fmt: skip
"""By the names with hyphens; several of ours stand in a sentence."""


_FUSED: Final = "attention is taken to be fused where the engine has it"
_READ: Final = "weights are taken to be read and to stay in memory"
_EVENLY: Final = "layers are divided evenly by --pp-size, over GPUs of one kind"
_NO_SERVER: Final = "nothing is served, downloaded or run"
_SAMPLED: Final = "what is sampled takes the same time"
_NOTHING: Final = {
    "--kt-threadpool-count": "a pool of threads computes on each of the host's sockets",
    "-fa": _FUSED, "--flash-attn": _FUSED, "--mlock": _READ, "--no-mmap": _READ, "-mmp": _READ, "-ts": _EVENLY,
    "--tensor-split": _EVENLY, "-mg": _EVENLY, "--main-gpu": _EVENLY, "--temp": _SAMPLED, "--seed": _SAMPLED,
    "--port": _NO_SERVER, "--api-key": _NO_SERVER, "--trust-remote-code": _NO_SERVER, "--download-dir": _NO_SERVER,
    "--served-model-name": _NO_SERVER, "--swap-space": "what is preempted is computed anew",
    "-b": "it bounds what a call takes; --ubatch-size is what a pass computes",
    "--enable-prefix-caching": "simulate follows the engine's cache; of one batch --prefix-hit-rate says what is in it",
    "--enable-chunked-prefill": "engines that read prompts in chunks do; --prefill-chunk says of how many tokens",
}  # fmt: skip
"""Flags of engines that have nothing of ours to stand for them, and why none is needed."""


def instead(error: click.NoSuchOption, given: Sequence[str]) -> str | None:
    """What to give in place of a flag that a command does not have; None where nothing is known of it.

    Args:
        error: What click says of it. Of ``-ngl`` it names the first letter alone.
        given: The words of the command line.
    """
    word = next(
        (word for one in given if _is_of(word := one.partition("=")[0], error.option_name)), error.option_name
    )
    name = word.lower().replace("_", "-")
    flags = {flag for one in _options(error) for flag in (*one.opts, *one.secondary_opts)}
    ours = name if name in flags and name != word else _OURS.get(name)
    known = ours is not None and all(part in flags for part in ours.split() if part.startswith("--"))
    if known:
        return f"{word} is {ours} here"
    return f"{word} is not needed here: {_NOTHING[name]}" if name in _NOTHING else None


def _is_of(word: str, option: str) -> bool:
    """Whether click may mean this word: it names one letter of ``-hf``, the first that it does not know."""
    if word.startswith(option):
        return True
    return len(option) == 2 and word in (*_OURS, *_NOTHING) and word[:2] != "--" and option[1] in word[1:]


def _options(error: click.NoSuchOption) -> list[click.Option]:
    command = None if error.ctx is None else error.ctx.command
    return [] if command is None else [one for one in command.params if isinstance(one, click.Option)]
