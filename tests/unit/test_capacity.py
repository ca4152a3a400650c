"""The most that engines serve is no less than any closed loop reaches."""

from __future__ import annotations

from typing import Any

import pytest

from llm_perf.analysis.request import InferenceInputs
from llm_perf.analysis.simulation import ServiceInputs, simulation_of

MACHINES: tuple[dict[str, Any], ...] = (
    {"gpu": "none", "host": "epyc-9654", "system": "transformers_serve", "model": "llama-3.2-1b"},
    {"gpu": "p40", "system": "engine", "model": "llama-3.1-8b"},
    {"gpu": "h100-sxm", "system": "vllm", "model": "llama-3.1-8b"},
)


@pytest.mark.parametrize("asked", MACHINES, ids=lambda asked: asked["system"])
def test_no_closed_loop_serves_more_than_the_most(asked: dict[str, Any]) -> None:
    """Packed attention slows all sequences by each other: 32 are served 22 times as fast as 1,024."""
    for in_flight in (1, 32):
        traffic = ServiceInputs(
            concurrency=in_flight, prompt_len="500", gen_len="100", num_requests=6 * in_flight + 10
        )
        found = simulation_of(InferenceInputs(**asked), traffic)
        assert found.capacity is not None
        assert found.summary.requests_per_s <= found.capacity.requests_per_s * (1 + 1e-9)
        at_rate = simulation_of(
            InferenceInputs(**asked), traffic.replace(concurrency=None, rate=1.0)
        ).capacity
        assert at_rate is not None
        # Loops of a few rounds are counted from their beginning to their end, and halves of what fits are tried.
        assert found.summary.requests_per_s <= at_rate.requests_per_s * 1.2
