"""Timers by name, synchronised with the device: ``timers("generate-forward")``."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from llm_perf.errors import SpecError


class Timer:
    """A stop-watch that keeps every interval.

    A GPU works behind the program's back, so ``sync_func`` has to wait for it before either end is read.

    Attributes:
        costs: Seconds of each finished interval.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.costs: list[float] = []
        self._started: float | None = None

    def start(self, sync_func: Callable[[], object] | None = None) -> None:
        """Begin an interval.

        Raises:
            SpecError: it has begun already.
        """
        if self._started is not None:
            raise SpecError(f"timer {self.name} has been started already")
        if sync_func is not None:
            sync_func()
        self._started = time.perf_counter()

    def stop(self, sync_func: Callable[[], object] | None = None) -> None:
        """End the interval and keep its seconds.

        Raises:
            SpecError: none has begun.
        """
        if self._started is None:
            raise SpecError(f"timer {self.name} has not been started")
        if sync_func is not None:
            sync_func()
        self.costs.append(time.perf_counter() - self._started)
        self._started = None

    def reset(self) -> None:
        """Forget everything."""
        self._started = None
        self.costs = []

    def elapsed(self) -> float:
        """Median of the finished intervals, seconds.

        Raises:
            SpecError: there is none.
        """
        if not self.costs:
            raise SpecError(f"timer {self.name} has no finished interval")
        return median(self.costs)


class Timers:
    """Timers by name; one is made when it is first asked for."""

    def __init__(self) -> None:
        self._timers: dict[str, Timer] = {}

    def __call__(self, name: str) -> Timer:
        """The timer of a name."""
        return self._timers.setdefault(name, Timer(name))

    def __contains__(self, name: str) -> bool:
        return name in self._timers


timers = Timers()
