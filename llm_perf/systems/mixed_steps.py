"""One step of a serving engine: prompts' chunks beside decoding sequences, on the device and on the host."""

from __future__ import annotations

from collections.abc import Sequence

from llm_perf.counts.arrays import Number
from llm_perf.systems.attention import Chunk
from llm_perf.systems.forward import Forward
from llm_perf.systems.host_time import exposed_host_s, step_overhead_s


def step_s(
    forward: Forward, chunks: Sequence[Chunk], batch: Number, context: Number = 0.0, ends: Number = 0.0
) -> Number:
    """Seconds of a step, from one scheduling to the next.

    The host launches a step with chunks as it launches a prefill, whose shapes were not captured. What it does once per
    prompt (`prefill_overhead_s`) is no part of it: frontends read prompts in a process of their own, mostly
    (`SchedulerRules.one_process`).

    Args:
        forward: The pass of one rank.
        chunks: What is read of prompts.
        batch: Sequences that decode.
        context: Their mean context, the token that is computed included.
        ends: Prompts that end in this step: their first token is sampled.
    """
    costs, attention = forward.mixed_step(chunks, batch, ends)
    device = costs.total_s + forward.attention_s(attention, context)
    prefill = len(chunks) > 0
    exposed = exposed_host_s(forward, device, None if prefill else context, prefill, batch)
    sequences = batch + sum((chunk.sequences for chunk in chunks), 0.0)
    return device + exposed + step_overhead_s(forward, sequences)
