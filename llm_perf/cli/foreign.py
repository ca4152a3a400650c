"""Flags as engines, benchmarks and trainers call them, and what is given here instead: people type what they know first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

__all__ = ["instead"]

_LENGTHS: Final = "--prompt-len and --gen-len"
_OURS: Final[dict[str, str | tuple[str, ...]]] = {
    # what people call memory of the machine, of no program
    **dict.fromkeys(("--ram", "--memory", "--cpu-memory", "--system-memory", "--ram-gb"), "--host-memory"),
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
    "--speculative-model": "--draft-model", "--num-speculative-tokens": "--draft-tokens",
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
    # vllm bench serve, throughput and latency (vllm/benchmarks), sglang.bench_serving and bench_one_batch, trtllm-bench
    "--request-rate": "--rate", "--max-concurrency": ("--concurrency", "--batch-size"),
    "--concurrency": ("--concurrency", "--batch-size"), "--num-prompts": "--num-requests", "--num-prompt": "--num-requests",
    "--input-len": "--prompt-len", "--output-len": "--gen-len", "--isl": "--prompt-len", "--osl": "--gen-len",
    "--random-input-len": "--prompt-len", "--random-output-len": "--gen-len", "--random-input": "--prompt-len",
    "--random-output": "--gen-len", "--sonnet-input-len": "--prompt-len", "--sonnet-output-len": "--gen-len",
    "--sharegpt-output-len": "--gen-len", "--custom-output-len": "--gen-len", "--hf-output-len": "--gen-len",
    "--spec-bench-output-len": "--gen-len", "--speed-bench-output-len": "--gen-len", "--gsp-output-len": "--gen-len",
    "--prefix-repetition-output-len": "--gen-len", "--prefix-repetition-suffix-len": "--prompt-len",
    "--gsp-question-len": "--prompt-len", "--max-input-len": "--prompt-len", "--target-input-len": "--prompt-len",
    "--target-output-len": "--gen-len", "--input-mean": "--prompt-len", "--output-mean": "--gen-len",
    "--max-tokens": "--gen-len", "--max-new-tokens": "--gen-len",
    "--random-prefix-len": ("--prefix-len", "--prefix-hit-rate"),
    "--sonnet-prefix-len": ("--prefix-len", "--prefix-hit-rate"),
    "--prefix-repetition-prefix-len": ("--prefix-len", "--prefix-hit-rate"),
    "--gsp-system-prompt-len": ("--prefix-len", "--prefix-hit-rate"), "--prefix-repetition-num-prefixes": "--num-prefixes",
    "--gsp-num-groups": "--num-prefixes", "--gsp-prompts-per-group": "--num-requests", "--gsp-num-turns": "--turns",
    "--mooncake-num-rounds": "--turns", "--num-warmups": "--warm-up", "--warmup-requests": "--warm-up",
    "--warmup": "--warm-up",
    "--dataset-path": "--requests", "--dataset": "--requests", "--use-trace-timestamps": "--requests",
    "--self-timed": "--requests", "--save-result": "--json", "--append-result": "--json", "--result-filename": "--json",
    "--result-dir": "--json", "--output-file": "--json", "--output-json": "--json", "--report-json": "--json",
    "--save-detailed": "--trace-out", "--output-details": "--trace-out", "--request-json": "--trace-out",
    "--iteration-log": "--timeline", "--plot-timeline": "--plot", "--plot-throughput": "--plot",
    "--plot-dataset-stats": "--plot", "--pd-separated": "--prefill-replicas", "--backend": "--system",
    "--kv-cache-free-gpu-mem-fraction": "--gpu-memory-utilization", "--max-seq-len": _LENGTHS, "--engine-dir": "--model",
    "--cluster-size": "--ep-size", "--scheduler-policy": "--scheduler", "--medusa-choices": "--draft-model",
    # llama-bench
    "-pg": _LENGTHS, "--hf-repo": "--model", "-hfr": "--model", "-hff": "--weight-format", "--hf-file": "--weight-format",
    "-dev": "--gpu", "--device": "--gpu", "--moe-cache": "--expert-hit-rate", "-o": "--json", "--output": "--json",
    "-fitt": "--n-gpu-layers", "--fit-target": "--n-gpu-layers",
    # trainers: transformers.TrainingArguments, axolotl, Megatron-LM
    "--per-device-train-batch-size": "--micro-batch-size", "--max-seq-length": "--seq-len", "--seq-length": "--seq-len",
    "--tensor-model-parallel-size": "--tp-size", "--pipeline-model-parallel-size": "--pp-size",
    "--context-parallel-size": "--cp-size", "--expert-model-parallel-size": "--ep-size", "--lora-r": "--lora-rank",
    "--load-in-4bit": "--base-weight-bits 4", "--load-in-8bit": "--base-weight-bits 8", "--optim": "--optimizer",
    "--nproc-per-node": "--num-gpus", "--nnodes": "--num-nodes",
    "--gradient-checkpointing": "--activation-recomputation full",
}  # fmt: skip
"""By the names with hyphens; several of ours stand in a sentence. Of a tuple the first that the command has."""


_FUSED: Final = "attention is taken to be fused where the engine has it"
_READ: Final = "weights are taken to be read and to stay in memory"
_EVENLY: Final = "layers are divided evenly by --pp-size, over GPUs of one kind"
_NO_SERVER: Final = "nothing is served, downloaded or run"
_SAMPLED: Final = "what is sampled takes the same time"
_DRAWN: Final = "requests are drawn or read from a file; simulate takes --prompt-len, --gen-len, --prefix-len and --requests"
_VARY: Final = (
    "simulate takes lengths that vary as --prompt-len uniform:LEAST:MOST; sglang.bench_serving draws from RATIO x LENGTH to "
    "LENGTH, vllm bench from (1 - RATIO) to (1 + RATIO) x LENGTH"
)
_UP_TO: Final = (
    "sglang.bench_serving draws from 1 up to it unless --random-range-ratio says otherwise: uniform:1:LENGTH"
)
_DRAWN_UP_TO: Final = dict.fromkeys(
    ("--random-input-len", "--random-output-len", "--random-input", "--random-output"), _UP_TO
)
"""What is to be known of a flag beside which of ours it is."""
_WHOLE: Final = "every output is as long as --gen-len says"
_PRINTED: Final = "mean and percentiles of every latency are printed, and the first line is what was asked"
_TEXT: Final = "prompts are text; --with-vision counts towers in memory"
_NO_ADAPTERS: Final = "adapters are not served here"
_REPEATED: Final = "a prediction needs no repetition, warm-up or pinned threads"
_NOTHING: Final = {
    "--kt-threadpool-count": "a pool of threads computes on each of the host's sockets",
    "-fa": _FUSED, "--flash-attn": _FUSED, "--mlock": _READ, "--no-mmap": _READ, "-mmp": _READ, "-ts": _EVENLY,
    "--tensor-split": _EVENLY, "-mg": _EVENLY, "--main-gpu": _EVENLY, "--temp": _SAMPLED, "--seed": _SAMPLED,
    "--port": _NO_SERVER, "--api-key": _NO_SERVER, "--trust-remote-code": _NO_SERVER, "--download-dir": _NO_SERVER,
    "--served-model-name": _NO_SERVER, "--swap-space": "what is preempted is computed anew",
    "-b": "it bounds what a call takes; --ubatch-size is what a pass computes",
    "--enable-prefix-caching": "simulate follows the engine's cache; of one batch --prefix-hit-rate says what is in it",
    # benchmarks
    "--random-range-ratio": _VARY, "--gsp-range-ratio": _VARY, "--input-stdev": _VARY, "--output-stdev": _VARY,
    "--endpoint": _NO_SERVER, "--base-url": _NO_SERVER, "--header": _NO_SERVER, "--insecure": _NO_SERVER,
    "--extra-body": _NO_SERVER, "--extra-request-body": _NO_SERVER, "--ready-check-timeout-sec": _NO_SERVER,
    "--request-id-prefix": _NO_SERVER, "--flush-cache": _NO_SERVER, "--extra-llm-api-options": _NO_SERVER,
    "--workspace": _NO_SERVER, "--log-level": _NO_SERVER, "--revision": _NO_SERVER, "--load-format": _NO_SERVER,
    "--async-engine": _NO_SERVER, "--disable-frontend-multiprocessing": _NO_SERVER, "--offline": _NO_SERVER,
    "--probe-request-rate": _NO_SERVER, "-hft": _NO_SERVER, "--hf-token": _NO_SERVER, "--do-not-exit": _NO_SERVER,
    "--tokenizer": _DRAWN, "--tokenizer-mode": _DRAWN, "--tokenize-prompt": _DRAWN, "--apply-chat-template": _DRAWN,
    "--chat-template-kwargs": _DRAWN, "--prompt-suffix": _DRAWN, "--no-oversample": _DRAWN, "--disable-shuffle": _DRAWN,
    "--prompt-filename": _DRAWN, "--enable-multimodal-chat": _TEXT, "--modality": _TEXT, "--skip-tokenizer-init": _DRAWN,
    "--skip-chat-template": _DRAWN, "--skip-warmup": _REPEATED, "--cut-len": _DRAWN, "--correctness-test": _NO_SERVER,
    "--temperature": _SAMPLED, "--top-p": _SAMPLED, "--top-k": _SAMPLED, "--min-p": _SAMPLED,
    "--frequency-penalty": _SAMPLED, "--presence-penalty": _SAMPLED, "--repetition-penalty": _SAMPLED,
    "--logprobs": _SAMPLED, "--return-logprob": _SAMPLED, "--logprob-start-len": _SAMPLED, "--top-logprobs-num": _SAMPLED,
    "--token-ids-logprob": _SAMPLED, "--return-routed-experts": _SAMPLED, "--detokenize": _SAMPLED,
    "--disable-detokenize": _SAMPLED, "--use-beam-search": "beams are not modelled: a request is one sequence",
    "--beam-width": "beams are not modelled: a request is one sequence",
    "--n": "--batch-size counts sequences, of one request or of several", "--ignore-eos": _WHOLE,
    "--disable-ignore-eos": _WHOLE, "--eos-id": _WHOLE, "--percentile-metrics": _PRINTED, "--metric-percentiles": _PRINTED,
    "--label": _PRINTED, "--tag": _PRINTED, "--metadata": _PRINTED, "--run-name": _PRINTED, "--disable-tqdm": _PRINTED,
    "--timeline-itl-thresholds": _PRINTED, "--print-requests": _PRINTED, "--log-decode-step": _PRINTED,
    "--goodput": "llm-perf plan finds what is served within a --target", "--streaming": "a token counts when it is made",
    "--no-stream": "a token counts when it is made", "--disable-stream": "a token counts when it is made",
    "--enable-chunked-context": "engines that read prompts in chunks do; --max-num-batched-tokens says of how many tokens",
    "--lora-modules": _NO_ADAPTERS, "--num-iters": _REPEATED, "--num-iters-warmup": _REPEATED, "-r": _REPEATED,
    "--repetitions": _REPEATED, "--delay": _REPEATED, "--prio": _REPEATED, "--poll": _REPEATED, "-C": _REPEATED,
    "--cpu-mask": _REPEATED, "--cpu-strict": _REPEATED, "--numa": _REPEATED, "--no-warmup": _REPEATED,
    "--n-gen-warmup": _REPEATED, "-oe": _PRINTED, "--output-err": _PRINTED, "-v": _PRINTED, "--verbose": _PRINTED,
    "--progress": _PRINTED, "--list-devices": "llm-perf gpus list names those that are known", "-rpc": _EVENLY,
    "--rpc": _EVENLY, "-lm": _READ, "--load-mode": _READ, "-lzm": _READ, "--lazy-mode": _READ, "--no-host": _READ,
    "--repack": _READ, "-nr": _READ, "--no-repack": _READ, "-embd": _SAMPLED, "--embeddings": _SAMPLED,
    "-nopo": _READ, "--no-op-offload": _READ, "-fitc": _READ, "--fit-ctx": _READ,
    "--enable-chunked-prefill": "engines that read prompts in chunks do; --prefill-chunk says of how many tokens",
}  # fmt: skip
"""Flags of engines that have nothing of ours to stand for them, and why none is needed."""

_NOTHING_BEGINNING: Final = {
    "--random-mm-": _TEXT, "--random-image-": _TEXT, "--image-": _TEXT, "--asr-": _TEXT, "--lora-": _NO_ADAPTERS,
    "--profile-": _REPEATED, "--ramp-up-": "a rate that changes is arrivals of a file: simulate takes --requests",
    **dict.fromkeys(("--dataset-", "--random-", "--sharegpt-", "--sonnet-", "--hf-", "--custom-", "--gsp-", "--mooncake-",
                     "--burstgpt-", "--prefix-repetition-", "--spec-bench-", "--speed-bench-", "--blazedit-"), _DRAWN),
}  # fmt: skip
"""The same of whole groups of a benchmark's flags: what they begin with, where the command has none that begins so."""


def instead(error: click.NoSuchOption, given: Sequence[str]) -> str | None:
    """What to give in place of a flag that a command does not have; None where nothing is known of it.

    Args:
        error: What click says of it. Of ``-ngl`` it names the first letter alone.
        given: The words of the command line.
    """
    word = next(
        (word for one in given if _is_of(word := one.partition("=")[0], error.option_name)), error.option_name
    )
    name = word if word in _NOTHING else word.lower().replace("_", "-")
    flags, of_simulate = _flags(None if error.ctx is None else error.ctx.command), _flags(_simulate())
    if name in flags and name != word:
        return f"{word} is {name} here"
    named = _OURS.get(name, ())
    candidates = (named,) if isinstance(named, str) else named
    here = next((ours for ours in candidates if _known(ours, flags)), None)
    if here is not None:
        return "; ".join([f"{word} is {here} here", *filter(None, [_DRAWN_UP_TO.get(name)])])
    others = _commands_with(name)
    if others and not (others == ["train"] and name in _NOTHING):
        return f"{word} is of llm-perf {' and '.join(filter(None, (', '.join(others[:-1]), others[-1])))}"
    there = next((ours for ours in candidates if _known(ours, of_simulate)), None)
    if there is not None:
        return f"{word} is {there} of llm-perf simulate"
    why = _NOTHING.get(name) or next(
        (
            said
            for start, said in _NOTHING_BEGINNING.items()
            if name.startswith(start) and not any(flag.startswith(start) for flag in flags)
        ),
        None,
    )
    return None if why is None else f"{word} is not needed here: {why}"


def _is_of(word: str, option: str) -> bool:
    """Whether click may mean this word: it names one letter of ``-hf``, the first that it does not know."""
    if word.startswith(option):
        return True
    return len(option) == 2 and word in (*_OURS, *_NOTHING) and word[:2] != "--" and option[1] in word[1:]


def _known(ours: str, flags: frozenset[str]) -> bool:
    return ours.startswith("--") and all(part in flags for part in ours.split() if part.startswith("--"))


def _commands_with(flag: str) -> list[str]:
    """The commands that answer a question about a model and have this flag of ours."""
    from llm_perf.cli.infer import infer
    from llm_perf.cli.train import train

    asked = {"infer": infer, "simulate": _simulate(), "train": train}
    return [name for name, command in asked.items() if _known(flag, _flags(command))]


def _simulate() -> click.Command:
    from llm_perf.cli.simulate import simulate  # only where something is refused

    return simulate


def _flags(command: click.Command | None) -> frozenset[str]:
    """The flags of a command in all their spellings."""
    options = [] if command is None else [one for one in command.params if isinstance(one, click.Option)]
    return frozenset(flag for one in options for flag in (*one.opts, *one.secondary_opts))
