"""``run_generation`` of DeepSpeedExamples, and the same with its result: ``measure_generation``."""

from __future__ import annotations

from typing import Any

from calibrate.probe.process import signals_interrupt
from calibrate.run.settings import RunSettings
from llm_perf.errors import SpecError


def run_generation(
    model_name: str,
    batch_size: int,
    prompt_len: int,
    gen_len: int,
    cpu_offload: bool,
    disk_offload: bool,
    offload_dir: str,
    num_nodes: int,
    num_gpus_per_node: int,
    dummy: bool,
    output_file: str,
    verbose: int,
    kv_offload: bool,
    quant_bits: int,
    quant_group_size: int,
    pin_kv_cache: bool,
    async_kv_offload: bool,
    loops: int,
    **extras: Any,
) -> None:
    """Execute text generation with a ZeRO-partitioned model and record benchmarks.

    The parameters are seed 001's, in its order. The record goes to the benchmark log and to a JSON file.

    Args:
        model_name: A bundled model, a folder with a ``config.json``, or a hub id; "auto" takes one that fits the
            device and ends within two minutes.
        batch_size: Sequences over all ranks.
        prompt_len: Prompt tokens per sequence.
        gen_len: Tokens to generate per sequence.
        cpu_offload: Offload weights to CPU memory.
        disk_offload: Offload weights to NVMe.
        offload_dir: Folder for swap files and dummy weights.
        num_nodes: Machines.
        num_gpus_per_node: Ranks per machine; where no launcher started this process, they are started here.
        dummy: Random weights.
        output_file: Log file; "auto" names it after the configuration.
        verbose: 0 silent, 1 metrics, 2 metrics and generated text.
        kv_offload: Offload the KV cache to CPU memory.
        quant_bits: 4, 8 or 16.
        quant_group_size: Weights per quantisation group.
        pin_kv_cache: Page-locked memory for the offloaded cache.
        async_kv_offload: Non-blocking copies for it.
        loops: Timed repeats.
        **extras: Further fields of ``RunSettings``: dtype, device, warmup, pin_memory, use_gds, runs_dir, ….

    Raises:
        LLMPerfError: bad settings, missing packages, a machine that is too small, or a run that failed.
    """
    names = RunSettings._positional
    given = locals()
    result = measure(RunSettings(**{name: given[name] for name in names}, **extras))
    if result is not None:
        from calibrate.run.report import print_result

        print_result(result, verbose)


def measure_generation(*arguments: Any, **fields: Any) -> dict[str, Any] | None:
    """Like ``run_generation``, silent, and returns what was measured: the object of ``calibrate --run --json``.

    Returns:
        The result; None in all ranks but the first.

    Raises:
        LLMPerfError: as ``run_generation``.
    """
    settings = RunSettings(*arguments, **fields)
    return measure(settings)


def measure(settings: RunSettings) -> dict[str, Any] | None:
    """Run what the settings say, as one of a launcher's ranks or with ranks of its own.

    Raises:
        LLMPerfError: as ``run_generation``.
    """
    from calibrate.probe.extras import require_extra
    from calibrate.run.default_model import AUTO
    from calibrate.run.model_config import is_embedded

    require_extra("llm-perf calibrate run")
    if settings.model_name == AUTO or is_embedded(settings.model_name):
        settings = settings.replace(dummy=True)  # there are no real weights to be had
    with signals_interrupt():
        return _measure(settings)


def measure_fields(fields: dict[str, Any], hostfile: str | None = None) -> dict[str, Any] | None:
    """``measure`` for the fields of ``RunSettings``, on the hosts of a file where there is one.

    Raises:
        LLMPerfError: as ``run_generation``.
    """
    if hostfile is None:
        return measure(RunSettings(**fields))
    from calibrate.probe.extras import require_extra
    from calibrate.run.hosts import measure_on_hosts

    require_extra("llm-perf calibrate run")
    with signals_interrupt():
        return measure_on_hosts(fields, hostfile, measure)


def _measure(settings: RunSettings) -> dict[str, Any] | None:
    from calibrate.probe.ranks import launched, this_rank

    if not launched() and settings.ranks > 1:
        from calibrate.run.launch import launch_ranks

        if settings.num_nodes > 1:
            raise SpecError("several nodes need --hostfile, or a launcher (torchrun, deepspeed) on each")
        return launch_ranks(settings)
    rank = this_rank()
    if rank.world_size > 1:
        settings = settings.replace(num_nodes=rank.nodes, num_gpus_per_node=rank.local_world_size)
    from calibrate.run.session import run_session

    return run_session(settings, rank)
