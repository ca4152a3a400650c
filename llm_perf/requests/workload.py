"""Requests as columns: when each arrives, and how many tokens it reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_perf.errors import SpecError

__all__ = ["LATEST_S", "NONE", "Requests"]

NONE = -1
"""No prefix, or no earlier turn, where an index is expected."""

LATEST_S: Final = 1e9
"""Arrivals later than thirty years are no seconds, and beside them a step is lost in the last digits of a clock."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Requests:
    """What clients ask of a service, one element of each column per request.

    Attributes:
        arrival_s: Seconds from the start at which a request is sent, in ascending order. All 0 in a closed loop; of a
            later turn of a session not used, since it follows from the end of the turn before.
        prompt_tokens: Tokens of the whole prompt, a shared prefix included; 1 or more.
        output_tokens: Tokens that are generated; 1 or more.
        prefix_id: Requests of one number share the first ``prefix_tokens`` of their prompts; `NONE` shares nothing.
        prefix_tokens: Tokens shared with the others of that ``prefix_id``, at most ``prompt_tokens``.
        concurrency: A closed loop: at most so many are in flight, and the next is sent when one ends. None is open.
        previous: Index of the session's turn before, smaller than the request's own; `NONE` for a first turn.
        think_s: Seconds from the end of ``previous`` to this arrival; 0 without one.

    Raises:
        SpecError: a column has another length, or a value that no request can have. Index and value are named.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    prefix_id: Ints
    prefix_tokens: Ints
    concurrency: int | None
    previous: Ints
    think_s: Floats

    @classmethod
    def of(
        cls,
        arrival_s: ArrayLike,
        prompt_tokens: ArrayLike,
        output_tokens: ArrayLike,
        *,
        prefix_id: ArrayLike = NONE,
        prefix_tokens: ArrayLike = 0,
        concurrency: int | None = None,
        previous: ArrayLike = NONE,
        think_s: ArrayLike = 0.0,
    ) -> Requests:
        """Columns of anything that NumPy reads; a number stands for every request.

        Raises:
            SpecError: the columns do not go together, or a value is none that a request can have.
        """
        given = (arrival_s, prompt_tokens, output_tokens, prefix_id, prefix_tokens, previous, think_s)
        count = max((np.size(column) for column in given if np.ndim(column)), default=1)

        def column(values: ArrayLike, dtype: Any) -> NDArray[Any]:
            return np.full(count, values, dtype) if np.ndim(values) == 0 else np.asarray(values, dtype)

        return cls(
            arrival_s=column(arrival_s, np.float64),
            prompt_tokens=column(prompt_tokens, np.int64),
            output_tokens=column(output_tokens, np.int64),
            prefix_id=column(prefix_id, np.int64),
            prefix_tokens=column(prefix_tokens, np.int64),
            concurrency=concurrency,
            previous=column(previous, np.int64),
            think_s=column(think_s, np.float64),
        )

    def __post_init__(self) -> None:
        """Check that the columns are what the class says."""
        count = len(self.arrival_s)
        for name in ("prompt_tokens", "output_tokens", "prefix_id", "prefix_tokens", "previous", "think_s"):
            if len(getattr(self, name)) != count:
                raise SpecError(
                    f"requests: {name} has {len(getattr(self, name))} values, arrival_s has {count}"
                )
        if not count:
            raise SpecError("requests: there are none")
        if self.concurrency is not None and self.concurrency < 1:
            raise SpecError(f"concurrency must be 1 or more, got {self.concurrency}")
        index = np.arange(count)
        self._check("arrival_s", np.isfinite(self.arrival_s) & (self.arrival_s >= 0), "0 or more seconds")
        self._check("prompt_tokens", self.prompt_tokens >= 1, "1 or more")
        self._check("output_tokens", self.output_tokens >= 1, "1 or more")
        shared = (self.prefix_tokens >= 0) & (self.prefix_tokens <= self.prompt_tokens)
        self._check("prefix_tokens", shared, "from 0 to prompt_tokens")
        self._check(
            "previous", (self.previous >= NONE) & (self.previous < index), "an earlier request's index or -1"
        )
        self._check("think_s", np.isfinite(self.think_s) & (self.think_s >= 0), "0 or more seconds")
        first = self.arrival_s[self.previous == NONE]
        if (np.diff(first) < 0).any():
            raise SpecError("requests: arrival_s must be in ascending order")

    def _check(self, name: str, good: NDArray[np.bool_], accepted: str) -> None:
        if not good.all():
            worst = int(np.argmin(good))
            raise SpecError(
                f"requests: {name} of request {worst} must be {accepted}, got {getattr(self, name)[worst]}"
            )

    def __len__(self) -> int:
        """How many requests there are."""
        return len(self.arrival_s)
