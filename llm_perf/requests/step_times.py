"""Seconds of an engine's steps, from tables that are built once per deployment by vectorised evaluation.

Nothing is fitted or approximated: a step's time is a sum of what follows from its tokens, from its positions with logits,
from its decoding sequences and from the chunks that it reads, so that a table in each of the first three holds every step.
Up to `_DENSE` tokens the tables have every number; beyond, nodes stand half a percent apart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_perf.config.model import Mixer
from llm_perf.counts.arrays import Number
from llm_perf.counts.attention import attended, kv_elements_per_token, score_flops_per_pair
from llm_perf.counts.quadrature import context_nodes
from llm_perf.hardware.roofline import p_norm
from llm_perf.requests.workload import Floats
from llm_perf.systems.attention import Chunk, DecodeAttention, split_keys
from llm_perf.systems.costs import Costs
from llm_perf.systems.cpu_forward import CpuForward
from llm_perf.systems.forward import Forward
from llm_perf.systems.host_time import (
    graph_kinks,
    host_s_by_regime,
    host_s_per_pass,
    overlap_exponent,
    prefill_overhead_s,
    step_overhead_s,
    stream_s,
)
from llm_perf.systems.latent_kernels import NO_ROWS_LOST, gathered_flops, gathers_beyond
from llm_perf.systems.mixed_steps import step_s
from llm_perf.systems.speculation import Rounds

_DENSE = 8192
_APART = 1.005
_FEW = 3
_WORTH_WRITING_OUT = 8
"""How many counts of a table take as long to write out as one takes to be found."""

ChunkLengths = Sequence[tuple[int, int]]
"""(new tokens, tokens before them) of each chunk of a step."""


class Table:
    """A function of a count, from 1 on: a list with every value, and nodes beyond; arrays lie between their neighbours."""

    __slots__ = ("_all", "_counts", "_every", "_nodes", "_values", "dense")

    def __init__(self, counts: Floats, values: Floats, dense: int = _DENSE) -> None:
        self._counts, self._all = np.insert(counts, 0, 0.0), np.insert(values, 0, 0.0)
        self._every: Floats | None = None
        dense = int(min(len(counts), dense))
        self.dense: list[float] = [0.0, *values[:dense].tolist()]
        self._nodes: list[float] = counts[dense - 1 :].tolist()
        self._values: list[float] = values[dense - 1 :].tolist()

    def __call__(self, count: float) -> float:
        """The value at a count; 0 at none."""
        if count < len(self.dense):
            return self.dense[int(count)]
        at = min(bisect_right(self._nodes, count), len(self._nodes) - 1) - 1
        left, right = self._nodes[at], self._nodes[at + 1]
        share = (count - left) / (right - left)
        return self._values[at] + share * (self._values[at + 1] - self._values[at])

    def at(self, counts: Floats) -> Floats:
        """Values at counts that need not be whole.

        Nodes are whole numbers: between two whole counts a value lies on the line between theirs, which needs no search
        once all are written out, as many counts are worth.
        """
        most = self._counts[-1]
        if self._every is None:
            if np.size(counts) * _WORTH_WRITING_OUT < most:
                return np.interp(counts, self._counts, self._all)
            self._every = np.interp(np.arange(most + 2), self._counts, self._all)
        return _between(np.minimum(counts, most), self._every)


def table_counts(most: int, dense: int = _DENSE) -> Floats:
    """Every count up to ``dense``, and from there on counts half a percent apart up to ``most``."""
    counts = np.arange(1, min(most, dense) + 1, dtype=float)
    if most <= dense:
        return counts
    more = int(np.ceil(np.log(most / dense) / np.log(_APART)))
    return np.concatenate([counts, np.unique(np.rint(np.geomspace(dense, most, more + 1)))[1:]])


@dataclass(frozen=True, slots=True)
class _Attending:
    """Layers of one kind of mixer: what their attention of chunks computes and reads.

    Attributes:
        limit: Tokens that a query sees at most; infinite where it sees all before it.
        triangular: Whether its pairs are those of a triangle that is cut at the limit, and its keys those in reach.
        splits: Whether its kernels divide the keys of few queries.
        gathered: FLOPs per query of a kernel that gathers picked tokens, which reads what ends ``beyond`` so many; else 0.
    """

    layers: int
    mixer: Mixer
    flops_per_pair: float
    kv_bytes: float
    limit: float
    triangular: bool
    splits: bool
    gathered: float
    beyond: float

    @classmethod
    def of(cls, layers: int, mixer: Mixer, forward: Forward) -> _Attending:
        """So many layers of a mixer on one rank."""
        dtype, limit = forward.scenario.dtype, mixer.saturates_at
        kept = kv_elements_per_token(mixer, forward.tp) * mixer.kept_bits(dtype.kv_bits, dtype.state_bits) / 8
        beyond = 3 * (limit or 1) + 2
        triangular = mixer.prefill_pairs(beyond) == Mixer.prefill_pairs(mixer, beyond) and mixer.keys_read(
            beyond, beyond
        ) == Mixer.keys_read(mixer, beyond, beyond)
        per_pair = score_flops_per_pair(mixer, forward.tp)
        splits = bool(forward.constants["attention_splits_keys"])
        c, gpu = forward.constants, forward.scenario.gpu
        gathered, least = gathered_flops(c, gpu, mixer, forward.tp), gathers_beyond(c, mixer)
        return cls(
            layers, mixer, per_pair, float(kept), float(limit or np.inf), triangular, splits, gathered, least
        )

    def work(self, chunks: ChunkLengths) -> tuple[float, float, float]:
        """Of all chunks: FLOPs of their scores, the same per query, and keys that are read."""
        flops = per_query = keys = 0.0
        mixer, limit, per_pair = self.mixer, self.limit, self.flops_per_pair
        for new, before in chunks:
            end = before + new
            if not self.triangular:
                pairs = mixer.prefill_pairs(end) - (mixer.prefill_pairs(before) if before else 0.0)
                reached = mixer.keys_read(new, before)
            elif end <= limit:
                pairs, reached = new * (before + end + 1) * 0.5, end
            elif before >= limit:
                pairs, reached = new * limit, new + limit
            else:
                pairs = limit * (limit + 1) * 0.5 + (end - limit) * limit - before * (before + 1) * 0.5
                reached = end
            slower, rows = split_keys(mixer, new, before) if self.splits else (1.0, new)
            work = pairs * per_pair * slower
            if self.gathered and end > self.beyond:
                work, rows = new * self.gathered, NO_ROWS_LOST
            flops += work
            per_query += work / rows
            keys += reached
        return flops, per_query, keys


class StepTimes:
    """Seconds of steps of up to ``max_tokens`` tokens with up to ``max_sequences`` decoding sequences.

    With a draft model a decode step is a round of drafting and checking, and gives each sequence ``tokens_per_step`` tokens;
    times of decode steps are then those of one token, a share of a round.

    Args:
        forward: The pass of one rank.
        max_sequences: Sequences that decode at once, at most.
        max_tokens: Tokens of a step, at most.
        rounds: What a decode step becomes where a model drafts for another; a step if None.
        dense: Up to so many the tables have every count.
        one_process: What the host does once per prefill is part of a step that reads prompts.
        offline: No server is in front of the engine, and no token is sent.
    """

    def __init__(
        self,
        forward: Forward,
        max_sequences: int,
        max_tokens: int,
        rounds: Rounds | None = None,
        dense: int = _DENSE,
        one_process: bool = False,
        offline: bool = False,
    ) -> None:
        self.forward = forward
        self.max_sequences, self.max_tokens = max_sequences, max_tokens
        constants = forward.constants
        self.queries = 1 if rounds is None else rounds.queries
        self.tokens_per_step = 1.0 if rounds is None else rounds.tokens
        self._drafted = 0 if rounds is None else rounds.drafted
        self._draft: StepTimes | None = None
        if rounds is not None and rounds.draft is not None:
            self._draft = StepTimes(rounds.draft, max_sequences, max_tokens, dense=dense)
        counts = table_counts(max(max_tokens, max_sequences * self.queries), dense)
        body = Costs()
        forward.layers(body, counts, counts)
        forward.pipeline_transfer(body, counts)
        self._body = Table(counts, _whole(body.total_s, counts), dense)
        experts = Costs()
        forward.experts(experts, counts)
        self._experts = Table(counts, _whole(experts.total_s, counts), dense)
        head = Costs()
        self._all_logits = bool(constants["logits_all_positions"])
        positions = counts if self._all_logits else table_counts(max_sequences * self.queries, dense)
        forward.head_of(head, positions)
        self._head = Table(positions, _whole(head.total_s, positions), dense)
        self._decode_tables(np.arange(1, max_sequences + 1, dtype=float))
        self._mixers = tuple(self._attending())
        self._pass_tokens = int(constants.get("ubatch_tokens", 0))
        self._on_cpu = forward if isinstance(forward, CpuForward) else None
        self._slow_chunks = self._on_cpu is None and (bool(constants["unfused_attention"]) or forward.cp > 1)
        self._exponent = overlap_exponent(forward)
        self._eager_from = constants["graph_max_context"] if len(self._host) > 1 else float("inf")
        self.launch_s = float(host_s_per_pass(forward, prefill=True))  # of a pass with prompts
        self._once = float(step_overhead_s(forward, 0.0))
        self._each = float(step_overhead_s(forward, 1.0)) - self._once
        self.stream_s = 0.0 if offline else float(stream_s(forward))
        per_prefill = float(prefill_overhead_s(forward, served=not offline))
        self.frontend_s, self._reading = (0.0, per_prefill) if one_process else (per_prefill, 0.0)

    def _decode_tables(self, batch: Floats) -> None:
        """What decoding sequences add to a step: floors of their kernels, and attention per token of context."""
        costs, entries = Costs(), list[DecodeAttention]()
        for group in self.forward.model.layer_groups:
            for mixer in group.attention.parts:
                entries.append(self.forward.attention.decode(costs, mixer, group.count, batch, self.queries))
        floors = _whole(costs.total_s, batch)
        self._floor = [0.0, *floors.tolist()]
        plain = [entry for entry in entries if entry.mixer.saturates_at is None]
        per_token = sum((_whole(entry.per_token_s, batch) for entry in plain), np.zeros_like(batch))
        self._per_token = [0.0, *per_token.tolist()]
        self._bounded = _bounded(entries, batch)
        tokens = batch * self.queries
        whole = self._body.at(tokens) + self._head.at(tokens) + floors
        self._base = [0.0, *whole.tolist()]
        by_batch = (
            self._base,
            self._floor,
            self._per_token,
            *(per_token for _, _, per_token in self._bounded),
        )
        self._batch_arrays = tuple(np.array([*column, column[-1]]) for column in by_batch)
        launches = host_s_by_regime(self.forward, batch)
        self._host_arrays = [np.insert(_whole(one, batch), [0, len(batch)], [0.0, 0.0]) for one in launches]
        self._host = [one.tolist() for one in self._host_arrays]  # by the number of sequences, in each regime
        regimes = (self.forward.context_when(entries, host - whole) for host in launches)
        self._kinks = [np.broadcast_to(one, batch.shape).tolist() for one in regimes]
        self._fixed_kinks = (*self.forward.windows, *graph_kinks(self.forward))

    def _attending(self) -> list[_Attending]:
        layers: dict[Mixer, int] = {}
        for group in self.forward.model.layer_groups:
            for mixer in group.attention.parts:
                layers[mixer] = layers.pop(mixer, 0) + group.count
        return [_Attending.of(count, mixer, self.forward) for mixer, count in layers.items()]

    def of_shared_experts_s(self, tokens: float, mean_tokens: float) -> float:
        """What a step takes more, or less, where the experts work on other tokens than its own: the replicas' mean."""
        return self._experts(mean_tokens) - self._experts(tokens)

    def after_layers_s(self, batch: int, read: int, chunks: int, ends: int) -> float:
        """Seconds of a step that only the last of several stages works on: the head, scheduling and sampling."""
        positions = batch * self.queries + (read if self._all_logits else ends)
        return self._head(positions) + self._once + self._each * (batch + chunks)

    # -- decode steps -------------------------------------------------------------------------------------------

    def decode_s(self, batch: int, context: float) -> float:
        """Seconds per token of a step of ``batch`` decoding sequences of a mean context, the token in work included."""
        seconds = self._pass_s(batch, context) + self._once + self._each * batch
        if self._draft is None:
            return seconds
        return (seconds + self._drafted * self._draft._pass_s(batch, context)) / self.tokens_per_step

    def _pass_s(self, batch: int, context: float) -> float:
        """A decode step without its scheduling and sampling."""
        device = self._base[batch] + self._per_token[batch] * context
        for limit, beyond, per_token in self._bounded:
            device += per_token[batch] * (context if context <= limit else beyond)
        return self._beside(device, self._host[0 if context <= self._eager_from else 1][batch])

    def decode_steps_s(self, batch: int, context: float, count: int) -> float:
        """Seconds of ``count`` such steps in a row, whose contexts grow by a token each."""
        if count <= _FEW:
            return sum(self.decode_s(batch, context + step) for step in range(count))
        kinks = (*self._fixed_kinks, *(kinks[batch - 1] for kinks in self._kinks))
        last = context + count - 1
        inside = tuple(kink for kink in kinks if context <= kink < last)
        seconds = 0.0
        for node, weight in context_nodes(context, count, inside):
            seconds += weight * self.decode_s(batch, node)
        return seconds

    def steps_until(self, batch: int, context: float, most: int, seconds: float) -> tuple[int, float]:
        """The fewest steps that take at least so many seconds, at most ``most``, and what they take."""
        first = self.decode_s(batch, context)
        if most == 1 or first >= seconds:
            return 1, first
        whole = self.decode_steps_s(batch, context, most)
        if whole < seconds:
            return most, whole
        low, high, high_s = 1, most, whole  # so many are too few; so many are enough
        per_step, low_s = first, first
        while high - low > 1:
            # Between the two the sum is nearly straight: the secant lands next to the answer.
            per_step = (high_s - low_s) / (high - low)
            guess = low + int((seconds - low_s) / per_step) + 1
            guess = min(max(guess, low + 1), high - 1)
            guess_s = self.decode_steps_s(batch, context, guess)
            if guess_s < seconds:
                low, low_s = guess, guess_s
                continue
            before_s = guess_s - self.decode_s(batch, context + guess - 1)
            high, high_s = guess, guess_s
            if before_s < seconds:
                break
            if guess - 1 > low:
                high, high_s = guess - 1, before_s
        return high, high_s

    # -- steps with chunks ----------------------------------------------------------------------------------------

    def mixed_s(
        self, chunks: ChunkLengths, batch: int, context: float, ends: int, ahead_s: float = 0.0
    ) -> float:
        """Seconds of a step that reads ``chunks`` beside ``batch`` decoding sequences; ``ends`` of its prompts end here.

        The host began to launch it ``ahead_s`` before the device was done with the step before; steps of several passes
        (llama.cpp's) are not launched ahead.
        """
        seconds = self._once + self._reading + self._each * (batch + len(chunks))
        if self._pass_tokens:
            return seconds + self._passes_s(chunks, batch, context, ends)
        return seconds + self._mixed_pass_s(chunks, batch, context, ends, ahead_s)

    def chunks_s(self, chunks: ChunkLengths, ends: int) -> float:
        """Seconds of reading ``chunks`` in a step that another model's part is scheduled in."""
        return self.mixed_s(chunks, 0, 0.0, ends) - self._once - self._reading - self._each * len(chunks)

    def _passes_s(self, chunks: ChunkLengths, batch: int, context: float, ends: int) -> float:
        """Passes of a bounded number of tokens that follow one another: decoding sequences first, then prompts in order."""
        seconds, room = 0.0, self._pass_tokens - batch * self.queries
        one: list[tuple[int, int]] = []
        for new, before in chunks:
            while new > 0:
                if room <= 0:
                    seconds += self._mixed_pass_s(one, batch, context, 0)
                    batch, room, one = 0, self._pass_tokens, []
                taken = min(new, room)
                one.append((taken, before))
                new, before, room = new - taken, before + taken, room - taken
        return seconds + self._mixed_pass_s(one, batch, context, ends)

    def _mixed_pass_s(
        self, chunks: ChunkLengths, batch: int, context: float, ends: int, ahead_s: float = 0.0
    ) -> float:
        """A pass over chunks and decoding sequences, without its scheduling and sampling."""
        device = self._visited_s(chunks, batch, context, ends) if self._slow_chunks else 0.0
        if not self._slow_chunks:
            read = 0
            for new, _ in chunks:
                read += new
            tokens = batch * self.queries
            device = self._body(read + tokens) + self._head(tokens + (read if self._all_logits else ends))
            if batch:
                device += self._floor[batch] + self._per_token[batch] * context
                for limit, beyond, per_token in self._bounded:
                    device += per_token[batch] * (context if context <= limit else beyond)
            if self._on_cpu is not None:
                device += float(self._on_cpu.chunks_s(chunks, batch, context))
            else:
                for one in self._mixers:
                    device += self._chunks_s(one, chunks)
        seconds = self._beside(device, max(self.launch_s - ahead_s, 0.0))
        if self._draft is None:
            return seconds
        drafting = self._drafted * self._draft._pass_s(batch, context) if batch else 0.0
        return seconds + drafting + self._draft.chunks_s(chunks, ends)

    def _visited_s(self, chunks: ChunkLengths, batch: int, context: float, ends: int) -> float:
        """Device seconds of such a pass where no table has its attention: each chunk is asked for."""
        named = [Chunk(1.0, new, before) for new, before in chunks]
        costs, attention = self.forward.mixed_step(named, batch, ends, self.queries)
        return float(costs.total_s + self.forward.attention_s(attention, context))

    def equal_prompts_s(self, sequences: int, new_tokens: int, cached: int = 0) -> float:
        """Seconds of a step that reads equally long prompts, to their ends and nothing else, as a static batch does."""
        chunk = Chunk(float(sequences), float(new_tokens), float(cached))
        return float(step_s(self.forward, (chunk,), 0.0, 0.0, float(sequences))) + self._reading

    # -- means, for the steady state --------------------------------------------------------------------------------

    def mean_decode_s(self, batch: Floats, context: Floats) -> Floats:
        """`decode_s` of numbers of sequences that need not be whole, as arrays."""
        seconds = self._mean_pass_s(batch, context) + self._once + self._each * batch
        if self._draft is None:
            return seconds
        drafting = self._drafted * self._draft._mean_pass_s(batch, context)
        return np.asarray((seconds + drafting) / self.tokens_per_step)

    def _mean_pass_s(self, batch: Floats, context: Floats) -> Floats:
        device = _between(batch, self._batch_arrays[0]) + self._attended_s(batch, context)
        captured, eager = (
            one[np.ceil(batch).astype(np.int64)] for one in (self._host_arrays[0], self._host_arrays[-1])
        )
        host = np.where(context <= self._eager_from, captured, eager)
        return self._mean_beside(device, host)

    def mean_mixed_s(
        self,
        prompts: Floats,
        new: Floats,
        before: Floats,
        batch: Floats,
        context: Floats,
        ahead_s: Floats | float = 0.0,
    ) -> Floats:
        """`mixed_s` of ``prompts`` chunks of ``new`` tokens after ``before``, which all end, beside ``batch``; as arrays."""
        read = prompts * new
        tokens = batch * self.queries
        passes = np.ones_like(read + tokens)
        if self._pass_tokens:
            passes = np.maximum(np.ceil((read + tokens) / self._pass_tokens), 1.0)
        full = (passes - 1.0) * self._pass_tokens
        device = self._body.at(read + tokens - full)
        device += (passes - 1.0) * self._body.at(np.full_like(passes, self._pass_tokens))
        device += self._head.at(tokens + (read if self._all_logits else prompts))
        device += _between(batch, self._batch_arrays[1]) + self._attended_s(batch, context)
        # Passes have an equal part of each prompt, at its middle depth.
        part, depth = new / passes, before + (passes - 1.0) / 2 * new / passes
        device += passes * self._mean_chunks_s(prompts, part, depth, batch, context)
        host = np.maximum(passes * self.launch_s - ahead_s, 0.0)
        once = self._once + self._reading
        seconds = np.asarray(self._mean_beside(device, host) + once + self._each * (batch + prompts))
        if self._draft is None:
            return seconds
        drafting = np.where(batch > 0, self._drafted * self._draft._mean_pass_s(batch, context), 0.0)
        own = self._draft.mean_mixed_s(prompts, new, before, 0.0 * batch, context)
        return seconds + drafting + own - self._draft._once - self._draft._each * prompts

    def _mean_chunks_s(
        self, prompts: Floats, new: Floats, before: Floats, batch: Floats, context: Floats
    ) -> Floats:
        """Attention of one pass in all layers over ``prompts`` chunks of ``new`` tokens after ``before``, as arrays."""
        if self._on_cpu is not None:
            return np.asarray(self._on_cpu.chunks_s([(new, before)], batch, context, prompts))
        if self._slow_chunks:
            costs = Costs()
            for group in self.forward.model.layer_groups:
                for mixer in group.attention.parts:
                    self.forward.attention.prefill(costs, mixer, group.count, (Chunk(prompts, new, before),))
            return np.asarray(costs.total_s)
        rates, device = self.forward.rates, np.zeros_like(new)
        for one in self._mixers:
            pairs = one.mixer.prefill_pairs(new + before) - one.mixer.prefill_pairs(before)
            slower, rows = split_keys(one.mixer, new, before) if one.splits else (1.0, new)
            work = pairs * one.flops_per_pair * slower
            if one.gathered:
                gathers = new + before > one.beyond
                work = np.where(gathers, new * one.gathered, work)
                rows = np.where(gathers, NO_ROWS_LOST, rows)
            flops = prompts * work
            compute = flops * (1.0 + rates.attention_half_len / rows) / rates.attention_flops_per_s
            memory = prompts * one.mixer.keys_read(new, before) * one.kv_bytes / rates.attention_bytes_per_s
            device = device + one.layers * (
                rates.attention_floor_s + p_norm(compute, memory, rates.knee_exponent)
            )
        return device

    def _attended_s(self, batch: Floats, context: Floats) -> Floats:
        seconds = _between(batch, self._batch_arrays[2]) * context
        for (limit, beyond, _), per_token in zip(self._bounded, self._batch_arrays[3:], strict=True):
            seconds = seconds + _between(batch, per_token) * np.where(context <= limit, context, beyond)
        return seconds

    def _mean_beside(self, device_s: Floats, host_s: Floats) -> Floats:
        return np.asarray(np.maximum(p_norm(device_s, host_s, self._exponent), device_s))

    def _chunks_s(self, one: _Attending, chunks: ChunkLengths) -> float:
        """Attention of all chunks in the layers of one kind: the arithmetic of `Attention.chunks`."""
        flops, per_query, keys = one.work(chunks)
        rates = self.forward.rates
        compute = (flops + rates.attention_half_len * per_query) / rates.attention_flops_per_s
        memory = keys * one.kv_bytes / rates.attention_bytes_per_s
        longer: float = p_norm(compute, memory, rates.knee_exponent)
        return one.layers * (rates.attention_floor_s + longer)

    def _beside(self, device_s: float, host_s: float) -> float:
        """A pass on the device with what the host adds to it."""
        if host_s <= 0:
            return device_s
        together: float = p_norm(device_s, host_s, self._exponent)
        return max(together, device_s)


def _bounded(entries: Sequence[DecodeAttention], batch: Floats) -> list[tuple[float, float, list[float]]]:
    """Of mixers that do not see everything: up to which context they do, what they see beyond, seconds per token seen."""
    found: dict[tuple[float, float], Floats] = {}
    for entry in entries:
        limit = entry.mixer.saturates_at
        if limit is not None:
            key = float(limit), float(attended(entry.mixer, limit + 1))
            found[key] = found.get(key, 0.0) + _whole(entry.per_token_s, batch)
    return [(*key, [0.0, *per_token.tolist()]) for key, per_token in found.items()]


def _between(counts: Floats, values: Floats) -> Floats:
    """Values at counts that need not be whole, from those at 0, 1, 2, …; one more than the largest count is needed."""
    left = counts.astype(np.int64)
    low = values[left]
    return np.asarray(low + (counts - left) * (values[left + 1] - low))


def _whole(value: Number, counts: Floats) -> Floats:
    """A value per count, of one that may be the same for all."""
    return np.broadcast_to(np.asarray(value, float), counts.shape)
