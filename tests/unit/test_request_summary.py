"""Figures of an outcome: percentiles against NumPy, definitions on hand-made cases, laws on simulated ones."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.requests.outcome import COMPLETED, REJECTED, Outcome, Steps
from llm_perf.requests.simulate import simulate
from llm_perf.requests.summary import PERCENTILES, Distribution, gaps_of, summary_of, tpot_of
from llm_perf.requests.traffic import Traffic, requests_of
from llm_perf.requests.workload import Requests


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).exponential(1.0, 137)
    found = Distribution.of(values)
    expected = np.percentile(values, PERCENTILES)
    assert [found.p50, found.p90, found.p95, found.p99] == pytest.approx(expected.tolist(), rel=1e-12)
    assert found.mean == pytest.approx(values.mean())


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_of_counted_values_are_those_of_the_values_written_out(seed):
    generator = np.random.default_rng(seed)
    values, counts = generator.exponential(1.0, 40), generator.integers(0, 9, 40)
    one, other = Distribution.of_counted(values, counts), Distribution.of(np.repeat(values, counts))
    for name in Distribution.__slots__:
        assert one.percentile(name) == pytest.approx(other.percentile(name), rel=1e-12)


def test_nothing_has_no_figures():
    for found in (
        Distribution.of(np.array([np.nan])),
        Distribution.of_counted(np.empty(0), np.empty(0, np.int64)),
    ):
        assert all(math.isnan(found.percentile(name)) for name in Distribution.__slots__)


def steps_of(rows: list[tuple[float, float, int, int, int, int]]) -> Steps:
    """(start, duration, count, decoding, prefill tokens, going on) of one replica."""
    start, duration, count, decoding, prefill, going_on = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    zero = np.zeros(len(rows), np.int64)
    return Steps(
        start.astype(float), duration.astype(float), count, decoding, prefill, zero + 10, zero, zero, going_on
    )


def outcome_of() -> Outcome:
    """Two requests by hand: read at 0 and at 1, three tokens each; a third that is rejected."""
    nan = math.nan
    steps = steps_of(
        [(0.0, 1.0, 1, 0, 8, 1), (1.0, 2.0, 1, 1, 8, 2), (3.0, 1.0, 1, 2, 0, 1), (4.0, 1.0, 1, 1, 0, 0)]
    )
    return Outcome(
        requests=Requests.of([0.0, 0.5, 0.6], [8, 8, 99], [3, 3, 3]),
        arrival_s=np.array([0.0, 0.5, 0.6]),
        scheduled_s=np.array([0.0, 1.0, nan]),
        first_token_s=np.array([1.0, 3.0, nan]),
        finished_s=np.array([4.0, 5.0, nan]),
        held_s=np.zeros(3),
        status=np.array([COMPLETED, COMPLETED, REJECTED], np.int8),
        preemptions=np.zeros(3, np.int64),
        cached_tokens=np.array([0, 4, 0]),
        replica=np.array([0, 0, -1]),
        steps=steps,
        kv_capacity_tokens=40,
        rejections="1 of 3",
        scheduler="by hand",
    )


def test_the_definitions_on_a_case_by_hand():
    found = summary_of(outcome_of())
    assert (found.completed, found.rejected, found.running) == (2, 1, 0)
    assert found.ttft_s.mean == pytest.approx((1.0 + 2.5) / 2)  # from arrival, the queue included
    assert found.tpot_s.mean == pytest.approx((3.0 / 2 + 2.0 / 2) / 2)  # (last - first) / (tokens - 1)
    assert found.e2e_s.mean == pytest.approx((4.0 + 4.5) / 2)
    assert found.itl_s.mean == pytest.approx((2.0 + 1.0 + 1.0 + 1.0) / 4)
    assert found.itl_s.p50 == pytest.approx(1.0)
    assert found.duration_s == 5.0
    assert found.output_tokens_per_s == pytest.approx(6 / 5)
    assert found.total_tokens_per_s == pytest.approx(22 / 5)
    assert found.mean_batch == pytest.approx(4 / 3)
    assert found.mean_running == pytest.approx((4.0 + 4.0) / 5)
    assert found.mean_waiting == pytest.approx(0.5 / 5)
    assert found.kv_utilization == pytest.approx(0.25)
    assert found.prefix_hit_rate == pytest.approx(4 / 16)
    assert found.busy == pytest.approx(1.0)


def test_the_first_requests_may_be_left_out_of_times():
    found = summary_of(outcome_of(), warm_up=1)
    assert found.ttft_s.mean == pytest.approx(2.5)
    assert found.output_tokens_per_s == pytest.approx(6 / 5)


def test_a_wait_while_prompts_are_read_alone_is_part_of_the_gap():
    values, counts = gaps_of(
        steps_of([(0.0, 1.0, 2, 1, 0, 1), (1.0, 0.5, 1, 0, 9, 2), (1.5, 1.0, 2, 2, 0, 0)])
    )
    found = {gap: int(counts[values == gap].sum()) for gap in (0.5, 1.0)}
    assert found == {0.5: 2 + 3, 1.0: 1}
    assert counts.sum() == 6


def test_who_ended_before_prompts_were_read_alone_has_no_gap():
    """The one that decoded before is through; the two that follow waited from the ends of their own prompts."""
    values, counts = gaps_of(
        steps_of(
            [(0.0, 1.0, 2, 1, 0, 0), (1.0, 0.5, 1, 0, 9, 1), (1.5, 0.25, 1, 0, 9, 2), (1.75, 1.0, 2, 2, 0, 0)]
        )
    )
    assert float((values * counts).sum()) == pytest.approx(1.0 + 0.25 + 2 * 1.0)
    assert counts.sum() == 2 + 4


# -- laws on simulated outcomes -----------------------------------------------------------------------------------


TRAFFIC = {
    "poisson": Traffic(rate=20.0, num_requests=300, prompt_len="uniform:10:900", gen_len="uniform:1:200"),
    "bursts": Traffic(rate=30.0, burstiness=0.2, num_requests=300),
    "closed": Traffic(concurrency=16, num_requests=200, gen_len="lognormal:100:80"),
    "sessions": Traffic(rate=10.0, num_requests=300, turns=4, think_time="uniform:0:2", prefix_len=200),
}


@cache
def simulated(name: str, system: str = "vllm") -> Outcome:
    scenario = build_scenario(InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm-80gb", system=system))
    return simulate(scenario, requests_of(TRAFFIC[name]))


@pytest.mark.parametrize("name", TRAFFIC)
def test_littles_law(name):
    """Requests in the engine on average are those that come per second times how long each stays."""
    outcome = simulated(name)
    found = summary_of(outcome)
    events = np.concatenate([outcome.arrival_s, outcome.finished_s])
    change = np.repeat([1, -1], len(outcome.arrival_s))
    order = np.argsort(events, kind="stable")
    inside = np.cumsum(change[order])[:-1]
    mean = float((inside * np.diff(events[order])).sum()) / found.duration_s
    assert mean == pytest.approx(found.requests_per_s * found.e2e_s.mean, rel=1e-3)
    assert mean == pytest.approx(found.mean_running + found.mean_waiting, rel=1e-3)


@pytest.mark.parametrize("system", ["vllm", "vllm@0.6", "sglang", "tensorrt_llm", "transformers"])
@pytest.mark.parametrize("name", TRAFFIC)
def test_the_timeline_and_the_requests_tell_the_same(name, system):
    """Nothing is preempted here, so gaps between tokens add up to what passes from first tokens to last ones."""
    outcome = simulated(name, system)
    assert not outcome.preemptions.any()
    values, counts = gaps_of(outcome.steps)
    assert counts.sum() == (outcome.requests.output_tokens - 1).sum()
    spent = float((outcome.finished_s - outcome.first_token_s).sum())
    # A frontend that is behind sends tokens later than the engine's steps give them: by as much as it says.
    assert float((values * counts).sum()) == pytest.approx(spent - outcome.held_s.sum(), rel=1e-9)
    gaps = outcome.requests.output_tokens - 1
    assert np.nansum(tpot_of(outcome) * gaps) == pytest.approx(spent, rel=1e-9)


@pytest.mark.parametrize("concurrency", [4, 400])
def test_a_frontend_that_keeps_up_holds_nothing(concurrency):
    """TensorRT-LLM's sends 9,000 tokens a second; clients of an engine that gives more wait for it, and only then."""
    scenario = build_scenario(
        InferenceInputs(model="llama-3.2-1b", gpu="h100-sxm-80gb", system="tensorrt_llm@1.0")
    )
    outcome = simulate(scenario, Requests.of(np.zeros(400), 32, 60, concurrency=concurrency))
    held, spent = np.abs(outcome.held_s).sum(), (outcome.finished_s - outcome.first_token_s).sum()
    assert held > 0.05 * spent if concurrency == 400 else held < 0.01 * spent
    values, counts = gaps_of(outcome.steps)
    assert float((values * counts).sum()) == pytest.approx(spent - outcome.held_s.sum(), rel=1e-9)


@pytest.mark.parametrize("name", TRAFFIC)
def test_times_are_in_order(name):
    outcome = simulated(name)
    assert (outcome.status == COMPLETED).all()
    assert (outcome.arrival_s <= outcome.scheduled_s).all()
    assert (outcome.scheduled_s < outcome.first_token_s).all()
    assert (outcome.first_token_s <= outcome.finished_s).all()
    found = summary_of(outcome)
    for name_ in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s"):
        one = getattr(found, name_)
        assert one.p50 <= one.p90 <= one.p95 <= one.p99
