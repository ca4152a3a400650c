"""A row of a table of measurements, as strings, in the vocabulary of a run; and what its rates count.

Columns are those of the published tables (``calibrate/measurements/README.md``). Nothing here knows a source: a cell
means the same whoever wrote it, and what a cell does not say is the system's own choice.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Final, Literal

from calibrate.evidence.published import GPU_ALIASES, SYSTEM_ALIASES, Machine
from calibrate.evidence.published.cells import Row, cells_of
from calibrate.evidence.published.inference_rows import policy_of, weight_tier_of
from calibrate.evidence.published.names import DIES, version_of
from calibrate.evidence.server_settings import settings_of
from calibrate.evidence.settings import Run
from calibrate.evidence.stated_formats import served_format
from calibrate.evidence.training_runs import TrainingRun
from llm_perf.config.loading import resolve_name
from llm_perf.config.names import normalise
from llm_perf.errors import SpecError, UnknownNameError
from llm_perf.systems.families import declaration, families, find, release_of

__all__ = ["RateKind", "cells_of", "rate_kind", "stated_run", "stated_training_run", "weight_format"]

RateKind = Literal["output", "total", "prefill", "decode"]
"""What a rate counts: generated tokens or all tokens of prefill and decode, or those of one phase over its time."""

_WIDTH: Final = re.compile(
    r"(?:^|[^a-z])(?:bf|fp|f|int|w|mxfp|nvfp|nf|i?q)(\d+)|(?:^|[^a-z])(?:awq|gptq)-?(?:int)?(\d+)"
)
_ACTIVATIONS: Final = re.compile(r"w\d+a(\d+)")
_GROUP: Final = re.compile(r"-g(\d+)")
_NAMED_WIDTHS: Final = {"awq": 4, "gptq": 4, "bfloat": 16, "float": 16}
"""Formats whose names have no digits, by how they are defined."""

_FORMAT_OF_NAME: Final = re.compile(
    r"[-.](?:fp8(?:-kv)?|fp8-(?:dynamic|block|static-pertensor)|(?:nv|mx)?fp4(?:-(?:v2|preview|mtp))?|bf16|mtp"
    r"|(?:awq|gptq|bnb)(?:-(?:int[48]|[48]bit))?|int[48]|[48]bit|quantized\.w\d+a\d+|w-?\w+-a-?\w+)$",
    re.IGNORECASE,
)
"""What the name of a converted checkpoint ends in; its shapes are the original's."""


def stated_run(row: Mapping[str, str]) -> Run:
    """The settings of one inference row. Measured columns are not looked at.

    Raises:
        SpecError: a name that is unknown, a cell that cannot be read, or something without which no predictor could be
            asked.
    """
    cells = cells_of(_ALL_COLUMNS | dict(row))
    num_gpus = cells.integer("gpu_count")
    if num_gpus == 0 or not cells.text("gpu"):
        raise SpecError("it ran on CPUs only")
    _refuse_split_layers(cells)
    system = _system(cells)
    splits = declaration(find(system)[0]).more_gpus == "stages"
    gpu, gpus = GPU_ALIASES.get(cells.text("gpu"), cells.text("gpu")), num_gpus or 1
    if splits and gpu in DIES:
        gpu, gpus = DIES[gpu][0], gpus * DIES[gpu][1]
    weight_bits, group = weight_format(cells.text("weight_dtype"))
    weights = _activation_bits(cells.text("weight_dtype")) or 16
    if cells.text("request_rate"):
        raise SpecError(
            f"request_rate {cells.text('request_rate')}: requests that arrive over time are not modelled"
        )
    policy, batch = policy_of(cells), cells.integer("batch_size")
    if batch is None:
        raise SpecError("it does not state its batch size")
    family, pieces = declaration(find(system)[0]), None
    if _counts_pieces(cells, family.checkpoints == "gguf"):
        batch, pieces = 1, batch
    settings = settings_of(row)
    notes = f"{row.get('notes_for_prediction') or ''} {cells.text('notes')}"
    served = (
        family.serves_checkpoints
        and family.checkpoints != "gguf"
        and weight_tier_of(cells, 0.0) in (None, "gpu")
    )
    tp, ep = 1 if splits else cells.integer("tp") or 1, cells.integer("ep") or 1
    ranks = _expert_ranks(notes)
    if (
        not splits and ranks > tp
    ):  # every rank of the experts has attention, so that tp of them share it: replicas of it
        gpus, ep = max(gpus, ranks), ranks
    lengths = _share_of_lengths(notes)
    cached = "window" in row.get("throughput_def", "") or "decode window" in notes
    return Run(
        system=system,
        model=_model(cells.required("model")),
        gpu=resolve_name("GPU", gpu),
        batch_size=batch,
        prompt_len=max(round((cells.integer("prompt_len_tok") or 0) * lengths), 1),
        gen_len=max(round((cells.integer("gen_len_tok") or 0) * lengths), 1),
        num_gpus=gpus,
        num_nodes=cells.integer("num_nodes"),
        tp=tp,
        pp=gpus if splits else cells.integer("pp") or 1,
        ep=ep,
        weight_bits=weight_bits or 16,
        weight_group_size=group,
        activation_bits=_bits(cells.text("act_dtype")) or weights,
        kv_bits=_bits(cells.text("kv_dtype")) or 16,
        weights=policy.weights or _one_tier(weight_tier_of(cells, 0.0)),
        kv_cache=policy.kv_cache,
        hidden=policy.hidden,
        gpu_batch_size=policy.gpu_batch_size,
        num_gpu_batches=policy.num_gpu_batches,
        pin_memory=policy.pin_memory,
        overlap=policy.overlap,
        cpu_attention=policy.cpu_attention,
        machine=Machine(
            cells.optional("host_cpu"), cells.number("host_ram_GB"), cells.number("disk_read_GBps")
        ),
        weight_format=served_format(cells.text("model"), cells.text("weight_dtype"), notes)
        if served
        else None,
        prefix_hit_rate=1.0 if cached else 0.0,
        shared_prefix=cached,
        ubatch_tokens=pieces,
        kv_format=("fp8" if "fp8" in cells.text("kv_dtype").lower() else settings.kv_format)
        if served
        else None,
        max_num_batched_tokens=_whole(settings.max_num_batched_tokens),
        max_num_seqs=_whole(settings.max_num_seqs),
        gpu_memory_utilization=settings.gpu_memory_utilization,
        enforce_eager=settings.eager,
        fused_experts=settings.fused_experts,
        in_process=settings.in_process,
    )


def _whole(count: object) -> int | None:
    return count if isinstance(count, int) else None


def _counts_pieces(cells: Row, gguf: bool) -> bool:
    """Whether a row's batch size is the tokens of a prompt that one pass takes, of one sequence.

    llama.cpp's own setting of that name is. A table says so, or multiplies a rate by it as if it were sequences.
    """
    return "batch as n-batch" in cells.text("trust") or (gguf and "*batch" in cells.text("throughput_def"))


def _share_of_lengths(notes: str) -> float:
    """Mean length over the nominal one where a load generator draws lengths evenly from a range below it."""
    drawn = re.search(r"uniform in \[([\d.]+),([\d.]+)\] of nominal", notes)
    return 1.0 if drawn is None else (float(drawn[1]) + float(drawn[2])) / 2


def _expert_ranks(notes: str) -> int:
    """Ranks over which experts are divided, where notes state both ways of doing so.

    Either way a rank has the same bytes; beside replicas of attention experts are whole here.
    """
    stated = re.search(r"moe_tp=(\d+) moe_ep=(\d+)", notes)
    return 1 if stated is None else int(stated[1]) * int(stated[2])


_ALL_COLUMNS: Final = dict.fromkeys(
    (
        "system", "system_version", "model", "gpu", "gpu_count", "num_nodes", "tp", "pp", "ep", "host_cpu", "host_ram_GB",
        "disk_read_GBps", "weight_dtype", "act_dtype", "kv_dtype", "batch_size", "gpu_batch_size", "num_gpu_batches",
        "policy_wg_pct", "policy_wc_pct", "policy_cg_pct", "policy_cc_pct", "policy_hg_pct", "policy_hc_pct",
        "weight_offload", "pin_memory", "overlap", "cpu_cache_compute", "prompt_len_tok", "gen_len_tok", "gpu_layers",
        "experts_on_cpu", "context_depth_tok", "request_rate", "notes", "notes_for_prediction", "trust", "throughput_def",
    ),
    "",
)  # fmt: skip
"""Columns that are read; a table without one of them does not state it."""


def _refuse_split_layers(cells: Row) -> None:
    """What today's systems cannot place: a part of the layers or of the experts on the CPU, a cache that is there."""
    if cells.text("gpu_layers") not in ("", "all"):
        raise SpecError(f"gpu_layers {cells.text('gpu_layers')}: layers on the CPU are not modelled")
    if cells.text("experts_on_cpu") not in ("", "0"):
        raise SpecError(f"experts_on_cpu {cells.text('experts_on_cpu')}: experts on the CPU are not modelled")
    if cells.text("context_depth_tok") not in ("", "0"):
        raise SpecError("context_depth_tok: a context that is there before the prompt is not modelled")


def _system(cells: Row) -> str:
    """The family that a name means, exactly, with the version that the row states: ``FAMILY@VERSION``."""
    stated = cells.required("system")
    if "disaggregated" in stated:
        raise SpecError(f"system {stated}: prefill and decode on engines of their own are not modelled")
    bare = re.sub(r"\s*\(.*?\)", "", stated)
    names = {normalise(name) for family in families() for name in (family.name, *family.aliases)}
    for name in (stated, bare, bare.partition(" + ")[0], bare.rpartition("/")[2]):
        known = SYSTEM_ALIASES.get(name, name)
        if normalise(known) in names or normalise(known).replace("-", "_") in names:
            break
    else:
        raise SpecError(f"system {stated}: no such family ships")
    family = find(known)[0]
    kernel = re.search(r"\bkernel (\w+)", cells.text("notes") + cells.text("notes_for_prediction"))
    if kernel is not None:  # what a checkpoint was packed for, where a version of the system stands for that
        with contextlib.suppress(SpecError):
            return "@".join(filter(None, find(f"{family}-{kernel[1]}")))
    version = version_of(stated, cells.text("system_version"))
    if version is None:
        return family
    try:
        release_of(family, version)
    except SpecError:  # one that has no versions to choose from
        return family
    return f"{family}@{version}"


def _model(stated: str) -> str:
    """The bundled spec of a checkpoint, or of the one that it was converted from. No hub is asked.

    Raises:
        SpecError: no such spec ships.
    """
    names = [stated]
    while (original := _FORMAT_OF_NAME.sub("", names[-1])) != names[-1]:
        names.append(original)
    for name in dict.fromkeys((*names, *(one.partition("/")[2] for one in names))):
        with contextlib.suppress(UnknownNameError):
            return resolve_name("model", name)
    raise SpecError(f"model {stated}: no such spec ships")


# -- number formats -------------------------------------------------------------------------------------------


def weight_format(stated: str) -> tuple[int | None, int | None]:
    """Bits of a weight and elements per scale, None where they are not stated: the place where formats get names."""
    group = _GROUP.search(stated)
    return _bits(stated), int(group[1]) if group else None


def _bits(stated: str) -> int | None:
    text = stated.lower()
    found = _WIDTH.search(text)
    if found is not None:
        return int(found[1] or found[2])
    return next((bits for name, bits in _NAMED_WIDTHS.items() if name in text), None)


def _activation_bits(weights: str) -> int | None:
    """What the weights' format says of activations: w8a8, or fp8, whose products are of two 8-bit numbers."""
    text = weights.lower()
    found = _ACTIVATIONS.search(text)
    if found is not None:
        return int(found[1])
    return _bits(text) if text == "fp8" else None


def _one_tier(tier: str | None) -> tuple[float, float, float] | None:
    return None if tier is None else (float(tier == "gpu"), float(tier == "cpu"), float(tier == "nvme"))


# -- rates ----------------------------------------------------------------------------------------------------

_READ: Final = re.compile(r"\b(in|input|prompt|prefill)\b")
_WRITTEN: Final = re.compile(r"\b(out|output|gen|generated|decode)\b")
_TOKENS: Final = re.compile(r"\b(tok|tokens?|_tokens)\b")


def rate_kind(definition: str) -> RateKind | None:
    """What a definition of throughput counts and divides by; None where it does not say.

    It is read as words: those before a division say which tokens, those behind it which time. "(in+out)*batch/latency",
    "gen_tokens/(prefill+decode)", "decode output tok/s over the batch", "output_per_total", "prefill tok/s".
    """
    text = re.sub(r"\btok(?:en)?s?/s\b", "tokens", definition.lower()).replace("_per_", "/").replace("_", " ")
    clause = re.split(r"[,;]|\bincl", text)[0]
    counted, _, time = clause.partition("/")
    read, written = bool(_READ.search(counted)), bool(_WRITTEN.search(counted))
    if re.search(r"\btotal tokens\b|\btotal output\b", counted):
        return "output" if written else "total"
    if read and written:
        return "total"
    if read:
        return "prefill"
    if not written:
        return "output" if _WRITTEN.search(text) and _TOKENS.search(counted) else None
    only_decode = "decode" in time and not re.search(r"prefill|prompt|total", time)
    return "decode" if only_decode or re.search(r"\bdecode\b", counted) else "output"


# -- training -------------------------------------------------------------------------------------------------

_TRAINING_COLUMNS: Final = dict.fromkeys(
    (
        "framework", "model", "gpu", "gpu_count", "seq_len", "global_batch_seqs", "micro_batch", "grad_accum", "tp", "pp",
        "vp", "cp", "ep", "precision", "sharding", "recompute", "cpu_offload", "method", "lora_rank", "notes",
    ),
    "",
)  # fmt: skip

_POWER_LIMIT: Final = re.compile(r"\b(\d{3,4}) ?W\b")
_COMPILED: Final = re.compile(r"(?<!no )(?<!not )(?<!without )(?:torch\.compile|\bcompiled?\b)(?! off)")


def _board(stated: str) -> str:
    """The spec of a GPU that a cell names, what stands in parentheses behind it aside where it is no name of a spec."""
    known = GPU_ALIASES.get(stated, stated)
    bare = re.sub(r"\s*\(.*\)$", "", known)
    try:
        resolve_name("GPU", known)
    except SpecError:
        return bare
    return known


def stated_training_run(row: Mapping[str, str]) -> TrainingRun:
    """The settings of one training row.

    Raises:
        SpecError: a cell that cannot be read, or a method that no published run of a framework has.
    """
    cells = cells_of(_TRAINING_COLUMNS | dict(row))
    method = cells.text("method")
    if cells.text("lora_rank") or (method and not method.startswith("full")):
        raise SpecError(f"method {method or 'LoRA'}: adapters in tables are not modelled")
    if cells.text("cpu_offload").lower() not in ("", "false", "0"):
        raise SpecError(
            f"cpu_offload {cells.text('cpu_offload')}: offloaded training in tables is not modelled"
        )
    notes = f"{row.get('notes_for_prediction') or ''} {cells.text('notes')} {cells.text('gpu')} {cells.text('framework')}"
    limit = _POWER_LIMIT.search(notes)
    sizes = {name: cells.integer(name) or 1 for name in ("tp", "pp", "vp", "cp", "ep")}
    gpus, micro = cells.count("gpu_count"), cells.integer("micro_batch")
    replicas = max(gpus // (sizes["tp"] * sizes["pp"] * sizes["cp"]), 1)
    whole = cells.integer("global_batch_seqs")
    if whole is None:
        whole = cells.count("micro_batch") * (cells.integer("grad_accum") or 1) * replicas
    return TrainingRun(
        framework=cells.required("framework"),
        model=cells.required("model"),
        gpu=_board(cells.text("gpu")),
        num_gpus=gpus,
        seq_len=cells.count("seq_len"),
        global_batch=whole,
        micro_batch=micro,
        precision=cells.text("precision"),
        sharding=cells.text("sharding"),
        recompute=cells.text("recompute"),
        compiled=bool(_COMPILED.search(notes)),
        power_limit_w=None if limit is None else float(limit[1]),
        **sizes,
    )
