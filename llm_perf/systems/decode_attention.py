"""Decode attention over the cache: how long one more token of context takes.

Everything here is linear in the context, so that steps can be summed without visiting each (`Forward.attention_s`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llm_perf.config.layers.attention import Attention
from llm_perf.config.model import Mixer
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, maximum, minimum
from llm_perf.counts.attention import kv_elements_per_token
from llm_perf.hardware.gpu_time import KernelRates
from llm_perf.hardware.roofline import p_norm

_CONVERTING_LANES = 64
"""Lanes of a multiprocessor that run the instructions of a conversion at once: 32-bit integer units of Volta and Ampere."""

_WIDE_BITS = 16
"""Query heads multiply keys and values of 16 bits, whatever the cache stores: narrower ones are widened on their way."""


@dataclass(frozen=True, slots=True)
class KVReads:
    """Bytes of keys and values of one token of context in one layer, all sequences of a batch on one rank.

    ``stored`` leave device memory, ``wide`` is what all query heads read together, most of it from the L2 cache.
    """

    stored: Number
    wide: Number


def heads_per_kv_head(mixer: Mixer) -> float:
    """Query heads that share keys and values and read them each by itself."""
    return mixer.key_readers


def kv_reads(scenario: Scenario, constants: Mapping[str, float], mixer: Mixer, batch: Number) -> KVReads:
    """What decode attention reads per token of context; a recurrent state is read and written back instead."""
    p, dtype = scenario.parallelism, scenario.dtype
    per_token = (
        kv_elements_per_token(mixer, p.tp_size) * mixer.kept_bits(dtype.stored_kv_bits, dtype.state_bits) / 8
    )
    per_token *= constants["kv_passes"]
    shared = heads_per_kv_head(mixer)
    if mixer.recurrent:
        stored = batch * (2 * per_token) / p.cp_size
        return KVReads(stored, stored * shared)
    if constants["ungrouped_kv_reads"]:
        per_token *= shared
    every = batch * per_token / p.cp_size
    widened = max(_WIDE_BITS / dtype.stored_kv_bits, 1.0)
    return KVReads(every * read_once_share(scenario, batch), every * shared * widened)


def converts_in_software(scenario: Scenario) -> bool:
    """Whether each query head unpacks the cache's elements by integer arithmetic: an fp8 cache on a GPU without fp8."""
    return scenario.dtype.kv_format == "fp8" and "fp8" not in scenario.gpu.peak_tflops


def read_once_share(scenario: Scenario, batch: Number) -> Number:
    """Share of the cache's bytes that leave device memory where all sequences share one cached prefix.

    Sequences that attend to the same pages at the same time find them in the L2 cache. The shared part is taken at the
    mean context of the workload.
    """
    workload = scenario.workload
    if not workload.shared_prefix:
        return 1.0
    context = workload.prompt_len + workload.gen_len / 2
    shared = minimum(workload.prefix_hit_rate * workload.prompt_len / context, 1.0)
    return 1.0 - shared * (1.0 - 1.0 / batch)


def attention_s_per_token(
    scenario: Scenario,
    constants: Mapping[str, float],
    rates: KernelRates,
    mixer: Mixer,
    flops: Number,
    reads: KVReads,
) -> Number:
    """Seconds of one layer per token of context, floors left out.

    The longer of arithmetic, device memory, and what the multiprocessors take in (`KernelRates`); a limit where a kernel
    cuts each sequence into few parts, so that a small batch leaves multiprocessors idle (split KV, flash decoding); and
    copies of the cache that some stacks make before they attend (`copies_s_per_token`).
    """
    expanded = heads_per_kv_head(mixer) if _expands(constants, mixer) else 1.0
    seconds = rates.decode_attention_s_per_token(flops, reads.stored * expanded, reads.wide)
    if mixer.recurrent:
        return seconds
    if converts_in_software(scenario):
        elements = reads.wide / (_WIDE_BITS / 8)
        lanes = (scenario.gpu.sm_count or 0) * (scenario.gpu.sm_clock_mhz or 0.0) * 1e6 * _CONVERTING_LANES
        converting = elements * constants["fp8_kv_instructions"] / (lanes or math.inf)
        seconds = p_norm(seconds, converting, rates.knee_exponent)
    splits = parts_of_a_sequence(scenario, constants, mixer)
    if splits > 0:
        clock_ghz = (scenario.gpu.sm_clock_mhz or 1000.0) / 1000
        one_head = 2 * mixer.head_dim * scenario.dtype.stored_kv_bits / 8
        rate = splits * constants["split_gb_per_s_per_ghz"] * 1e9 * clock_ghz
        seconds = p_norm(seconds, one_head / rate, rates.knee_exponent)
    return seconds + copies_s_per_token(scenario, constants, rates, mixer, reads)


def parts_of_a_sequence(scenario: Scenario, constants: Mapping[str, float], mixer: Mixer) -> float:
    """Into how many parts decode attention cuts a sequence, each for one thread block; 0: enough to fill the GPU.

    A stack whose kernel with parts takes heads up to ``split_head_dim`` and contexts up to ``split_context_tokens`` alone has
    another without for all else. A captured graph is one for the longest context that is served, which is the model's.
    """
    heads, tokens = constants["split_head_dim"], constants["split_context_tokens"]
    longest = scenario.model.max_position_embeddings or 0
    refused = (0 < heads < mixer.head_dim) or (0 < tokens < longest)
    return 1.0 if refused and _reads_all(scenario, mixer) else constants["attention_kv_splits"]


def _reads_all(scenario: Scenario, mixer: Mixer) -> bool:
    """Whether keys and values of all tokens are read by a stack's usual kernel.

    Latents, and models of which an indexer selects tokens, have kernels of their own.
    """
    parts = (part for group in scenario.model.layer_groups for part in group.attention.parts)
    selects = any(isinstance(part, Attention) and part.selected for part in parts)
    return isinstance(mixer, Attention) and not selects


def copies_s_per_token(
    scenario: Scenario, constants: Mapping[str, float], rates: KernelRates, mixer: Mixer, reads: KVReads
) -> Number:
    """Seconds that copies of keys and values take before attention, per token of context and layer.

    A cache that grows by concatenation is written anew in every step (`append_gb_per_s_per_sm_ghz`); keys and values of
    grouped queries are written once per query head (`repeat_gb_per_s_per_sm_ghz`), which attention then reads. Neither
    kernel is held up by memory but by the index arithmetic of two bytes at a time, which each multiprocessor does at its
    own pace; a GPU that does not state its multiprocessors moves them at the memory's rate.
    """
    sm_ghz = (scenario.gpu.sm_count or 0) * (scenario.gpu.sm_clock_mhz or 0.0) / 1000
    heads = heads_per_kv_head(mixer)
    seconds: Number = 0.0
    for made, written, read in (
        (constants["append_gb_per_s_per_sm_ghz"], reads.stored, reads.stored),
        (constants["repeat_gb_per_s_per_sm_ghz"] if heads > 1 else 0.0, reads.stored * heads, reads.stored),
    ):
        if made > 0:
            by_memory = (written + read) / rates.elementwise_bytes_per_s
            seconds = seconds + (maximum(by_memory, written / (made * sm_ghz * 1e9)) if sm_ghz else by_memory)
    return seconds


def _expands(constants: Mapping[str, float], mixer: Mixer) -> bool:
    """Whether attention reads keys and values that were written once per query head."""
    return constants["repeat_gb_per_s_per_sm_ghz"] > 0 and not mixer.recurrent
