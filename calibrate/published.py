"""Published measurements that ship with the project, and the one that is nearest to a prediction.

The tables are ``measurements/published_inference.csv`` and ``published_training.csv``; the README beside
them says what each column means, how each source defines its throughput and how far it is to be trusted.
Reading brings the rows to one vocabulary: seconds, bytes, tokens of the whole deployment, canonical names.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Literal, NoReturn, TypeVar, overload

from llm_perf.errors import SpecError, bad_value

__all__ = [
    "GPU_ALIASES",
    "MAX_DISTANCE",
    "SYSTEM_ALIASES",
    "Asked",
    "Machine",
    "Measurement",
    "Policy",
    "Source",
    "TrainingMeasurement",
    "distance",
    "load_measurements",
    "measurements_of",
    "nearest_measurement",
    "parse_inference",
    "parse_training",
]

Tier = Literal["gpu", "cpu", "nvme"]
ThroughputKind = Literal["output_per_total", "output_per_decode", "prompt_per_prefill", "none"]
T = TypeVar("T")

SYSTEM_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "deepspeed-zero-inference": "zero_inference",
        "vllm (splitwise profile)": "vllm",
        "tensorrt-llm": "tensorrt_llm",
        "gpt-fast": "gpt_fast",
        "llama.cpp": "llama_cpp",
        "lia (cpu-gpu cooperative)": "lia",
    }
)
"""What the tables call a system, and what the project calls it; names not listed are the same in both."""

GPU_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        # gpt-fast's board: 330 W is less than an SXM board may draw (400 W) and more than a PCIe one (300 W).
        "A100-80GB (330W limit)": "A100-SXM-80GB",
        "a100_40gb": "A100-SXM-40GB",
        "a100_80gb": "A100-SXM-80GB",
        "A100-SXM-80GB (Selene)": "A100-SXM-80GB",
        "A100-SXM-80GB (Selene, DGX A100, 8x HDR IB)": "A100-SXM-80GB",
        "DGX-H100": "H100-SXM-80GB",
        "DGX-B200": "B200-180GB",
        "DGX-B300": "B300-SXM",
        "DGX-GB200": "GB200-192GB",
        "DGX-GB300": "GB300",
    }
)
"""What the tables call a GPU, and the spec that it is.

A GPU that the source does not name for sure ("H100 (inferred)"), half a board and mixed boards have no spec,
so they are nobody's neighbour.
"""

_MODEL_ALIASES = {"llm-analysis/test-13b (GPT-13B)": "llm-analysis/test-13b"}

# Bits of an element without its scales; the CSV keeps the format's full name.
_BITS: Mapping[str, int | None] = {
    "": None,
    "fp16": 16,
    "bf16": 16,
    "F16": 16,
    "fp8": 8,
    "int8": 8,
    "int4-g32": 4,
    "int4-g64": 4,
    "int4-gptq-g128": 4,
    "int4-gptq-g128-actorder": 4,
    "int4-gptq-g32-actorder": 4,
    "Q4_K_M": 4,
}
_KINDS: Mapping[str, ThroughputKind] = {
    "output_per_total": "output_per_total",
    "output_per_decode": "output_per_decode",
    "prompt_per_prefill": "prompt_per_prefill",
    "none": "none",
}
_STATUSES = {status: status for status in ("ok", "OOM", "OOM-host", "doubtful", "doubtful-e2e")}
_TIERS: Mapping[str, Tier] = {  # a share on a slower tier sets the time, so the slowest that is used counts
    "gpu": "gpu",
    "cpu": "cpu",
    "gpu+cpu": "cpu",
    "nvme": "nvme",
    "disk": "nvme",
    "cpu+disk": "nvme",
}
_FLAGS: Mapping[str, bool | None] = {"0": False, "1": True, "": None}
_KV_TIERS: Mapping[str, Tier | None] = {"0": "gpu", "1": "cpu", "": None}
_HOLDS_WEIGHTS_ON_GPU = frozenset(
    {"accelerate", "exllama", "fastertransformer", "gpt_fast", "llama_cpp", "petals", "tensorrt_llm", "vllm"}
)
_HOLDS_WEIGHTS_ON_CPU = frozenset({"ipex", "lia"})
_KEEPS_CACHE_ON_GPU = frozenset({"accelerate", "zero_inference"})  # unless told otherwise
_TIMES = ("prefill_latency_s", "decode_latency_s", "latency_per_token_s", "total_latency_s")
_QUANTITIES = (*_TIMES, "throughput_tokens_per_s", "peak_gpu_memory_bytes")
_TRUST_GRADES = ("A", "A-", "B", "B-", "C")

MAX_DISTANCE = 3.0
"""No row farther than this is a neighbour: a factor of 20 in the batch or the prompt alone, of 4 in both."""
_OTHER_MODEL = 2.0
_PER_FACTOR_OF_PARAMS = 2.0  # x |ln ratio|: with _OTHER_MODEL, sizes may differ by a factor of 1.6 at most
_OTHER_TIER = 2.0
_TIER_NOT_STATED = 0.5
_PER_HALVING_OF_WEIGHT_BITS = 1.0
_PER_HALVING_OF_KV_BITS = 0.5
_NO_PREFILL = 1.0
_NO_DECODE = 2.0  # more than _NO_PREFILL: most of a run's time is decode
_PER_FACTOR_OF_GEN_LEN = 0.5  # the time per token hardly depends on how many tokens follow


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
        model: Canonical name, such as ``facebook/opt-175b``.
        model_params: Parameters, counted from the model's shapes.
        gpu: As the source names it; `GPU_ALIASES` maps it to a spec.
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
        weight_tier: Slowest tier that holds a part of the weights.
        kv_tier: Slowest tier that holds a part of the KV cache.
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
    weight_tier: Tier | None
    kv_tier: Tier | None
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
        gpu: As the source names it; `GPU_ALIASES` maps it to a spec.
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


# -- the tables as text -------------------------------------------------------------------------------------


class _Row:
    """One line of a table. A faulty cell is reported with file, line, column and value."""

    __slots__ = ("_cells", "_columns", "_file", "_line")

    def __init__(self, cells: list[str], columns: Mapping[str, int], file: str, line: int) -> None:
        self._cells = cells
        self._columns = columns
        self._file = file
        self._line = line

    def text(self, column: str) -> str:
        if column not in self._columns:
            raise SpecError(f"{self._file}:1: column {column!r} is missing")
        return self._cells[self._columns[column]]

    def required(self, column: str) -> str:
        return self.text(column) or self.fail(column, "some text")

    def optional(self, column: str) -> str | None:
        return self.text(column) or None

    def choice(self, column: str, accepted: Mapping[str, T]) -> T:
        text = self.text(column)
        if text not in accepted:
            self.fail(column, "one of " + ", ".join(map(repr, accepted)))
        return accepted[text]

    def integer(self, column: str) -> int | None:
        """A count, 0 included."""
        text = self.text(column)
        if not text or text == "n/a":
            return None
        if not (text.isascii() and text.isdigit()):
            self.fail(column, "a non-negative integer")
        return int(text)

    def count(self, column: str) -> int:
        number = self.integer(column)
        return self.fail(column, "a number") if number is None else number

    def number(self, column: str) -> float | None:
        """A measured value: positive and finite."""
        text = self.text(column)
        if not text:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        return number if 0 < number < math.inf else self.fail(column, "a positive number")

    def scaled(self, column: str, unit: float) -> float | None:
        number = self.number(column)
        return None if number is None else number * unit

    def refuse_repetition(self, column: str, seen: set[str]) -> None:
        if self.text(column) in seen:
            self.fail(column, "a value that no line above has")
        seen.add(self.text(column))

    def fail(self, column: str, accepted: str) -> NoReturn:
        raise SpecError(f"{self._file}:{self._line}: {bad_value(column, self.text(column), accepted)}")


def _rows(text: str, file: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    seen: set[str] = set()
    try:
        header = next(reader, [])
        columns = {column: index for index, column in enumerate(header)}
        if "row_id" not in columns:
            raise SpecError(f"{file}:1: column 'row_id' is missing")
        for cells in reader:
            if len(cells) != len(header):
                raise SpecError(f"{file}:{reader.line_num}: {len(cells)} cells under {len(header)} columns")
            row = _Row(cells, columns, file, reader.line_num)
            row.refuse_repetition("row_id", seen)
            yield row
    except csv.Error as error:
        raise SpecError(f"{file}:{reader.line_num}: malformed CSV: {error}") from None


def _source(row: _Row) -> Source:
    return Source(
        repo=row.required("source_repo"),
        path=row.required("source_path"),
        commit=row.optional("source_commit"),
        table=row.required("source_table"),
    )


def _trust(row: _Row) -> str:
    if row.text("trust").partition(":")[0] not in _TRUST_GRADES:
        row.fail("trust", "a mark (" + ", ".join(_TRUST_GRADES) + "), a colon and the reason")
    return row.text("trust")


# -- inference rows -----------------------------------------------------------------------------------------


def parse_inference(text: str, where: str) -> tuple[Measurement, ...]:
    """The inference measurements of a table.

    Args:
        text: CSV with the columns that the README describes; others are ignored.
        where: Name of the file, for messages.

    Raises:
        SpecError: a column is missing, a cell is malformed or an id is repeated; file and line are named.
    """
    return tuple(_measurement(row) for row in _rows(text, where))


def _measurement(row: _Row) -> Measurement:
    system = _canonical_system(row.required("system"))
    num_gpus = row.count("gpu_count")
    tp, pp = row.integer("tp"), row.integer("pp")
    weight_bits = row.choice("weight_dtype", _BITS) or 16
    params = float(row.count("model_params"))
    weight_tier = _weight_tier(row, system, params * weight_bits / 8)
    batch = _total_batch(row, system, num_gpus, pp or 1)
    times = _Times.of(row, batch, num_gpus)
    return Measurement(
        row_id=row.count("row_id"),
        source=_source(row),
        trust=_trust(row),
        status=row.choice("status", _STATUSES),
        suspect=row.optional("suspect"),
        system=system,
        system_version=row.optional("system_version"),
        model=_canonical_model(row.required("model")),
        model_params=params,
        gpu=row.required("gpu"),
        num_gpus=num_gpus,
        num_nodes=row.integer("num_nodes"),
        tp=1 if num_gpus <= 1 else tp,
        pp=1 if num_gpus <= 1 or tp == num_gpus else pp,
        weight_bits=weight_bits,
        activation_bits=row.choice("act_dtype", _BITS),
        kv_bits=row.choice("kv_dtype", _BITS),
        weight_group_size=_group_size(row.text("weight_dtype")),
        kv_group_size=_group_size(row.text("kv_dtype")),
        stated_batch_size=row.integer("batch_size"),
        batch_size=batch,
        prompt_len=row.count("prompt_len_tok"),
        gen_len=row.count("gen_len_tok"),
        weight_tier=weight_tier,
        kv_tier=_kv_tier(row, system, weight_tier),
        policy=_policy(row),
        machine=Machine(row.optional("host_cpu"), row.number("host_ram_GB"), row.number("disk_read_GBps")),
        prefill_latency_s=times.prefill_s,
        decode_latency_s=times.decode_s,
        latency_per_token_s=times.per_token_s,
        total_latency_s=times.total_s,
        throughput_tokens_per_s=times.tokens_per_s,
        throughput_digits=_significant_digits(row.text("throughput_tok_s")),
        throughput_rounding=_rounding(row.text("throughput_tok_s")),
        throughput_definition=row.required("throughput_def"),
        throughput_kind=row.choice("throughput_kind", _KINDS),
        peak_gpu_memory_bytes=row.scaled("peak_gpu_mem_GB", _memory_unit(row)),
        derived=frozenset(times.derived),
        notes=row.text("notes"),
    )


def _group_size(dtype: str) -> int | None:
    found = re.search(r"-g(\d+)", dtype)
    return int(found[1]) if found else None


def _policy(row: _Row) -> Policy:
    pinned = re.match(r"(\d+)B params pinned in GPU", row.text("notes"))
    return Policy(
        weights=_policy_shares(row, "w"),
        kv_cache=_policy_shares(row, "c"),
        hidden=_policy_shares(row, "h"),
        gpu_batch_size=row.integer("gpu_batch_size"),
        num_gpu_batches=row.integer("num_gpu_batches"),
        pin_memory=row.choice("pin_memory", _FLAGS),
        overlap=row.choice("overlap", _FLAGS),
        cpu_attention=row.choice("cpu_cache_compute", _FLAGS),
        parameters_on_gpu=float(pinned[1]) * 1e9 if pinned else None,
    )


def _policy_shares(row: _Row, kind: str) -> tuple[float, float, float] | None:
    gpu, cpu = row.integer(f"policy_{kind}g_pct"), row.integer(f"policy_{kind}c_pct")
    return None if gpu is None or cpu is None else (gpu / 100, cpu / 100, (100 - gpu - cpu) / 100)


def _significant_digits(printed: str) -> int:
    return len(printed.replace(".", "").lstrip("0"))


def _rounding(printed: str) -> float:
    decimals = len(printed.partition(".")[2])
    return 0.5 * 10.0**-decimals / float(printed) if printed else 0.0


def _memory_unit(row: _Row) -> float:
    # FlexGen and torch print GB for 2**30; FasterTransformer's guide does not say, so its GB is taken as 1e9.
    return 2.0**30 if row.text("mem_unit").startswith("GiB") else 1e9


def _per_gpu(row: _Row) -> bool:
    return row.choice("throughput_scope", {"system": False, "per_gpu": True})


def _total_batch(row: _Row, system: str, num_gpus: int, pp: int) -> int | None:
    """Sequences of the whole deployment; sources count them in different ways."""
    batch = row.integer("batch_size")
    if batch is None or system == "petals":  # a swarm with several clients: what is in flight is not known
        return None
    if system == "flexgen" and pp > 1:  # the table has one of the pp micro-batches
        return row.count("gpu_batch_size") * row.count("num_gpu_batches") * pp
    return batch * num_gpus if _per_gpu(row) else batch


def _weight_tier(row: _Row, system: str, weight_bytes: float) -> Tier | None:
    stated = row.text("weight_offload")
    if stated == "disk or cpu":  # a figure without its policy: what the host cannot hold was on disk
        host_bytes = row.scaled("host_ram_GB", 1e9) or math.inf
        return "nvme" if weight_bytes > 0.9 * host_bytes else "cpu"
    if stated:
        return row.choice("weight_offload", _TIERS)
    if system in _HOLDS_WEIGHTS_ON_GPU:
        return "gpu"
    return "cpu" if system in _HOLDS_WEIGHTS_ON_CPU else None


def _kv_tier(row: _Row, system: str, weight_tier: Tier | None) -> Tier | None:
    stated = row.choice("kv_offload", _KV_TIERS)
    on_gpu, on_cpu = row.integer("policy_cg_pct"), row.integer("policy_cc_pct")
    if on_gpu is not None and on_cpu is not None:  # FlexGen's policy also knows the disk
        return "nvme" if on_gpu + on_cpu < 100 else "cpu" if on_cpu else "gpu"
    if stated is not None:
        return stated
    if weight_tier == "gpu" or system in _KEEPS_CACHE_ON_GPU:
        return "gpu"
    return "cpu" if system == "ipex" else None


@dataclass
class _Times:
    """Times of one row: those that the source states, then those that follow from its own definitions."""

    prefill_s: float | None
    decode_s: float | None
    per_token_s: float | None
    total_s: float | None
    tokens_per_s: float | None
    derived: set[str]

    @classmethod
    def of(cls, row: _Row, batch: int | None, num_gpus: int) -> _Times:
        times = cls(
            prefill_s=row.number("ttft_s") or row.number("prefill_latency_s"),
            decode_s=row.number("decode_latency_s"),
            per_token_s=row.number("tpot_s"),
            total_s=row.number("total_latency_s"),
            tokens_per_s=row.scaled("throughput_tok_s", num_gpus if _per_gpu(row) else 1),
            derived=set(),
        )
        if times.tokens_per_s and row.text("throughput_def").startswith("derived"):
            times.derived.add("throughput_tokens_per_s")
        elif times.per_token_s and times.total_s is None:  # gpt-fast: the table's step is 1 / its tokens/s
            times.derived.add("latency_per_token_s")
        if times.total_s and row.text("notes").startswith("total_latency derived"):
            times.derived.add("total_latency_s")
        if batch is not None and row.text("status") in ("ok", "doubtful"):
            times._complete(row, batch, row.count("prompt_len_tok"), row.count("gen_len_tok"))
        return times

    def _complete(self, row: _Row, batch: int, prompt: int, gen: int) -> None:
        kind = row.text("throughput_kind")
        if self.total_s is None and kind == "output_per_total":
            self.total_s = self._follows("total_latency_s", batch * gen, self.tokens_per_s)
        if self.prefill_s is None:
            rate = row.number("prefill_throughput_tok_s")
            self.prefill_s = self._follows("prefill_latency_s", batch * prompt, rate)
        if self.per_token_s is None and self.decode_s is not None:
            self.per_token_s = self._follows("latency_per_token_s", self.decode_s, gen - 1)
        if self.per_token_s is None:
            # exllama states two rates: the one at full context is the decode rate of this prompt.
            rate = row.number("decode_throughput_tok_s")
            if rate is None and kind == "output_per_decode":
                rate = self.tokens_per_s
            self.per_token_s = self._follows("latency_per_token_s", batch, rate)
        if self.decode_s is None and self.total_s is not None and self.prefill_s is not None:
            self.decode_s = self._follows("decode_latency_s", self.total_s - self.prefill_s, 1)

    def _follows(self, name: str, amount: float, rate: float | None) -> float | None:
        if not rate or amount <= 0:
            return None
        self.derived.add(name)
        return amount / rate


# -- training rows ------------------------------------------------------------------------------------------


def parse_training(text: str, where: str) -> tuple[TrainingMeasurement, ...]:
    """The training measurements of a table.

    Args:
        text: CSV with the columns that the README describes; others are ignored.
        where: Name of the file, for messages.

    Raises:
        SpecError: a column is missing, a cell is malformed or an id is repeated; file and line are named.
    """
    return tuple(_training_measurement(row) for row in _rows(text, where))


def _training_measurement(row: _Row) -> TrainingMeasurement:
    definition = row.required("metric_def")
    return TrainingMeasurement(
        row_id=row.count("row_id"),
        source=_source(row),
        trust=_trust(row),
        status=row.choice("status", _STATUSES),
        suspect=row.optional("suspect"),
        framework=row.required("framework"),
        model=row.required("model"),
        num_params=row.number("n_params"),
        num_layers=row.integer("layers"),
        hidden_size=row.integer("hidden"),
        num_heads=row.integer("heads"),
        seq_len=row.count("seq_len"),
        gpu=row.required("gpu"),
        num_gpus=row.integer("gpu_count"),
        tp=row.integer("tp"),
        pp=row.integer("pp"),
        dp=row.integer("dp"),
        vp=row.integer("vp"),
        cp=row.integer("cp"),
        ep=row.integer("ep"),
        micro_batch_size=row.integer("micro_batch"),
        global_batch_size=row.integer("global_batch_seqs"),
        grad_accumulation=row.integer("grad_accum"),
        precision=row.optional("precision"),
        sharding=row.optional("sharding"),
        recompute=row.optional("recompute"),
        iteration_time_s=row.number("iter_time_s"),
        throughput_tokens_per_s=row.number("throughput_tok_s"),
        throughput_tokens_per_s_per_gpu=row.number("throughput_tok_s_per_gpu"),
        model_flops_per_s_per_gpu=row.scaled("model_tflops_per_gpu", 1e12),
        mfu=row.scaled("mfu_pct", 0.01),
        hfu=row.scaled("hfu_pct", 0.01),
        peak_flops_per_s=row.scaled("flops_peak_used_tflops", 1e12),
        metric_definition=definition,
        derived=frozenset({"iteration_time_s"} if "iter_time deriv" in definition else ()),
        notes=row.text("notes"),
    )


# -- the tables that ship -----------------------------------------------------------------------------------


@overload
def load_measurements(kind: Literal["inference"] = "inference") -> tuple[Measurement, ...]: ...
@overload
def load_measurements(kind: Literal["training"]) -> tuple[TrainingMeasurement, ...]: ...
def load_measurements(
    kind: Literal["inference", "training"] = "inference",
) -> tuple[Measurement, ...] | tuple[TrainingMeasurement, ...]:
    """All rows that ship, the doubtful, suspect and out-of-memory ones included, in the table's order.

    Read once per process.

    Args:
        kind: ``"inference"`` or ``"training"``.

    Raises:
        SpecError: there is no such kind, or the table is malformed.
    """
    if kind == "inference":
        return _shipped_inference()
    if kind == "training":
        return _shipped_training()
    raise bad_value("kind", kind, "'inference' or 'training'")


@lru_cache(maxsize=1)
def _shipped_inference() -> tuple[Measurement, ...]:
    return tuple(_measurement(row) for row in _shipped_rows("published_inference.csv"))


@lru_cache(maxsize=256)
def measurements_of(system: str, model: str) -> tuple[Measurement, ...]:
    """The rows of a system with a model, by their canonical names. Only these are built, which costs more than reading."""
    return tuple(
        _measurement(row)
        for row in _shipped_rows("published_inference.csv")
        if _canonical_system(row.text("system")) == system and _canonical_model(row.text("model")) == model
    )


@lru_cache(maxsize=1)
def _shipped_training() -> tuple[TrainingMeasurement, ...]:
    return tuple(_training_measurement(row) for row in _shipped_rows("published_training.csv"))


@lru_cache(maxsize=2)
def _shipped_rows(name: str) -> tuple[_Row, ...]:
    text = (resources.files("calibrate") / "measurements" / name).read_text("utf-8")
    return tuple(_rows(text, name))


# -- the nearest measurement --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What a prediction is about, as far as it decides how near a measurement is.

    Attributes:
        model: Canonical name, such as ``facebook/opt-175b``.
        batch_size: Sequences of the whole deployment.
        prompt_len: Tokens per prompt.
        gen_len: Tokens generated per sequence.
        weight_bits: Bits per weight.
        kv_bits: Bits per cached element.
        weight_tier: Slowest tier that holds a part of the weights; None = any.
        model_params: Parameters; None = those of the measurements of this model, if there are any.

    Raises:
        SpecError: a size is no positive integer, or the tier is unknown.
    """

    model: str
    batch_size: int
    prompt_len: int
    gen_len: int
    weight_bits: int = 16
    kv_bits: int = 16
    weight_tier: Tier | None = None
    model_params: float | None = None

    def __post_init__(self) -> None:
        for field in ("batch_size", "prompt_len", "gen_len", "weight_bits", "kv_bits"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise bad_value(field, value, "a positive integer")
        if self.weight_tier not in ("gpu", "cpu", "nvme", None):
            raise bad_value("weight_tier", self.weight_tier, "gpu, cpu, nvme or None")
        if self.model_params is not None and not 0 < self.model_params < math.inf:
            raise bad_value("model_params", self.model_params, "a positive number")


def distance(asked: Asked, measurement: Measurement) -> float:
    """How far a measurement is from what is asked, for the same GPU, system and number of GPUs.

    A sum, in which 1 is a factor of e in the batch or in the prompt length:

    - another model: 2, and 2 x |ln ratio of parameter counts|, so that the model comes first
    - weights on another tier: 2; on a tier that the source does not state: 0.5
    - weight bits: 1 per halving; cache bits: 0.5 per halving where stated
    - batch size and prompt length: |ln ratio|; a row without a prefill: 1
    - generation length: |ln ratio| / 2, as it hardly changes the time per token; a row without decode: 2

    Returns:
        The distance, 0 for the same inputs; infinity where the measurement has no batch size or the size of
        the model is unknown. Above `MAX_DISTANCE` the row is no neighbour.
    """
    if measurement.batch_size is None:
        return math.inf
    return (
        _model_distance(asked, measurement)
        + _tier_distance(asked.weight_tier, measurement.weight_tier)
        + _PER_HALVING_OF_WEIGHT_BITS * abs(math.log2(asked.weight_bits / measurement.weight_bits))
        + _PER_HALVING_OF_KV_BITS * abs(math.log2(asked.kv_bits / (measurement.kv_bits or asked.kv_bits)))
        + abs(math.log(asked.batch_size / measurement.batch_size))
        + _prompt_distance(asked.prompt_len, measurement.prompt_len)
        + _gen_distance(asked.gen_len, max(1, measurement.gen_len))
    )


def _model_distance(asked: Asked, measurement: Measurement) -> float:
    if _plain(asked.model) == _plain(measurement.model):
        return 0.0
    params = asked.model_params or _measured_params().get(_plain(asked.model))
    if params is None:
        return math.inf
    return _OTHER_MODEL + _PER_FACTOR_OF_PARAMS * abs(math.log(params / measurement.model_params))


def _tier_distance(asked: Tier | None, measured: Tier | None) -> float:
    if asked is None or asked == measured:
        return 0.0
    return _TIER_NOT_STATED if measured is None else _OTHER_TIER


def _prompt_distance(asked: int, measured: int) -> float:
    return abs(math.log(asked / measured)) if measured else _NO_PREFILL


def _gen_distance(asked: int, measured: int) -> float:
    if measured == 1 and asked > 1:
        return _NO_DECODE
    return _PER_FACTOR_OF_GEN_LEN * abs(math.log(asked / measured))


def nearest_measurement(
    model: str,
    gpu: str,
    system: str,
    *,
    num_gpus: int = 1,
    batch_size: int,
    prompt_len: int,
    gen_len: int,
    weight_bits: int = 16,
    kv_bits: int = 16,
    weight_tier: Tier | None = None,
    model_params: float | None = None,
) -> tuple[Measurement, dict[str, tuple[object, object]]] | None:
    """The published measurement that is nearest to a prediction, and what differs.

    Candidates have the same GPU, system and number of GPUs, status ok, and are not suspect. Of those within
    `MAX_DISTANCE` the one with the least `distance` wins; of equals one whose time was measured, then one
    whose throughput is printed with more than one digit, then the better trust mark, then the table's order,
    in which a result stands before its ablations.

    Args:
        model: Canonical name of the model.
        gpu: Canonical name of the GPU.
        system: Canonical name, or the tables' name, of the system.
        num_gpus: GPUs of the whole deployment.
        batch_size: Sequences of the whole deployment.
        prompt_len: Tokens per prompt.
        gen_len: Tokens generated per sequence.
        weight_bits: Bits per weight.
        kv_bits: Bits per cached element.
        weight_tier: Slowest tier that holds a part of the weights; None = any.
        model_params: Parameters of the model, to compare it with other models; None = as in `Asked`.

    Returns:
        The measurement and ``{what: (asked, measured)}`` for whatever differs (a weight tier that the source
        does not state is None); or None where no measurement is near.

    Raises:
        SpecError: a size is no positive integer, or the tier is unknown.
    """
    asked = Asked(model, batch_size, prompt_len, gen_len, weight_bits, kv_bits, weight_tier, model_params)
    candidates = _candidates(_plain(gpu), _plain(_canonical_system(system)), num_gpus)
    ranked = [(distance(asked, candidate), _weakness(candidate), candidate) for candidate in candidates]
    near = [ranking for ranking in ranked if ranking[0] <= MAX_DISTANCE]
    if not near:
        return None
    best = min(near)[2]  # _weakness ends with the unique row_id, so two candidates are never compared
    return best, _differences(asked, gpu, best)


def _weakness(measurement: Measurement) -> tuple[bool, bool, int, int]:
    """What decides between rows of equal distance; less is better."""
    return (
        not measurement.latency_was_measured,
        measurement.throughput_digits == 1,
        _TRUST_GRADES.index(measurement.trust_grade),
        measurement.row_id,
    )


def _differences(asked: Asked, gpu: str, measured: Measurement) -> dict[str, tuple[object, object]]:
    found: dict[str, tuple[object, object]] = {}
    for name, ours, theirs in (("model", asked.model, measured.model), ("gpu", gpu, measured.gpu)):
        if _plain(ours) != _plain(theirs):
            found[name] = (ours, theirs)
    if asked.weight_tier not in (None, measured.weight_tier):
        found["weight_tier"] = (asked.weight_tier, measured.weight_tier)
    for name in ("weight_bits", "kv_bits", "batch_size", "prompt_len", "gen_len"):
        ours, theirs = getattr(asked, name), getattr(measured, name)
        if ours != theirs and theirs is not None:
            found[name] = (ours, theirs)
    return found


@lru_cache(maxsize=256)
def _candidates(gpu: str, system: str, num_gpus: int) -> tuple[Measurement, ...]:
    """Rows that may be a neighbour, for plain names. Only these are built, which costs more than reading."""
    return tuple(
        _measurement(row)
        for row in _shipped_rows("published_inference.csv")
        if row.text("status") == "ok"
        and not row.text("suspect")
        and row.text("gpu_count") == str(num_gpus)
        and _plain(_canonical_gpu(row.text("gpu"))) == gpu
        and _plain(_canonical_system(row.text("system"))) == system
    )


@lru_cache(maxsize=1)
def _measured_params() -> dict[str, float]:
    rows = _shipped_rows("published_inference.csv")
    return {_plain(_canonical_model(row.text("model"))): float(row.count("model_params")) for row in rows}


def _canonical_system(name: str) -> str:
    return SYSTEM_ALIASES.get(name, name)


def _canonical_gpu(name: str) -> str:
    return GPU_ALIASES.get(name, name)


def _canonical_model(name: str) -> str:
    return _MODEL_ALIASES.get(name, name)


@lru_cache(maxsize=256)
def _plain(name: str) -> str:
    """A name in the spelling in which names are compared."""
    # Imported late: the specs take ten times as long to import as the table takes to read.
    from llm_perf.config.names import normalise

    return normalise(name)
