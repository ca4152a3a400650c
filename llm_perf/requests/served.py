"""Times of a batch that is kept full, from the times of a batch that starts and ends together: the first cut of a search.

A request that ends is replaced by the next. So prompts are read one after another beside the sequences that decode, and each
of those waits for the prompts of the others. Exact where a step costs the sum of its parts; the event loop
(`llm_perf.requests.simulate`) prices whole steps and decides what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_perf.requests.workload import Floats
from llm_perf.systems import Load
from llm_perf.systems.base import Evaluation

__all__ = ["Served", "served"]


@dataclass(frozen=True, slots=True)
class Served:
    """Seconds of a request while ``batch`` of them run, and what all of them get; arrays over batches."""

    batch: Floats
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    requests_per_s: Floats


def served(evaluation: Evaluation, load: Load, seen: float) -> Served:
    """What a full batch means for its requests.

    With d the seconds of a decode step, p those of one more prompt, B sequences and G tokens each: between two of its tokens
    a request waits d, and seen x p for each prompt of the other B - 1 that is read in its G - 1 steps. Its own prompt waits
    for the rest of a step and for prompts before it, which come at random (M/D/1: rho p / (2 (1 - rho)) with rho the share
    of time that goes to prompts).

    Args:
        evaluation: Of batches that start and end together, from one sequence per replica on, in rising order.
        load: Their sizes and lengths.
        seen: The share of another's prefill that a decoding sequence waits for (`Family.prefill_seen_by_decode`).
    """
    batch, steps = np.asarray(load.batch, float), np.asarray(load.gen_len, float) - 1
    shape = np.broadcast_shapes(batch.shape, steps.shape)
    prefill_s = np.broadcast_to(np.asarray(evaluation.prefill.latency_s, float), shape)
    # Of a large batch, a prompt's share has no launches and no reading of weights that a decode step does anyway.
    prompt_s = float((prefill_s / batch).min())
    alone_s = float(prefill_s[0] / batch[0]) if batch[0] > 1 else float(prefill_s[0])
    decode_s = (
        np.zeros(shape) if evaluation.decode is None else np.broadcast_to(evaluation.decode.latency_s, shape)
    )
    step_s = np.where(steps > 0, decode_s / np.maximum(steps, 1), 0.0)
    tpot_s = np.where(steps > 0, step_s + (batch - 1) * seen * prompt_s / np.maximum(steps, 1), np.nan)
    writing_s = np.where(steps > 0, tpot_s * steps, (batch - 1) * prompt_s)
    reading = np.minimum(batch * prompt_s / (prompt_s + writing_s), 0.99)
    ttft_s = alone_s + np.where(batch > 1, step_s, 0.0) / 2 + reading / (2 * (1 - reading)) * prompt_s
    e2e_s = ttft_s + np.where(steps > 0, writing_s, 0.0)
    return Served(batch, ttft_s, tpot_s, e2e_s, batch / np.maximum(e2e_s, writing_s + prompt_s))
