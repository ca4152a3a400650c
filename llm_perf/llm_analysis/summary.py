"""The summary of an inference: does it fit, and how long do both phases take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from llm_perf.config.base import GIB
from llm_perf.config.parallelism import DSZeRO
from llm_perf.errors import DoesNotFitError
from llm_perf.llm_analysis import memory
from llm_perf.llm_analysis.latency import (
    Pass,
    PassTimes,
    decode_pass,
    forward_flops,
    kv_read_time,
    pass_times,
    whole_pass,
)
from llm_perf.llm_analysis.parameters import parameter_totals
from llm_perf.llm_analysis.setup import Setup


@dataclass(frozen=True, slots=True)
class Request:
    """What `LLMAnalysis.inference` is asked, checked. Bytes are per element; ``batch`` is one GPU's."""

    batch: int
    prompt_len: int
    gen_len: int
    use_kv_cache: bool
    stage: DSZeRO
    layernorm_dtype_bytes: float
    kv_cache_dtype_bytes: float | None
    cost_per_gpu_hour: float | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the fullest GPU. Stages that are fullest in weights and in logits are taken as one."""

    weights: float
    embedding: float
    kv_cache: float
    prefill_activations: float
    decode_activations: float | None
    prefill_max_batch: int
    decode_max_batch: int | None

    @property
    def required(self) -> float:
        """The fuller of both phases."""
        return self.weights + self.kv_cache + max(self.prefill_activations, self.decode_activations or 0.0)


@dataclass(frozen=True, slots=True)
class Decode:
    """The mean decode step, and how many there are."""

    steps: int
    flops: float
    times: PassTimes
    kv_read_s: float

    @property
    def step_s(self) -> float:
        """Seconds of the mean step."""
        return self.times.total_s + self.kv_read_s


def inference_summary(setup: Setup, request: Request) -> dict[str, Any]:
    """The summary under llm-analysis' keys. What does not exist (the decode phase of one token) is None.

    Raises:
        DoesNotFitError: weights, cache and activations need more than the GPU's memory; the message says by how
            much, and which batch would fit.
    """
    used = inference_memory(setup, request)
    _check_fit(setup, request, used)
    prefill_step = whole_pass(setup, request.batch, request.prompt_len)
    prefill = pass_times(setup, prefill_step, request.layernorm_dtype_bytes, request.stage)
    decode = _decode(setup, request)
    return {
        **_inputs(setup, request),
        "kv_cache_latency": decode.kv_read_s if decode else None,
        "kv_cache_memory_per_gpu": used.kv_cache,
        "weight_memory_per_gpu": used.weights,
        "weight_memory_embedding_per_gpu": used.embedding,
        "prefill_activation_memory_per_gpu": used.prefill_activations,
        "prefill_max_batch_size_per_gpu": used.prefill_max_batch,
        "prefill_num_flops_fwd_total": forward_flops(setup, prefill_step),
        "decode_activation_memory_per_gpu": used.decode_activations,
        "decode_max_batch_size_per_gpu": used.decode_max_batch,
        "decode_num_flops_fwd_total": decode.flops if decode else None,
        **_latencies(setup, request, prefill, decode),
    }


# -- memory -------------------------------------------------------------------------------------------------


def inference_memory(setup: Setup, request: Request) -> Memory:
    """Bytes by use, and the largest batch per phase. The cache for all tokens is reserved before the prefill."""
    batch, final_len = request.batch, request.prompt_len + request.gen_len
    weights = memory.stage_weight_bytes(setup, request.stage)
    left = setup.gpu.memory_bytes - weights
    kv_cache = 0.0
    if request.use_kv_cache:
        element = memory.kv_bytes_per_element(setup, request.kv_cache_dtype_bytes)
        kv_cache = memory.stage_kv_bytes(setup, batch, final_len, element)
    norm_bytes = request.layernorm_dtype_bytes

    def activations(seq_len: int) -> float:
        widest = memory.forward_activation_bytes(setup, batch, seq_len, norm_bytes)
        return max(widest, memory.logits_bytes(setup, batch, seq_len))

    prefill = activations(request.prompt_len)
    decode: float | None = None
    if _has_decode(setup, request):
        if request.use_kv_cache:
            decode = activations(1)
        else:
            decode = memory.forward_activation_bytes(setup, batch, final_len, norm_bytes)
    # Without a cache each step is a pass over the whole sequence, which the prefill's logits may still exceed.
    decode_need = decode if decode is None or request.use_kv_cache else max(prefill, decode)
    return Memory(
        weights=weights,
        embedding=memory.stage_embedding_bytes(setup, request.stage),
        kv_cache=kv_cache,
        prefill_activations=prefill,
        decode_activations=decode,
        prefill_max_batch=_max_batch(left, (prefill + kv_cache) / batch),
        decode_max_batch=None if decode_need is None else _max_batch(left, (decode_need + kv_cache) / batch),
    )


def _max_batch(left: float, per_sequence: float) -> int:
    return max(0, math.floor(left / per_sequence))


def _check_fit(setup: Setup, request: Request, used: Memory) -> None:
    capacity = setup.gpu.memory_bytes
    if used.required <= capacity:
        return
    activations = max(used.prefill_activations, used.decode_activations or 0.0)
    most = min(
        used.prefill_max_batch,
        used.prefill_max_batch if used.decode_max_batch is None else used.decode_max_batch,
    )
    remedy = (
        f"the largest batch that fits is {most}" if most else "no batch fits: shard the model over more GPUs"
    )
    raise DoesNotFitError(
        f"{setup.model.name} at batch_size_per_gpu {request.batch} needs {used.required / GIB:.1f} GiB per GPU "
        f"(weights {used.weights / GIB:.1f}, KV cache {used.kv_cache / GIB:.1f}, activations {activations / GIB:.1f}) "
        f"and {setup.gpu.name} has {capacity / GIB:.1f} GiB: {(used.required - capacity) / GIB:.1f} GiB are missing; "
        f"{remedy}"
    )


# -- time ---------------------------------------------------------------------------------------------------


def _has_decode(setup: Setup, request: Request) -> bool:
    """The prefill produces the first token: one token, and an encoder, have no decode phase."""
    return request.gen_len > 1 and not setup.model.encoder


def _decode(setup: Setup, request: Request) -> Decode | None:
    if not _has_decode(setup, request):
        return None
    step, kv_read = _decode_step(setup, request)
    times = pass_times(setup, step, request.layernorm_dtype_bytes, request.stage)
    return Decode(request.gen_len - 1, forward_flops(setup, step), times, kv_read)


def _decode_step(setup: Setup, request: Request) -> tuple[Pass, float]:
    """The mean step, and its reading of the cache. Without a cache it is a pass over the mean context."""
    if not request.use_kv_cache:
        return whole_pass(setup, request.batch, request.prompt_len + request.gen_len / 2), 0.0
    step = decode_pass(setup, request.batch, request.prompt_len, request.gen_len)
    element = memory.kv_bytes_per_element(setup, request.kv_cache_dtype_bytes)
    return step, kv_read_time(setup, step, element)


# -- keys ---------------------------------------------------------------------------------------------------


def _inputs(setup: Setup, request: Request) -> dict[str, Any]:
    totals = parameter_totals(setup)
    return {
        "batch_size_per_gpu": request.batch,
        "seq_len": request.prompt_len,
        "tp_size": setup.parallelism.tp_size,
        "ep_size": setup.parallelism.ep_size,
        "pp_size": setup.parallelism.pp_size,
        "num_tokens_to_generate": request.gen_len,
        "num_params_total": totals.total,
        "num_params_total_mlp": totals.mlp,
        "num_params_total_embedding": totals.embedding,
        "num_params_total_others": totals.others,
        "num_active_params_total": totals.active,
        "flops_efficiency": setup.flops_efficiency,
        "hbm_memory_efficiency": setup.hbm_memory_efficiency,
        "layernorm_dtype_bytes": request.layernorm_dtype_bytes,
        "use_kv_cache": request.use_kv_cache,
    }


def _latencies(setup: Setup, request: Request, prefill: PassTimes, decode: Decode | None) -> dict[str, Any]:
    pipelined = setup.parallelism.pp_size > 1
    decode_parts: dict[str, float | None] = dict(
        (decode.times if decode else prefill).breakdown("decode_", pipelined)
    )
    if decode is None:
        decode_parts = dict.fromkeys(decode_parts)
    total_decode = decode.steps * decode.step_s if decode else 0.0
    total = prefill.total_s + total_decode
    generated = None if setup.model.encoder else request.gen_len
    rates = {
        "prefill_tokens_per_sec": request.batch * request.prompt_len / prefill.total_s,
        "decode_tokens_per_sec": request.batch / decode.step_s if decode else None,
        "total_tokens_per_sec": request.batch * generated / total if generated else None,
    }
    return {
        "prefill_latency": prefill.total_s,
        **prefill.breakdown("prefill_", pipelined),
        "decode_latency": decode.step_s if decode else None,
        **decode_parts,
        "total_decode_latency": total_decode,
        "total_latency": total,
        "total_per_token_latency": total / generated if generated else None,
        **rates,
        **_costs(setup, request, rates),
    }


def _costs(setup: Setup, request: Request, rates: dict[str, float | None]) -> dict[str, float | None]:
    """Cost of 1000 tokens on the GPUs of one replica, if an hour's price is given."""
    if request.cost_per_gpu_hour is None:
        return {}
    gpus = setup.parallelism.tp_size * setup.parallelism.pp_size
    per_second = request.cost_per_gpu_hour * gpus / 3600
    return {
        key.replace("tokens_per_sec", "cost_per_1k_tokens"): 1000 * per_second / rate if rate else None
        for key, rate in rates.items()
    }
