"""Device time of attention on one rank: over a prompt, and over the cache in decode steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llm_perf.config.model import Mixer
from llm_perf.config.scenario import Scenario
from llm_perf.counts.arrays import Number, is_array, maximum, minimum, where
from llm_perf.counts.attention import (
    attended,
    keys_read,
    kv_elements_per_token,
    prefill_pairs,
    score_flops_per_pair,
)
from llm_perf.hardware.collective import Fabric
from llm_perf.hardware.gpu_time import KernelRates
from llm_perf.hardware.roofline import p_norm
from llm_perf.systems.costs import Costs
from llm_perf.systems.decode_attention import attention_s_per_token, kv_reads
from llm_perf.systems.latent_kernels import NO_ROWS_LOST, decode_padding, gathered_flops, gathers_beyond
from llm_perf.systems.products import (
    decode_attention,
    fused_attention,
    layer_terms,
    score_square,
    unfused_attention,
)
from llm_perf.systems.terms import Factor, Quantity, Term, Terms, one_term

_QUERY_TILE = 16
"""Rows of the least tile of queries, all heads that share keys together: those of the matrix instructions of tensor cores."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of prompts in one pass: ``sequences`` alike, each with ``cached`` tokens that came before."""

    sequences: Number
    new_tokens: Number
    cached: Number = 0

    @property
    def tokens(self) -> Number:
        """New tokens of all its sequences."""
        return self.sequences * self.new_tokens


@dataclass(frozen=True, slots=True)
class ChunkAttention:
    """What the attention of chunks computes and reads in one layer; ``query_len`` new tokens of a sequence per kernel."""

    flops: Number
    query_len: Number
    kv_bytes: Number


@dataclass(frozen=True, slots=True)
class DecodeAttention:
    """What one mixer of a layer group attends to in a decode step: seconds = floor_s + per_token_s x attended(context)."""

    mixer: Mixer
    per_token_s: Number
    compute_per_token_s: Number
    memory_per_token_s: Number


def split_keys(attention: Mixer, new: Number, cached: Number) -> tuple[Number, Number]:
    """What few queries at depth cost a kernel that divides their keys: times of its FLOPs, and rows whose losses count.

    Multiprocessors that queries leave idle take a part of their keys: only rows of the one tile are lost. A scan has no
    tile of queries.
    """
    rows_lost = 1.0 if attention.recurrent else maximum(_QUERY_TILE / (new * attention.key_readers), 1.0)
    return rows_lost, new + minimum(cached, attention.saturates_at or math.inf)


class Attention:
    """Attention of a scenario under a stack's constants; context-parallel ranks exchange over ``fabric``."""

    def __init__(
        self, scenario: Scenario, constants: dict[str, float], rates: KernelRates, fabric: Fabric
    ) -> None:
        self.scenario, self.constants, self.rates, self.fabric = scenario, constants, rates, fabric
        self.tp, self.cp = scenario.parallelism.tp_size, scenario.parallelism.cp_size
        self.activation_bytes = scenario.dtype.activation_bits / 8

    def prefill(self, costs: Costs, attention: Mixer, layers: int, chunks: Sequence[Chunk]) -> None:
        """Attention of prompts' chunks in one kernel, whose floor comes once."""
        if self.constants["unfused_attention"] and not attention.recurrent:
            for chunk in chunks:
                self._unfused_attention(costs, attention, layers, chunk)
            return
        work = self.chunks(attention, chunks)
        if self.cp > 1:
            self._ring(costs, layers, work.kv_bytes, work.flops / self.rates.attention_flops_per_s)
        seconds = self.rates.prefill_attention_s(work.flops, work.query_len, work.kv_bytes)
        floors = (self.cp - 1) * self.rates.attention_floor_s
        whole = seconds + floors

        def each() -> Quantity:
            floor_s = self.rates.attention_floor_s + floors
            return fused_attention(self.rates, work.flops, work.query_len, work.kv_bytes, floor_s)

        costs.part(
            "attention", layers * whole, layer_terms("attention", "attention of the prompt", layers, each)
        )
        costs.busy("kernel_floors", layers * (self.rates.attention_floor_s + floors))
        costs.busy("compute", layers * work.flops / self.rates.attention_flops_per_s)

    def chunks(self, attention: Mixer, chunks: Sequence[Chunk]) -> ChunkAttention:
        """What one layer's fused attention of chunks computes and reads."""
        found = [self._one_chunk(attention, chunk) for chunk in chunks]
        if len(found) == 1:
            return found[0]
        flops = sum(one.flops for one in found)
        # A kernel loses the same rows of each query block: losses add up, so lengths are averaged by their inverse.
        per_query = sum(one.flops / one.query_len for one in found)
        return ChunkAttention(flops, flops / per_query, sum(one.kv_bytes for one in found))

    def _one_chunk(self, attention: Mixer, chunk: Chunk) -> ChunkAttention:
        new, cached = chunk.new_tokens, chunk.cached
        pairs = self._chunk_pairs(attention, chunk)
        flops = chunk.sequences * pairs * score_flops_per_pair(attention, self.tp)
        length: Number = new
        gathered = gathered_flops(self.constants, self.scenario.gpu, attention, self.tp)
        if gathered:
            beyond = new + cached > gathers_beyond(self.constants, attention)
            flops = where(beyond, chunk.sequences * new * gathered / self.cp, flops)
            length = where(beyond, NO_ROWS_LOST, length)
        if self.constants["attention_splits_keys"]:
            slower, length = split_keys(attention, new, cached)
            flops = flops * slower
        if attention.recurrent and self._scan_flops_per_s:
            flops = flops * (self.rates.attention_flops_per_s / self._scan_flops_per_s)
            length = NO_ROWS_LOST
        kv_bytes = self._chunk_kv_bytes(attention, chunk.sequences, new, cached)
        return ChunkAttention(flops, length / self.cp, kv_bytes)

    @property
    def _scan_flops_per_s(self) -> float:
        """FLOP/s of scans that step from token to token on a core's ordinary lanes; 0 where they run as attention does."""
        gpu = self.scenario.gpu
        cores_hz = (gpu.sm_count or 0) * (gpu.sm_clock_mhz or 0.0) * 1e6
        return self.constants["scan_flops_per_sm_per_clock"] * cores_hz

    def _chunk_pairs(self, attention: Mixer, chunk: Chunk) -> Number:
        """Pairs of query and key of one sequence of a chunk on one context rank."""
        new, cached = chunk.new_tokens, chunk.cached
        pairs = prefill_pairs(attention, new + cached, causal=not self.scenario.model.encoder)
        if is_array(cached) or cached:
            pairs = pairs - prefill_pairs(attention, cached, causal=True)
        return pairs / self.cp

    def _chunk_kv_bytes(self, attention: Mixer, batch: Number, new: Number, cached: Number) -> Number:
        bits = attention.kept_bits(self.scenario.dtype.kv_bits, self.scenario.dtype.state_bits)
        return (
            batch * keys_read(attention, new, cached) * kv_elements_per_token(attention, self.tp) * bits / 8
        )

    def _unfused_attention(self, costs: Costs, attention: Mixer, layers: int, chunk: Chunk) -> None:
        """Unfused kernels compute the whole rectangle of scores and move every score through memory."""
        batch, new, cached = chunk.sequences, chunk.new_tokens, chunk.cached
        kv_bytes = self._chunk_kv_bytes(attention, batch, new, cached)
        per_pair = score_flops_per_pair(attention, self.tp)
        if self.cp > 1:
            pairs = self._chunk_pairs(attention, chunk)
            self._ring(costs, layers, kv_bytes, batch * pairs * per_pair / self.rates.attention_flops_per_s)
        square = new * (new + cached) / self.cp
        rate = self.constants["unfused_product_share"] * self.rates.gemm.flops_per_s
        heads = attention.num_heads / self.tp
        compute, moved = score_square(attention, batch * square, rate, self.constants["score_bytes"], self.tp)
        read = kv_bytes / self.rates.attention_bytes_per_s
        products = p_norm(compute, read, self.rates.knee_exponent)
        working_set = 2 * self.activation_bytes * batch * square * heads
        memory = self.rates.scores_s(moved, working_set)
        whole = products + memory + 2 * self.rates.attention_floor_s

        def both() -> Quantity:
            flops = batch * square * per_pair
            return unfused_attention(self.rates, flops, rate, kv_bytes, moved, working_set)

        costs.part("attention", layers * whole, layer_terms("attention", "unfused attention", layers, both))
        costs.busy("kernel_floors", 2 * layers * self.rates.attention_floor_s)
        costs.busy("compute", layers * compute)
        costs.busy("hbm", layers * (memory + read))

    def _ring(self, costs: Costs, layers: int, kv_bytes: Number, attention_s: Number) -> None:
        """Keys and values pass round the context ranks while each attends to what it has (arXiv 2310.01889)."""
        turns = self.cp - 1
        passed = turns * self.fabric.send_s(kv_bytes / self.cp)
        exposed = maximum(passed - attention_s * turns / self.cp, 0.0)
        name = "keys and values passed round"
        costs.part(
            "context_exchange", layers * exposed, _of_layers("context_exchange", name, layers, exposed)
        )
        costs.busy("interconnect", layers * passed)

    def decode(
        self, costs: Costs, mixer: Mixer, layers: int, batch: Number, queries: int = 1
    ) -> DecodeAttention:
        """Linear in the context, so that steps can be summed; the floor of the kernel goes to ``costs`` at once.

        Context ranks attend to a part of the cache each, for the same queries, and merge what they found (flash
        decoding over ranks, arXiv 2411.01783, section 3.4).
        """
        flops = batch * queries * score_flops_per_pair(mixer, self.tp, absorbed=True) / self.cp
        flops = flops * decode_padding(self.constants, self.scenario.gpu, mixer, self.tp)
        reads = kv_reads(self.scenario, self.constants, mixer, batch)
        if self.cp > 1:
            merged = batch * queries * mixer.num_heads / self.tp * mixer.head_dim
            size = merged * self.activation_bytes
            costs.collective("context_exchange", layers, self.fabric.all_reduce_s(size))
        heads = mixer.num_heads / self.tp
        processors = self.scenario.gpu.sm_count or 1
        eager = self.constants["eager_attention_us"] * 1e-6 * batch * heads / processors
        floor = self.rates.attention_floor_s * self.constants["graph_floor_scale"] + eager
        costs.part("attention", layers * floor, _of_layers("attention", "attention kernels", layers, floor))
        costs.busy("kernel_floors", layers * floor)
        return DecodeAttention(
            mixer,
            layers * attention_s_per_token(self.scenario, self.constants, self.rates, mixer, flops, reads),
            layers * flops / self.rates.gemm.flops_per_s,
            layers * reads.stored / self.rates.attention_bytes_per_s,
        )

    def terms(
        self, attention: list[DecodeAttention], nodes: list[tuple[Number, Number]], times: Number = 1.0
    ) -> Terms:
        """Decode attention, floors left out, of steps at contexts with weights."""

        def terms() -> Iterator[Term]:
            for entry in attention:
                read = sum(weight * attended(entry.mixer, context) for context, weight in nodes)
                one = decode_attention(self.rates, entry.compute_per_token_s, entry.memory_per_token_s)
                # Some stacks have limits beside the two roofs.
                of = (one,) if math.isclose(one.value, entry.per_token_s, rel_tol=1e-9) else ()
                factors = (
                    Factor("tokens attended to over all steps", times * read),
                    Factor(one.name, entry.per_token_s, of),
                )
                yield Term("attention", "attention over the context", factors)

        return terms


def attention_s(attention: list[DecodeAttention], context: Number) -> Number:
    """Seconds of decode attention, floors left out, at a context."""
    total: Number = 0.0
    for entry in attention:
        total = total + entry.per_token_s * attended(entry.mixer, context)
    return total


def context_when(attention: list[DecodeAttention], seconds: Number) -> Number:
    """The context at which decode attention, floors left out, has come to take ``seconds``.

    Beyond each window fewer layers grow. Attention time is the least of these lines, so the latest crossing counts.
    """
    found: Number = 0.0
    for limit in (0.0, *windows_of(entry.mixer for entry in attention)):
        full = [entry for entry in attention if _window(entry.mixer) <= limit]
        growing = [entry.per_token_s for entry in attention if _window(entry.mixer) > limit]
        if growing:
            rest = seconds - sum(entry.per_token_s * _window(entry.mixer) for entry in full)
            found = maximum(found, rest / sum(growing))
    return found


def windows_of(mixers: Iterable[Mixer]) -> tuple[float, ...]:
    """Contexts at which some of them stop attending to more."""
    return tuple(sorted({_window(mixer) for mixer in mixers} - {math.inf}))


def _window(mixer: Mixer) -> float:
    """Context beyond which a mixer attends to no more tokens."""
    return float(mixer.saturates_at or math.inf)


def _of_layers(part: str, name: str, layers: int, each_s: Number) -> Terms:
    return one_term(part, name, ("layers", layers), ("seconds of one", each_s))
