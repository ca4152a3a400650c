"""One replica's engine: its queue, its scheduler, its cache, and its steps one after the other.

Steps in which nothing enters or leaves are one row of the timeline and are taken at once. Tokens of decoding sequences are
counted by ``_steps``, the decode steps so far: a sequence knows at which count it ends, so that none is touched in between.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from llm_perf.requests.blocks import Blocks
from llm_perf.requests.limits import Limits
from llm_perf.requests.records import Records
from llm_perf.requests.step_times import StepTimes
from llm_perf.systems.scheduling import SchedulerRules

_FOREVER = float("inf")


class Engine:
    """A replica that serves the requests of ``records`` that it is given.

    Attributes:
        now: Seconds, the beginning of its next step.
        finished: Requests that ended in its last row.
    """

    def __init__(
        self, records: Records, rules: SchedulerRules, limits: Limits, times: StepTimes, replica: int
    ) -> None:
        self.records, self.rules, self.limits, self.times, self.replica = (
            records,
            rules,
            limits,
            times,
            replica,
        )
        self.now = 0.0
        self.finished: list[int] = []
        self._inbox: list[tuple[float, int]] = []
        self._waiting: deque[int] = deque()
        self._running: dict[int, None] = {}
        self._partial = -1
        self._partial_read = 0
        self._ends: list[tuple[int, int]] = []
        self._steps = 0
        self._decoding = 0
        self._context = 0  # sum over decoding sequences of (context of the next step - steps so far)
        self._residues = [0] * limits.block_tokens
        self._blocks = Blocks(limits.kv_blocks, rules.prefix_cache)
        self._taken = 0  # of the next decode step's blocks
        self._reserves = rules.admits == "whole"
        self._beside = rules.prompts == "beside decodes"
        ratio = rules.new_token_ratio
        self._ratio = self._first_ratio = (
            0.0 if ratio is None else min(ratio.first * ratio.conservativeness, 1.0)
        )
        self._admitted_left = 0
        self._unspent = 0  # sum over decoding sequences of the step count at which they end

    # -- from outside ---------------------------------------------------------------------------------------------

    def submit(self, request: int, ready_s: float) -> None:
        """A request arrives at the scheduler at ``ready_s``."""
        heappush(self._inbox, (ready_s, request))

    @property
    def load(self) -> int:
        """Requests that it has and that have not ended."""
        return len(self._running) + len(self._waiting) + len(self._inbox)

    @property
    def next_step_s(self) -> float:
        """When its next step begins; infinite where it has nothing to do."""
        if self._running or self._waiting:
            return self.now
        return max(self._inbox[0][0], self.now) if self._inbox else _FOREVER

    @property
    def next_end_s(self) -> float:
        """A time before which no request ends, whatever enters; infinite where there is none."""
        if not self._decoding:
            return self.next_step_s
        ends = self._ends
        while self.records.ends_at[ends[0][1]] != ends[0][0]:
            heappop(ends)
        context = self._context / self._decoding + self._steps
        return self.now + self.times.decode_steps_s(self._decoding, context, ends[0][0] - self._steps)

    def row(self, until: float = _FOREVER) -> None:
        """One row of steps. It ends early, after the step in which ``until`` lies, though something may enter then."""
        inbox, waiting = self._inbox, self._waiting
        self.finished = []
        if not self._running and not waiting:
            self.now = max(self.now, inbox[0][0])
            self._ratio = self._first_ratio
        while inbox and inbox[0][0] <= self.now:
            waiting.append(heappop(inbox)[1])
        if inbox:
            until = min(until, inbox[0][0])
        if self._beside:
            preempted = self._make_room() if self._decoding else False
            self._take_next()
            chunks, ends = self._plan(self.limits.step_tokens - self._decoding, not preempted)
            if chunks:
                self._mixed(chunks, ends, self._decoding)
                return
        else:
            chunks, ends = self._plan(self.limits.step_tokens, True)
            if chunks:
                self._mixed(chunks, ends, 0)
                return
            self._make_room()
        self._decode(until)

    # -- what a step holds ------------------------------------------------------------------------------------------

    def _plan(self, budget: int, admits: bool) -> tuple[list[tuple[int, int]], list[int]]:
        """Chunks of the next step as (new tokens, tokens before), and the requests whose prompts end in it."""
        chunks: list[tuple[int, int]] = []
        ends: list[int] = []
        self._admitted_left = 0
        if self._partial >= 0:
            used = self._continue(budget, chunks, ends)
            admits = admits and used >= 0
            budget -= used
        waiting, running, limits = self._waiting, self._running, self.limits
        while admits and waiting and budget > 0 and len(running) < limits.max_sequences and self._partial < 0:
            used = self._admit(waiting[0], budget, chunks, ends)
            if not used:
                break
            waiting.popleft()
            budget -= used
        return chunks, ends

    def _continue(self, budget: int, chunks: list[tuple[int, int]], ends: list[int]) -> int:
        """The next chunk of the prompt that is being read; the tokens of it, -1 where the cache has no room for it."""
        request, read = self._partial, self._partial_read
        records, block = self.records, self.limits.block_tokens
        new = min(records.length(request) - read, budget)
        if new <= 0:
            return 0
        if not self._reserves:
            own = max(-(-(read + new) // block) - records.prefix_blocks[request], 0)
            needed = own - records.own_blocks[request]
            if needed > self._blocks.free:
                self._preempt(request)
                return -1
            self._blocks.take(needed)
            records.own_blocks[request] = own
        self._read(request, new, read, chunks, ends)
        return new

    def _read(
        self, request: int, new: int, before: int, chunks: list[tuple[int, int]], ends: list[int]
    ) -> None:
        chunks.append((new, before))
        if before + new == self.records.length(request):
            ends.append(request)
            self._partial = -1
        else:
            self._partial, self._partial_read = request, before + new

    def _admit(self, request: int, budget: int, chunks: list[tuple[int, int]], ends: list[int]) -> int:
        """Start reading a waiting request if the cache has room for it; the tokens of its first chunk, 0 if not."""
        records, rules, blocks, block = self.records, self.rules, self._blocks, self.limits.block_tokens
        length = records.length(request)
        prefix, in_prefix, found = self._cached(request, length)
        cached = (min(blocks.shared(prefix), in_prefix) + found) * block if rules.prefix_cache else 0
        new = length - cached
        if new > budget:
            if not rules.chunked:
                return 0
            new = budget
        if rules.admits == "whole":
            upto = records.prompt[request] + records.output[request] - 1
        else:
            upto = length if rules.admits != "chunk" else cached + new
        own = max(-(-upto // block) - in_prefix, 0)
        shared = blocks.to_hold(prefix, in_prefix) if in_prefix else 0
        if own + shared + self._kept_free(request) > blocks.free:
            return 0
        if rules.admits != "whole":
            own = max(-(-(cached + new) // block) - in_prefix, 0)
        if in_prefix:
            blocks.hold(prefix, in_prefix)
        records.prefix_blocks[request] = in_prefix
        blocks.reuse(records.key[request], found)
        blocks.take(own - found)
        records.own_blocks[request] = own
        records.start(request, self.now, cached, self.replica)
        self._running[request] = None
        self._admitted_left += records.left(request)
        self._read(request, new, cached, chunks, ends)
        return new

    def _cached(self, request: int, length: int) -> tuple[int, int, int]:
        """(prefix, its full blocks, blocks of the request's own that are found again).

        The last token is always computed. Blocks of a prefix belong to all who share it.
        """
        records, block = self.records, self.limits.block_tokens
        if not self.rules.prefix_cache:
            return -1, 0, 0
        most = (length - 1) // block
        prefix = records.prefix[request]
        in_prefix = min(records.prefix_tokens[request] // block, most) if prefix >= 0 else 0
        if in_prefix and self._blocks.shared(prefix) < in_prefix:
            return prefix, in_prefix, 0
        known = records.computed[request] // block
        return (
            prefix,
            in_prefix,
            self._blocks.found(records.key[request], max(min(most, known) - in_prefix, 0)),
        )

    def _kept_free(self, request: int) -> int:
        """Blocks that must stay free when a request is admitted."""
        rules = self.rules
        if not self._running:
            return 0
        if rules.admits == "expected":
            block = self.limits.block_tokens
            left = self._unspent - self._steps * self._decoding
            # Those that were admitted to this step, and the request itself, count in full.
            expected = self._ratio * left + self._admitted_left + self.records.left(request)
            return -(-int(expected) // block)
        return self.limits.watermark_blocks

    # -- room in the cache ------------------------------------------------------------------------------------------

    def _needed(self) -> int:
        """Blocks that the next decode step takes: one for each sequence whose last block is full."""
        return self._residues[-self._steps % self.limits.block_tokens]

    def _make_room(self) -> bool:
        """Preempt until the next decode step has its blocks; whether anything was."""
        if self._reserves or self._needed() <= self._blocks.free:
            return False
        ratio = self.rules.new_token_ratio
        if ratio is None:
            while self._needed() > self._blocks.free:
                self._preempt(self._victim())
            return True
        block = self.limits.block_tokens
        while len(self._running) > 1 and self._blocks.free * block < ratio.room_steps * self._decoding:
            self._preempt(self._victim())
        self._ratio = self._raised_ratio(ratio.room_steps)
        return True

    def _take_next(self) -> None:
        """Running sequences take the blocks of their next step before others are admitted."""
        if not self._reserves:
            self._taken = self._needed()
            self._blocks.take(self._taken)

    def _victim(self) -> int:
        if self.rules.preempts == "least generated":
            return min(self._running, key=lambda one: (self._generated(one), -self.records.prompt[one]))
        return next(reversed(self._running))

    def _generated(self, request: int) -> int:
        records = self.records
        if records.ends_at[request] < 0:
            return records.generated[request]
        return records.output[request] - (records.ends_at[request] - self._steps)

    def _preempt(self, request: int) -> None:
        """A running sequence loses its blocks and waits before all others, to be computed anew."""
        records = self.records
        if request == self._partial:
            held, self._partial = self._partial_read, -1
        else:
            generated = self._generated(request)
            records.generated[request] = generated
            held = records.length(request) - 1
            self._leave_decoding(request, held)
        self._release(request, held)
        records.preemptions[request] += 1
        records.computed[request] = held
        self._waiting.appendleft(request)

    def _leave_decoding(self, request: int, held: int) -> None:
        """A sequence of ``held`` tokens of cache decodes no more."""
        records = self.records
        self._decoding -= 1
        self._context -= held + 1 - self._steps
        self._residues[(held - self._steps) % self.limits.block_tokens] -= 1
        self._unspent -= records.ends_at[request]
        records.ends_at[request] = -1
        if not self._reserves:
            records.own_blocks[request] = (
                -(-held // self.limits.block_tokens) - records.prefix_blocks[request]
            )

    def _release(self, request: int, held: int) -> None:
        """Blocks of a sequence of ``held`` tokens are free."""
        records, blocks = self.records, self._blocks
        del self._running[request]
        in_prefix = records.prefix_blocks[request]
        own = records.own_blocks[request]
        full = max(min(held // self.limits.block_tokens - in_prefix, own), 0)
        blocks.give(records.key[request], full, own - full)
        if in_prefix:
            blocks.leave(records.prefix[request])
        records.own_blocks[request] = records.prefix_blocks[request] = 0

    # -- steps ------------------------------------------------------------------------------------------------------

    def _mixed(self, chunks: list[tuple[int, int]], ends: list[int], batch: int) -> None:
        """One step that reads chunks beside ``batch`` decoding sequences."""
        context = self._context / batch + self._steps if batch else 0.0
        seconds = self.times.mixed_s(chunks, batch, context, len(ends))
        start = self.now
        self.now = end = start + seconds
        if batch:
            self._advance(1)
        self._note(start, seconds, 1, batch, sum([new for new, _ in chunks]))
        for request in ends:
            self._first(request, end)
        if batch:
            self._finish()

    def _decode(self, until: float) -> None:
        """Decode steps until a sequence ends, a request arrives or the cache is full."""
        batch, steps, ends = self._decoding, self._steps, self._ends
        while self.records.ends_at[ends[0][1]] != ends[0][0]:
            heappop(ends)  # it was preempted since
        most = ends[0][0] - steps
        if not self._reserves:
            most = self._until_full(most)
        context = self._context / batch + steps
        if until < _FOREVER:
            count, seconds = self.times.steps_until(batch, context, most, until - self.now)
        else:
            count, seconds = most, self.times.decode_steps_s(batch, context, most)
        start = self.now
        self.now += seconds
        self._advance(count)
        self._note(start, seconds, count, batch, 0)
        self._finish()

    def _until_full(self, most: int) -> int:
        """Steps for which the cache has blocks, at least one and at most ``most``."""
        block, residues = self.limits.block_tokens, self._residues
        left = self._blocks.free + self._taken
        if (-(-most // block)) * self._decoding <= left:
            return most
        cycles, steps = left // self._decoding, self._steps
        count = min(cycles * block, most)
        left -= cycles * self._decoding
        while count < most:
            left -= residues[-(steps + count) % block]
            if left < 0:
                break
            count += 1
        return max(count, 1)

    def _advance(self, count: int) -> None:
        """Decoding sequences have ``count`` tokens more, and the blocks for them."""
        if not self._reserves:
            block, residues, steps = self.limits.block_tokens, self._residues, self._steps
            cycles, rest = divmod(count, block)
            needed = cycles * self._decoding
            for step in range(steps, steps + rest):
                needed += residues[-step % block]
            if needed:
                self._blocks.take(needed - self._taken)
                self._taken = 0
        self._steps += count
        ratio = self.rules.new_token_ratio
        if ratio is not None:
            sinks = self._first_ratio * (1 - ratio.least_factor) / ratio.steps
            self._ratio = max(self._ratio - count * sinks, self._first_ratio * ratio.least_factor)

    def _raised_ratio(self, room_steps: int) -> float:
        """After a preemption: the share that running sequences have generated of what they may generate."""
        records = self.records
        made = sum(self._generated(one) for one in self._running)
        may = sum(records.output[one] for one in self._running)
        return min((made + room_steps * len(self._running)) / max(may, 1), 1.0)

    def _first(self, request: int, end: float) -> None:
        """A prompt has been read, and its sequence has a token more."""
        records = self.records
        held = records.length(request)
        left = records.left(request) - 1
        records.emits(request, end)
        if left == 0:
            self._end(request, held, end)
            return
        ends_at = self._steps + left
        records.ends_at[request] = ends_at
        heappush(self._ends, (ends_at, request))
        self._unspent += ends_at
        self._decoding += 1
        self._context += held + 1 - self._steps
        self._residues[(held - self._steps) % self.limits.block_tokens] += 1

    def _finish(self) -> None:
        """Sequences that have all their tokens leave."""
        ends, records, steps = self._ends, self.records, self._steps
        while ends and ends[0][0] <= steps:
            ends_at, request = heappop(ends)
            if records.ends_at[request] != ends_at:
                continue
            held = records.prompt[request] + records.output[request] - 1
            self._leave_decoding(request, held)
            self._end(request, held, self.now)

    def _end(self, request: int, held: int, end: float) -> None:
        self._release(request, held)
        self.records.finish(request, end)
        self.finished.append(request)

    def _note(self, start: float, seconds: float, count: int, batch: int, read: int) -> None:
        used = self._blocks.capacity - self._blocks.free
        kv_tokens = used * self.limits.block_tokens
        self.records.note((start, seconds, count, batch, read, kv_tokens, len(self._waiting), self.replica))
