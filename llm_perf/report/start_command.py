"""The command that starts an engine, in the engine's own flags.

An engine whose model lies on its GPUs is started as the question says, by its family's data (`start_command`); one that
divides a model between GPU and CPU as the answer says, by one function per server (`divided_start_command`).
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable
from typing import Final

from llm_perf.analysis.inference import InferenceResult
from llm_perf.analysis.request import InferenceInputs
from llm_perf.config.loading import checkpoint_of
from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.report.command import in_lines
from llm_perf.systems.families import declaration, find
from llm_perf.systems.registry import family_of, full_name

Starter = Callable[[InferenceResult, int, str], list[str]]
"""Makes the words of a command from a prediction, tokens of context and the checkpoint."""

_EVERYTHING: Final = 999
"""Layers that llama.cpp is told where all go to the GPU, as its users write it."""


def start_command(inputs: InferenceInputs, pool: int | None = None) -> str | None:
    """The command in lines of less than 80 characters; None where it is not known how the engine is started.

    What an engine takes from a checkpoint, such as 4-bit weights, is said behind a ``#``.

    Args:
        inputs: The deployment.
        pool: 0 for an engine that only reads prompts, 1 for one that generates what such engines have read.
    """
    if inputs.system is None:
        return None
    start = declaration(find(inputs.system)[0]).start
    if start is None:
        return None
    checkpoint, notes = _checkpoint(inputs.model)
    words = [start.command.format(model=shlex.quote(checkpoint))]
    for name, flag in start.flags.items():
        value = getattr(inputs, name)
        if value is True:
            words.append(flag)
        elif value is not None and (name.startswith(("max_", "gpu_")) or value > 1):
            words.append(f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}")
    if pool is not None:
        if start.pools is None:
            return None
        words.append(start.pools[pool])
    if inputs.weight_format is None and (inputs.quant_bits or 16) < 16:
        notes.append(f"# weights in {inputs.quant_bits} bits: give a checkpoint that has them so")
    for stated, known, what in (
        (inputs.weight_format, start.weight_formats, "weights"),
        (inputs.kv_format, start.kv_formats, "cache"),
    ):
        if stated in (None, "auto"):
            continue
        if stated in known:
            words.append(known[stated])
        else:
            notes.append(f"# {what} in {stated}: give a checkpoint that has them so")
    return "\n".join([*notes, in_lines(words)])


def _checkpoint(model: str) -> tuple[str, list[str]]:
    """The checkpoint that was asked for, and what to say where the name tells its shapes only."""
    try:
        name, said = checkpoint_of(model)
    except SpecError:
        return model, []
    note = f"{model} has the shapes of {name}: give the checkpoint that you mean"
    return name, [] if said else textwrap.wrap(
        note, 78, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def divided_start_command(result: InferenceResult, asked: str, context: int | None = None) -> str | None:
    """The command in lines that a shell takes for one; None where the family has none.

    Args:
        result: The prediction.
        asked: The model's name as it was asked for.
        context: Tokens of each sequence that the cache has room for; prompt and generation if None.
    """
    family = family_of(full_name(result.scenario))
    starter = None if family.server is None else STARTERS[family.server]
    if starter is None:
        return None
    checkpoint, notes = _checkpoint(asked)
    words = starter(result, context or result.scenario.workload.context_len, checkpoint)
    return "\n".join([*notes, in_lines(words)])


def llama_server(result: InferenceResult, context: int, checkpoint: str) -> list[str]:
    """``llama-server`` with the layers, the experts and the cache where the prediction has them.

    ``-c`` is what all sequences keep together, ``-np`` how many these are.
    """
    scenario = result.scenario
    asked, work, model = scenario.offload, scenario.workload, scenario.model
    formats = scenario.dtype.formats
    kind = "F16" if formats is None else formats.name.removesuffix("_gguf").upper()
    words = ["llama-server", f"-m {shlex.quote(checkpoint.rpartition('/')[2])}-{kind}.gguf"]
    words += [f"-c {work.batch_size * context}"]
    words += [f"-np {work.batch_size}"] if work.batch_size > 1 else []
    if not scenario.gpu.absent:
        layers = _EVERYTHING if asked.n_gpu_layers is None else min(asked.n_gpu_layers, _EVERYTHING)
        words.append(f"--n-gpu-layers {layers}")
    if asked.n_cpu_moe:
        words.append(f"--n-cpu-moe {min(asked.n_cpu_moe, model.num_layers)}")
        words += _tensor_split(scenario)
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


def _tensor_split(scenario: Scenario) -> list[str]:
    """How many layers each of several GPUs takes: dealt out by number, the last would hold all experts that are on GPUs."""
    from llm_perf.systems import system_of
    from llm_perf.systems.stacks.llama_cpp import offload

    gpus = scenario.parallelism.pp_size
    if gpus == 1 or scenario.gpu.absent:
        return []
    one = offload.of_one_gpu(scenario)
    division = offload.division_of(one, system_of(one).constants(one))
    dealt = offload.layers_per_gpu(one, division, gpus)
    return ["--tensor-split " + ",".join(str(part.layers) for part in dealt)]


def kt_kernel(result: InferenceResult, context: int, checkpoint: str) -> list[str]:
    """SGLang with kt-kernel, which computes the experts that the GPU does not hold.

    Its own chunks of prompts, 2,048 tokens on small cards, would move weights once for each: they are as long as predicted.
    """
    scenario = result.scenario
    asked, work, host = scenario.offload, scenario.workload, scenario.host
    threads = asked.threads or host.sockets * (host.cores_per_socket or 1)
    words = [
        "python -m sglang.launch_server",
        f"--model {shlex.quote(checkpoint)}",
        f"--kt-cpuinfer {threads}",
        f"--kt-threadpool-count {host.sockets}",
        f"--kt-num-gpu-experts {asked.kt_num_gpu_experts or 0}",
        f"--context-length {context}",
        f"--chunked-prefill-size {work.prefill_chunk or work.prompt_len}",
        f"--max-running-requests {work.batch_size}",
    ]
    from llm_perf.systems import system_of

    copied_from = system_of(scenario).constants(scenario)["copy_min_tokens"]
    if copied_from <= work.prompt_len:
        words.append(f"--kt-gpu-prefill-token-threshold {copied_from:.0f}")
    tp = scenario.parallelism.tp_size
    return [*words, f"--tensor-parallel-size {tp}"] if tp > 1 else words


STARTERS: Final[dict[str, Starter]] = {"llama-server": llama_server, "sglang with kt-kernel": kt_kernel}
"""Servers that a command is known for, by the name that a family's ``system.yaml`` says (``server``)."""
