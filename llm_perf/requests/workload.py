"""What is asked of a service: requests as columns, one row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in the order in which they arrive.

    Attributes:
        arrival_s: Seconds, sorted; 0 for a closed loop, and of no meaning for a session's later turns.
        prompt_tokens: The whole prompt, its prefix included.
        output_tokens: At least 1.
        prefix_id: Requests of one number share the first ``prefix_tokens`` of their prompts; -1 for none.
        prefix_tokens: Tokens of that prefix.
        concurrency: A closed loop: at most this many in flight, the next arrives when one ends; None for an open one.
        previous: Row of the session's turn before, or -1. A prompt at least as long as that turn's prompt and output
            together begins with them.
        think_s: Seconds between the end of ``previous`` and this arrival.
    """

    arrival_s: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    prefix_id: Integers
    prefix_tokens: Integers
    concurrency: int | None
    previous: Integers
    think_s: Floats

    def __len__(self) -> int:
        """Requests."""
        return len(self.arrival_s)

    @classmethod
    def of(
        cls,
        arrival_s: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        concurrency: int | None = None,
    ) -> Requests:
        """Requests without prefixes and sessions; lengths may be one number for all."""
        arrival = np.atleast_1d(np.asarray(arrival_s, float))
        shape = arrival.shape
        none = np.full(shape, -1, np.int64)
        return cls(
            arrival_s=arrival,
            prompt_tokens=np.broadcast_to(np.asarray(prompt_tokens, np.int64), shape).copy(),
            output_tokens=np.broadcast_to(np.asarray(output_tokens, np.int64), shape).copy(),
            prefix_id=none,
            prefix_tokens=np.zeros(shape, np.int64),
            concurrency=concurrency,
            previous=none.copy(),
            think_s=np.zeros(shape),
        )
