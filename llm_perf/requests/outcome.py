"""What became of requests, and the engine's timeline: columns, one row per request or per run of equal steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llm_perf.requests.workload import Floats, Ints, Requests

Status: TypeAlias = npt.NDArray[np.int8]

COMPLETED, REJECTED, RUNNING = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Steps:
    """The timeline. One row is ``count`` consecutive steps in which nothing entered or left.

    Attributes:
        start_s: When the first of them begins.
        duration_s: Of all of them together.
        count: Steps of the row; 1 where prompts are read.
        decode_sequences: Sequences that get their next token in each of the steps.
        prefill_tokens: Tokens of prompts that the step reads.
        kv_tokens: Tokens of cache that are in use at the end, in whole blocks.
        waiting: Requests that have arrived and do not run.
        replica: Whose steps they are; micro-batches of an engine with pipeline stages are numbered through.
        going_on: Sequences that have a token and are to have more when the row ends.
    """

    start_s: Floats
    duration_s: Floats
    count: Ints
    decode_sequences: Ints
    prefill_tokens: Ints
    kv_tokens: Ints
    waiting: Ints
    replica: Ints
    going_on: Ints


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each request. Times are nan where there is none.

    Attributes:
        requests: What was asked for.
        arrival_s: When each request arrived, that of closed loops and later turns included.
        scheduled_s: When the first step with its tokens began.
        first_token_s, finished_s: When its first and its last token were there.
        held_s: What of the time between them sending adds: a frontend behind the engine, a host that launches first;
            less than 0 where they caught up.
        status: COMPLETED, REJECTED or RUNNING.
        preemptions: Times that it lost its cache and was computed anew.
        cached_tokens: Tokens of its prompt that were found in the prefix cache.
        replica: Which one served it; -1 for none.
        steps: The timeline of all replicas.
        kv_capacity_tokens: Tokens that the cache of one replica holds.
        rejections: Why requests were rejected, one sentence, or "".
        scheduler: The rule that the engine followed.
        engines: Engines of the timeline, or micro-batches of engines with pipeline stages; 0 where nobody said.
    """

    requests: Requests
    arrival_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    finished_s: Floats
    held_s: Floats
    status: Status
    preemptions: Ints
    cached_tokens: Ints
    replica: Ints
    steps: Steps
    kv_capacity_tokens: int
    rejections: str = ""
    scheduler: str = field(default="")
    engines: int = 0
