"""Sequences that decode, counted by steps: each knows at which count it ends, so that none is touched in between."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from llm_perf.requests.records import Records


class Decoding:
    """The decoding sequences of one engine.

    Attributes:
        steps: Decode steps so far.
        count: Sequences that decode.
    """

    def __init__(self, records: Records, block_tokens: int, running: dict[int, None]) -> None:
        self.steps = 0
        self.count = 0
        self._records, self._block, self._running = records, block_tokens, running
        self._ends: list[tuple[int, int]] = []
        self._context = 0  # sum over sequences of (context of the next step - steps so far)
        self._unspent = 0  # sum over sequences of the step count at which they end
        self._residues = [
            0
        ] * block_tokens  # sequences by the step count, modulo a block, at which they fill one

    @property
    def mean_context(self) -> float:
        """Mean context of the next step; 0 where nothing decodes."""
        return self._context / self.count + self.steps if self.count else 0.0

    @property
    def left(self) -> int:
        """Tokens that all of them have yet to generate."""
        return self._unspent - self.steps * self.count

    @property
    def first_end(self) -> int:
        """Decode steps until one ends."""
        ends = self._ends
        while not self._ends_at(*ends[0]):
            heappop(ends)
        return ends[0][0] - self.steps

    def generated(self, request: int) -> int:
        """Tokens that a running request has, whether it decodes or not."""
        records = self._records
        if records.ends_at[request] < 0:
            return records.generated[request]
        return records.output[request] - (records.ends_at[request] - self.steps)

    # -- who decodes ------------------------------------------------------------------------------------------------

    def enter(self, request: int, held: int, left: int) -> None:
        """A sequence of ``held`` tokens of cache decodes from the next step on, until it has ``left`` tokens more."""
        ends_at = self.steps + left
        self._records.ends_at[request] = ends_at
        heappush(self._ends, (ends_at, request))
        self._unspent += ends_at
        self.count += 1
        self._context += held + 1 - self.steps
        self._residues[(held - self.steps) % self._block] += 1

    def leave(self, request: int) -> None:
        """A sequence decodes no more."""
        records = self._records
        self.count -= 1
        # What it entered with, also where a step gave it more tokens than it had left.
        entered = records.prompt[request] + records.output[request] - records.ends_at[request]
        self._context -= entered
        self._residues[(entered - 1) % self._block] -= 1
        self._unspent -= records.ends_at[request]
        records.ends_at[request] = -1

    def ended(self) -> Iterator[int]:
        """Sequences that have all their tokens; each is to leave."""
        ends = self._ends
        while ends and ends[0][0] <= self.steps:
            ends_at, request = heappop(ends)
            if self._ends_at(ends_at, request):
                yield request

    def _ends_at(self, ends_at: int, request: int) -> bool:
        """Whether a sequence still ends at that count of steps: it may have been preempted, and be elsewhere since."""
        return self._records.ends_at[request] == ends_at and request in self._running

    # -- blocks that they take --------------------------------------------------------------------------------------

    def blocks_of_next(self) -> int:
        """Blocks that the next decode step takes: one for each sequence whose last block is full."""
        return self._residues[-self.steps % self._block]

    def blocks_of(self, count: int) -> int:
        """Blocks that so many steps take."""
        cycles, rest = divmod(count, self._block)
        needed = cycles * self.count
        for step in range(self.steps, self.steps + rest):
            needed += self._residues[-step % self._block]
        return needed

    def steps_within(self, blocks: int, most: int) -> int:
        """Steps for which there are blocks, at least one and at most ``most``."""
        block, residues = self._block, self._residues
        if (-(-most // block)) * self.count <= blocks:
            return most
        cycles, steps = blocks // self.count, self.steps
        count = min(cycles * block, most)
        blocks -= cycles * self.count
        while count < most:
            blocks -= residues[-(steps + count) % block]
            if blocks < 0:
                break
            count += 1
        return max(count, 1)
