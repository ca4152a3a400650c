"""One published run in the project's own terms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from llm_perf.systems.families import Family

Tier = Literal["gpu", "cpu", "nvme"]
ThroughputKind = Literal["output_per_total", "output_per_decode", "prompt_per_prefill", "none"]

_TIMES = ("prefill_latency_s", "decode_latency_s", "latency_per_token_s", "total_latency_s")
_QUANTITIES = (*_TIMES, "throughput_tokens_per_s", "peak_gpu_memory_bytes")


@cache
def _family(system: str) -> Family | None:
    """What a system says about itself; None for one that only the table has."""
    # Imported late: the systems take ten times as long to import as the table takes to read.
    from llm_perf.systems.families import declaration, family_names

    return declaration(system) if system in family_names() else None


@dataclass(frozen=True)
class Source:
    """Where a row was read.

    Attributes:
        repo: Public repository, or ``paper``.
        path: File in it, or arXiv number.
        commit: Commit or branch that was read; None for a paper.
        table: Table, figure or log in that file.
    """

    repo: str
    path: str
    commit: str | None
    table: str

    def __str__(self) -> str:
        return f"{self.repo}, {self.path}, {self.table}"


@dataclass(frozen=True)
class Machine:
    """The host of a run, as far as its source describes it.

    Attributes:
        host: Processor or machine, as printed.
        memory_gb: Memory, 1e9 bytes.
        disk_read_gb_per_s: Read rate that the source states for the disk, 1e9 bytes/s.
    """

    host: str | None
    memory_gb: float | None
    disk_read_gb_per_s: float | None


@dataclass(frozen=True)
class Policy:
    """How a run offloads, beyond the tiers. What the source does not state, and nothing follows from, is None.

    Attributes:
        weights: Shares of the weights on GPU, CPU and disk.
        kv_cache: The same of the KV cache.
        hidden: The same of the hidden states.
        gpu_batch_size: FlexGen's sequences per kernel call.
        num_gpu_batches: FlexGen's such batches per block.
        pin_memory: Whether host tensors are page-locked.
        overlap: Whether copies and computation overlap; for ZeRO-Inference, whether it prefetches.
        cpu_attention: Whether attention over a cache in host memory runs on the CPU.
        parameters_on_gpu: Parameters that stay on the GPU, where the source counts them.
    """

    weights: tuple[float, float, float] | None
    kv_cache: tuple[float, float, float] | None
    hidden: tuple[float, float, float] | None
    gpu_batch_size: int | None
    num_gpu_batches: int | None
    pin_memory: bool | None
    overlap: bool | None
    cpu_attention: bool | None
    parameters_on_gpu: float | None


@dataclass(frozen=True)
class Measurement:
    """One published inference run. What the source does not state, and nothing follows from, is None.

    Attributes:
        row_id: Number of the row in the table.
        source: Where it was read.
        trust: Mark and reason; the mark is A, A-, B, B- or C (`trust_grade`).
        status: ``ok``, ``OOM``, ``OOM-host``, ``doubtful``, or ``doubtful-e2e`` (prefill and time per token
            are good, the total is not).
        suspect: Why the row contradicts others or itself; None for most.
        system: Canonical name, such as ``zero_inference``.
        system_version: As printed.
        version: The version of the system that the table means; None where it says none.
        model: Canonical name, such as ``facebook/opt-175b``.
        model_params: Parameters, counted from the model's shapes.
        gpu: As the source names it; `calibrate.evidence.published.GPU_ALIASES` maps it to a spec.
        num_gpus: GPUs of the whole deployment; 0 for a run on CPUs.
        num_nodes: Machines.
        tp: Tensor-parallel size.
        pp: Pipeline-parallel size.
        weight_bits: Bits per weight, scales not counted.
        activation_bits: Bits per activation.
        kv_bits: Bits per cached element, scales not counted.
        weight_group_size: Weights that share a scale; None where none do or the format does not say.
        kv_group_size: The same of the cache.
        stated_batch_size: Sequences in the source's own count: of one GPU, of one client, of a micro-batch.
        batch_size: Sequences of the whole deployment.
        prompt_len: Tokens per prompt; 0 where only decode was measured, from an empty context.
        gen_len: Tokens generated per sequence; 0 where only prefill was measured.
        stated_weight_tier: Slowest tier that holds a part of the weights, as the source says.
        stated_kv_tier: The same of the KV cache.
        policy: How it offloads.
        machine: Where it ran.
        prefill_latency_s: Time to the first token, in seconds.
        decode_latency_s: Time from the first token to the last, in seconds.
        latency_per_token_s: Time of one decode step of the whole batch, in seconds.
        total_latency_s: Prefill and decode together, in seconds.
        throughput_tokens_per_s: Tokens per second of the whole deployment, by the source's own definition.
        throughput_digits: Significant digits printed; a single digit may stand for a range of a factor of 3.
        throughput_rounding: Half a unit of the last printed digit, as a fraction of the printed throughput.
        throughput_definition: The source's definition in words.
        throughput_kind: The same as a ratio: generated tokens over total or over decode time, prompt tokens
            over prefill time, or none.
        peak_gpu_memory_bytes: Peak GPU memory, as the source's tool counts it.
        derived: Names of the fields above that follow from others and were not measured.
        notes: What else a reader has to know.
    """

    row_id: int
    source: Source
    trust: str
    status: str
    suspect: str | None
    system: str
    system_version: str | None
    model: str
    model_params: float
    gpu: str
    num_gpus: int
    num_nodes: int | None
    tp: int | None
    pp: int | None
    weight_bits: int
    activation_bits: int | None
    kv_bits: int | None
    weight_group_size: int | None
    kv_group_size: int | None
    stated_batch_size: int | None
    batch_size: int | None
    prompt_len: int
    gen_len: int
    stated_weight_tier: Tier | None
    stated_kv_tier: Tier | None
    policy: Policy
    machine: Machine
    prefill_latency_s: float | None
    decode_latency_s: float | None
    latency_per_token_s: float | None
    total_latency_s: float | None
    throughput_tokens_per_s: float | None
    throughput_digits: int
    throughput_rounding: float
    throughput_definition: str
    throughput_kind: ThroughputKind
    peak_gpu_memory_bytes: float | None
    derived: frozenset[str]
    notes: str
    version: str | None = None

    @property
    def weight_tier(self) -> Tier | None:
        """Slowest tier that holds a part of the weights: as the source says, else where the system usually has them."""
        family = _family(self.system)
        if self.stated_weight_tier is not None or family is not None:
            return self.stated_weight_tier or (None if family is None else family.usual_weights)
        return "cpu" if self.num_gpus == 0 else None

    @property
    def kv_tier(self) -> Tier | None:
        """Slowest tier that holds a part of the KV cache: as the source says, else where it usually is."""
        if self.stated_kv_tier is not None:
            return self.stated_kv_tier
        family = _family(self.system)
        if self.weight_tier == "gpu" or (family is not None and family.cache_on == "gpu"):
            return "gpu"
        return "cpu" if self.num_gpus == 0 else None

    @property
    def trust_grade(self) -> str:
        """The mark alone: A, A-, B, B- or C."""
        return self.trust.partition(":")[0]

    @property
    def latency_was_measured(self) -> bool:
        """Whether the source states a time; else every time here follows from a throughput."""
        return any(getattr(self, time) is not None and time not in self.derived for time in _TIMES)

    def quantities(self) -> dict[str, float]:
        """What is known, in the project's own terms, so that a prediction can be compared with it.

        Returns:
            Any of prefill_latency_s, decode_latency_s, latency_per_token_s, total_latency_s,
            throughput_tokens_per_s (only where it is batch_size x gen_len / total latency) and
            peak_gpu_memory_bytes. `derived` says which of them follow from others.
        """
        unusable = set()
        if self.status == "doubtful-e2e":
            unusable |= {"total_latency_s", "throughput_tokens_per_s"}
        if self.throughput_kind != "output_per_total":
            unusable.add("throughput_tokens_per_s")
        values = {name: getattr(self, name) for name in _QUANTITIES if name not in unusable}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class TrainingMeasurement:
    """One published training run. What the source does not state is None.

    Attributes:
        row_id: Number of the row in the table.
        source: Where it was read.
        trust: Mark and reason, as in `Measurement`.
        status: ``ok`` for all rows today.
        suspect: Why the row contradicts others; None for most.
        framework: As the source names it, with its version.
        model: As the source names it.
        num_params: Parameters.
        num_layers: Layers.
        hidden_size: Width in elements.
        num_heads: Query heads.
        seq_len: Tokens per sequence.
        gpu: As the source names it; `calibrate.evidence.published.GPU_ALIASES` maps it to a spec.
        num_gpus: GPUs in all.
        tp: Tensor-parallel size.
        pp: Pipeline-parallel size.
        dp: Data-parallel size.
        vp: Virtual pipeline stages per GPU.
        cp: Context-parallel size.
        ep: Expert-parallel size.
        micro_batch_size: Sequences per GPU and step.
        global_batch_size: Sequences per optimizer step, over all GPUs.
        grad_accumulation: Micro-batches per optimizer step.
        precision: Number format, as printed.
        sharding: Sharding strategy, as printed.
        recompute: Activation recomputation: ``none``, ``full``, ``selective+…``.
        iteration_time_s: One optimizer step, in seconds.
        throughput_tokens_per_s: Trained tokens per second, all GPUs together.
        throughput_tokens_per_s_per_gpu: The same per GPU.
        model_flops_per_s_per_gpu: FLOP/s without recomputation, by the source's own formula.
        mfu: Fraction of the peak that the model's FLOPs reach.
        hfu: The same with recomputed FLOPs counted.
        peak_flops_per_s: Peak that the source divides by, FLOP/s per GPU.
        metric_definition: How the source gets its figures.
        derived: Names of the fields above that follow from others and were not measured.
        notes: What else a reader has to know.
    """

    row_id: int
    source: Source
    trust: str
    status: str
    suspect: str | None
    framework: str
    model: str
    num_params: float | None
    num_layers: int | None
    hidden_size: int | None
    num_heads: int | None
    seq_len: int
    gpu: str
    num_gpus: int | None
    tp: int | None
    pp: int | None
    dp: int | None
    vp: int | None
    cp: int | None
    ep: int | None
    micro_batch_size: int | None
    global_batch_size: int | None
    grad_accumulation: int | None
    precision: str | None
    sharding: str | None
    recompute: str | None
    iteration_time_s: float | None
    throughput_tokens_per_s: float | None
    throughput_tokens_per_s_per_gpu: float | None
    model_flops_per_s_per_gpu: float | None
    mfu: float | None
    hfu: float | None
    peak_flops_per_s: float | None
    metric_definition: str
    derived: frozenset[str]
    notes: str
