"""Replicas whose experts are spread over all of them: each schedules its own requests, and all take their steps together.

Every layer of experts waits for the tokens of all replicas, so a step takes as long as the longest of them: one that reads a
prompt holds up the others' decoding (vLLM documentation, "Data Parallel Deployment": forward passes of all ranks are aligned,
and a rank without requests runs an empty one). Attention and dense layers work on a replica's own tokens, experts on the mean
of all.
"""

from __future__ import annotations

from llm_perf.requests.engine import Engine, Step
from llm_perf.systems.scheduling import Balance

_FOREVER = float("inf")
_MANY = 1 << 30


class Lockstep:
    """Engines that step together; to whoever sends requests they are one.

    Args:
        engines: One per replica.
        balance: They read prompts in the same steps, as far as this says.

    Attributes:
        finished: Requests that ended in the last row.
    """

    def __init__(self, engines: list[Engine], balance: Balance | None = None) -> None:
        self.engines = engines
        self._balance = balance
        self._unlike = 0  # steps in a row in which not every replica had a prompt to read
        self._gathered = 0  # steps in which each has had one, and more are waited for
        self.times = engines[0].times
        self.finished: list[int] = []
        self._turn = 0

    @property
    def load(self) -> int:
        """Requests that they have and that have not ended."""
        return sum(engine.load for engine in self.engines)

    @property
    def next_step_s(self) -> float:
        """When the next step of any begins."""
        return min(engine.next_step_s for engine in self.engines)

    @property
    def next_end_s(self) -> float:
        """A time before which no request ends."""
        return min(engine.next_end_s for engine in self.engines)

    def submit(self, request: int, ready_s: float) -> None:
        """A request goes to the engine with the fewest, in turn where several have as many."""
        count = len(self.engines)
        index = min(range(count), key=lambda one: (self.engines[one].load, (one - self._turn) % count))
        self._turn = index + 1
        self.engines[index].submit(request, ready_s)

    def row(self, until: float = _FOREVER) -> None:
        """One row of steps of all."""
        start = self.next_step_s
        held = self._holds_back(start)
        steps = []
        for engine in self.engines:
            engine.now, engine.held_back = start, held
            steps.append(engine.begin())
            until = min(until, engine.next_arrival_s)
        busy = [one for one in zip(self.engines, steps, strict=True) if one[1].chunks or one[1].batch]
        mean = sum(one.tokens for one in steps) / len(steps)
        seconds, slowest = max(
            (self._step_s(one, step, mean), index) for index, (one, step) in enumerate(busy)
        )
        count = 1
        if not any(one.chunks for one in steps):
            engine, step = busy[slowest]
            most = min(self._steps_alike(), *(one.most_steps() for one, _ in busy))
            # Experts add the same to each step: an arrival is as many steps away as without it, in proportion.
            own, more = engine.step_s(step), seconds - engine.step_s(step)
            until = start + (until - start) * own / seconds if until < _FOREVER else until
            count, seconds = engine.decode_steps(most, until)
            seconds += count * more
            self._unlike += count - 1
        self.finished = []
        for engine, _ in busy:
            engine.end(count, seconds)
            self.finished += engine.finished

    def _holds_back(self, start: float) -> bool:
        """Whether prompts wait in the step that begins then, until each replica has one (`Balance`)."""
        if self._balance is None:
            return False
        generate = all(engine.generates for engine in self.engines)
        if all(engine.may_read(start) for engine in self.engines):
            self._unlike = 0
            self._gathered = self._gathered + 1 if generate and self._gathered < self._balance.gathers else 0
            return self._gathered > 0
        self._unlike += 1
        if self._unlike >= self._balance.steps or not generate:
            self._unlike = 0
        return self._unlike > 0

    def _steps_alike(self) -> int:
        """Decode steps for which it stays as it is whether prompts are held back."""
        if self._balance is None:
            return _MANY
        return 1 if self._gathered and not self._unlike else max(self._balance.steps - self._unlike, 1)

    def _step_s(self, engine: Engine, step: Step, mean_tokens: float) -> float:
        """Seconds of a replica's step whose experts work on what all replicas send them."""
        return engine.step_s(step) + self.times.of_shared_experts_s(step.tokens, mean_tokens)
