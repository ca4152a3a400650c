"""From one run, published or scored, to the scenario that predicts it: the only place that knows how.

A :class:`Run` is what a source says about a run in one vocabulary; :func:`run_of` reads it off a published row, and
:func:`scenario_of` turns it into specs. Nothing here is a constant of a model of time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from calibrate.evidence.published import GPU_ALIASES, Machine, Measurement, measurements_of
from calibrate.evidence.stated_formats import checkpoint
from llm_perf.analysis.format_request import requested_dtype
from llm_perf.analysis.inference import InferenceResult
from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.analysis.run_facts import RunFacts
from llm_perf.config.dtype import DtypeConfig
from llm_perf.config.gpu import GPUConfig
from llm_perf.config.host import Disk, HostConfig
from llm_perf.config.loading import (
    described_hosts,
    get_gpu_config_by_name,
    get_host_config_by_name,
    get_model_config_by_name,
    resolve_name,
    usual_host,
)
from llm_perf.config.model import ModelConfig
from llm_perf.config.scenario import Scenario
from llm_perf.config.workload import Shares
from llm_perf.errors import SpecError
from llm_perf.systems import get_system
from llm_perf.systems.constants import load_constants
from llm_perf.systems.families import numbers, release_of
from llm_perf.systems.registry import family_of
from llm_perf.systems.stack_memory import budget_for


class NotStatedError(SpecError):
    """A source leaves out something without which no predictor could be asked about its run.

    Attributes:
        what: What it leaves out.
    """

    def __init__(self, measurement: Measurement, what: str) -> None:
        super().__init__(f"row {measurement.row_id} does not state {what}")
        self.what = what


_SAME_DISK: Final = 0.25
"""Stated rates that differ by no more are two statements of one disk."""

_NOT_STATED: Final = "not stated"
"""How the tables begin the name of a GPU that a source does not give."""

_UNKNOWN_MACHINE: Final = Machine(None, None, None)


@dataclass(frozen=True)
class Run:
    """Settings of one run. What is None is not stated, and the system's own choice.

    ``batch_size`` counts the sequences of the whole deployment. ``weights``, ``kv_cache`` and ``hidden`` are shares
    on GPU, CPU and disk. ``machine`` is the host as its source describes it. ``ubatch_tokens``: tokens of a prompt that one
    pass takes, where that was set; ``kv_format``: the cache's format, where the system takes its name. The last six are
    settings of a serving engine and of how it is called.
    """

    system: str
    model: str
    gpu: str
    batch_size: int
    prompt_len: int
    gen_len: int
    num_gpus: int = 1
    num_nodes: int | None = None
    tp: int = 1
    pp: int = 1
    ep: int = 1
    weight_bits: int = 16
    weight_group_size: int | None = None
    activation_bits: int = 16
    kv_bits: int = 16
    kv_group_size: int | None = None
    weights: tuple[float, float, float] | None = None
    kv_cache: tuple[float, float, float] | None = None
    hidden: tuple[float, float, float] | None = None
    gpu_batch_size: int | None = None
    num_gpu_batches: int | None = None
    micro_batches: int = 1
    pin_memory: bool | None = None
    overlap: bool | None = None
    cpu_attention: bool | None = None
    machine: Machine = _UNKNOWN_MACHINE
    weight_format: str | None = None
    prefix_hit_rate: float = 0.0
    shared_prefix: bool = False
    ubatch_tokens: int | None = None
    kv_format: str | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    gpu_memory_utilization: float | None = None
    enforce_eager: bool = False
    fused_experts: bool | None = None
    in_process: bool = False


# -- from a published row -----------------------------------------------------------------------------------


def run_of(measurement: Measurement) -> Run:
    """The settings of a published row.

    Raises:
        NotStatedError: the source leaves out what a prediction cannot do without.
        SpecError: it ran on CPUs alone.
    """
    policy, gpu = measurement.policy, _gpu_name(measurement)
    pp = _stages(measurement)
    options = get_system(measurement.system).options
    micro_batches = pp if "num_gpu_batches" in options else 1  # such a system cuts a batch for its stages
    return Run(
        system=versioned(measurement.system, measurement.version),
        model=measurement.model,
        gpu=gpu,
        batch_size=_batch_size(measurement),
        prompt_len=max(measurement.prompt_len, 1),
        gen_len=max(measurement.gen_len, 1),
        num_gpus=measurement.num_gpus,
        num_nodes=measurement.num_nodes,
        tp=measurement.tp or 1,
        pp=pp,
        weight_bits=family_of(measurement.system).weight_bits or measurement.weight_bits,
        weight_group_size=measurement.weight_group_size,
        activation_bits=_activation_bits(measurement),
        kv_bits=measurement.kv_bits or 16,
        kv_group_size=measurement.kv_group_size,
        weights=_weights(measurement),
        kv_cache=policy.kv_cache or _cache(measurement),
        hidden=policy.hidden,
        gpu_batch_size=policy.gpu_batch_size,
        num_gpu_batches=policy.num_gpu_batches,
        micro_batches=micro_batches,
        pin_memory=policy.pin_memory,
        overlap=policy.overlap,
        cpu_attention=policy.cpu_attention,
        machine=measurement.machine,
    )


def versioned(family: str, version: str | None) -> str:
    """``FAMILY@VERSION`` where a file covers the version, else the family's newest."""
    if version is None or not numbers(version):
        return family
    try:
        covered = release_of(family, version)[1]
    except SpecError:  # one that has no versions to choose from
        return family
    return f"{family}@{version}" if covered else family


def _gpu_name(measurement: Measurement) -> str:
    if measurement.num_gpus == 0:
        raise SpecError(f"row {measurement.row_id} ran on CPUs only")
    if measurement.gpu.startswith(_NOT_STATED):
        raise NotStatedError(measurement, "its GPU")
    # The row's notes say that an H100 of the PCIe class follows from its log of products.
    name = GPU_ALIASES.get(measurement.gpu, measurement.gpu)
    return "H100-PCIe-80GB" if name == "H100 (inferred)" else name


def _batch_size(measurement: Measurement) -> int:
    if family_of(measurement.system).batch_per_client and measurement.stated_batch_size is not None:
        clients = get_system(measurement.system).file.value("parallel_clients")
        return int(clients) * measurement.stated_batch_size
    if measurement.batch_size is None:
        raise NotStatedError(measurement, "its batch size")
    return measurement.batch_size


def _stages(measurement: Measurement) -> int:
    if family_of(measurement.system).more_gpus == "stages":
        return max(measurement.num_gpus, 1)
    return measurement.pp or 1


def _activation_bits(measurement: Measurement) -> int:
    """8-bit floating-point weights multiply 8-bit activations; other narrow weights are widened first."""
    return measurement.activation_bits or 16


def _weights(measurement: Measurement) -> tuple[float, float, float] | None:
    """Shares of the weights per tier: the policy's, or one tier, less what the source says stays on the GPU."""
    policy, tier = measurement.policy, measurement.weight_tier
    family, options = family_of(measurement.system), get_system(measurement.system).options
    if policy.weights is not None and measurement.weight_tier != "gpu" and "percent" in options:
        return policy.weights
    if family.beyond_host_memory is not None and tier == "nvme" and policy.weights is None:
        return family.beyond_host_memory
    if tier is None:
        if family.more_gpus == "replicas" and measurement.num_gpus > 1:
            raise NotStatedError(measurement, "where the weights were")
        return None
    resident = 0.0
    if policy.parameters_on_gpu is not None:
        resident = min(policy.parameters_on_gpu / measurement.model_params, 1.0)
    if tier == "gpu":
        return (1.0, 0.0, 0.0)
    return (resident, 1 - resident, 0.0) if tier == "cpu" else (resident, 0.0, 1 - resident)


def _cache(measurement: Measurement) -> tuple[float, float, float] | None:
    return None if measurement.kv_tier is None else _one_tier(measurement.kv_tier)


def _one_tier(tier: str) -> tuple[float, float, float]:
    return (float(tier == "gpu"), float(tier == "cpu"), float(tier == "nvme"))


# -- to a scenario ------------------------------------------------------------------------------------------


def scenario_of(run: Run, host: str | None = None) -> Scenario:
    """The scenario that predicts a run; on the named ``host`` where the run's machine is not to decide.

    Raises:
        SpecError: a name is unknown, or the system cannot do what the run did.
    """
    inputs = inputs_of(run)
    machine = (
        host_of(run.machine, get_gpu_config_by_name(run.gpu), -(-run.num_gpus // (run.num_nodes or 1)))
        if host is None
        else get_host_config_by_name(host)
    )
    nodes = run.num_nodes or -(-run.num_gpus // machine.gpus_per_node)
    return build_scenario(inputs, replace(_facts(run), host=machine, num_nodes=nodes))


def inputs_of(run: Run) -> InferenceInputs:
    """The question to ``llm-perf infer`` that a run asks, as far as flags can say it.

    Of a system that knows no other overlap the tables' ``overlap`` is its prefetching of layers.

    Raises:
        SpecError: the system is unknown, or a setting is out of range.
    """
    system = get_system(run.system)
    prefetches = "prefetch" in system.options
    tp, pp = (1, 1) if system.family.more_gpus == "replicas" else (run.tp, run.pp)
    return InferenceInputs(
        model=run.model,
        gpu=run.gpu,
        system=run.system,
        batch_size=run.batch_size,
        prompt_len=run.prompt_len,
        gen_len=run.gen_len,
        prefix_hit_rate=run.prefix_hit_rate,
        shared_prefix=run.shared_prefix,
        distinct_prompts=_distinct_prompts(run),
        tp_size=tp,
        pp_size=pp,
        dp_size=max(run.num_gpus // (tp * pp), 1),
        ep_size=run.ep,
        weight_format=run.weight_format if _checkpoint(run) is None else None,
        weight_bits=run.weight_bits if run.weight_format is None else None,
        activation_bits=run.activation_bits if run.weight_format is None else 16,
        kv_bits=run.kv_bits if run.kv_format is None else None,
        kv_format=run.kv_format,
        max_num_batched_tokens=run.max_num_batched_tokens,
        max_num_seqs=run.max_num_seqs,
        gpu_memory_utilization=run.gpu_memory_utilization,
        enforce_eager=run.enforce_eager,
        pin_memory=_pins(run),
        prefetch=run.overlap if prefetches else None,
        overlap=None if prefetches else run.overlap,
        gpu_batch_size=run.gpu_batch_size if "gpu_batch_size" in system.options else None,
        num_gpu_batches=run.num_gpu_batches if "num_gpu_batches" in system.options else None,
        micro_batches=run.micro_batches,
        allow_long_context=True,  # the tables print what ran
    )


def _checkpoint(run: Run) -> ModelConfig | None:
    """The model as its conversion left it, where that is not one format for all matrices."""
    if run.weight_format is None:
        return None
    model = get_model_config_by_name(run.model)
    found = checkpoint(model, run.weight_format)
    return None if found is model else found


def _distinct_prompts(run: Run) -> int | None:
    """Prompts of the batch that differ where the version is measured by a benchmark of its own that repeats some."""
    device = get_gpu_config_by_name(run.gpu).device
    repeated = load_constants(run.system, device).benchmark_prompts
    return None if repeated is None else min(repeated, run.batch_size)


def _facts(run: Run) -> RunFacts:
    """What a run's source says and no flag can."""
    system = get_system(run.system)
    kv_cache = run.kv_cache
    if kv_cache is None and system.family.cache_on == "gpu":
        kv_cache = (1.0, 0.0, 0.0)
    attention: Literal["gpu", "cpu"] | None = None
    if run.cpu_attention is not None:
        attention = "cpu" if run.cpu_attention else "gpu"
    return RunFacts(
        model=_checkpoint(run),
        weights=_shares(run.weights),
        kv_cache=_shares(kv_cache),
        activations=_shares(run.hidden) if "percent" in system.options else None,
        attention_device=attention,
        quantised=run.weight_bits < run.activation_bits,
        group_sizes=(run.weight_group_size, run.kv_group_size) if run.weight_format is None else None,
        constants=_constants(run),
    )


def _constants(run: Run) -> tuple[tuple[str, float], ...]:
    """Constants of the system that a run set itself."""
    own = {} if run.ubatch_tokens is None else {"ubatch_tokens": float(run.ubatch_tokens)}
    if run.fused_experts is False:
        own["fused_experts_us"] = 0.0
    if run.in_process:
        own["server_ms"] = 0.0
    return tuple(own.items())


def host_of(machine: Machine, gpu: GPUConfig, gpus_per_node: int = 1) -> HostConfig:
    """The bundled host that is the machine, else one that so many GPUs are usually in, with a disk as fast as stated.

    A stated rate other than the bundled host's scales the rates of all paths to the disk, unless the two are so near
    that they are two statements of one disk (the data sheet's 2.0 GB/s and the 1.6 that the same users measured).

    Raises:
        SpecError: the GPU names no usual host.
    """
    described = machine.host or ""
    name = next((host for phrase, host in described_hosts().items() if phrase in described), None)
    found = usual_host(gpu, gpus_per_node) if name is None else get_host_config_by_name(name)
    host = _as_fast_as(described, found)
    stated = machine.disk_read_gb_per_s
    if host.disk is None or stated is None:
        return host
    if abs(stated / host.disk.stated_read_gb_per_s - 1) <= _SAME_DISK:
        return host
    return host.replace(disk=_scaled_disk(host.disk, stated))


def _as_fast_as(described: str, host: HostConfig) -> HostConfig:
    """The host with the time scale of the processor that a source names, where that is known and one that ships."""
    try:
        scale = (
            get_host_config_by_name(resolve_name("host", described)).host_time_scale if described else None
        )
    except SpecError:
        return host
    return host if scale is None else host.replace(host_time_scale=scale)


def _scaled_disk(disk: Disk, stated_gb_per_s: float) -> Disk:
    factor = stated_gb_per_s / disk.stated_read_gb_per_s
    reads = {
        path: rate.replace(gb_per_s=rate.gb_per_s * factor)
        for path in ("direct_read", "buffered_read", "mmap_read")
        if (rate := getattr(disk, path)) is not None
    }
    return disk.replace(stated_read_gb_per_s=stated_gb_per_s, **reads)


def dtype_of(run: Run) -> DtypeConfig:
    """Widths of a run's weights, activations, embeddings and cache."""
    inputs = inputs_of(run)
    model = _checkpoint(run) or get_model_config_by_name(run.model)
    return requested_dtype(inputs, get_system(run.system), model, _facts(run))


def _pins(run: Run) -> bool:
    """Whether host tensors are page-locked: as stated, else as other rows of this model on this machine, else yes.

    Benchmark suites set it per model: FlexGen's runs OPT-175B with --pin-weight 0 wherever it says so at all.
    """
    if run.pin_memory is not None:
        return run.pin_memory
    rows = measurements_of(run.system, run.model)
    stated = {row.policy.pin_memory for row in rows if row.machine.host == run.machine.host} - {None}
    return stated == {True} if len(stated) == 1 else True


def _shares(parts: tuple[float, float, float] | None) -> Shares | None:
    if parts is None:
        return None
    gpu, cpu, _ = (round(part, 9) for part in parts)
    return Shares(gpu=gpu, cpu=cpu, nvme=max(round(1 - gpu - cpu, 9), 0.0))


def peak_memory_bytes(result: InferenceResult) -> float:
    """Peak GPU memory as the system's published figures count it (`llm_perf.systems.families.Family.memory_figure`)."""
    scenario, gpu = result.scenario, result.memory.gpu
    figure = family_of(scenario.system).memory_figure
    if figure == "device":
        budget = budget_for(scenario)
        sets_aside = budget is not None and budget.profiled
        return float(gpu.capacity_bytes if sets_aside else gpu.total_bytes)
    return result.peak_gpu_memory_bytes * (scenario.parallelism.num_gpus if figure == "allocators" else 1)
