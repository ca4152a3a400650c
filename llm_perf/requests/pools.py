"""Disaggregated serving: one pool of engines reads prompts, another generates, and caches move between them.

A prompt's cache leaves when its last chunk has been read, one after the other over the links of the replica that read it, and
the first token is there when the other pool takes the sequence up (DistServe, arXiv 2401.09670; Splitwise, arXiv 2311.18677).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

import numpy as np

from llm_perf.config.scenario import Scenario
from llm_perf.errors import SpecError
from llm_perf.hardware.collective import fabric
from llm_perf.requests.arrivals import Coming
from llm_perf.requests.engine import Engine
from llm_perf.requests.limits import Limits
from llm_perf.requests.outcome import Outcome
from llm_perf.requests.records import Records
from llm_perf.requests.simulate import (
    check_engines,
    of_mean_lengths,
    rejected,
    rejection,
    rules_of,
    step_times,
)
from llm_perf.requests.steady import SteadyState
from llm_perf.requests.workload import Floats, Requests
from llm_perf.systems.footprint import stage_kv_bytes

_FOREVER = float("inf")


def simulate_pools(
    prefill: Scenario,
    decode: Scenario,
    requests: Requests,
    *,
    prefill_replicas: int = 1,
    decode_replicas: int = 1,
    between_nodes: bool = True,
    scheduler: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Outcome:
    """Serve requests by two pools. Replicas of the outcome are those of the decode pool, after them those of the other.

    Args:
        prefill: One replica of the pool that reads prompts, as `infer` has it.
        decode: One replica of the pool that generates.
        requests: What is asked for.
        prefill_replicas: Engines that read prompts.
        decode_replicas: Engines that generate.
        between_nodes: Whether caches cross the network between nodes, or the links inside one.
        scheduler: One of the engines' policies by name; the default if None.
        settings: Fields of the scheduling rules that were set to something else than the engines' default.

    Raises:
        SpecError: the pools run different models, or the deployment is of a kind that is not simulated.
        DoesNotFitError: the weights leave no room for a cache.
    """
    if prefill.model != decode.model:
        raise SpecError(f"both pools serve one model, got {prefill.model.name} and {decode.model.name}")
    for pool in (prefill, decode):
        if pool.parallelism.dp_size > 1:
            raise SpecError(
                f"dp_size {pool.parallelism.dp_size}: give the replicas of a pool instead; possible: 1"
            )
        if pool.parallelism.pp_size > 1:
            raise SpecError(
                f"pp_size {pool.parallelism.pp_size}: pools of engines with pipeline stages are not simulated; possible: 1"
            )
    for name, count in (("replicas", decode_replicas), ("prefill_replicas", prefill_replicas)):
        check_engines({name: count})
    rules = rules_of(prefill, scheduler).replace(**(settings or {}))
    if rules.batch == "static":
        raise SpecError(
            f"system {prefill.system} runs batches from beginning to end: it cannot be divided into pools"
        )
    whole = requests.prompt_tokens + requests.output_tokens
    longest = int(whole.max(initial=1))
    prompts = replace(requests, output_tokens=np.ones_like(requests.output_tokens))
    read, written = Records(prompts), Records(requests)
    readers: list[Engine] = []
    writers: list[Engine] = []
    kept = rules.model_copy(update={"prefix_cache": False})  # what arrives is of its own
    capacity = 0
    for pool, records, count, engines in (
        (decode, written, decode_replicas, writers),
        (prefill, read, prefill_replicas, readers),
    ):
        scenario = of_mean_lengths(pool, requests)
        limits = Limits.of(scenario, rules, longest)
        times = step_times(scenario, limits)
        kind, own = (Engine, rules) if engines is readers else (Writer, kept)
        first = 0 if engines is writers else decode_replicas
        engines += [kind(records, own, limits, times, first + index) for index in range(count)]
        capacity = capacity or limits.kv_tokens
    refused = rejected(requests, writers[0].limits, rules) | rejected(prompts, readers[0].limits, rules)
    moves = transfer_s(prefill, decode, requests.prompt_tokens.astype(float), between_nodes)
    _Pools(read, written, readers, writers, refused, moves).run()
    written.absorb(read)
    return written.outcome(
        capacity,
        rejection(requests, writers[0].limits, rules),
        f"{rules.name}, two pools",
        len(readers) + len(writers),
    )


def transfer_s(
    prefill: Scenario, decode: Scenario, prompt_tokens: Floats, between_nodes: bool = True
) -> Floats:
    """Seconds that the cache of a prompt takes from one pool to the other: ranks send, and receive, their parts at once."""
    links = [
        fabric(pool.gpu, 2, 1 if between_nodes else 2, pool.host, 2).send_s(
            stage_kv_bytes(pool, 1.0, prompt_tokens)
        )
        for pool in (prefill, decode)
    ]
    return np.asarray(np.maximum(*links))


def matched(
    prefill: Scenario, decode: Scenario, prompt_tokens: float, output_tokens: float, rate: float
) -> tuple[int, int]:
    """Replicas of both pools that keep up with ``rate`` requests per second, at the least.

    Raises:
        SpecError: as `simulate_pools`.
    """
    longest = int(prompt_tokens + output_tokens) + 1
    reads, _ = SteadyState(prefill, longest).of_pools(prompt_tokens, output_tokens)
    _, writes = SteadyState(decode, longest).of_pools(prompt_tokens, output_tokens)
    return max(math.ceil(rate / reads), 1), max(math.ceil(rate / writes), 1)


class Writer(Engine):
    """An engine that takes up sequences whose prompts were read elsewhere; what it preempts it reads itself."""

    def _admit(self, request: int, budget: int, chunks: list[tuple[int, int]], ends: list[int]) -> int:
        records, blocks, block = self.records, self._blocks, self.limits.block_tokens
        if records.preemptions[request]:
            return super()._admit(request, budget, chunks, ends)
        held, left = records.prompt[request], records.left(request) - 1
        own = -(-(held + left if self._reserves else held) // block)
        # Where blocks of the next step are taken already, those of this sequence are as well.
        next_block = 1 if self._beside and not self._reserves and held % block == 0 else 0
        if own + next_block + self._kept_free(request) > blocks.free:
            return -1
        blocks.take(own + next_block)
        self._taken += next_block
        records.own_blocks[request] = own
        records.start(request, self.now, 0, self.replica)
        records.emits(request, self.now)
        self._running[request] = None
        self._decodes.enter(request, held, left)
        return 0


class _Pools:
    """Arrivals to the readers, caches on their way, and engines that are never ahead of what may still reach them."""

    def __init__(
        self,
        read: Records,
        written: Records,
        readers: list[Engine],
        writers: list[Engine],
        refused: np.ndarray,
        moves: Floats,
    ) -> None:
        self.read, self.written, self.readers, self.writers = read, written, readers, writers
        self.refused: list[bool] = refused.tolist()
        self.moves: list[float] = moves.tolist()
        self.frontend_s = readers[0].times.frontend_s
        self.link_free = [0.0] * len(readers)
        self.coming = Coming(written.requests)
        self.moved: list[tuple[float, int]] = []

    def run(self) -> None:
        """Until every request has ended or was rejected."""
        follows = self.coming.follows
        engines = [*self.readers, *self.writers]
        count = len(self.readers)
        while True:
            index = min(range(len(engines)), key=lambda one: engines[one].next_step_s)
            engine = engines[index]
            event = min(self.coming.next_s, self.moved[0][0] if self.moved else _FOREVER)
            if engine.next_step_s == _FOREVER and event == _FOREVER:
                return
            if event <= engine.next_step_s:
                self._event(event)
                continue
            sources = [*self.readers, *(self.writers if follows else [])]
            until = min((one.next_end_s for one in sources if one is not engine), default=_FOREVER)
            engine.row(max(min(until, event), engine.next_step_s))
            for request in engine.finished:
                if index < count:
                    self._was_read(request, index)
                else:
                    self.coming.follow(request, self.written.finished[request])

    def _event(self, event: float) -> None:
        if self.moved and self.moved[0][0] == event:
            at, request = heappop(self.moved)
            min(self.writers, key=lambda one: (one.load, one.replica)).submit(request, at)
            return
        arrival, request = self.coming.next()
        self.read.arrival[request] = self.written.arrival[request] = arrival
        if self.refused[request]:
            self.written.reject(request, -1)
            self.coming.follow(request, arrival)
            return
        reader = min(self.readers, key=lambda one: (one.load, one.replica))
        reader.submit(request, arrival + self.frontend_s)

    def _was_read(self, request: int, reader: int) -> None:
        """A prompt's cache leaves for the other pool, after those that left before; a single token needs none."""
        end = self.read.finished[request]
        if self.written.output[request] == 1:
            self.written.start(request, self.read.scheduled[request], 0, self.readers[reader].replica)
            self.written.emits(request, end)
            self.written.finish(request, end)
            self.coming.follow(request, end)
            return
        there = max(end, self.link_free[reader]) + self.moves[request]
        self.link_free[reader] = there
        heappush(self.moved, (there, request))
