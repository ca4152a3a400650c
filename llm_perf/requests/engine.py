"""One replica's engine: its queue, its scheduler, its cache, and its steps one after the other.

Steps in which nothing enters or leaves are one row of the timeline and are taken at once: decoding sequences are counted, not
visited (`llm_perf.requests.decoding`).
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import NamedTuple

from llm_perf.requests.blocks import Blocks
from llm_perf.requests.decoding import Decoding
from llm_perf.requests.limits import Limits
from llm_perf.requests.records import Records
from llm_perf.requests.step_times import StepTimes
from llm_perf.systems.scheduling import SchedulerRules

_FOREVER = float("inf")


class Step(NamedTuple):
    """What a step holds: chunks as (new tokens, tokens before), whose prompts end in it, and decoding sequences."""

    chunks: list[tuple[int, int]]
    ends: list[int]
    batch: int
    context: float

    @property
    def read(self) -> int:
        """Tokens of prompts."""
        return sum([new for new, _ in self.chunks])

    @property
    def tokens(self) -> int:
        """All its tokens."""
        return self.read + self.batch


_NOTHING = Step([], [], 0, 0.0)


class Engine:
    """A replica that serves the requests of ``records`` that it is given.

    Attributes:
        now: Seconds, the beginning of its next step.
        finished: Requests that ended in its last row.
        held_back: Whoever steps it lets no prompt enter its next step.
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
        self.held_back = False
        # Micro-batches of the same engine, where there are several: they take from one queue and one cache.
        self.beside: list[Engine] = []
        self.bounded_together = False
        self._inbox: list[tuple[float, int]] = []
        self._waiting: deque[int] = deque()
        self._running: dict[int, None] = {}
        self._partial = -1
        self._partial_read = 0
        self._decodes = Decoding(records, limits.block_tokens, self._running)
        self._blocks = Blocks(limits.kv_blocks, rules.prefix_cache)
        self._taken = 0  # of the next decode step's blocks
        self._reserves = rules.admits == "whole"
        self._gathers_s = rules.gathers_ms * 1e-3
        self._beside = rules.prompts == "beside decodes"
        ratio = rules.new_token_ratio
        self._ratio = self._first_ratio = (
            0.0 if ratio is None else min(ratio.first * ratio.conservativeness, 1.0)
        )
        self._admitted_left = 0
        self._step = _NOTHING
        self._scheduled_s = 0.0
        self._just_ended = 0  # whose slots the next step does not know to be free
        self._stream_s = times.stream_s / rules.stream_interval  # the frontend's, per token
        self._launch_s = times.launch_s if rules.ahead and rules.sends_after_launch else 0.0
        self._ahead_s = 0.0  # how long before the next step the host may begin to launch it
        self._refused = False  # the first that waits found no room, in a step that read nothing
        self._backlog_s = self._sent_s = (
            0.0  # what the frontend has to do with tokens that are there, and when that was
        )
        self._late_s = 0.0  # what tokens of the last step wait to be sent
        self._since_look = 0  # decode steps
        self._held = 0  # decode steps for which what waits has been held back
        self._holding = False
        self._ahead = 0.0  # tokens of steps that were no whole ones

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
        return max(self._inbox[0][0] + self._gathers_s, self.now) if self._inbox else _FOREVER

    @property
    def next_end_s(self) -> float:
        """A time before which no request ends, whatever enters; infinite where there is none."""
        decodes = self._decodes
        if not decodes.count:
            return self.next_step_s
        # What is read in the next step may end with it.
        soon = self._waiting or self._inbox or self._partial >= 0
        return self.now + self.times.decode_steps_s(
            decodes.count, decodes.mean_context, 1 if soon else self.most_steps()
        )

    @property
    def next_arrival_s(self) -> float:
        """When the next request arrives that it knows of."""
        return self._inbox[0][0] if self._inbox else _FOREVER

    @property
    def generates(self) -> bool:
        """Whether any of its sequences decodes."""
        return self._decodes.count > 0

    def may_read(self, start: float) -> bool:
        """Whether a step that begins then could read a prompt, as far as its scheduler knows."""
        if self._partial >= 0:
            return True
        if len(self._running) >= self.limits.max_sequences:
            return False
        known = self._scheduled_s if self.rules.ahead and self._running else start
        return bool(self._waiting) or self.next_arrival_s <= known

    def row(self, until: float = _FOREVER) -> None:
        """One row of steps. It ends early, after the step in which ``until`` lies, though something may enter then."""
        self.now = self.next_step_s
        step = self.begin()
        if step.chunks:
            self.end(1, self.step_s(step))
            return
        self.end(*self.decode_steps(self.most_steps(), min(until, self.next_arrival_s)))

    # -- a row in three parts, for engines that step together ---------------------------------------------------------

    def begin(self) -> Step:
        """What the next step holds; nothing where there is nothing to do."""
        inbox, waiting = self._inbox, self._waiting
        self._just_ended = len(self.finished) if self.rules.ahead and self._scheduled_s < self.now else 0
        self.finished = []
        if not self._running:  # no step is on its way
            self._scheduled_s, self._just_ended, self._ahead_s = self.now, 0, 0.0
            self._ratio = self._ratio if waiting else self._first_ratio
        known = self._scheduled_s if self.rules.ahead else self.now
        every = self.rules.looks_every
        if every == 1 or self._since_look >= every or not self._running:
            self._since_look = 0
            while inbox and inbox[0][0] <= known:
                waiting.append(heappop(inbox)[1])
        self._holding = self.held_back or self._holds()
        if self._beside:
            preempted = self._make_room() if self._decodes.count else False
            self._take_next()
            chunks, ends = self._plan(self._room_beside(), not preempted and not self._holding)
            batch = self._decodes.count
        else:
            chunks, ends = self._plan(self.limits.step_tokens, not self._holding)
            if not chunks:
                self._make_room()
                self._take_next()
            batch = 0 if chunks else self._decodes.count
        context = self._decodes.mean_context if batch else 0.0
        self._step = Step(chunks, ends, batch, context)
        return self._step

    def step_s(self, step: Step) -> float:
        """Seconds of one step."""
        if step.chunks:
            return self.times.mixed_s(step.chunks, step.batch, step.context, len(step.ends), self._ahead_s)
        return self.times.decode_s(step.batch, step.context) if step.batch else 0.0

    @property
    def first_end(self) -> int:
        """Decode steps until a sequence ends."""
        return self._decodes.first_end

    def most_steps(self) -> int:
        """Decode steps until a sequence ends or the cache is full, whatever arrives."""
        most = self.first_end
        if self._holding and self.rules.waits is not None:
            most = min(most, self.rules.waits.steps - self._held)
        return most if self._reserves else self._decodes.steps_within(self._blocks.free + self._taken, most)

    def decode_steps(self, most: int, until: float) -> tuple[int, float]:
        """(decode steps until something may enter, their seconds), at most so many."""
        step = self._step
        if until < _FOREVER:
            count, seconds = self.times.steps_until(step.batch, step.context, most, until - self.now)
            look = self._next_look(count)
            if look == count or count == most:
                return count, seconds
            most = min(look, most)
        return most, self.times.decode_steps_s(step.batch, step.context, most)

    def end(self, count: int, seconds: float) -> None:
        """The step that began, so many times over, has taken so long."""
        step, start = self._step, self.now
        self.now = end = start + seconds
        self._scheduled_s = end - seconds / count  # of the next step: when the last of these began
        if step.batch:
            if step.chunks:
                count = self._tokens_of_a_step()
            self._advance(count)
        self._since_look = self.rules.looks_every if step.chunks else self._since_look + count
        self._held = self._held + count if self._holding else 0
        kv_tokens = (self._blocks.capacity - self._blocks.free) * self.limits.block_tokens
        row = (start, seconds, count, step.batch, step.read, kv_tokens, len(self._waiting), self.replica)
        if self._stream_s:
            work = (count * step.batch + len(step.ends)) * self._stream_s
            self._backlog_s = max(self._backlog_s + work - (end - self._sent_s), 0.0)
            self._sent_s = end
        self._late_s = self._backlog_s + self._launch_late_s(seconds / count)
        beside = self.rules.launches_beside_decodes and not step.chunks
        self._ahead_s = end - self._scheduled_s if beside else 0.0
        for request in step.ends:
            self._first(request, end)
        if step.batch:
            self._finish()
        self.records.note((*row, self._decodes.count))

    def _launch_late_s(self, step_s: float) -> float:
        """How much longer a step's tokens wait for the host, which first launches the next step where that reads prompts.

        It begins with that when it is done with this one, and works while the device does.
        """
        if not self._launch_s or not self._reads_next:
            return 0.0
        own_s = max(self._launch_s - self._ahead_s, 0.0) if self._step.chunks else 0.0
        return max(self._launch_s - max(step_s - own_s, 0.0), 0.0)

    @property
    def _reads_next(self) -> bool:
        """Whether the step that is scheduled already reads prompts."""
        if self._partial >= 0:
            return True
        if self._holding or len(self._running) >= self.limits.max_sequences:
            return False
        if self._waiting:
            return not self._refused
        seen = self._since_look >= self.rules.looks_every
        return seen and bool(self._inbox) and self._inbox[0][0] <= self._scheduled_s

    def _next_look(self, count: int) -> int:
        """The fewest decode steps, so many at least, after which what has arrived is looked at."""
        every = self.rules.looks_every
        first = max(every - self._since_look, 1)
        return first if count <= first else first + -(-(count - first) // every) * every

    def _holds(self) -> bool:
        """Whether waiting prompts are held back for one more step, since others generate."""
        waits = self.rules.waits
        if waits is None or not self._waiting or not self._decodes.count or self._held >= waits.steps:
            return False
        enough, tokens = waits.tokens_share * self.limits.step_tokens, self._decodes.count
        for request in self._waiting:
            tokens += self.records.length(request)
            if tokens >= enough:
                return False
        return True

    def _room_beside(self) -> int:
        """Tokens of a step that running sequences leave; with a draft model each has several to check."""
        return self.limits.step_tokens - self._decodes.count * self.times.queries

    def _tokens_of_a_step(self) -> int:
        """Whole tokens that one step gives each decoding sequence: with a draft model what its rounds give on average."""
        given = self.times.tokens_per_step
        if given == 1.0:
            return 1
        self._ahead = min(self._ahead, given) + given
        count = min(int(self._ahead), self.most_steps())
        self._ahead -= count
        return count

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
        most = limits.max_sequences - self._just_ended
        if self.bounded_together:
            most -= sum(len(one._running) for one in self.beside)
        while admits and waiting and budget > 0 and len(running) < most and self._partial < 0:
            used = self._admit(waiting[0], budget, chunks, ends)
            self._refused = used < 0 and not chunks
            if used < 0:
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
        """Start reading a waiting request if the cache has room for it; the tokens of its first chunk, -1 if not."""
        records, rules, blocks, block = self.records, self.rules, self._blocks, self.limits.block_tokens
        length = records.length(request)
        prefix, in_prefix, found = self._cached(request, length)
        cached = (min(blocks.shared(prefix), in_prefix) + found) * block if rules.prefix_cache else 0
        new = length - cached
        if new > budget:
            if not rules.chunked:
                return -1
            new = budget
        if rules.admits == "whole":
            upto = records.prompt[request] + records.output[request] - 1
        else:
            upto = length if rules.admits != "chunk" else cached + new
        own = max(-(-upto // block) - in_prefix, 0)
        shared = blocks.to_hold(prefix, in_prefix) if in_prefix else 0
        if own + shared + self._kept_free(request) > blocks.free:
            return -1
        if rules.admits != "whole":
            own = max(-(-(cached + new) // block) - in_prefix, 0)
        if in_prefix:
            blocks.hold(prefix, in_prefix)
        records.prefix_blocks[request] = in_prefix
        blocks.reuse(records.key[request], found)
        blocks.take(own - found)
        records.own_blocks[request] = own
        records.start(request, self._scheduled_s if self.rules.ahead else self.now, cached, self.replica)
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
        if not self._running and not any(one._running for one in self.beside):
            return 0
        if rules.admits == "expected":
            block = self.limits.block_tokens
            left = sum(one._decodes.left for one in (self, *self.beside))
            # Those that were admitted to this step, and the request itself, count in full.
            expected = self._ratio * left + self._admitted_left + self.records.left(request)
            return -(-int(expected) // block)
        return self.limits.watermark_blocks

    # -- room in the cache ------------------------------------------------------------------------------------------

    def _make_room(self) -> bool:
        """Preempt until the next decode step has its blocks; whether anything was."""
        if self._reserves or self._decodes.blocks_of_next() <= self._blocks.free:
            return False
        ratio = self.rules.new_token_ratio
        if ratio is None:
            while self._decodes.blocks_of_next() > self._blocks.free:
                self._preempt(self._victim())
            return True
        block = self.limits.block_tokens
        while len(self._running) > 1 and self._blocks.free * block < ratio.room_steps * self._decodes.count:
            self._preempt(self._victim())
        while (
            self.beside and self._decodes.blocks_of_next() > self._blocks.free
        ):  # the others hold what one alone would find
            self._preempt(self._victim())
        self._ratio = self._raised_ratio(ratio.room_steps)
        return True

    def _take_next(self) -> None:
        """Running sequences take the blocks of their next step before others are admitted."""
        if not self._reserves:
            self._taken = self._decodes.blocks_of_next()
            self._blocks.take(self._taken)

    def _victim(self) -> int:
        if self.rules.preempts == "least generated":
            return min(
                self._running, key=lambda one: (self._decodes.generated(one), -self.records.prompt[one])
            )
        return next(reversed(self._running))

    def _preempt(self, request: int) -> None:
        """A running sequence loses its blocks and waits before all others, to be computed anew."""
        records = self.records
        if request == self._partial:
            held, self._partial = self._partial_read, -1
        else:
            generated = self._decodes.generated(request)
            records.generated[request] = generated
            held = records.length(request) - 1
            self._leave_decoding(request, held)
        self._release(request, held)
        records.preemptions[request] += 1
        records.computed[request] = held
        self._waiting.appendleft(request)

    def _leave_decoding(self, request: int, held: int) -> None:
        """A sequence of ``held`` tokens of cache decodes no more."""
        self._decodes.leave(request)
        if not self._reserves:
            records = self.records
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

    def _advance(self, count: int) -> None:
        """Decoding sequences have ``count`` tokens more, and the blocks for them."""
        if not self._reserves:
            needed = self._decodes.blocks_of(count)
            if needed:
                self._blocks.take(needed - self._taken)
                self._taken = 0
        self._decodes.steps += count
        ratio = self.rules.new_token_ratio
        if ratio is not None:
            sinks = self._first_ratio * (1 - ratio.least_factor) / ratio.steps
            self._ratio = max(self._ratio - count * sinks, self._first_ratio * ratio.least_factor)

    def _raised_ratio(self, room_steps: int) -> float:
        """After a preemption: the share that running sequences have generated of what they may generate."""
        records = self.records
        made = sum(self._decodes.generated(one) for one in self._running)
        may = sum(records.output[one] for one in self._running)
        return min((made + room_steps * len(self._running)) / max(may, 1), 1.0)

    def _first(self, request: int, end: float) -> None:
        """A prompt has been read, and its sequence has a token more."""
        records = self.records
        held = records.length(request)
        left = records.left(request) - 1
        records.emits(request, end, self._late_s)
        if left == 0:
            self._end(request, held, end)
        else:
            self._decodes.enter(request, held, left)

    def _finish(self) -> None:
        """Sequences that have all their tokens leave."""
        records = self.records
        for request in self._decodes.ended():
            held = records.prompt[request] + records.output[request] - 1
            self._leave_decoding(request, held)
            self._end(request, held, self.now)

    def _end(self, request: int, held: int, end: float) -> None:
        self._release(request, held)
        self.records.finish(request, end, self._late_s)
        self.finished.append(request)
