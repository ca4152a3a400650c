"""Laws of what is set on servers: prompts held back, arrivals looked at now and then, tokens sent one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_perf.analysis.request import InferenceInputs, build_scenario
from llm_perf.config.scenario import Scenario
from llm_perf.requests.outcome import COMPLETED, Outcome
from llm_perf.requests.simulate import simulate
from llm_perf.requests.workload import Requests
from llm_perf.systems.scheduling import Waits


def scenario(system: str = "vllm@0.19", **more: Any) -> Scenario:
    return build_scenario(InferenceInputs(model="llama-3.1-8b", gpu="h100-sxm", system=system, **more))


def poisson(count: int = 200, rate: float = 5.0) -> Requests:
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(1 / rate, count))
    return Requests.of(arrival, rng.integers(100, 1500, count), rng.integers(20, 300, count))


def first_token_s(found: Outcome) -> float:
    assert (found.status == COMPLETED).all()
    return float((found.first_token_s - found.arrival_s).mean())


@pytest.mark.parametrize("system", ["vllm@0.19", "sglang@0.5", "tensorrt_llm@1.1"])
@pytest.mark.parametrize("every", [2, 10, 30])
def test_an_engine_that_looks_seldom_lets_prompts_wait_for_so_many_steps_at_most(
    system: str, every: int
) -> None:
    asked, load = scenario(system), poisson()
    always, seldom = (simulate(asked, load, settings=settings) for settings in (None, {"looks_every": every}))
    waited = first_token_s(seldom) - first_token_s(always)
    longest = float((seldom.steps.duration_s / seldom.steps.count)[seldom.steps.prefill_tokens == 0].max())
    assert 0 < waited < (every + 2) * longest
    assert seldom.requests.output_tokens.sum() == always.requests.output_tokens.sum()


def test_looking_every_step_is_what_engines_do() -> None:
    asked, load = scenario(), poisson()
    plain, set_so = simulate(asked, load), simulate(asked, load, settings={"looks_every": 1})
    assert np.array_equal(plain.finished_s, set_so.finished_s)


def test_prompts_are_held_back_for_the_steps_that_were_set_and_not_where_nothing_generates() -> None:
    asked = scenario("tensorrt_llm@1.1")
    load = Requests.of([0.0, 1.0], 200, 400)
    now = simulate(asked, load)
    held = simulate(asked, load, settings={"waits": Waits(steps=20, tokens_share=0.9)})
    decode_s = float((now.steps.duration_s / now.steps.count)[now.steps.prefill_tokens == 0].min())
    later = held.first_token_s - now.first_token_s
    assert later[0] == 0
    assert later[1] == pytest.approx(20 * decode_s, rel=0.1)


def test_prompts_that_fill_a_step_are_not_held_back() -> None:
    asked = scenario("tensorrt_llm@1.1", max_num_batched_tokens=2048)
    load = Requests.of([0.0, 1.0], [200, 2000], 400)
    now = simulate(asked, load)
    held = simulate(asked, load, settings={"waits": Waits(steps=20, tokens_share=0.5)})
    assert np.array_equal(held.first_token_s, now.first_token_s)


def loop(stream_us: float, concurrency: int = 128) -> Outcome:
    asked = scenario().replace(constants=(("stream_us", stream_us),))
    return simulate(asked, Requests.of(np.zeros(512), 256, 256, concurrency=concurrency))


def test_a_frontend_sends_no_more_tokens_than_it_has_time_for() -> None:
    scale = scenario().host.host_time_scale
    each_s = 200e-6 * (1.0 if scale is None else scale.value)
    found = loop(200.0)
    rate = found.requests.output_tokens.sum() / found.finished_s.max()
    assert rate <= 1 / each_s
    assert rate == pytest.approx(1 / each_s, rel=0.2)
    free = loop(0.0)
    assert found.finished_s.max() > free.finished_s.max()


def test_a_frontend_with_time_left_holds_nothing_up() -> None:
    assert np.array_equal(loop(1.0, 4).finished_s, loop(0.0, 4).finished_s)


def test_tokens_that_are_sent_together_take_one_sending() -> None:
    asked = scenario().replace(constants=(("stream_us", 200.0),))
    load = Requests.of(np.zeros(256), 256, 256, concurrency=128)
    ten = simulate(asked, load, settings={"stream_interval": 10})
    assert ten.finished_s.max() == pytest.approx(loop(20.0).finished_s[:256].max(), rel=0.5)
    assert ten.finished_s.max() < simulate(asked, load).finished_s.max()
