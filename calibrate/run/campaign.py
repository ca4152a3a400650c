"""Campaigns: cases measured one after another, each kept as soon as it is there, so that what was interrupted goes on.

``make run-demo``, ``make calibrate``, ``make run-train`` and a session on a GPU differ in their cases and in what keeps them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from llm_perf.errors import LLMPerfError

Case = TypeVar("Case")
Result: TypeAlias = dict[str, Any]
"""What a case gave, or ``{"status": "dropped" | "failed", "reason": …}``."""


@dataclass
class Campaign(Generic[Case]):
    """Cases and what is done with each.

    Attributes:
        measure: Measures a case, in a process of its own; is given the seconds that are left.
        name: What a case is called while it runs.
        say: Takes a line on what begins.
        keep: Takes what a case gave, at once; what was dropped or failed too.
        is_there: Whether an earlier call has kept it.
        estimate_s: Seconds of a case before any was measured; 0 if they are not known.
        budget_s: Seconds for all; what would not end within them is dropped.
        goes_on: Whether a case that fails is kept as such, and the next one measured.
        done: What was measured, dropped or failed, in order.
    """

    measure: Callable[[Case, float], Result]
    name: Callable[[Case], str] = str
    say: Callable[[str], object] = len
    keep: Callable[[Case, Result], object] = lambda _case, _result: None
    is_there: Callable[[Case], bool] = lambda _case: False
    estimate_s: Callable[[Case], float] = lambda _case: 0.0
    budget_s: float = math.inf
    goes_on: bool = False
    done: list[tuple[Case, Result]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.budget_s
        self._estimated_s = self._taken_s = 0.0

    @property
    def left_s(self) -> float:
        """Seconds of the budget."""
        return self._deadline - time.monotonic()

    def run_all(self, cases: Sequence[Case]) -> bool:
        """Measure what is not there yet; whether nothing was dropped.

        Raises:
            LLMPerfError: a case failed, unless the campaign goes on.
        """
        missing = [case for case in cases if not self.is_there(case)]
        for number, case in enumerate(missing, 1):
            self.run(case, f" ({number} of {len(missing)})")
        return all(result.get("status") != "dropped" for _, result in self.done)

    def run(self, case: Case, place: str = "") -> None:
        """Measure a case, or drop it for want of time; estimates are put right by the cases that have been measured.

        Raises:
            LLMPerfError: it failed, unless the campaign goes on.
        """
        first_s = self.estimate_s(case)
        estimate_s = first_s * (self._taken_s / self._estimated_s if self._estimated_s else 1.0)
        if estimate_s > self.left_s:
            reason = f"{estimate_s:.0f} s by estimate, {self.left_s:.0f} s left"
            self._kept(case, {"status": "dropped", "reason": reason})
            return
        self.say(f"{self.name(case)}{place}" + (f": about {estimate_s:.0f} s" if estimate_s else ""))
        start = time.monotonic()
        try:
            found = self.measure(case, self.left_s)
        except LLMPerfError as error:
            if not self.goes_on:
                raise
            self._kept(case, {"status": "failed", "reason": str(error)})
            return
        self._taken_s += time.monotonic() - start
        self._estimated_s += first_s
        self._kept(case, found)

    def _kept(self, case: Case, result: Result) -> None:
        self.done.append((case, result))
        self.keep(case, result)
