"""Rows of the inference table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from calibrate.evidence.published.cells import STATUSES, Row, rows, source_of, trust_of
from calibrate.evidence.published.names import canonical_model, canonical_system, version_of
from calibrate.evidence.published.records import Machine, Measurement, Policy, ThroughputKind, Tier

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
_TIERS: Mapping[str, Tier] = {  # a share on a slower tier sets the time, so the slowest that is used counts
    "gpu": "gpu",
    "none": "gpu",
    "cpu": "cpu",
    "gpu+cpu": "cpu",
    "nvme": "nvme",
    "disk": "nvme",
    "cpu+disk": "nvme",
}
_FLAGS: Mapping[str, bool | None] = {"0": False, "1": True, "": None}
_KV_TIERS: Mapping[str, Tier | None] = {"0": "gpu", "1": "cpu", "": None}


def parse_inference(text: str, where: str) -> tuple[Measurement, ...]:
    """The inference measurements of a table.

    Args:
        text: CSV with the columns that the README describes; others are ignored.
        where: Name of the file, for messages.

    Raises:
        SpecError: a column is missing, a cell is malformed or an id is repeated; file and line are named.
    """
    return tuple(inference_measurement(row) for row in rows(text, where))


def inference_measurement(row: Row) -> Measurement:
    """One row in the project's terms."""
    system = canonical_system(row.required("system"))
    num_gpus = row.count("gpu_count")
    tp, pp = row.integer("tp"), row.integer("pp")
    weight_bits = row.choice("weight_dtype", _BITS) or 16
    params = float(row.count("model_params"))
    weight_tier = weight_tier_of(row, params * weight_bits / 8)
    batch = _total_batch(row, num_gpus, pp or 1)
    times = _Times.of(row, batch, num_gpus)
    return Measurement(
        row_id=row.count("row_id"),
        source=source_of(row),
        trust=trust_of(row),
        status=row.choice("status", STATUSES),
        suspect=row.optional("suspect"),
        system=system,
        system_version=row.optional("system_version"),
        model=canonical_model(row.required("model")),
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
        stated_weight_tier=weight_tier,
        stated_kv_tier=_kv_tier(row),
        policy=policy_of(row),
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
        peak_gpu_memory_bytes=row.scaled("peak_gpu_mem_GB", memory_unit_of(row)),
        derived=frozenset(times.derived),
        notes=row.text("notes"),
        version=version_of(row.required("system"), row.optional("system_version")),
    )


_Q4_K_M_GROUP_SIZE = 38
"""Weights per 32 bits of scales in a whole Q4_K_M file, which mixes 4- and 6-bit blocks: 4.84 bits per weight.

Llama-3-8B's file has 4.92e9 bytes for 8.03e9 weights and Llama-3-70B's 42.5e9 for 70.6e9 (4.90 and 4.82 bits).
"""


def _group_size(dtype: str) -> int | None:
    if dtype == "Q4_K_M":
        return _Q4_K_M_GROUP_SIZE
    found = re.search(r"-g(\d+)", dtype)
    return int(found[1]) if found else None


def policy_of(row: Row) -> Policy:
    """How a row offloads, beyond the tiers."""
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


def _policy_shares(row: Row, kind: str) -> tuple[float, float, float] | None:
    gpu, cpu = row.integer(f"policy_{kind}g_pct"), row.integer(f"policy_{kind}c_pct")
    return None if gpu is None or cpu is None else (gpu / 100, cpu / 100, (100 - gpu - cpu) / 100)


def _significant_digits(printed: str) -> int:
    return len(printed.replace(".", "").lstrip("0"))


def _rounding(printed: str) -> float:
    decimals = len(printed.partition(".")[2])
    return 0.5 * 10.0**-decimals / float(printed) if printed else 0.0


def memory_unit_of(row: Row) -> float:
    """Bytes of the unit that a row gives memory in."""
    # FlexGen and torch print GB for 2**30. FasterTransformer's guide does not say; read as 2**30 its three models leave
    # the same rest beside weights, cache and activations (2.87, 2.86, 2.91), read as 1e9 one of them does not.
    if row.text("mem_unit").startswith(("GiB", 'GB (doc "Memory Usage (GB)")')):
        return 2.0**30
    return 1e9


def _per_gpu(row: Row) -> bool:
    return row.choice("throughput_scope", {"system": False, "per_gpu": True})


def _total_batch(row: Row, num_gpus: int, pp: int) -> int | None:
    """Sequences of the whole deployment; sources count them in different ways."""
    batch = row.integer("batch_size")
    if batch is None or "parallel client requests" in row.text("notes"):  # what is in flight is not known
        return None
    if row.integer("num_gpu_batches") is not None and pp > 1:  # the table has one of the pp micro-batches
        return row.count("gpu_batch_size") * row.count("num_gpu_batches") * pp
    return batch * num_gpus if _per_gpu(row) else batch


def weight_tier_of(row: Row, weight_bytes: float) -> Tier | None:
    """Where a row's weights are; None where it does not say."""
    stated = row.text("weight_offload")
    if stated == "disk or cpu":  # a figure without its policy: what the host cannot hold was on disk
        host_bytes = row.scaled("host_ram_GB", 1e9) or math.inf
        return "nvme" if weight_bytes > 0.9 * host_bytes else "cpu"
    if stated:
        return row.choice("weight_offload", _TIERS)
    return None


def _kv_tier(row: Row) -> Tier | None:
    stated = row.choice("kv_offload", _KV_TIERS)
    on_gpu, on_cpu = row.integer("policy_cg_pct"), row.integer("policy_cc_pct")
    if on_gpu is not None and on_cpu is not None:  # FlexGen's policy also knows the disk
        return "nvme" if on_gpu + on_cpu < 100 else "cpu" if on_cpu else "gpu"
    return stated


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
    def of(cls, row: Row, batch: int | None, num_gpus: int) -> _Times:
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

    def _complete(self, row: Row, batch: int, prompt: int, gen: int) -> None:
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
