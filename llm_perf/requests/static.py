"""An engine that runs batches from beginning to end: padded to the longest prompt, over with the longest output."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from llm_perf.requests.limits import Limits
from llm_perf.requests.records import Records
from llm_perf.requests.step_times import StepTimes

_FOREVER = float("inf")


class StaticEngine:
    """A replica that takes what waits, up to a batch, and nothing else until all of it has ended.

    An answer is there when its batch has ended: nothing is sent before.

    Attributes:
        now: Seconds, the beginning of its next step.
        finished: Requests that ended in its last row.
    """

    def __init__(self, records: Records, limits: Limits, times: StepTimes, replica: int) -> None:
        self.records, self.limits, self.times, self.replica = records, limits, times, replica
        self.now = 0.0
        self.finished: list[int] = []
        self._inbox: list[tuple[float, int]] = []
        self._waiting: deque[int] = deque()
        self._batch: list[int] = []
        self._read = self._left = 0

    def submit(self, request: int, ready_s: float) -> None:
        """A request arrives at ``ready_s``."""
        heappush(self._inbox, (ready_s, request))

    @property
    def load(self) -> int:
        """Requests that it has and that have not ended."""
        return len(self._batch) + len(self._waiting) + len(self._inbox)

    @property
    def next_step_s(self) -> float:
        """When its next step begins; infinite where it has nothing to do."""
        if self._batch or self._waiting:
            return self.now
        return max(self._inbox[0][0], self.now) if self._inbox else _FOREVER

    @property
    def next_end_s(self) -> float:
        """A time before which no request ends, whatever enters."""
        return self.now + self._decode_s() if self._batch else self.next_step_s

    def _decode_s(self) -> float:
        return self.times.decode_steps_s(len(self._batch), self._read + 1, self._left) if self._left else 0.0

    def row(self, until: float = _FOREVER) -> None:  # noqa: ARG002 - the interface of engines; nothing enters a batch
        """A batch's prefill, or all its decode steps."""
        inbox, waiting, records = self._inbox, self._waiting, self.records
        self.finished = []
        if not self._batch and not waiting:
            self.now = max(self.now, inbox[0][0])
        while inbox and inbox[0][0] <= self.now:
            waiting.append(heappop(inbox)[1])
        start = self.now
        if not self._batch:
            self._fill()
            seconds = self.times.equal_prompts_s(len(self._batch), self._read)
            self.now += seconds
            self._note(
                start, seconds, 1, 0, self._read * len(self._batch), len(self._batch) if self._left else 0
            )
            for request in self._batch:
                records.emits(request, self.now)
        else:
            seconds = self._decode_s()
            self.now += seconds
            self._read += self._left
            self._note(start, seconds, self._left, len(self._batch), 0, 0)
            self._left = 0
        if not self._left:
            for request in self._batch:
                records.finish(request, self.now)
            self.finished, self._batch = self._batch, []

    def _fill(self) -> None:
        """The next batch: what waits, as far as sequences and cache allow."""
        batch, read, most = self._batch, 0, 0
        while self._waiting and len(batch) < self.limits.max_sequences:
            request = self._waiting[0]
            longest = max(read, self.records.prompt[request])
            output = max(most, self.records.output[request])
            if (len(batch) + 1) * (longest + output) > self.limits.kv_tokens and batch:
                break
            batch.append(self._waiting.popleft())
            read, most = longest, output
            self.records.start(request, self.now, 0, self.replica)
        self._read, self._left = read, most - 1

    def _note(self, start: float, seconds: float, count: int, batch: int, read: int, going_on: int) -> None:
        held = self._read * len(self._batch)
        self.records.note(
            (start, seconds, count, batch, read, held, len(self._waiting), self.replica, going_on)
        )
