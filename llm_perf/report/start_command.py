"""The command that starts an engine as a prediction has it; one function per family, by its name."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Final

from llm_perf.analysis.inference import InferenceResult
from llm_perf.systems.registry import family_of, full_name

Starter = Callable[[InferenceResult, int], list[str]]
"""Makes the words of a command."""

_WIDTH: Final = 77
_EVERYTHING: Final = 999
"""Layers that llama.cpp is told where all go to the GPU, as its users write it."""


def start_command(result: InferenceResult, context: int | None = None) -> str | None:
    """The command in lines that a shell takes for one; None where the family has none.

    ``context``: tokens of each sequence that the cache has room for; prompt and generation if None.
    """
    family = family_of(full_name(result.scenario))
    starter = None if family.server is None else STARTERS[family.server]
    return (
        None
        if starter is None
        else _in_lines(starter(result, context or result.scenario.workload.context_len))
    )


def _in_lines(words: list[str]) -> str:
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < _WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}")
    return " \\\n".join(lines)


def llama_server(result: InferenceResult, context: int) -> list[str]:
    """``llama-server`` with the layers, the experts and the cache where the prediction has them.

    ``-c`` is what all sequences keep together, ``-np`` how many these are.
    """
    scenario = result.scenario
    asked, work, model = scenario.offload, scenario.workload, scenario.model
    formats = scenario.dtype.formats
    kind = "F16" if formats is None else formats.name.upper()
    words = ["llama-server", f"-m {shlex.quote(model.name.rpartition('/')[2])}-{kind}.gguf"]
    words += [f"-c {work.batch_size * context}"]
    words += [f"-np {work.batch_size}"] if work.batch_size > 1 else []
    if not scenario.gpu.absent:
        layers = _EVERYTHING if asked.n_gpu_layers is None else min(asked.n_gpu_layers, _EVERYTHING)
        words.append(f"--n-gpu-layers {layers}")
    if asked.n_cpu_moe:
        words.append(f"--n-cpu-moe {min(asked.n_cpu_moe, model.num_layers)}")
    if asked.ubatch_size is not None:
        words += [f"--batch-size {max(asked.ubatch_size, 2048)}", f"--ubatch-size {asked.ubatch_size}"]
    if asked.kv_cache is not None and asked.kv_cache.gpu == 0:
        words.append("--no-kv-offload")
    stored = scenario.dtype.stored_kv_bits
    if stored < 16:
        kind = "q8_0" if stored > 8 else "q4_0"
        words += [f"--cache-type-k {kind}", f"--cache-type-v {kind}"]
    words += [f"--threads {asked.threads}"] if asked.threads is not None else []
    return words


def kt_kernel(result: InferenceResult, context: int) -> list[str]:
    """SGLang with kt-kernel, which computes the experts that the GPU does not hold."""
    scenario = result.scenario
    asked, work, host = scenario.offload, scenario.workload, scenario.host
    threads = asked.threads or host.sockets * (host.cores_per_socket or 1)
    words = [
        "python -m sglang.launch_server",
        f"--model {shlex.quote(scenario.model.name)}",
        f"--kt-cpuinfer {threads}",
        f"--kt-threadpool-count {host.sockets}",
        f"--kt-num-gpu-experts {asked.kt_num_gpu_experts or 0}",
        f"--context-length {context}",
        f"--max-running-requests {work.batch_size}",
    ]
    tp = scenario.parallelism.tp_size
    return [*words, f"--tensor-parallel-size {tp}"] if tp > 1 else words


STARTERS: Final[dict[str, Starter]] = {"llama-server": llama_server, "sglang with kt-kernel": kt_kernel}
"""Servers that a command is known for, by the name that a family's ``system.yaml`` says (``server``)."""
