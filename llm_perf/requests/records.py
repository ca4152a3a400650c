"""Columns that a simulation fills: one row per request, one row per run of steps. Plain lists, which are fast one by one."""

from __future__ import annotations

import math

import numpy as np

from llm_perf.requests.outcome import COMPLETED, REJECTED, RUNNING, Outcome, Steps
from llm_perf.requests.workload import Requests

_NAN = math.nan


class Records:
    """What is known of each request, and the timeline so far.

    Attributes:
        prompt, output, prefix, prefix_tokens: As asked.
        key: Under what a request's own blocks are found again: the first turn of its session, whose text it contains.
        generated: Tokens so far, brought up to date when it enters or leaves the decoding sequences.
        computed: Tokens of its text whose cache was there once.
        own_blocks, prefix_blocks: Blocks that it holds, and those that it shares.
        ends_at: The engine's count of decode steps at which it ends; -1 while it does not decode.
    """

    def __init__(self, requests: Requests) -> None:
        count = len(requests)
        self.requests = requests
        self.prompt: list[int] = requests.prompt_tokens.tolist()
        self.output: list[int] = requests.output_tokens.tolist()
        self.prefix: list[int] = requests.prefix_id.tolist()
        self.prefix_tokens: list[int] = requests.prefix_tokens.tolist()
        self.previous: list[int] = requests.previous.tolist()
        self.arrival: list[float] = [_NAN] * count
        self.scheduled: list[float] = [_NAN] * count
        self.first_token: list[float] = [_NAN] * count
        self.finished: list[float] = [_NAN] * count
        self.held = [0.0] * count
        self.status = [RUNNING] * count
        self.preemptions = [0] * count
        self.cached = [0] * count
        self.replica = [-1] * count
        self.generated = [0] * count
        self.own_blocks = [0] * count
        self.prefix_blocks = [0] * count
        self.ends_at = [-1] * count
        self.computed = [0] * count
        self.key = list(range(count))
        for turn, before in enumerate(self.previous):
            if before >= 0 and self.prompt[turn] >= self.prompt[before] + self.output[before]:
                self.key[turn] = self.key[before]
                self.computed[turn] = self.prompt[before] + self.output[before] - 1
        self._rows: list[tuple[float, float, int, int, int, int, int, int, int]] = []
        self.note = self._rows.append

    def length(self, request: int) -> int:
        """Tokens that must be in the cache before its next token: the prompt, and what it generated before a preemption."""
        return self.prompt[request] + self.generated[request]

    def left(self, request: int) -> int:
        """Tokens that it has yet to generate."""
        return self.output[request] - self.generated[request]

    def start(self, request: int, now: float, cached: int, replica: int) -> None:
        """A request is admitted, with so many tokens of its prompt found in the cache."""
        if self.scheduled[request] != self.scheduled[request]:  # nan: it never was before
            self.scheduled[request] = now
            self.cached[request] = cached
            self.replica[request] = replica

    def emits(self, request: int, now: float, late_s: float = 0.0) -> None:
        """A prompt was read to its end, which gives a token; a frontend that is behind sends it so much later."""
        if not self.generated[request]:
            self.first_token[request] = now + late_s
            self.held[request] = -late_s
        self.generated[request] += 1

    def finish(self, request: int, now: float, late_s: float = 0.0) -> None:
        """All its tokens are there, and sent so much later."""
        self.finished[request] = max(now + late_s, self.first_token[request])
        self.held[request] += late_s
        self.generated[request] = self.output[request]
        self.status[request] = COMPLETED

    def reject(self, request: int, replica: int) -> None:
        """It can never run."""
        self.status[request] = REJECTED
        self.replica[request] = replica

    def absorb(self, other: Records) -> None:
        """Take over when requests began, what was found in the cache, and the timeline of engines before these."""
        for request, at in enumerate(other.scheduled):
            if at == at:
                self.scheduled[request] = at
                self.cached[request] = other.cached[request]
                self.preemptions[request] += other.preemptions[request]
        self._rows += other._rows

    def outcome(self, kv_capacity_tokens: int, rejections: str, scheduler: str, engines: int = 0) -> Outcome:
        """All of it as arrays."""
        rows = sorted(self._rows)  # replicas were simulated one after the other
        columns = list(zip(*rows, strict=True)) or [()] * 9
        times = [np.array(column, float) for column in columns[:2]]
        numbers = [np.array(column, np.int64) for column in columns[2:]]
        return Outcome(
            requests=self.requests,
            arrival_s=np.array(self.arrival),
            scheduled_s=np.array(self.scheduled),
            first_token_s=np.array(self.first_token),
            finished_s=np.array(self.finished),
            held_s=np.array(self.held),
            status=np.array(self.status, np.int8),
            preemptions=np.array(self.preemptions, np.int64),
            cached_tokens=np.array(self.cached, np.int64),
            replica=np.array(self.replica, np.int64),
            steps=Steps(*times, *numbers),
            kv_capacity_tokens=kv_capacity_tokens,
            rejections=rejections,
            scheduler=scheduler,
            engines=engines,
        )
